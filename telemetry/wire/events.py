"""From kernel output to events: collected by (metric, id), given out in time order.

Analysers report what they find as plain columns; the collector holds them back for a while (a loss
is known only when the packet can no longer come), sorts, and names the series. The order is by
time, then by the series' name (its digest), so it does not depend on how the packets were cut into batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from telemetry.types import Events, Int64, Nanos, SeriesKey

__all__ = ["Collector"]

_ROWS: Final = 65_536
_ID_BITS: Final = 48
_ID_ZERO: Final = 1 << 20  # ids of what has no flow are a little below zero
_ID_MASK: Final = (1 << _ID_BITS) - 1


class Collector:
    """Measurements waiting for their turn.

    Parameters
    ----------
    resolve : function of (metric code, id) -> SeriesKey
        Called once for each series.

    Attributes
    ----------
    late : int
        Measurements that were found after later ones had been given out; their `seen_ns` says so.
    """

    def __init__(self, resolve: Callable[[int, int], SeriesKey]) -> None:
        self._resolve = resolve
        self._keys: tuple[SeriesKey, ...] = ()
        self._known = np.empty(0, np.int64)  # sorted names (code and id in one), and the series of each
        self._series = np.empty(0, np.int64)
        self._tie = np.empty(0, np.int64)
        self._parts: list[tuple[Int64, Int64, Int64, Int64]] = []
        self._given = np.iinfo(np.int64).min
        self.late = 0

    def add(self, code: int, ids: NDArray[np.integer], time_ns: Int64, value: Int64) -> None:
        """Take measurements of one metric (copies; the arrays may be reused)."""
        if len(ids):
            codes = np.full(len(ids), code, np.int64)
            self._parts.append((codes, ids.astype(np.int64), time_ns.astype(np.int64), value.astype(np.int64)))

    def drain(self, before_ns: Nanos | None = None) -> Iterator[Events]:
        """Give out what happened before `before_ns` (all, if None), in time order."""
        if not self._parts:
            return
        code, ids, time, value = (np.concatenate(c) for c in zip(*self._parts, strict=True))
        self._parts = []
        if before_ns is not None:
            later = time >= before_ns
            if later.any():
                self._parts = [(code[later], ids[later], time[later], value[later])]
                now = ~later
                code, ids, time, value = code[now], ids[now], time[now], value[now]
        if not len(time):
            return
        series = self._named(code, ids)
        order = np.lexsort((self._tie[series], time))
        series, time, value = series[order], time[order], value[order]
        self.late += int(np.count_nonzero(time < self._given))
        seen = np.maximum(time, self._given)
        self._given = int(seen[-1])
        for at in range(0, len(time), _ROWS):
            cut = slice(at, at + _ROWS)
            yield Events(self._keys, series[cut], time[cut], seen[cut], value[cut])

    def _named(self, code: Int64, ids: Int64) -> Int64:
        """The series of each row; new ones are named."""
        name = (code << _ID_BITS) | (ids + _ID_ZERO)
        fresh = np.setdiff1d(name, self._known)
        if len(fresh):
            first = len(self._keys)
            keys = [self._resolve(n >> _ID_BITS, (n & _ID_MASK) - _ID_ZERO) for n in fresh.tolist()]
            self._keys = (*self._keys, *keys)
            self._tie = np.concatenate([self._tie, [_digest(k) for k in keys]]).astype(np.int64)
            known = np.concatenate([self._known, fresh])
            order = np.argsort(known, kind="stable")
            self._known = known[order]
            self._series = np.concatenate([self._series, np.arange(first, len(self._keys))])[order]
        return self._series[np.searchsorted(self._known, name)]


def _digest(key: SeriesKey) -> int:
    """A number that stands for the name: orders what happened at one instant."""
    text = f"{key.metric}\0{key.labels}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)
