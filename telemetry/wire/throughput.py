"""Packets and bytes per flow and window, and the highest peaks over short spans.

A window is named by its end and closes when a packet of a later one comes. Peaks are exact: the most
bytes in any stretch ``(t - span, t]`` that ends at a packet, not in fixed slots, so a burst is not
halved by a slot's edge.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from telemetry.types import Int64, Nanos

__all__ = ["SPANS", "Link", "Peaks", "Throughput", "span_name"]

SPANS: Final[tuple[Nanos, ...]] = (100_000, 1_000_000, 10_000_000)
"""Spans of the peaks, ns."""

_NULL: Final = np.iinfo(np.int64).min
_W_CURRENT, _W_TOUCHED, _W_BACK = range(3)


@njit(cache=True, nogil=True)
def _close(clock, window, acc, touched, out, k):  # type: ignore[no-untyped-def]
    end = (clock[_W_CURRENT] + 1) * window
    for m in range(clock[_W_TOUCHED]):
        f = touched[m]
        out[k, 0], out[k, 1], out[k, 2], out[k, 3] = f, end, acc[f, 0], acc[f, 1]
        acc[f, 0] = acc[f, 1] = 0
        k += 1
    clock[_W_TOUCHED] = 0
    return k


@njit(cache=True, nogil=True)
def _windows(n, times, flow, lens, window, clock, acc, touched, out):  # type: ignore[no-untyped-def]
    """Rows (flow + 1, window end, packets, bytes); flow + 1 is 0 for what has no flow."""
    k = 0
    end = (clock[_W_CURRENT] + 1) * window if clock[_W_CURRENT] != _NULL else _NULL
    for i in range(n):
        t = times[i]
        if t == _NULL:
            continue
        if t >= end:
            if end != _NULL:
                k = _close(clock, window, acc, touched, out, k)
            clock[_W_CURRENT] = t // window
            end = (clock[_W_CURRENT] + 1) * window
        elif t < end - window:
            clock[_W_BACK] += 1  # an older window is closed: count it in this one
        f = np.int64(flow[i]) + 1
        if acc[f, 0] == 0:
            touched[clock[_W_TOUCHED]] = f
            clock[_W_TOUCHED] += 1
        acc[f, 0] += 1
        acc[f, 1] += lens[i]
    return k


class Throughput:
    """Packets and bytes per flow in windows of one length.

    Parameters
    ----------
    window_ns : int

    Attributes
    ----------
    stepped_back : int
        Packets whose own window had closed (the capture's times ran backwards); counted in the open one.
    """

    def __init__(self, window_ns: Nanos) -> None:
        self.window_ns = window_ns
        self._clock = np.array([_NULL, 0, 0], np.int64)
        self._acc = np.zeros((1024, 2), np.int64)
        self._touched = np.zeros(1024, np.int64)
        self._out = np.empty((0, 4), np.int64)

    @property
    def stepped_back(self) -> int:
        return int(self._clock[_W_BACK])

    def push(self, time_ns: Int64, flow: NDArray[np.int32], wire_len: NDArray[np.int32], flows: int) -> Int64:
        """Feed packets; return rows (flow, window end, packets, bytes) of windows that closed.

        Flow -1 stands for what is not IP. The rows are a buffer that the next call overwrites.
        """
        if flows + 1 > len(self._acc):
            grow = max(flows + 1, 2 * len(self._acc)) - len(self._acc)
            self._acc = np.concatenate([self._acc, np.zeros((grow, 2), np.int64)])
            self._touched = np.concatenate([self._touched, np.zeros(grow, np.int64)])
        need = len(time_ns) + int(self._clock[_W_TOUCHED])
        if len(self._out) < need:
            self._out = np.empty((2 * need, 4), np.int64)
        k = _windows(
            len(time_ns), time_ns, flow, wire_len, self.window_ns, self._clock, self._acc, self._touched, self._out
        )
        self._out[:k, 0] -= 1
        return self._out[:k]

    def finish(self) -> Int64:
        """Close the last window."""
        if self._clock[_W_CURRENT] == _NULL:
            return self._out[:0]
        if len(self._out) < self._clock[_W_TOUCHED]:
            self._out = np.empty((int(self._clock[_W_TOUCHED]), 4), np.int64)
        k = _close(self._clock, self.window_ns, self._acc, self._touched, self._out, 0)
        self._out[:k, 0] -= 1
        return self._out[:k]


@njit(cache=True, nogil=True)
def _link(n, times, lens, window, state, out):  # type: ignore[no-untyped-def]
    """Rows (window end, packets, bytes). `state`: window, packets, bytes."""
    k = 0
    current, packets, size = state[0], state[1], state[2]
    end = (current + 1) * window if packets > 0 else _NULL
    for i in range(n):
        t = times[i]
        if t == _NULL:
            continue
        if t >= end:
            if packets > 0:
                out[k, 0], out[k, 1], out[k, 2] = end, packets, size
                k += 1
            current, packets, size = t // window, 0, 0
            end = (current + 1) * window
        packets += 1
        size += lens[i]
    state[0], state[1], state[2] = current, packets, size
    return k


class Link:
    """Packets and bytes of a whole tap per window."""

    def __init__(self, window_ns: Nanos = 1_000_000) -> None:
        self.window_ns = window_ns
        self._state = np.zeros(3, np.int64)
        self._out = np.empty((0, 3), np.int64)

    def push(self, time_ns: Int64, wire_len: NDArray[np.int32]) -> Int64:
        """Feed packets; return rows (window end, packets, bytes) of windows that closed.

        The rows are a buffer that the next call overwrites.
        """
        if len(self._out) < len(time_ns):
            self._out = np.empty((len(time_ns), 3), np.int64)
        return self._out[: _link(len(time_ns), time_ns, wire_len, self.window_ns, self._state, self._out)]

    def finish(self) -> Int64:
        """Close the last window."""
        current, packets, size = self._state.tolist()
        rows = [[(current + 1) * self.window_ns, packets, size]] if packets else []
        return np.array(rows, np.int64).reshape(-1, 3)


@njit(cache=True, nogil=True)
def _oldest(ring_t, tail, h, until):  # type: ignore[no-untyped-def]
    """The first place from `tail` on whose time is after `until` (the last one, ``h - 1``, is): by leaps."""
    mask = len(ring_t) - 1
    if ring_t[tail & mask] > until:
        return tail
    step = 1
    while tail + step < h and ring_t[(tail + step) & mask] <= until:
        tail += step
        step *= 2
    end = min(tail + step, h - 1)
    while tail + 1 < end:
        middle = (tail + end) >> 1
        if ring_t[middle & mask] <= until:
            tail = middle
        else:
            end = middle
    return end


@njit(cache=True, nogil=True)
def _peaks(n, times, lens, window, spans, clock, ring_t, ring_b, tails, best, out):  # type: ignore[no-untyped-def]
    """Rows (span number, window end, most bytes). `clock`: window, packets in, last time, ring overruns, bytes in.

    Three spans, from the shortest to the longest. `ring_b` holds the bytes before each packet, so a span's sum is a
    difference; with the tail where it was it is an upper bound, and only where that exceeds the best is the tail
    brought up to date.
    """
    k = 0
    mask = len(ring_t) - 1
    h, last, total = clock[1], clock[2], clock[4]
    tail0, tail1, tail2 = tails[0], tails[1], tails[2]
    best0, best1, best2 = best[0], best[1], best[2]
    span0, span1, span2 = spans[0], spans[1], spans[2]
    # Above these totals a span may have a new best.
    limit0 = ring_b[tail0 & mask] + best0
    limit1 = ring_b[tail1 & mask] + best1
    limit2 = ring_b[tail2 & mask] + best2
    full = min(tail0, tail1, tail2) + mask
    end = (clock[0] + 1) * window if clock[0] != _NULL else _NULL
    for i in range(n):
        if times[i] == _NULL:
            continue
        t = max(times[i], last)
        last = t
        if t >= end:
            if end != _NULL:
                out[k, 0], out[k, 1], out[k, 2] = 0, end, best0
                out[k + 1, 0], out[k + 1, 1], out[k + 1, 2] = 1, end, best1
                out[k + 2, 0], out[k + 2, 1], out[k + 2, 2] = 2, end, best2
                k += 3
            best0 = best1 = best2 = np.int64(0)
            limit0 = limit1 = limit2 = _NULL
            clock[0] = t // window
            end = (clock[0] + 1) * window
        ring_t[h & mask], ring_b[h & mask] = t, total
        h += 1
        total += lens[i]
        if h > full:
            # What is oldest goes, though it may lie within the longest span.
            clock[3] += h - tail2 > mask and ring_t[tail2 & mask] > t - span2
            tail0, tail1, tail2 = max(tail0, h - mask), max(tail1, h - mask), max(tail2, h - mask)
            limit0 = limit1 = limit2 = _NULL
            full = min(tail0, tail1, tail2) + mask
        if total > limit0:
            tail0 = _oldest(ring_t, tail0, h, t - span0)
            best0 = max(best0, total - ring_b[tail0 & mask])
            limit0 = ring_b[tail0 & mask] + best0
        if total > limit1:
            tail1 = _oldest(ring_t, tail1, h, t - span1)
            best1 = max(best1, total - ring_b[tail1 & mask])
            limit1 = ring_b[tail1 & mask] + best1
        if total > limit2:
            tail2 = _oldest(ring_t, tail2, h, t - span2)
            best2 = max(best2, total - ring_b[tail2 & mask])
            limit2 = ring_b[tail2 & mask] + best2
    clock[1], clock[2], clock[4] = h, last, total
    tails[0], tails[1], tails[2] = tail0, tail1, tail2
    best[0], best[1], best[2] = best0, best1, best2
    return k


class Peaks:
    """The most bytes over each of `SPANS`, per window: microbursts against line rate.

    Parameters
    ----------
    window_ns : int
        One peak a span is given for each window with packets.
    """

    def __init__(self, window_ns: Nanos) -> None:
        self.window_ns = window_ns
        self._spans = np.array(SPANS, np.int64)
        self._clock = np.array([_NULL, 0, _NULL, 0, 0], np.int64)
        self._ring_t = np.full(1 << 15, _NULL, np.int64)
        self._ring_b = np.zeros(1 << 15, np.int64)
        self._tails = np.zeros(len(SPANS), np.int64)
        self._best = np.zeros(len(SPANS), np.int64)
        self._out = np.empty((0, 3), np.int64)

    def push(self, time_ns: Int64, wire_len: NDArray[np.int32]) -> Int64:
        """Feed packets; return rows (span number, window end, most bytes) of windows that closed.

        The rows are a buffer that the next call overwrites.
        """
        if len(self._out) < len(self._spans) * len(time_ns):
            self._out = np.empty((len(self._spans) * len(time_ns), 3), np.int64)
        k = _peaks(
            len(time_ns), time_ns, wire_len, self.window_ns, self._spans, self._clock, self._ring_t, self._ring_b,
            self._tails, self._best, self._out,
        )  # fmt: skip
        return self._out[:k]

    def finish(self) -> Int64:
        """Close the last window."""
        if self._clock[0] == _NULL:
            return np.empty((0, 3), np.int64)
        end = (int(self._clock[0]) + 1) * self.window_ns
        return np.array([(s, end, b) for s, b in enumerate(self._best.tolist())], np.int64)


def span_name(span_ns: Nanos) -> str:
    """Return ``100us``, ``1ms``, ..."""
    for unit, size in (("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)):
        if span_ns % size == 0:
            return f"{span_ns // size}{unit}"
    return f"{span_ns}ns"
