"""Log segments as they lie in a folder, and their rows in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from telemetry.storage.columns import Columns
from telemetry.storage.index import Rows, SegmentIndex
from telemetry.storage.merge import sort_rows
from telemetry.storage.parquet_writer import ROW_GROUP
from telemetry.types import Nanos

__all__ = ["log_batches", "segment_name", "segments"]


def segment_name(path: Path) -> tuple[str, int] | None:
    """Writer and number of a segment by its file's name, or None if it is not one."""
    writer, _, number = path.stem.rpartition("-")
    return (writer, int(number)) if path.suffix == ".twl" and writer and number.isdigit() else None


def segments(root: Path, cut: dict[str, int] | None = None) -> list[Path]:
    """The segments that count, by writer and number."""
    found = []
    for path in (root / "log").glob("*.twl"):
        name = segment_name(path)
        if name is not None and name[1] >= (cut or {}).get(name[0], 0):
            found.append((name, path))
    return [path for _, path in sorted(found)]


def log_batches(
    fd: int,
    index: SegmentIndex,
    seen_from: Nanos = -(2**63),
    seen_to: Nanos = 2**63 - 1,
    rows: int = ROW_GROUP // 8,
) -> Iterator[tuple[Columns, NDArray[np.bool_]]]:
    """The rows of a segment in (seen_ns, arrival) order, and which of them are float64 (values are bits as int64).

    Frames outside of ``[seen_from, seen_to)`` are passed over; rows are not cut. A segment into which old seen_ns
    were written after newer ones is read whole and sorted; others stream.
    """
    parts: list[Rows] = []
    pending = 0
    for frame in index.read(fd, seen_from, seen_to):
        parts.append(frame)
        pending += len(frame)
        if index.ordered and pending >= rows:
            yield _join(parts)
            parts, pending = [], 0
    if parts:
        columns, real = _join(parts)
        order = None if index.ordered else sort_rows(columns)
        yield (columns, real) if order is None else (columns[order], real[order])


def _join(parts: list[Rows]) -> tuple[Columns, NDArray[np.bool_]]:
    real = np.repeat([p.value.dtype.kind == "f" for p in parts], [len(p) for p in parts])
    columns = Columns.concat(
        [Columns(p.series, p.time_ns, p.seen_ns, p.arrival, p.value.view(np.int64)) for p in parts]
    )
    return columns, real
