"""One consistent look at a store: the manifest and the segments that it does not yet cover."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from telemetry.errors import StoreError
from telemetry.selectors import Selector
from telemetry.storage.columns import Columns, KeyTable
from telemetry.storage.index import SegmentIndex
from telemetry.storage.manifest import Entry, read_manifest
from telemetry.storage.merge import Stream, merge_streams
from telemetry.storage.parquet_reader import read_file, read_keys
from telemetry.storage.segments import log_batches, segments
from telemetry.types import Events, Int64, Nanos, SeriesKey

__all__ = ["Snapshot"]

_Span = tuple[Nanos, Nanos]
_Batch = tuple[Columns, NDArray[np.bool_]]


class Snapshot:
    """Holds the segments open, so that a cut that happens meanwhile takes nothing away.

    Opens the segments between two looks at the manifest: equal generations mean that no row is counted twice or
    not at all.
    """

    _filesystem: Any = None

    def __init__(self, root: Path, known: dict[tuple[str, int], SegmentIndex] | None = None) -> None:
        self._root = root
        self._logs: list[tuple[int, SegmentIndex]] = []
        known = {} if known is None else known
        for _ in range(100):
            manifest = read_manifest(root)
            try:
                opened = self._open(segments(root, manifest.cut), known)
            except FileNotFoundError:
                self.close()
                continue
            if read_manifest(root).generation == manifest.generation:
                self.files = manifest.files
                for gone in known.keys() - opened:
                    del known[gone]
                return
            self.close()
        raise StoreError(f"{root}: the store changes faster than it can be read")

    def _open(self, paths: list[Path], known: dict[tuple[str, int], SegmentIndex]) -> set[tuple[str, int]]:
        names = set()
        for path in paths:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            name = (path.name, os.fstat(fd).st_ino)
            index = known.setdefault(name, SegmentIndex())
            self._logs.append((fd, index))
            index.extend(fd)
            names.add(name)
        return names

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for fd, _ in self._logs:
            os.close(fd)
        self._logs = []

    def read(
        self, table: KeyTable, selectors: Sequence[Selector], seen: _Span, time: _Span | None
    ) -> Iterator[tuple[Events, int]]:
        """Batches in order, and how many rows were found written twice."""
        streams = []
        for f in self.files:
            if f.seen_max < seen[0] or f.seen_min >= seen[1] or not _may_hold(f, selectors):
                continue
            if time is not None and (f.time_max < time[0] or f.time_min >= time[1]):
                continue
            streams.append(Stream(max(f.seen_min, seen[0]), self.file_rows(f, table, seen, time)))
        for fd, index in self._logs:
            if index.first_seen is None or index.first_seen >= seen[1]:
                continue
            if max((at for h, at in index.last_seen.items() if _may_be(h, selectors)), default=seen[0] - 1) >= seen[0]:
                streams.append(Stream(max(index.first_seen, seen[0]), self._log_rows(fd, index, table, seen, time)))
        public = _Public(table)
        for rows, real, twice in merge_streams(streams, table):
            yield from public.events(rows, real, twice)

    def last_seen(self, host: str | None) -> Nanos | None:
        newest = self.newest()
        return max(newest.values(), default=None) if host is None else newest.get(host)

    def newest(self) -> dict[str, Nanos]:
        """The largest seen_ns of each host."""
        found: dict[str, Nanos] = {}
        told = [(f.host, f.seen_max) for f in self.files]
        for host, at in [*told, *(x for _, index in self._logs for x in index.last_seen.items())]:
            found[host] = max(at, found.get(host, at))
        return found

    def first_seen(self) -> Nanos | None:
        found = [f.seen_min for f in self.files]
        found += [index.first_seen for _, index in self._logs if index.first_seen is not None]
        return min(found, default=None)

    def hosts(self) -> set[str]:
        return {f.host for f in self.files} | {h for _, index in self._logs for h in index.last_seen}

    def keys(self, selectors: Sequence[Selector]) -> set[SeriesKey]:
        found = {k for _, index in self._logs for k in index.used_keys()}
        for f in self.files:
            if _may_hold(f, selectors):
                try:
                    found |= read_keys(self._where(f), f.host, self._filesystem)
                except FileNotFoundError:  # replaced between the look and the opening
                    found |= read_keys(self._where(f), f.host, self._filesystem)
        return found

    def _where(self, entry: Entry) -> str | Path:
        path = self._root / entry.path
        if not path.exists():  # replaced since: it lies in the trash for as long as a reader may take
            aside = self._root / "trash" / f"{entry.order}.parquet"
            if aside.exists():
                return aside
        return path

    def file_rows(self, f: Entry, table: KeyTable, seen: _Span, time: _Span | None) -> Iterator[_Batch]:
        whole = seen[0] <= f.seen_min and f.seen_max < seen[1] and time is None
        span = (-(2**63), 2**63 - 1) if whole else seen
        told = tried = False
        while True:
            try:
                for rows in read_file(self._where(f), f.host, table, span, time, self._filesystem):
                    told = True
                    real = np.full(len(rows), rows.value.dtype.kind == "f")
                    rows.value = rows.value.view(np.int64)
                    yield rows, real
                return
            except FileNotFoundError:
                if told or tried:
                    raise StoreError(f"{self._root / f.path}: named in the manifest, but not there") from None
                tried = True  # replaced between the look and the opening

    def _log_rows(
        self, fd: int, index: SegmentIndex, table: KeyTable, seen: _Span, time: _Span | None
    ) -> Iterator[_Batch]:
        lookup = np.empty(0, np.int32)
        for rows, real in log_batches(fd, index, *seen):
            if len(lookup) < len(index.keys):
                lookup = np.array([table.code(k) for k in index.keys], np.int32)
            code = lookup[rows.code]
            keep = (rows.seen_ns >= seen[0]) & (rows.seen_ns < seen[1]) & (code >= 0)
            if time is not None:
                keep &= (rows.time_ns >= time[0]) & (rows.time_ns < time[1])
            rows = Columns(code, rows.time_ns, rows.seen_ns, rows.arrival, rows.value)
            yield (rows, real) if keep.all() else (rows[keep], real[keep])


class _Public:
    """Numbers series in the order in which they appear, so that batches do not depend on how rows lie on disk."""

    def __init__(self, table: KeyTable) -> None:
        self._table = table
        self._codes = np.empty(0, np.int64)
        self._keys: list[SeriesKey] = []
        self._tuple: tuple[SeriesKey, ...] = ()

    def events(self, rows: Columns, real: NDArray[np.bool_], twice: int) -> Iterator[tuple[Events, int]]:
        known = len(self._codes)
        if known < len(self._table.keys):
            more = np.full(len(self._table.keys) - known, -1, np.int64)
            self._codes = np.concatenate((self._codes, more))
        series: Int64 = self._codes[rows.code]
        if series.size and series.min() < 0:
            new = rows.code[series < 0]
            _, first = np.unique(new, return_index=True)
            for code in new[np.sort(first)].tolist():
                self._codes[code] = len(self._keys)
                self._keys.append(self._table.keys[code])
            self._tuple = tuple(self._keys)
            series = self._codes[rows.code]
        bounds = [0, *(np.flatnonzero(np.diff(real)) + 1).tolist(), len(real)]
        for lo, hi in pairwise(bounds):
            if hi == lo:
                continue
            value = rows.value[lo:hi]
            yield (
                Events(
                    self._tuple,
                    series[lo:hi],
                    rows.time_ns[lo:hi],
                    rows.seen_ns[lo:hi],
                    value.view(np.float64) if real[lo] else value,
                ),
                twice,
            )
            twice = 0


def _may_be(host: str, selectors: Sequence[Selector]) -> bool:
    return not selectors or any(s.may_match(host=host) for s in selectors)


def _may_hold(f: Entry, selectors: Sequence[Selector]) -> bool:
    """Whether any of the selectors could mean a series of this file."""
    return not selectors or any(s.may_match(host=f.host, metric=m) for s in selectors for m in f.metrics)
