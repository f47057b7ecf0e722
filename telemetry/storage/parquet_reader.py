"""Rows of a store's Parquet file, in the order of arrival (`parquet_writer` tells how they lie in it)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from telemetry.errors import StoreError
from telemetry.storage.columns import COLUMNS, Columns, KeyTable
from telemetry.storage.layout import parse_labels
from telemetry.types import Nanos, SeriesKey

__all__ = ["read_file", "read_keys"]


def read_file(
    path: str | Path,
    host: str,
    table: KeyTable,
    seen: tuple[Nanos, Nanos],
    time: tuple[Nanos, Nanos] | None,
    filesystem: Any = None,
) -> Iterator[Columns]:
    """Yield the rows of a file that are asked for, in the order of arrival, a row group at a time.

    Parameters
    ----------
    table : KeyTable
        Series known to this reading; grows.
    seen, time : half-open intervals

    Raises
    ------
    StoreError
        If the file is not what the store wrote. FileNotFoundError passes: the caller knows where else to look.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, filesystem=filesystem, read_dictionary=["metric", "labels"])
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{path}: expected a Parquet file of the store, got: {_line(error)}") from None
    with file:
        where = file.schema_arrow.get_field_index("seen_ns")
        for group in range(file.metadata.num_row_groups):
            stats = file.metadata.row_group(group).column(where).statistics
            if stats is not None and stats.has_min_max and (stats.max < seen[0] or stats.min >= seen[1]):
                continue
            try:
                names = file.read_row_group(group, columns=["metric", "labels"], use_threads=False).combine_chunks()
                code = _series(names, host, table)
                if not (code >= 0).any():
                    continue
                rest = ["row", *COLUMNS[1:]]
                read = file.read_row_group(group, columns=rest, use_threads=False).combine_chunks()
            except (pa.ArrowException, OSError) as error:
                raise StoreError(f"{path}: row group {group} cannot be read: {_line(error)}") from None
            rows = _columns(read, code)
            keep = (rows.seen_ns >= seen[0]) & (rows.seen_ns < seen[1]) & (rows.code >= 0)
            if time is not None:
                keep &= (rows.time_ns >= time[0]) & (rows.time_ns < time[1])
            if not keep.all():
                rows = rows[keep]
            if len(rows):
                yield rows


def read_keys(path: str | Path, host: str, filesystem: Any = None) -> set[SeriesKey]:
    """The series of a file, from its two columns of names alone."""
    import pyarrow.parquet as pq

    found: set[SeriesKey] = set()
    with pq.ParquetFile(path, filesystem=filesystem, read_dictionary=["metric", "labels"]) as file:
        for group in range(file.metadata.num_row_groups):
            table = file.read_row_group(group, columns=["metric", "labels"], use_threads=False).combine_chunks()
            known = KeyTable()
            _series(table, host, known)
            found.update(known.keys)
    return found


def _columns(table: Any, code: NDArray[np.int32]) -> Columns:
    """The rows in the order of arrival; where few of them are wanted, only those."""
    row = _numpy(table["row"].chunk(0))
    n = len(row)
    sources = (code, *(_numpy(table[name].chunk(0)) for name in COLUMNS[1:]))
    wanted = np.flatnonzero(code >= 0)
    out: list[Any] = []
    if 2 * len(wanted) < n:
        wanted = wanted[np.argsort(row[wanted], kind="stable")]
        for source in sources:
            some = source[wanted]
            out.append(some.astype(np.int64) if some.dtype == np.int32 and source is not code else some)
        return Columns(*out)
    for source in sources:
        column = np.empty(n, np.int64 if source.dtype == np.int32 and source is not code else source.dtype)
        column[row] = source
        out.append(column)
    return Columns(*out)


def _series(table: Any, host: str, known: KeyTable) -> NDArray[np.int32]:
    """Codes of the rows in file order; -1 where not wanted."""
    metric, labels = (_dictionary(table[name]) for name in ("metric", "labels"))
    m, t = metric[0], labels[0]
    n = len(m)
    if n == 0:
        return np.empty(0, np.int32)
    starts = np.concatenate(([0], np.flatnonzero((np.diff(m) != 0) | (np.diff(t) != 0)) + 1))
    of_run = np.empty(len(starts), np.int32)
    parsed: dict[int, tuple[tuple[str, str], ...]] = {}
    for i, (a, b) in enumerate(zip(m[starts].tolist(), t[starts].tolist(), strict=True)):
        if b not in parsed:
            parsed[b] = parse_labels(labels[1][b])
        of_run[i] = known.code(SeriesKey(host, metric[1][a], parsed[b]))
    return np.repeat(of_run, np.diff(np.append(starts, n)))


def _dictionary(column: Any) -> tuple[NDArray[np.int32], list[str]]:
    chunk = column.chunk(0) if column.num_chunks else column.combine_chunks()
    return _numpy(chunk.indices), _texts(chunk.dictionary)


def _numpy(array: Any) -> NDArray[Any]:
    """An Arrow array without gaps, as it lies (``to_numpy`` would import pandas)."""
    kind = {"int32": np.int32, "int64": np.int64, "double": np.float64}[str(array.type)]
    return np.frombuffer(array.buffers()[1], kind, len(array), array.offset * np.dtype(kind).itemsize)


def _texts(array: Any) -> list[str]:
    _, where, data = array.buffers()
    ends = np.frombuffer(where, np.int32, len(array) + 1, array.offset * 4).tolist()
    text = data.to_pybytes() if data is not None else b""
    return [text[lo:hi].decode() for lo, hi in pairwise(ends)]


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
