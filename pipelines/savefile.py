"""State of detectors in a file: an npz of plain arrays, with a digest that is checked before anything is used."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path

import numpy as np

from telemetry.errors import StoreError
from telemetry.types import Snapshot

__all__ = ["load_snapshots", "save_snapshots", "write_atomic"]


def write_atomic(path: Path, data: bytes) -> None:
    """Write beside, sync, rename: the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from None


def save_snapshots(path: Path, snapshots: dict[str, Snapshot]) -> str:
    """Write named snapshots to `path`; returns the digest of the file."""
    arrays = {f"{name}|{key}": np.asarray(v) for name, s in snapshots.items() for key, v in s.arrays.items()}
    meta = json.dumps({name: dict(s.meta) for name, s in snapshots.items()})
    buffer = io.BytesIO()
    np.savez(buffer, __meta__=np.array(meta), **arrays)  # type: ignore[arg-type]
    data = buffer.getvalue()
    write_atomic(path, data)
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def load_snapshots(path: Path, digest: str | None) -> dict[str, Snapshot]:
    """Read what `save_snapshots` wrote.

    Raises
    ------
    StoreError
        The file is missing, damaged, or not the one whose digest was recorded.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: saved state cannot be read: {error.strerror}") from None
    found = hashlib.blake2b(data, digest_size=16).hexdigest()
    if digest is not None and found != digest:
        raise StoreError(f"{path}: saved state has digest {found}, recorded was {digest}; refused")
    with np.load(io.BytesIO(data), allow_pickle=False) as z:
        meta = json.loads(str(z["__meta__"]))
        parts: dict[str, dict[str, np.ndarray]] = {name: {} for name in meta}
        for key in z.files:
            name, bar, inner = key.partition("|")
            if bar:
                parts[name][inner] = z[key]
    return {name: Snapshot(meta[name], parts[name]) for name in meta}
