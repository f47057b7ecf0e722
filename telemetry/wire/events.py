"""From kernel output to events: collected by (metric, id), given out in time order.

Analysers report what they find as plain rows; the collector holds them back for a while (a loss
is known only when the packet can no longer come), sorts, and names the series. The order is by
time, then by the series' name (its digest), so it does not depend on how the packets were cut into batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from telemetry.types import Events, Int64, Nanos, SeriesKey

__all__ = ["Collector"]

_ROWS: Final = 65_536
_ID_BITS: Final = 48
_ID_ZERO: Final = 1 << 20  # ids of what has no flow are a little below zero
_ID_MASK: Final = (1 << _ID_BITS) - 1
_NAME, _TIME, _VALUE = range(3)  # rows of what waits; a name is code and id in one


@njit(cache=True, nogil=True)
def _put(rows, codes, scale, offset, at_time, later, at_value, held, k):  # type: ignore[no-untyped-def]
    """Append the rows whose kind has a code; return how many are held now."""
    for i in range(len(rows)):
        code = codes[rows[i, 0]]
        if code >= 0:
            held[_NAME, k] = (code << _ID_BITS) | (rows[i, 1] * scale + offset + _ID_ZERO)
            held[_TIME, k] = rows[i, at_time] + later
            held[_VALUE, k] = rows[i, at_value] if at_value >= 0 else 0
            k += 1
    return k


@njit(cache=True, nogil=True)
def _part(held, k, before, out):  # type: ignore[no-untyped-def]
    """Move what happened before a time to `out`; return (how many those are, how many are still held)."""
    n = kept = 0
    for i in range(k):
        if held[_TIME, i] < before:
            for c in range(3):
                out[c, n] = held[c, i]
            n += 1
        else:
            for c in range(3):
                held[c, kept] = held[c, i]
            kept += 1
    return n, kept


@njit(cache=True, nogil=True)
def _slot(name, names):  # type: ignore[no-untyped-def]
    """Where a name is in the table, or would be."""
    mask = np.uint64(len(names) - 1)
    slot = (np.uint64(name) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32) & mask
    while names[slot] >= 0 and names[slot] != name:
        slot = (slot + np.uint64(1)) & mask
    return slot


@njit(cache=True, nogil=True)
def _look_up(wanted, names, series, out):  # type: ignore[no-untyped-def]
    """Write the series of each name, or -1; return how many are unknown."""
    unknown = 0
    for i in range(len(wanted)):
        slot = _slot(wanted[i], names)
        out[i] = series[slot] if names[slot] >= 0 else -1
        unknown += names[slot] < 0
    return unknown


@njit(cache=True, nogil=True)
def _learn(new, first, names, series):  # type: ignore[no-untyped-def]
    """Number names from `first` on."""
    for i in range(len(new)):
        slot = _slot(new[i], names)
        names[slot], series[slot] = new[i], first + i


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
        self._known = np.empty(0, np.int64)  # names in the order of their series
        self._names = np.full(1 << 10, -1, np.int64)
        self._series = np.zeros(1 << 10, np.int64)
        self._tie = np.empty(0, np.int64)
        self._held = np.empty((3, 1 << 12), np.int64)
        self._count = 0
        self._given = np.iinfo(np.int64).min
        self.late = 0

    def add(self, code: int, ids: NDArray[np.integer], time_ns: Int64, value: Int64 | int) -> None:
        """Take measurements of one metric (copies; the arrays may be reused)."""
        if not len(ids):
            return
        at = slice(self._count, self._count + len(ids))
        self._reserve(len(ids))
        self._held[_NAME, at] = ids
        self._held[_NAME, at] += (code << _ID_BITS) + _ID_ZERO
        self._held[_TIME, at], self._held[_VALUE, at] = time_ns, value
        self._count = at.stop

    def add_rows(
        self,
        rows: Int64,
        codes: Int64,
        *,
        scale: int = 1,
        offset: int = 0,
        time: int = 2,
        later: int = 0,
        value: int = 3,
    ) -> None:
        """Take rows (kind, id, ...) of an analyser.

        Parameters
        ----------
        codes : metric code of each kind; negative: not taken
        scale, offset : ids are ``id * scale + offset``
        time, value : columns; `value` -1 stands for zero
        later : added to the time
        """
        if len(rows):
            self._reserve(len(rows))
            self._count = _put(rows, codes, scale, offset, time, later, value, self._held, self._count)

    def drain(self, before_ns: Nanos | None = None) -> Iterator[Events]:
        """Give out what happened before `before_ns` (all, if None), in time order."""
        if before_ns is None:
            now, self._count = self._held[:, : self._count].copy(), 0
        else:
            now = np.empty((3, self._count), np.int64)
            n, self._count = _part(self._held, self._count, before_ns, now)
            now = now[:, :n]
        if not now.shape[1]:
            return
        series = self._named(now[_NAME])
        order = np.lexsort((self._tie[series], now[_TIME]))
        series, time, value = series[order], now[_TIME][order], now[_VALUE][order]
        self.late += int(np.count_nonzero(time < self._given))
        seen = np.maximum(time, self._given)
        self._given = int(seen[-1])
        for at in range(0, len(time), _ROWS):
            cut = slice(at, at + _ROWS)
            yield Events(self._keys, series[cut], time[cut], seen[cut], value[cut])

    def _reserve(self, more: int) -> None:
        if self._count + more > self._held.shape[1]:
            held = np.empty((3, 2 * (self._count + more)), np.int64)
            held[:, : self._count] = self._held[:, : self._count]
            self._held = held

    def _named(self, names: Int64) -> Int64:
        """The series of each row; new ones are named."""
        series = np.empty(len(names), np.int64)
        if _look_up(names, self._names, self._series, series):
            fresh = np.unique(names[series < 0])
            first = len(self._keys)
            keys = [self._resolve(n >> _ID_BITS, (n & _ID_MASK) - _ID_ZERO) for n in fresh.tolist()]
            self._keys = (*self._keys, *keys)
            self._tie = np.concatenate([self._tie, np.frombuffer(b"".join(map(_digest, keys)), "<i8")])
            self._known = np.concatenate([self._known, fresh])
            if 2 * len(self._known) > len(self._names):
                size = 1 << (4 * len(self._known) - 1).bit_length()
                self._names, self._series = np.full(size, -1, np.int64), np.zeros(size, np.int64)
                first = 0
            _learn(self._known[first:], first, self._names, self._series)
            _look_up(names, self._names, self._series, series)
        return series


def _digest(key: SeriesKey) -> bytes:
    """What stands for the name, 8 bytes: orders what happened at one instant."""
    pairs = ", ".join(map(_pair, key.labels))
    text = f"{key.metric}\0({pairs}{',' if len(key.labels) == 1 else ''})"  # as Python writes a tuple
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


_pair = lru_cache(1 << 13)(repr)
"""A label's name and value as Python writes them: each flow's, tap's and window's comes back for every metric."""
