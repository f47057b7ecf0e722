"""Sources that are read at one rate, and their samples as one batch of events."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from telemetry.errors import InputError
from telemetry.host.batch import Batch
from telemetry.host.sources import HostSource, TextFile
from telemetry.types import Events, Int64, Nanos, SeriesKey

__all__ = ["Tier"]


class Tier:
    """Reads its sources one after the other; each is stamped before and after, its time is the middle.

    Parameters
    ----------
    sources : sequence of HostSource

    Notes
    -----
    What cannot be read is left out and named in `missing`; it is tried again, ever more seldom, at `retry`. A source
    whose series change is looked at anew within the same sample, so nothing of it is lost. Keys and their numbers
    stay the same objects from sample to sample while no series comes or goes.
    """

    def __init__(self, sources: Sequence[HostSource]) -> None:
        self._sources = list(sources)
        self._fields: dict[int, Sequence[SeriesKey]] = {}
        self._plan: list[tuple[HostSource, int, int]] = []
        self._counts = np.empty(0, np.int64)
        self._stale = False
        self._batch = Batch([])
        self.missing: dict[str, str] = {}
        """Why a source is not there, in one line, by its name."""
        self.rediscovered = 0
        self._waits: dict[int, tuple[int, int]] = {}
        self._keys: tuple[SeriesKey, ...] = ()
        self.series: Int64 = np.empty(0, np.int64)

    @property
    def keys(self) -> tuple[SeriesKey, ...]:
        """The series being read now."""
        if self._stale:
            self._lay_out()
        return self._keys

    @property
    def sources(self) -> Sequence[HostSource]:
        return self._sources

    def replace(self, add: Sequence[HostSource] = (), remove: Sequence[HostSource] = ()) -> None:
        """Bring sources in and out (a process started, a thread ended)."""
        for source in remove:
            self._drop(source)
            self._sources.remove(source)
            self._waits.pop(id(source), None)
            self.missing.pop(source.name, None)
        for source in add:
            self._sources.append(source)
            self._discover(source)
        self._stale = self._stale or bool(add or remove)

    def retry(self) -> None:
        """Look again for what was not there: at the next call, then after 2, 4, ... up to 64 calls."""
        for source in self._sources:
            if id(source) in self._fields:
                continue
            waits, failed = self._waits.get(id(source), (0, 0))
            if waits > 0:
                self._waits[id(source)] = (waits - 1, failed)
            elif self._discover(source):
                self._waits.pop(id(source), None)
            else:
                self._waits[id(source)] = (min(2**failed, 64) - 1, failed + 1)

    def sample(self) -> Events:
        """Read everything once; seen_ns is the end of it."""
        if self._stale:
            self._lay_out()
        n = len(self.series)
        values, times = np.empty(n, np.int64), np.empty(n, np.int64)
        failed = self._batch.read(values, times)
        if failed:
            self._stale = True  # one may have outgrown its place
            failed = [i for i in failed if not self._read(i, values)]
        clock = time.time_ns
        before = clock()
        for i in range(len(self._batch.files), len(self._plan)):
            if not self._read(i, values):
                failed.append(i)
            after = clock()
            _, lo, hi = self._plan[i]
            times[lo:hi] = before + (after - before) // 2
            before = after
        if failed:
            return self._anew(values, times, failed)
        return self._events(self._keys, self.series, times, values, before)

    def _read(self, i: int, values: Int64) -> bool:
        source, lo, hi = self._plan[i]
        try:
            return source.read(values[lo:hi])
        except (OSError, InputError) as error:
            self._drop(source)
            self.missing[source.name] = _why(error)
            return False

    def close(self) -> None:
        for source in self._sources:
            source.close()

    def _anew(self, values: Int64, times: Int64, failed: list[int]) -> Events:
        """Some sources changed: keep what the others gave, read those again by their new names."""
        kept = [
            (self._fields[id(s)], values[lo:hi], times[lo:hi])
            for i, (s, lo, hi) in enumerate(self._plan)
            if i not in failed
        ]
        for i in failed:
            source = self._plan[i][0]
            self.rediscovered += 1
            if not self._discover(source):
                continue
            keys = self._fields[id(source)]
            again = np.empty(len(keys), np.int64)
            before = time.time_ns()
            try:
                good = source.read(again)
            except (OSError, InputError) as error:
                self._drop(source)
                self.missing[source.name] = _why(error)
                continue
            if good:
                middle = before + (time.time_ns() - before) // 2
                kept.append((keys, again, np.full(len(again), middle, np.int64)))
            else:
                # It changes from one read to the next: nothing of this sample can be trusted.
                self._drop(source)
                self.missing[source.name] = "changed while it was read"
        self._lay_out()
        found = tuple(k for names, _, _ in kept for k in names)
        none = np.empty(0, np.int64)
        whole = np.concatenate([none, *(v for _, v, _ in kept)])
        stamps = np.concatenate([none, *(t for _, _, t in kept)])
        return self._events(found, np.arange(len(found)), stamps, whole, time.time_ns())

    def _events(self, keys: tuple[SeriesKey, ...], series: Int64, times: Int64, values: Int64, seen: Nanos) -> Events:
        return Events(keys, series, times, np.full(len(values), seen, np.int64), values)

    def _discover(self, source: HostSource) -> bool:
        try:
            keys = source.discover()
        except (OSError, InputError) as error:
            self._drop(source)
            self.missing[source.name] = _why(error)
            return False
        self._fields[id(source)] = keys
        self._stale = True
        self.missing.pop(source.name, None)
        return True

    def _drop(self, source: HostSource) -> None:
        source.close()
        if self._fields.pop(id(source), None) is not None:
            self._stale = True

    def _lay_out(self) -> None:
        known = [s for s in self._sources if id(s) in self._fields]  # one may have no series yet
        files = [s for s in known if isinstance(s, TextFile)]
        self._plan, at = [], 0
        keys: list[SeriesKey] = []
        for source in [*files, *(s for s in known if not isinstance(s, TextFile))]:
            names = self._fields[id(source)]
            self._plan.append((source, at, at + len(names)))
            keys.extend(names)
            at += len(names)
        self._batch = Batch(files)
        self._keys = tuple(keys)
        self.series = np.arange(at)
        self.series.flags.writeable = False
        self._counts = np.array([hi - lo for _, lo, hi in self._plan], np.int64)
        self._stale = False


def _why(error: Exception) -> str:
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
