"""Events waiting for their windows to close, and their partition by (window, series).

Events are appended in arrival order; when windows close, one counting sort (stable, so arrival order stays)
brings each cell's values together and leaves behind only what later windows need.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from telemetry.types import Bool, Int64, Nanos, State

__all__ = ["FLOAT_BIT", "Cells", "Log"]

FLOAT_BIT = 1 << 30
"""Set in a series index where a log of integers holds the bits of a float64."""

_MASK = FLOAT_BIT - 1
_CELLS = 1 << 20  # at most so many (window, series) cells are sorted at once


@njit(cache=True, nogil=True)
def _append(series, time, value, keep, masked, local, flag, log_series, log_time, log_value, n):
    nans = 0
    for i in range(series.shape[0]):
        if masked and not keep[i]:
            continue
        s = local[series[i]]
        if s < 0:
            continue
        v = value[i]
        if v != v:
            nans += 1
            continue
        log_series[n] = s | flag
        log_time[n] = time[i]
        log_value[n] = v
        n += 1
    return n, nans


@njit(cache=True, nogil=True)
def _count(log_series, log_time, n, step, first, last, reach, width, offset):
    """Count the events of each cell ``(window - first) * width + series`` into ``offset[cell + 1]``; prefix sums.

    Window j covers the steps j - reach + 1 .. j.
    """
    lo = hi = at = 0
    for i in range(n):
        t = log_time[i]
        if t < lo or t >= hi:
            at = t // step
            lo = at * step
            hi = lo + step
        a = max(at, first)
        b = min(at + reach - 1, last)
        s = log_series[i] & 1073741823
        for j in range(a, b + 1):
            offset[(j - first) * width + s + 1] += 1
    for c in range(1, offset.shape[0]):
        offset[c] += offset[c - 1]


@njit(cache=True, nogil=True)
def _scatter(
    log_series, log_time, log_value, n, step, first, last, reach, width, timed, drop, at_cell, names, times, values
):
    """Put values (and, if `timed`, times and flagged series) at their cells; compact the log if `drop`."""
    lo = hi = at = 0
    kept = 0
    for i in range(n):
        t = log_time[i]
        if t < lo or t >= hi:
            at = t // step
            lo = at * step
            hi = lo + step
        a = max(at, first)
        b = min(at + reach - 1, last)
        flagged = log_series[i]
        v = log_value[i]
        for j in range(a, b + 1):
            c = (j - first) * width + (flagged & 1073741823)
            k = at_cell[c]
            at_cell[c] = k + 1
            values[k] = v
            if timed:
                times[k] = t
                names[k] = flagged
        if drop and at + reach - 1 > last:
            log_series[kept] = flagged
            log_time[kept] = t
            log_value[kept] = v
            kept += 1
    return kept


@dataclass(frozen=True, slots=True)
class Cells:
    """Events of consecutive windows, cell by cell, in arrival order within a cell.

    Parameters
    ----------
    first : int
        Number of the first window (``end_ns = (number + 1) * step_ns``).
    windows, width : int
        The cell of (window w, series s) is ``w * width + s``.
    offset : (windows * width + 1,) int64
    values : float64 or int64
    times, names : int64, int32
        Empty unless asked for.
    """

    first: int
    windows: int
    width: int
    offset: Int64
    values: NDArray[Any]
    times: Int64
    names: NDArray[np.int32]


class Log:
    """Waiting events of one builder.

    Parameters
    ----------
    step_ns : int
        Windows end at its multiples.
    reach : int
        A window covers so many steps.
    dtype : float64 or int64
        Of the values. A log of int64 takes float64 batches as bits, marked with `FLOAT_BIT`.
    """

    def __init__(self, step_ns: Nanos, reach: int = 1, dtype: type[np.generic] = np.float64) -> None:
        self.step_ns, self.reach, self.dtype = step_ns, reach, dtype
        self.n = self.nans = 0
        self._series, self._time = np.empty(0, np.int32), np.empty(0, np.int64)
        self._value: NDArray[Any] = np.empty(0, dtype)
        self._reserve(1024)

    def _reserve(self, room: int) -> None:
        old, n = (self._series, self._time, self._value), self.n
        self._series, self._time = np.empty(room, np.int32), np.empty(room, np.int64)
        self._value = np.empty(room, self.dtype)
        self._series[:n], self._time[:n], self._value[:n] = old[0][:n], old[1][:n], old[2][:n]

    def __len__(self) -> int:
        return self.n

    def append(self, series: Int64, time: Int64, value: NDArray[Any], keep: Bool | None, local: Int64) -> None:
        """Take in events; `local` maps their series to this builder's (-1: not selected). NaN is counted, dropped."""
        room = self.n + len(series)
        if room > len(self._series):
            self._reserve(max(room, 2 * len(self._series)))
        flag = 0
        if self.dtype is np.int64 and value.dtype != np.int64:
            flag = FLOAT_BIT
            real = np.asarray(value, np.float64)
            bad = np.isnan(real)
            keep = ~bad if keep is None else keep & ~bad
            value = real.view(np.int64)
        masked = keep is not None
        self.n, nans = _append(
            series, time, value, _NONE if keep is None else keep, masked, local, flag,
            self._series, self._time, self._value, self.n,
        )  # fmt: skip
        self.nans += nans

    def take(self, first: int, last: int, width: int, timed: bool) -> Iterator[Cells]:
        """Events of the windows `first` .. `last`, in runs of windows; forgets what later windows do not need."""
        run = max(1, _CELLS // max(1, width))
        for a in range(first, last + 1, run):
            b = min(a + run - 1, last)
            offset = np.zeros((b - a + 1) * width + 1, np.int64)
            _count(self._series, self._time, self.n, self.step_ns, a, b, self.reach, width, offset)
            total = int(offset[-1])
            times = np.empty(total if timed else 0, np.int64)
            names = np.empty(total if timed else 0, np.int32)
            values = np.empty(total, self.dtype)
            kept = _scatter(
                self._series, self._time, self._value, self.n, self.step_ns, a, b, self.reach, width, timed, b == last,
                offset[:-1].copy(), names, times, values,
            )  # fmt: skip
            if b == last:
                self.n = kept
            yield Cells(a, b - a + 1, width, offset, values, times, names)

    def snapshot(self) -> State:
        n = self.n
        return {
            "series": self._series[:n].copy(),
            "time": self._time[:n].copy(),
            "value": self._value[:n].copy(),
            "nans": np.array(self.nans),
        }

    def restore(self, state: State) -> None:
        self.n = 0
        n = len(state["time"])
        self._reserve(max(1024, n))
        self._series[:n], self._time[:n], self._value[:n] = state["series"], state["time"], state["value"]
        self.n, self.nans = n, int(state["nans"])


_NONE = np.empty(0, np.bool_)
