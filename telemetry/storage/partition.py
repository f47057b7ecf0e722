"""Rows split over family, day and host, a Parquet file each."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from telemetry.storage.layout import DAY_NS, day_of, family_of, part
from telemetry.storage.manifest import Entry
from telemetry.storage.parquet import ROW_GROUP, Columns, FileWriter
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
        self._pending: dict[_Where, list[Columns]] = {}
        self._held: dict[_Where, int] = {}
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
        """Take in rows of one value type, float64 if `real`."""
        if not len(rows):
            return
        if real:
            rows = Columns(rows.code, rows.time_ns, rows.seen_ns, rows.arrival, rows.value.view(np.float64))
        kind = "float64" if real else "int64"
        groups = self._groups[real]
        for key in self._keys[len(groups) :]:
            groups.append(self._names.setdefault((family_of(key.metric, kind), key.host), len(self._names)))
        names = list(self._names)
        days = rows.time_ns // DAY_NS
        for day, of_day in _split(days):
            some = rows if of_day is None else rows[of_day]
            for group, of_group in _split(np.array(groups, np.int64)[some.code]):
                self._add((*names[group], day_of(day)), some if of_group is None else some[of_group])

    def finish(self) -> list[tuple[Path, Entry]]:
        """Close all files; return them with their entries (`order` is given when they are committed)."""
        for where in sorted(self._pending):
            self._write(where)
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

    def _add(self, where: _Where, rows: Columns) -> None:
        self._pending.setdefault(where, []).append(rows)
        self._held[where] = self._held.get(where, 0) + len(rows)
        if self._held[where] >= ROW_GROUP:
            self._write(where)

    def _write(self, where: _Where) -> None:
        rows = Columns.concat(self._pending.pop(where))
        self._held[where] = 0
        if where not in self._open:
            path = self._scratch / f"{os.getpid()}-{os.urandom(6).hex()}.parquet"
            self._open[where] = (FileWriter(path, self._keys, where[0].rpartition(".")[2]), path)
        for at in range(0, len(rows), ROW_GROUP):
            self._open[where][0].write(rows[at : at + ROW_GROUP])


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
