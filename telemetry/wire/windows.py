"""What happens often, as windows: count, mean, median, p99 and maximum per series and second, and per link and ms.

A capture of millions of packets gives a round trip or a latency for most of them. Those are not stored
one by one; each second of a series becomes five numbers (exact: the samples of one second are selected
from, not sketched), and each millisecond of a whole tap becomes a count and a maximum.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

from telemetry.types import Int64

__all__ = ["MILLISECOND", "SECOND", "STATS", "Windows"]

SECOND: Final = 1_000_000_000
MILLISECOND: Final = 1_000_000
STATS: Final = ("count", "mean", "p50", "p99", "max")

_STRETCHES: Final = 2048
_NULL: Final = np.iinfo(np.int64).min
_C_SECOND, _C_SERIES, _C_SAMPLES, _C_RARE, _C_MS_ROWS = range(5)


@njit(cache=True, nogil=True)
def select(a, lo, hi, k):  # type: ignore[no-untyped-def]
    """Order ``a[lo:hi]`` around its place `k` (absolute) and return ``a[k]``: Hoare's selection."""
    hi -= 1
    while lo < hi:
        mid = (lo + hi) >> 1
        x, y, z = a[lo], a[mid], a[hi]
        pivot = max(min(x, y), min(max(x, y), z))
        i, j = lo, hi
        while i <= j:
            while a[i] < pivot:
                i += 1
            while a[j] > pivot:
                j -= 1
            if i <= j:
                a[i], a[j] = a[j], a[i]
                i += 1
                j -= 1
        if k <= j:
            hi = j
        elif k >= i:
            lo = i
        else:
            break
    return a[k]


@njit(cache=True, nogil=True)
def _two_ranks(a, lo, hi, low, high, least, top, hist, spare):  # type: ignore[no-untyped-def]
    """The values at places `low` <= `high` (from 0) of ``a[lo:hi]`` in order; all lie in ``[least, top]``.

    One pass counts equal stretches of the range, one gathers what shares a stretch with either place: no branch
    that is hard to foretell.
    """
    base = np.uint64(least)
    span = np.uint64(top) - base
    shift = np.uint64(0)
    most = np.uint64(min(len(hist), 2 * (hi - lo)))
    while (span >> shift) >= most:
        shift += np.uint64(1)
    for b in range(np.int64(span >> shift) + 1):
        hist[b] = 0
    for i in range(lo, hi):
        hist[(np.uint64(a[i]) - base) >> shift] += 1
    before = np.int64(0)
    b = 0
    while before + hist[b] <= low:
        before += hist[b]
        b += 1
    low_at, low_in = np.uint64(b), low - before
    while before + hist[b] <= high:
        before += hist[b]
        b += 1
    high_at, high_in = np.uint64(b), high - before
    n, end = 0, len(spare)
    for i in range(lo, hi):
        at = (np.uint64(a[i]) - base) >> shift
        if at == low_at:
            spare[n] = a[i]
            n += 1
        elif at == high_at:
            end -= 1
            spare[end] = a[i]
    if low_at == high_at:
        second = select(spare, 0, n, high_in)
        return select(spare, 0, high_in + 1, low_in), second
    return select(spare, 0, n, low_in), select(spare, end, len(spare), end + high_in)


@njit(cache=True, nogil=True)
def _take(start, rows, often, clock, lookup, names, sid, value, ms, ms_out, rare):  # type: ignore[no-untyped-def]
    """Take rows (kind, id, time, value, ...) from `start`; stop where a second ends. Returns the next row."""
    width = rows.shape[1]
    samples, series, rares, ms_rows = clock[_C_SAMPLES], clock[_C_SERIES], clock[_C_RARE], clock[_C_MS_ROWS]
    end = (clock[_C_SECOND] + 1) * SECOND if clock[_C_SECOND] != _NULL else _NULL
    at = start
    while at < len(rows):
        kind = rows[at, 0]
        o = often[kind]
        if o < 0:
            for c in range(width):
                rare[rares, c] = rows[at, c]
            rares += 1
            at += 1
            continue
        one, t, v = rows[at, 1], rows[at, 2], rows[at, 3]
        if t >= end:
            if samples > 0:
                break
            clock[_C_SECOND] = t // SECOND
            end = (clock[_C_SECOND] + 1) * SECOND
        if samples == len(sid):
            break
        s = lookup[o, one]
        if s < 0:
            s = np.int32(series)
            lookup[o, one] = s
            names[s, 0], names[s, 1] = kind, one
            series += 1
        sid[samples], value[samples] = s, v
        samples += 1
        if ms[o, 1] == 0 or t >= ms[o, 0] or t < ms[o, 0] - MILLISECOND:
            if ms[o, 1] > 0:
                ms_out[ms_rows, 0], ms_out[ms_rows, 1] = kind, ms[o, 0]
                ms_out[ms_rows, 2], ms_out[ms_rows, 3] = ms[o, 1], ms[o, 2]
                ms_rows += 1
            ms[o, 0], ms[o, 1], ms[o, 2] = (t // MILLISECOND + 1) * MILLISECOND, 0, v
        ms[o, 1] += 1
        ms[o, 2] = max(ms[o, 2], v)
        at += 1
    clock[_C_SAMPLES], clock[_C_SERIES], clock[_C_RARE], clock[_C_MS_ROWS] = samples, series, rares, ms_rows
    return at


@njit(cache=True, nogil=True)
def _close(clock, sid, value, counts, sorted_values, spare, hist, out):  # type: ignore[no-untyped-def]
    """The second's samples by series: rows (series, end, count, mean, p50, p99, max)."""
    n, series = clock[_C_SAMPLES], clock[_C_SERIES]
    for s in range(series + 1):
        counts[s] = 0
    for i in range(n):
        counts[sid[i] + 1] += 1
    for s in range(series):
        counts[s + 1] += counts[s]
    for i in range(n):
        s = sid[i]
        sorted_values[counts[s]] = value[i]
        counts[s] += 1
    k = 0
    lo = 0
    for s in range(series):
        hi = counts[s]
        if hi > lo:
            m = hi - lo
            total = 0.0
            least = top = sorted_values[lo]
            for i in range(lo, hi):
                total += sorted_values[i]
                least = min(least, sorted_values[i])
                top = max(top, sorted_values[i])
            # Nearest rank: the smallest sample that at least p of all do not exceed.
            p50, p99 = _two_ranks(
                sorted_values, lo, hi, (m + 1) // 2 - 1, (99 * m + 99) // 100 - 1, least, top, hist, spare
            )
            out[k, 0], out[k, 1], out[k, 2] = s, (clock[_C_SECOND] + 1) * SECOND, m
            out[k, 3], out[k, 4], out[k, 5], out[k, 6] = np.int64(np.rint(total / m)), p50, p99, top
            k += 1
        lo = hi
    clock[_C_SAMPLES] = 0
    return k


class Windows:
    """Samples of one analyser, put into windows.

    Parameters
    ----------
    kinds : int
        Kinds of row that the analyser writes.
    often : tuple of int
        Those that are put into windows; the others are handed back.
    """

    def __init__(self, kinds: int, often: tuple[int, ...]) -> None:
        self._often = np.full(kinds, -1, np.int64)
        self._often[list(often)] = np.arange(len(often))
        self._kinds = often
        self._clock = np.array([_NULL, 0, 0, 0, 0], np.int64)
        self._lookup = np.full((len(often), 256), -1, np.int32)
        self._names = np.zeros((256, 2), np.int64)
        self._sid = np.zeros(1 << 16, np.int32)
        self._value = np.zeros(1 << 16, np.int64)
        self._ms = np.zeros((len(often), 3), np.int64)  # end, count, most of the open one
        self._hist = np.zeros(_STRETCHES, np.int32)

    def push(self, rows: Int64, ids: int) -> tuple[Int64, Int64, Int64]:
        """Take rows (kind, id, time, value, ...), ids below `ids`.

        Returns
        -------
        rare : the rows of other kinds
        seconds : (kind, id, end, count, mean, p50, p99, max) of the seconds that ended
        milliseconds : (kind, end, count, max) of the milliseconds that ended
        """
        if not len(rows):
            return rows, np.empty((0, 8), np.int64), np.empty((0, 4), np.int64)
        if ids > self._lookup.shape[1]:
            more = np.full((len(self._lookup), max(ids, 2 * self._lookup.shape[1])), -1, np.int32)
            more[:, : self._lookup.shape[1]] = self._lookup
            self._lookup = more
        series = int(self._clock[_C_SERIES]) + len(rows)
        if series > len(self._names):
            self._names = np.concatenate([self._names, np.zeros((series, 2), np.int64)])
        rare = np.empty_like(rows)
        ms_out = np.empty((len(rows), 4), np.int64)
        self._clock[_C_RARE] = self._clock[_C_MS_ROWS] = 0
        closed = []
        at = 0
        while True:
            at = _take(
                at, rows, self._often, self._clock, self._lookup, self._names, self._sid, self._value, self._ms, ms_out,
                rare,
            )  # fmt: skip
            if at >= len(rows):
                break
            full = int(self._clock[_C_SAMPLES]) == len(self._sid)
            if full and rows[at, 2] // SECOND <= self._clock[_C_SECOND]:
                self._sid = np.concatenate([self._sid, np.zeros_like(self._sid)])
                self._value = np.concatenate([self._value, np.zeros_like(self._value)])
            else:
                closed.append(self._close())
        seconds = np.concatenate(closed) if closed else np.empty((0, 8), np.int64)
        return rare[: self._clock[_C_RARE]], seconds, ms_out[: self._clock[_C_MS_ROWS]]

    def finish(self) -> tuple[Int64, Int64]:
        """Close what is open; return (seconds, milliseconds)."""
        open_ms = [
            [self._kinds[o], end, count, top] for o, (end, count, top) in enumerate(self._ms.tolist()) if count > 0
        ]
        return self._close(), np.array(open_ms, np.int64).reshape(-1, 4)

    def _close(self) -> Int64:
        n, series = int(self._clock[_C_SAMPLES]), int(self._clock[_C_SERIES])
        out = np.empty((series, 7), np.int64)
        counts = np.empty(series + 1, np.int64)
        ordered, spare = np.empty(n, np.int64), np.empty(n, np.int64)
        k = _close(self._clock, self._sid, self._value, counts, ordered, spare, self._hist, out)
        named = np.empty((k, 8), np.int64)
        named[:, :2] = self._names[out[:k, 0]]
        named[:, 2:] = out[:k, 1:]
        return named
