"""A store on any file system that pyarrow knows (S3, GCS, HDFS, a mounted share): written by copying, read as it lies.

`publish` copies the Parquet files that are not there yet and then the manifest, which is replaced as a whole; so a
reader sees either the old or the new. The log is not copied: what is published ends with the last cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from telemetry.errors import StoreError
from telemetry.selectors import Select, predicate
from telemetry.storage.columns import KeyTable
from telemetry.storage.layout import VERSION
from telemetry.storage.manifest import Entry, Manifest, read_manifest
from telemetry.storage.reading import Snapshot
from telemetry.types import Events, Nanos, SeriesKey

__all__ = ["Published", "publish", "published_at"]


def publish(root: str | Path, uri: str) -> int:
    """Copy what is new of a store to `uri`; returns the files copied.

    Raises
    ------
    StoreError
        If the place cannot be written, or the URI is none.
    """
    import pyarrow as pa

    root = Path(root)
    fs, base = _place(uri)
    try:
        before = {f.path for f in _manifest(fs, base).files}
    except StoreError:
        before = set()
    manifest = read_manifest(root)
    copied = 0
    try:
        for f in manifest.files:
            if f.path not in before:
                fs.create_dir(f"{base}/{f.path.rpartition('/')[0]}", recursive=True)
                with (root / f.path).open("rb") as source, fs.open_output_stream(f"{base}/{f.path}") as target:
                    while chunk := source.read(1 << 22):
                        target.write(chunk)
                copied += 1
        fs.create_dir(base, recursive=True)
        head = (root / "store.json").read_bytes()
        for name, data in (("store.json", head), ("manifest.json", msgspec.json.encode(manifest))):
            _replace(fs, f"{base}/{name}", data)
        for path in before - {f.path for f in manifest.files}:
            fs.delete_file(f"{base}/{path}")
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{uri}: cannot publish: {_line(error)}") from None
    return copied


class Published:
    """A published store; a `telemetry.source.Source`.

    Parameters
    ----------
    uri : str
        ``s3://bucket/store``, ``gs://...``, ``hdfs://...``, ``file:///...``, or any that fsspec knows, if it is there.
    place : (file system, folder), optional
        Where that is, if known.
    """

    def __init__(self, uri: str, *, place: tuple[Any, str] | None = None) -> None:
        self.uri = uri
        self._fs, self._base = _place(uri) if place is None else place
        head = _read(self._fs, f"{self._base}/store.json")
        if head is None:
            raise StoreError(f"{uri}: expected a store, got nothing")
        version = msgspec.json.decode(head).get("version")
        if version != VERSION:
            raise StoreError(f"{uri}: a store of another version: expected {VERSION}, got {version}")

    def read(
        self,
        seen_from_ns: Nanos,
        seen_to_ns: Nanos,
        *,
        select: Select = None,
        time_from_ns: Nanos | None = None,
        time_to_ns: Nanos | None = None,
    ) -> Iterator[Events]:
        """As `telemetry.store.Store.read`."""
        wanted, selectors = predicate(select)
        time = None
        if time_from_ns is not None or time_to_ns is not None:
            lowest, highest = -(2**63), 2**63 - 1
            time = (
                time_from_ns if time_from_ns is not None else lowest,
                time_to_ns if time_to_ns is not None else highest,
            )
        for batch, _ in self._look().read(KeyTable(wanted), selectors, (seen_from_ns, seen_to_ns), time):
            if len(batch):
                yield batch

    def hosts(self) -> list[str]:
        """The hosts, sorted."""
        return sorted(self._look().hosts())

    def keys(self, select: Select = None) -> list[SeriesKey]:
        """The series, sorted."""
        wanted, selectors = predicate(select)
        return sorted(k for k in self._look().keys(selectors) if wanted is None or wanted(k))

    def last_seen_ns(self, host: str | None = None) -> Nanos | None:
        """The largest seen_ns, or None."""
        return self._look().last_seen(host)

    def _look(self) -> _Remote:
        return _Remote(self._fs, self._base, _manifest(self._fs, self._base))


def published_at(uri: str) -> list[Published]:
    """The store at `uri`, or those in the folders within.

    Raises
    ------
    StoreError
        If there is none, or the place cannot be read.
    """
    import pyarrow as pa
    from pyarrow import fs as pafs

    fs, base = _place(uri)
    if _read(fs, f"{base}/store.json") is not None:
        return [Published(uri, place=(fs, base))]
    try:
        inner = [i.path for i in fs.get_file_info(pafs.FileSelector(base)) if i.type == pafs.FileType.Directory]
        kept = [p for p in sorted(inner) if fs.get_file_info(f"{p}/store.json").type == pafs.FileType.File]
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{uri}: cannot be read: {_line(error)}") from None
    if not kept:
        raise StoreError(f"{uri}: expected a store or a folder of them, got neither")
    return [Published(f"{uri.rstrip('/')}/{p.rpartition('/')[2]}", place=(fs, p)) for p in kept]


class _Remote(Snapshot):
    """A look at files that are not here; there is no log."""

    def __init__(self, fs: Any, base: str, manifest: Manifest) -> None:
        self._root = Path(base)
        self._base = base
        self._filesystem = fs
        self._logs = []
        self.files = manifest.files

    def _where(self, entry: Entry) -> str:
        return f"{self._base}/{entry.path}"


def _place(uri: str) -> tuple[Any, str]:
    import pyarrow as pa
    from pyarrow import fs

    try:
        found, base = fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, ValueError, OSError) as error:
        other = _fsspec(uri) if "Unrecognized filesystem" in str(error) else None
        if other is None:
            raise StoreError(f"{uri}: expected the URI of a file system: {_line(error)}") from None
        found, base = other
    return found, base.rstrip("/")


def _fsspec(uri: str) -> tuple[Any, str] | None:
    """A file system that pyarrow does not have itself (``abfs://``, ``sftp://``, ...), by fsspec if that is there."""
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped, unused-ignore]

        found, base = url_to_fs(uri)
    except (ImportError, ValueError, OSError):
        return None
    return PyFileSystem(FSSpecHandler(found)), base


def _replace(fs: Any, path: str, data: bytes) -> None:
    """Write a file so that a reader finds the old one or the new one. Object stores do so by themselves."""
    beside = f"{path}.new" if fs.type_name in ("local", "hdfs") else path
    with fs.open_output_stream(beside) as target:
        target.write(data)
    if beside != path:
        fs.move(beside, path)


def _manifest(fs: Any, base: str) -> Manifest:
    data = _read(fs, f"{base}/manifest.json")
    if data is None:
        return Manifest()
    try:
        return msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise StoreError(f"{base}/manifest.json: expected a manifest, got: {error}") from None


def _read(fs: Any, path: str) -> bytes | None:
    try:
        with fs.open_input_stream(path) as file:
            data: bytes = file.read()
            return data
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {_line(error)}") from None


def _line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
