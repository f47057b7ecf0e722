"""Bursts against the line rate, and the gaps between packets of a flow.

A burst is a stretch in which a queue that drains at half the line's rate would not run empty: its length is from its
first packet to its last, its bytes are those on the wire. What counts in a window is the longest and the largest that
ended in it, so that a burst over a window's edge is not cut in two. Each frame takes 24 bytes more of the line than
was captured (preamble, check sequence and the gap behind it, IEEE 802.3).

Gaps are told for feeds (or all flows), per flow and window: how many, their mean and the longest.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from telemetry.types import Int64, Nanos
from telemetry.wire.chosen import of_flows
from telemetry.wire.feedstate import G_FORMAT, G_SINCE

__all__ = ["Bursts", "Gaps"]

_NULL: Final = np.iinfo(np.int64).min
_FRAME: Final = 24
_SHARE: Final = 0.5  # of the line rate
_WINDOW, _LAST, _START, _BYTES, _LONGEST, _LARGEST = range(6)
_A_LAST, _A_COUNT, _A_SUM, _A_MOST = range(4)


@njit(cache=True, nogil=True)
def _bursts(n, times, lens, window, drain, clock, backlog, out):  # type: ignore[no-untyped-def]
    """Rows (window end, ns of the longest burst, bytes of the largest). `drain`: bytes a ns."""
    k = 0
    for i in range(n):
        if times[i] == _NULL:
            continue
        t = max(times[i], clock[_LAST])
        if clock[_LAST] != _NULL:
            backlog[0] -= (t - clock[_LAST]) * drain
        if backlog[0] <= 0:
            if clock[_BYTES] > 0:
                clock[_LONGEST] = max(clock[_LONGEST], clock[_LAST] - clock[_START])
                clock[_LARGEST] = max(clock[_LARGEST], clock[_BYTES])
            backlog[0] = 0.0
            clock[_START], clock[_BYTES] = t, 0
        if t // window != clock[_WINDOW]:
            if clock[_WINDOW] != _NULL:
                out[k, 0], out[k, 1], out[k, 2] = (clock[_WINDOW] + 1) * window, clock[_LONGEST], clock[_LARGEST]
                k += 1
            clock[_WINDOW] = t // window
            clock[_LONGEST] = clock[_LARGEST] = 0
        backlog[0] += lens[i] + _FRAME
        clock[_BYTES] += lens[i]
        clock[_LAST] = t
    return k


class Bursts:
    """Length and bytes of bursts at one tap.

    Parameters
    ----------
    window_ns : int
    line_rate : int
        Bits a second; 0 if it is not known: nothing is told then.
    """

    def __init__(self, window_ns: Nanos, line_rate: int = 0) -> None:
        self.window_ns, self.line_rate = window_ns, line_rate
        self._clock = np.array([_NULL, _NULL, 0, 0, 0, 0], np.int64)
        self._backlog = np.zeros(1, np.float64)

    def push(self, time_ns: Int64, wire_len: NDArray[np.int32]) -> Int64:
        """Feed packets; return rows (window end, ns of the longest burst, bytes of the largest) of windows that closed.

        The burst that a window's last packet belongs to counts in the window in which it is known to have ended.
        """
        if not self.line_rate:
            return np.empty((0, 3), np.int64)
        out = np.empty((len(time_ns), 3), np.int64)
        drain = _SHARE * self.line_rate / 8e9
        k = _bursts(len(time_ns), time_ns, wire_len, self.window_ns, drain, self._clock, self._backlog, out)
        return out[:k]

    def finish(self) -> Int64:
        """Close the last window, and the burst in it."""
        c = self._clock.tolist()
        if c[_WINDOW] == _NULL:
            return np.empty((0, 3), np.int64)
        end = (c[_WINDOW] + 1) * self.window_ns
        return np.array([[end, max(c[_LONGEST], c[_LAST] - c[_START]), max(c[_LARGEST], c[_BYTES])]], np.int64)


@njit(cache=True, nogil=True)
def _close(clock, window, acc, touched, out, k):  # type: ignore[no-untyped-def]
    for m in range(clock[1]):
        f = touched[m]
        count = acc[f, _A_COUNT]
        out[k, 0], out[k, 1], out[k, 2], out[k, 3] = 0, f, (clock[0] + 1) * window, count
        out[k, 4], out[k, 5] = acc[f, _A_SUM] // count, acc[f, _A_MOST]
        acc[f, _A_COUNT] = acc[f, _A_SUM] = acc[f, _A_MOST] = 0
        k += 1
    clock[1] = 0
    return k


@njit(cache=True, nogil=True)
def _gaps(n, times, flow, known, group_of, groups, every, window, clock, acc, touched, out):  # type: ignore[no-untyped-def]
    """Rows (0, flow, window end, gaps, mean ns, longest ns). `clock`: window, flows touched.

    Flows count whose place in `known` is not negative: all, or those of feeds.
    """
    k = 0
    end = (clock[0] + 1) * window if clock[0] != _NULL else _NULL
    for i in of_flows(0, n, flow, known):
        f = np.int64(flow[i])
        t = times[i]
        if t == _NULL:
            continue
        # a feed that was told later in this batch is none yet: the batch must make no difference
        if not every and (groups[group_of[f], G_FORMAT] < 0 or t < groups[group_of[f], G_SINCE]):
            continue
        if t >= end:
            if end != _NULL:
                k = _close(clock, window, acc, touched, out, k)
            clock[0] = t // window
            end = (clock[0] + 1) * window
        last = acc[f, _A_LAST]
        if last > 0:
            if t < last:
                continue
            if acc[f, _A_COUNT] == 0:
                touched[clock[1]] = f
                clock[1] += 1
            acc[f, _A_COUNT] += 1
            acc[f, _A_SUM] += t - last
            acc[f, _A_MOST] = max(acc[f, _A_MOST], t - last)
        acc[f, _A_LAST] = t
    return k


class Gaps:
    """Inter-arrival times: per flow and window, how many, their mean and the longest.

    Parameters
    ----------
    window_ns : int
    every : bool
        All flows, not only those of feeds.
    """

    def __init__(self, window_ns: Nanos, *, every: bool = False) -> None:
        self.window_ns, self._every = window_ns, every
        self._clock = np.array([_NULL, 0], np.int64)
        self._acc = np.zeros((1024, 4), np.int64)
        self._touched = np.zeros(1024, np.int64)
        self._out = np.empty((0, 6), np.int64)

    def push(
        self, time_ns: Int64, flow: NDArray[np.int32], flows: int, group_of: NDArray[np.int32], groups: Int64
    ) -> Int64:
        """Feed packets; return rows (0, flow, window end, gaps, mean ns, longest ns) of windows that closed.

        The rows are a buffer that the next call overwrites.
        """
        if flows > len(self._acc):
            grow = max(flows, 2 * len(self._acc)) - len(self._acc)
            self._acc = np.concatenate([self._acc, np.zeros((grow, 4), np.int64)])
            self._touched = np.concatenate([self._touched, np.zeros(grow, np.int64)])
        need = len(time_ns) + int(self._clock[1])
        if need > len(self._out):
            self._out = np.empty((2 * need, 6), np.int64)
        known = np.zeros(flows, np.int32) if self._every else group_of
        k = _gaps(
            len(time_ns), time_ns, flow, known, group_of, groups, self._every, self.window_ns, self._clock, self._acc,
            self._touched, self._out,
        )  # fmt: skip
        return self._out[:k]

    def finish(self) -> Int64:
        """Close the last window."""
        out = np.empty((int(self._clock[1]), 6), np.int64)
        return out[: _close(self._clock, self.window_ns, self._acc, self._touched, out, 0)]
