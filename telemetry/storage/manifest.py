"""Which Parquet files count: one small JSON file, replaced as a whole, so that a reader never sees half a change."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from telemetry.errors import StoreError
from telemetry.storage.layout import VERSION

__all__ = ["Entry", "Manifest", "check_version", "locked", "read_manifest", "write_atomic", "write_manifest"]


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """One Parquet file: `order` is its place among files of equal stamps."""

    path: str
    family: str
    host: str
    day: str
    rows: int
    size: int
    seen_min: int
    seen_max: int
    time_min: int
    time_max: int
    order: int
    metrics: list[str]


class Manifest(msgspec.Struct):
    """`cut` names per writer the first log segment that still counts."""

    generation: int = 0
    next_order: int = 0
    files: list[Entry] = []
    cut: dict[str, int] = {}
    tokens: list[str] = []


class _Head(msgspec.Struct):
    format: str
    version: int


def check_version(root: Path, *, create: bool) -> None:
    """See that `root` is a store of this version; make it one if it is new and `create`.

    Raises
    ------
    StoreError
        If it is not a store, or one of another version.
    """
    head = root / "store.json"
    try:
        found = msgspec.json.decode(head.read_bytes(), type=_Head)
    except (FileNotFoundError, NotADirectoryError):
        _create(root, create)
        return
    except (msgspec.MsgspecError, OSError) as error:
        raise StoreError(f"{head}: expected a store's head, got: {error}") from None
    if found.format != "tailwatch-store":
        raise StoreError(f"{root}: expected a Tailwatch store, got {found.format!r}")
    if found.version != VERSION:
        raise StoreError(f"{root}: a store of another version: expected {VERSION}, got {found.version}")


def _create(root: Path, create: bool) -> None:
    if root.exists() and not root.is_dir():
        raise StoreError(f"{root}: expected a folder, got a file")
    if not create:
        raise StoreError(
            f"{root}: expected a store, got {'a folder without store.json' if root.is_dir() else 'nothing'}"
        )
    if root.exists() and not root.is_dir():
        raise StoreError(f"{root}: expected a folder, got a file")
    try:
        strange = [p.name for p in root.iterdir() if not p.name.startswith(".")] if root.exists() else []
        if strange and set(strange) - {"log", "trash", "store.lock", "compact.lock"}:
            raise StoreError(f"{root}: not empty and not a store (it holds {strange[0]!r}); choose another folder")
        (root / "log").mkdir(parents=True, exist_ok=True)
        text = msgspec.json.encode(_Head("tailwatch-store", VERSION))
        write_atomic(root / "store.json", text)
    except OSError as error:
        raise StoreError(f"{root}: cannot make a store here: {error.strerror or error}") from error


def read_manifest(root: Path) -> Manifest:
    """Read the manifest; an absent one is empty.

    Raises
    ------
    StoreError
        If it cannot be read.
    """
    try:
        return msgspec.json.decode((root / "manifest.json").read_bytes(), type=Manifest)
    except FileNotFoundError:
        return Manifest()
    except (msgspec.MsgspecError, OSError) as error:
        raise StoreError(f"{root / 'manifest.json'}: expected a manifest, got: {error}") from None


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Replace the manifest, durably. Call it under `locked`."""
    manifest.generation += 1
    write_atomic(root / "manifest.json", msgspec.json.encode(manifest))


def write_atomic(path: Path, data: bytes) -> None:
    """Write beside and rename, both made durable."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def locked(root: Path, name: str = "store.lock", *, wait: bool = True) -> Iterator[bool]:
    """Hold one of the store's locks; without `wait`, yields whether it was to be had."""
    fd = os.open(root / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(fd)
