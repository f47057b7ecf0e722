"""Rows split over family, day and host, a Parquet file each."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from telemetry.storage.columns import Columns
from telemetry.storage.layout import DAY_NS, day_of, family_of, part
from telemetry.storage.manifest import Entry
from telemetry.storage.parquet_writer import ROW_GROUP, FileWriter
from telemetry.types import Int64, SeriesKey

__all__ = ["PartitionWriter"]

_Where = tuple[str, str, str]


class PartitionWriter:
    """Takes rows in the order of arrival; the files lie in the store's ``tmp/`` until they are committed.

    Parameters
    ----------
    root : Path of the store
    stem : str
        Name of the files.
    keys : list of SeriesKey
        What codes index; may grow while rows are written.
    """

    def __init__(self, root: Path, stem: str, keys: Sequence[SeriesKey]) -> None:
        self._scratch = root / "tmp"
        self._scratch.mkdir(exist_ok=True)
        self._stem = stem
        self._keys = keys
        self._open: dict[_Where, tuple[FileWriter, Path]] = {}
        self._pending: dict[bool, list[Columns]] = {False: [], True: []}
        self._held = {False: 0, True: 0}
        self._groups: dict[bool, list[int]] = {False: [], True: []}
        self._names: dict[tuple[str, str], int] = {}

    def __enter__(self) -> PartitionWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for writer, path in self._open.values():
            with contextlib.suppress(Exception):
                writer.close()
            path.unlink(missing_ok=True)

    def write(self, rows: Columns, real: bool) -> None:
        """Take in rows of one value type, float64 if `real`; they are kept until there are enough of them."""
        if real:
            rows = Columns(rows.code, rows.time_ns, rows.seen_ns, rows.arrival, rows.value.view(np.float64))
        while len(rows):
            some = rows[: ROW_GROUP - self._held[real]]
            self._pending[real].append(some)
            self._held[real] += len(some)
            if self._held[real] == ROW_GROUP:
                self._drain(real)
            rows = rows[len(some) :]

    def finish(self) -> list[tuple[Path, Entry]]:
        """Close all files; return them with their entries (`order` is given when they are committed)."""
        for real in (False, True):
            self._drain(real)
        out = []
        for where, (writer, path) in sorted(self._open.items()):
            writer.close()
            _sync(path)
            family, host, day = where
            entry = Entry(
                path=f"family={family}/day={day}/host={part(host)}/{self._stem}.parquet",
                family=family,
                host=host,
                day=day,
                rows=writer.rows,
                size=path.stat().st_size,
                seen_min=writer.seen_min,
                seen_max=writer.seen_max,
                time_min=writer.time_min,
                time_max=writer.time_max,
                order=0,
                metrics=writer.metrics,
            )
            out.append((path, entry))
        self._open = {}
        return out

    def _drain(self, real: bool) -> None:
        """Sort all by family, host and series in one go; each partition is then a slice."""
        if not self._pending[real]:
            return
        rows = Columns.concat(self._pending[real])
        self._pending[real], self._held[real] = [], 0
        kind = "float64" if real else "int64"
        groups = self._groups[real]
        for key in self._keys[len(groups) :]:
            groups.append(self._names.setdefault((family_of(key.metric, kind), key.host), len(self._names)))
        names = list(self._names)
        group_of = np.array(groups, np.int64)
        for day, of_day in _split(rows.time_ns // DAY_NS):
            some = rows if of_day is None else rows[of_day]
            for group, sorted_rows, row in _sorted(some, group_of):
                self._write((*names[group], day_of(day)), sorted_rows, row)

    def _write(self, where: _Where, rows: Columns, row: NDArray[np.int32]) -> None:
        if where not in self._open:
            path = self._scratch / f"{os.getpid()}-{os.urandom(6).hex()}.parquet"
            self._open[where] = (FileWriter(path, self._keys, where[0].rpartition(".")[2]), path)
        self._open[where][0].write(rows, row)


def _sorted(rows: Columns, group_of: Int64) -> Iterator[tuple[int, Columns, NDArray[np.int32]]]:
    """Rows of each group by series and then arrival, and their places in the group's order of arrival."""
    by_group = np.argsort(group_of, kind="stable")
    rank_of = np.empty(len(group_of), np.int64)
    rank_of[by_group] = np.arange(len(group_of))
    small = np.uint16 if len(group_of) <= 65_536 else np.int32  # 16 bits: numpy sorts by radix
    rank = rank_of.astype(small)[rows.code]
    order = np.argsort(rank, kind="stable")
    whole = rows[order]
    groups = group_of[whole.code]
    bounds = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(groups)]
    if len(bounds) == 2:
        yield int(groups[0]), whole, order.astype(np.int32)
        return
    for lo, hi in pairwise(bounds):
        place = order[lo:hi]
        mine = np.zeros(len(order), np.bool_)
        mine[place] = True
        count = np.cumsum(mine, dtype=np.int32)
        yield int(groups[lo]), whole[lo:hi], count[place] - np.int32(1)


def _split(ids: Int64) -> Iterator[tuple[int, Int64 | None]]:
    """Each value and its rows in order (None: all of them)."""
    low, high = int(ids.min()), int(ids.max())
    if low == high:
        yield low, None
        return
    small = (ids - low).astype(np.uint16) if high - low < 65_536 else ids - low
    order = np.argsort(small, kind="stable")
    starts = np.flatnonzero(np.diff(small[order].astype(np.int64))) + 1
    for rows in np.split(order, starts):
        yield int(ids[rows[0]]), rows


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
