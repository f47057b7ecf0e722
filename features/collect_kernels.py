"""Kernels of ``features/collect.py``: events dealt to buffers, counted and scattered into cells."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np
from numba import njit

from telemetry.wire.prefetch import prefetch

__all__ = ["append", "append_whole", "ascending", "count", "in_sweeps", "scatter"]


@njit(cache=True, nogil=True)
def ascending(series, n, offset):
    """Whether the events come series by series already, as those of a sampler's sweep; `offset` is filled then."""
    width = offset.shape[0] - 1
    if n == width:
        other = 0
        for i in range(n):
            other |= series[i] ^ i
        if other == 0:  # one of each
            for i in range(n + 1):
                offset[i] = i
            return True
    at = 0
    for i in range(n):
        s = series[i]
        if s + 1 < at:
            return False
        while at <= s:
            offset[at] = i
            at += 1
    while at <= width:
        offset[at] = n
        at += 1
    return True


@njit(cache=True, nogil=True)
def in_sweeps(series, time, n, width):
    """Whether the events are those of series 0 .. width - 1 in turn, again and again, never back in time."""
    for at in range(0, n, width):
        names, times = series[at : at + width], time[at : at + width]
        other = 0
        for k in range(names.shape[0]):
            other |= names[k] ^ k
        if other != 0:
            return False
        if at > 0:
            before = time[at - width : at]
            back = 0
            for k in range(times.shape[0]):
                back += 1 if times[k] < before[k] else 0
            if back > 0:
                return False
    return True


@njit(cache=True, nogil=True)
def append(
    series, time, value, keep, masked, local, whole, flag, timed, start, low, middle, high,
    a_series, a_time, a_value, a, b_series, b_time, b_value, b, c_series, c_time, c_value, c,
):  # fmt: skip
    """Deal events from `start` on to [low, middle), [middle, high) and, below, the overflow; stop at `high`.

    `a`, `b` and `c` are how many these hold; returns the next event, what they hold then, and NaN that were dropped.
    Blocks that lie in [middle, high) as a whole, as most do, take a path without branches.
    """
    n = series.shape[0]
    nans = 0
    i = start
    stop = False
    while i < n and not stop:
        end = min(i + 256, n)
        times = time[i:end]
        least = most = times[0]
        for k in range(times.shape[0]):
            least = min(least, times[k])
            most = max(most, times[k])
        if least >= middle and most < high and not masked:
            names, values = series[i:end].view(np.uint64), value[i:end]  # unsigned: no negative index to look for
            bad = 0
            for k in range(values.shape[0]):
                bad += values[k] != values[k]
            if whole and bad == 0:
                to_series, to_value = b_series[b : b + values.shape[0]], b_value[b : b + values.shape[0]]
                for k in range(values.shape[0]):
                    to_series[k] = local[names[k]] | flag
                    to_value[k] = values[k]
                if timed:
                    b_time[b : b + values.shape[0]] = times
                b += values.shape[0]
                i = end
                continue
            for k in range(times.shape[0]):  # written in any case, counted if it is wanted: there is room for all
                s = local[names[k]]
                v = values[k]
                b_series[b] = s | flag
                b_value[b] = v
                if timed:
                    b_time[b] = times[k]
                good = v == v
                b += (s >= 0) & good
                nans += (s >= 0) & (not good)
            i = end
            continue
        while i < end:
            if not masked or keep[i]:
                s = local[series[i]]
                if s >= 0:
                    v = value[i]
                    t = time[i]
                    if v != v:
                        nans += 1
                    elif t >= middle:
                        if t >= high:
                            stop = True
                            break
                        b_series[b] = s | flag
                        b_value[b] = v
                        if timed:
                            b_time[b] = t
                        b += 1
                    elif t >= low:
                        a_series[a] = s | flag
                        a_value[a] = v
                        if timed:
                            a_time[a] = t
                        a += 1
                    else:
                        c_series[c] = s | flag
                        c_time[c] = t
                        c_value[c] = v
                        c += 1
            i += 1
    return i, a, b, c, nans


@njit(cache=True, nogil=True)
def append_whole(series, time, value, local, flag, timed, middle, high, to_series, to_time, to_value, n):
    """Put all events behind the n of a buffer; how many it holds then, or -1: one is not in [middle, high), or is NaN.

    What `append` does with most small batches, with half the arguments. Every series is known to be selected.
    """
    bad = 0
    for k in range(time.shape[0]):
        bad |= (time[k] < middle) | (time[k] >= high) | (value[k] != value[k])
    if bad:
        return -1
    names = series.view(np.uint64)
    into_series, into_value = to_series[n : n + names.shape[0]], to_value[n : n + names.shape[0]]
    for k in range(names.shape[0]):
        into_series[k] = local[names[k]] | flag
        into_value[k] = value[k]
    if timed:
        to_time[n : n + names.shape[0]] = time
    return n + names.shape[0]


@njit(cache=True, nogil=True)
def count(series, time, n, mixed, step, here, first, last, reach, width, offset):
    """Count the events of each cell ``(window - first) * width + series`` into ``offset[cell + 1]``.

    Window j covers the steps j - reach + 1 .. j. All events are of step `here`, or, if `mixed`, of their times'.
    """
    if reach == 1 and not mixed:  # the common case, plain
        cell = (here - first) * width + 1
        for i in range(n):
            offset[cell + (series[i] & 1073741823)] += 1
        return
    at = here
    lo = hi = 0
    for i in range(n):
        if mixed:
            t = time[i]
            if t < lo or t >= hi:
                at = t // step
                lo = at * step
                hi = lo + step
        s = series[i] & 1073741823
        for j in range(max(at, first), min(at + reach - 1, last) + 1):
            offset[(j - first) * width + s + 1] += 1


@njit(cache=True, nogil=True)
def scatter(
    series, time, value, n, mixed, step, here, first, last, reach, width, timed, at_cell, names, times, values
):  # fmt: skip
    """Put values (and, if `timed`, times; and flagged series, if there is room for them) at their cells.

    Each cell is a stream of its own, too many for the processor to foresee: it is told of a cell's next cache line.
    """
    named = names.shape[0] > 0
    if reach == 1 and not mixed and not named:  # the common case, plain
        cell = (here - first) * width
        if timed:
            for i in range(n):
                c = cell + series[i]
                k = at_cell[c]
                at_cell[c] = k + 1
                values[k] = value[i]
                times[k] = time[i]
                prefetch(values, k + 8)
                prefetch(times, k + 8)
        else:
            for i in range(n):
                c = cell + series[i]
                k = at_cell[c]
                at_cell[c] = k + 1
                values[k] = value[i]
                prefetch(values, k + 8)
        return
    at = here
    lo = hi = 0
    for i in range(n):
        if mixed:
            t = time[i]
            if t < lo or t >= hi:
                at = t // step
                lo = at * step
                hi = lo + step
        flagged = series[i]
        v = value[i]
        for j in range(max(at, first), min(at + reach - 1, last) + 1):
            c = (j - first) * width + (flagged & 1073741823)
            k = at_cell[c]
            at_cell[c] = k + 1
            values[k] = v
            if timed:
                times[k] = time[i]
            if named:
                names[k] = flagged
