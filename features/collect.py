"""Events waiting for their windows to close, and their partition by (window, series).

The newest two steps have a buffer each, which is all that a stream in order ever touches; older ones keep theirs
until they are taken, and what comes for them by then goes to one common overflow. When windows close, one counting
sort brings each cell's values together, in arrival order.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.collect_kernels import append, append_whole, ascending, count, in_sweeps, scatter
from telemetry.types import Bool, Int64, Nanos, State

__all__ = ["FLOAT_BIT", "Cells", "Log"]

FLOAT_BIT = 1 << 30
"""Set in a series index where a log of integers holds the bits of a float64."""

_CELLS = 1 << 20  # at most so many (window, series) cells are sorted at once
_POOL = 4  # buffers kept for reuse
_SMALL = 4096  # events of a batch that are looked through once more, to see whether all are of the newest step


class Cells(NamedTuple):
    """Events of consecutive windows, cell by cell, in arrival order within a cell. Valid until the next ones are made.

    Parameters
    ----------
    first : int
        Number of the first window (``end_ns = (number + 1) * step_ns``).
    windows, width : int
        The cell of (window w, series s) is ``w * width + s``.
    offset : (windows * width + 1,) int64
    values : float64 or int64
    times : int64
        Empty unless asked for.
    names : int32
        Series with their `FLOAT_BIT`; empty if all values are integers or all are not.
    """

    first: int
    windows: int
    width: int
    offset: Int64
    values: NDArray[Any]
    times: Int64
    names: NDArray[np.int32]


class _Buffer:
    """Events in arrival order; grows, and is used again. Times only if they are needed."""

    __slots__ = ("n", "series", "time", "timed", "value")

    def __init__(self, dtype: type[np.generic], timed: bool) -> None:
        self.n, self.timed = 0, timed
        self.series, self.time = np.empty(0, np.int32), np.empty(0, np.int64)
        self.value: NDArray[Any] = np.empty(0, dtype)

    def reserve(self, room: int) -> None:
        if room <= len(self.series):
            return
        room, n = max(room, 2 * len(self.series), 256), self.n
        series, value = np.empty(room, np.int32), np.empty(room, self.value.dtype)
        series[:n], value[:n] = self.series[:n], self.value[:n]
        self.series, self.value = series, value
        if self.timed:
            time = np.empty(room, np.int64)
            time[:n] = self.time[:n]
            self.time = time

    def set(self, series: NDArray[Any], time: NDArray[Any], value: NDArray[Any]) -> None:
        n = len(series)
        self.n = 0
        self.reserve(n)
        self.series[:n], self.value[:n], self.n = series, value, n
        if self.timed:
            self.time[:n] = time


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
    timed : bool
        Whether `Cells` need the events' times.
    """

    def __init__(
        self, step_ns: Nanos, reach: int = 1, dtype: type[np.generic] = np.float64, timed: bool = False
    ) -> None:  # fmt: skip
        self.step_ns, self.reach, self.dtype, self.timed = step_ns, reach, dtype, timed
        self.nans = 0
        self._local: Int64 | None = None  # the last mapping of series, and whether it selects them all
        self._whole = False
        self._named = False  # whether there are bits of float64 in a log of integers
        self._newest: int | None = None  # number of the newest step
        self._hot = [_Buffer(dtype, timed), _Buffer(dtype, timed)]  # of the step before it, and its own
        self._older: dict[int, _Buffer] = {}
        self._overflow = _Buffer(dtype, True)
        self._spare: list[_Buffer] = []
        self._offset = np.empty(0, np.int64)
        self._scratch: tuple[NDArray[Any], Int64, NDArray[np.int32]] | None = None

    def __len__(self) -> int:
        return sum(b.n for b in (*self._hot, *self._older.values(), self._overflow))

    def append(self, series: Int64, time: Int64, value: NDArray[Any], keep: Bool | None, local: Int64) -> int:
        """Take in events; `local` maps their series to this builder's (-1: not selected). NaN is counted, dropped.

        Returns how many events the fuller of the newest two steps holds.
        """
        flag = 0
        if self.dtype is np.int64 and value.dtype != np.int64:
            flag = FLOAT_BIT
            self._named = True
            bad = np.isnan(value)
            self.nans += int(bad.sum() if keep is None else (bad & keep).sum())
            keep = ~bad if keep is None else keep & ~bad
            value = value.view(np.int64)
        n, at = len(series), 0
        if local is not self._local:
            self._local, self._whole = local, bool(len(local)) and int(local.min()) >= 0
        if n and self._whole and keep is None and (first := value[0]) == first:  # it is taken: begin its step now
            step = int(time[0]) // self.step_ns
            if self._newest is None or step > self._newest:
                self._turn(step)
            else:
                step = self._newest
            if n <= _SMALL:
                a, b = self._hot
                b.reserve(b.n + n)
                low = step * self.step_ns
                held = append_whole(
                    series, time, value, local, flag, self.timed, low, low + self.step_ns, b.series, b.time, b.value,
                    b.n,
                )  # fmt: skip
                if held >= 0:
                    b.n = held
                    return held if held > a.n else a.n
        masked = keep is not None
        while at < n:
            a, b = self._hot
            c = self._overflow
            for buffer in (a, b, c):
                if len(buffer.series) - buffer.n < n - at:
                    buffer.reserve(buffer.n + n - at)
            middle = -(1 << 62) if self._newest is None else self._newest * self.step_ns
            # Without a newest step every event is past `high`, and begins one.
            high = middle + (0 if self._newest is None else self.step_ns)
            at, a.n, b.n, c.n, nans = append(
                series, time, value, _NONE if keep is None else keep, masked, local, self._whole, flag,
                self.timed, at, middle - self.step_ns, middle, high, a.series, a.time, a.value, a.n, b.series, b.time,
                b.value, b.n, c.series, c.time, c.value, c.n,
            )  # fmt: skip
            self.nans += nans
            if at < n:
                self._turn(int(time[at]) // self.step_ns)
        return max(b.n for b in self._hot)

    def _turn(self, newest: int) -> None:
        """A new step begins: the two before it make room."""
        old, self._newest = self._newest, newest
        if old is None:
            return
        a, b = self._hot
        if a.n:
            self._older[old - 1] = a
            a = self._spare.pop() if self._spare else _Buffer(self.dtype, self.timed)
        self._hot = [b, a]
        a.reserve(b.n + b.n // 16)  # as many as the step before had
        if newest > old + 1 and b.n:  # not the step before the new one
            self._older[old] = b
            self._hot[0] = self._spare.pop() if self._spare else _Buffer(self.dtype, self.timed)

    def _give_back(self, buffer: _Buffer) -> None:
        if len(self._spare) < _POOL:
            buffer.n = 0
            self._spare.append(buffer)

    def _parts(self, first: int, last: int) -> list[tuple[int, _Buffer]]:
        """Buffers that the windows `first` .. `last` reach, by step; the common overflow last (step -1)."""
        found = [(k, b) for k, b in self._older.items() if first - self.reach < k <= last]
        if self._newest is not None:
            hot = ((self._newest - 1, self._hot[0]), (self._newest, self._hot[1]))
            found += [(k, b) for k, b in hot if b.n and first - self.reach < k <= last]
        found.sort(key=lambda kb: kb[0])
        return [*found, (-1, self._overflow)] if self._overflow.n else found

    def take(self, first: int, last: int, width: int) -> Iterator[Cells]:
        """Events of the windows `first` .. `last`, in runs of windows; forgets what later windows do not need."""
        run = max(1, _CELLS // max(1, width))
        for a in range(first, last + 1, run):
            b = min(a + run - 1, last)
            yield self._cells(a, b, width)
        self.forget(last)

    def _cells(self, a: int, b: int, width: int) -> Cells:
        newest = self._newest
        if a == b and self.reach == 1 and (a == newest or a + 1 == newest) and not (self._named or self._overflow.n):
            part = self._hot[a == newest]  # as a live step has it
            if len(self._offset) != width + 1:
                self._offset = np.empty(width + 1, np.int64)
            if ascending(part.series, part.n, self._offset):  # nobody needs the buffer any more: it is the cells
                times = part.time[: part.n] if self.timed else part.time
                return Cells(a, 1, width, self._offset, part.value[: part.n], times, _NO_NAMES)
        parts = self._parts(a, b)
        offset = np.zeros((b - a + 1) * width + 1, np.int64)
        for step, part in parts:
            mixed = part is self._overflow
            count(part.series, part.time, part.n, mixed, self.step_ns, step, a, b, self.reach, width, offset)
        np.cumsum(offset, out=offset)
        values, times, names = self._room(int(offset[-1]))
        at_cell = offset[:-1].copy()
        for step, part in parts:
            scatter(
                part.series, part.time, part.value, part.n, part is self._overflow, self.step_ns, step, a, b,
                self.reach, width, self.timed, at_cell, names, times, values,
            )  # fmt: skip
        return Cells(a, b - a + 1, width, offset, values, times, names)

    def sweeps(self, first: int, last: int, width: int) -> Iterator[tuple[int, NDArray[Any], Int64]]:
        """Of a timed log, the steps whose events are whole sweeps: each series once, in order, again and again.

        Step, values and times (sweeps, series), oldest first; `forget` them when they are done.
        """
        if self._overflow.n or self._named or not width:
            return
        for step, part in self._parts(first, last):
            n = part.n
            if n % width == 0 and in_sweeps(part.series, part.time, n, width):
                yield step, part.value[:n].reshape(-1, width), part.time[:n].reshape(-1, width)

    def heavy(self, most: int) -> list[int]:
        """Steps that hold more than so many events in a buffer of their own."""
        a, b = self._hot
        if not self._older and a.n <= most and b.n <= most:
            return []
        hot = () if self._newest is None else ((self._newest - 1, a), (self._newest, b))
        return [k for k, x in (*self._older.items(), *hot) if x.n > most]

    def _buffer(self, step: int) -> _Buffer:
        if self._newest is not None and step >= self._newest - 1:
            return self._hot[step - self._newest + 1]
        return self._older[step]

    def step_cells(self, step: int, width: int) -> Cells:
        """The cells of one step's own buffer."""
        part = self._buffer(step)
        offset = np.zeros(width + 1, np.int64)
        count(part.series, part.time, part.n, False, self.step_ns, step, step, step, 1, width, offset)
        np.cumsum(offset, out=offset)
        values, times, names = self._room(int(offset[-1]))
        scatter(
            part.series, part.time, part.value, part.n, False, self.step_ns, step, step, step, 1, width, self.timed,
            offset[:-1].copy(), names, times, values,
        )  # fmt: skip
        return Cells(step, 1, width, offset, values, times, names)

    def drop(self, step: int, gone: Bool) -> None:
        """Forget the events of some series in one step's own buffer."""
        part = self._buffer(step)
        stays = ~gone[part.series[: part.n]]
        time = part.time[: part.n][stays] if part.timed else _NONE
        part.set(part.series[: part.n][stays], time, part.value[: part.n][stays])

    def _room(self, total: int) -> tuple[NDArray[Any], Int64, NDArray[np.int32]]:
        if self._scratch is None or len(self._scratch[0]) < total or (self._named and not len(self._scratch[2])):
            room = max(total + total // 8, 256)
            timed, named = room if self.timed else 0, room if self._named else 0
            self._scratch = np.empty(room, self.dtype), np.empty(timed, np.int64), np.empty(named, np.int32)
        values, times, names = self._scratch
        return values[:total], times[:total], names[:total]

    def forget(self, last: int) -> None:
        """Let go of what the windows after `last` do not need."""
        done = last - self.reach + 1
        if self._older:
            for number in [k for k in self._older if k <= done]:
                self._give_back(self._older.pop(number))
        newest = self._newest
        if newest is not None and newest - 1 <= done:
            self._hot[0].n = 0
            if newest <= done:
                self._hot[1].n = 0
        over = self._overflow
        if over.n:
            n = over.n
            stays = over.time[:n] // self.step_ns + self.reach - 1 > last
            over.set(over.series[:n][stays], over.time[:n][stays], over.value[:n][stays])

    def snapshot(self) -> State:
        older = [*self._older.items()]
        if self._newest is not None:
            older += [(self._newest - 1, self._hot[0]), (self._newest, self._hot[1])]
        buffers = [*(b for _, b in older), self._overflow]
        return {
            "newest": np.array([] if self._newest is None else [self._newest], np.int64),
            "steps": np.array([k for k, _ in older], np.int64),
            "lengths": np.array([b.n for b in buffers], np.int64),
            "series": np.concatenate([b.series[: b.n] for b in buffers]),
            "value": np.concatenate([b.value[: b.n] for b in buffers]),
            "time": np.concatenate([b.time[: b.n] for b in buffers if b.timed]),
            "nans": np.array(self.nans),
            "named": np.array(self._named),
        }

    def restore(self, state: State) -> None:
        self.nans, self._named = int(state["nans"]), bool(state["named"])
        self._newest = int(state["newest"][0]) if len(state["newest"]) else None
        steps = [int(k) for k in state["steps"]]
        buffers = [_Buffer(self.dtype, self.timed) for _ in steps]
        at = at_time = 0
        for buffer, n in zip((*buffers, self._overflow), (int(n) for n in state["lengths"]), strict=True):
            time = state["time"][at_time : at_time + n] if buffer.timed else _NONE
            buffer.set(state["series"][at : at + n], time, state["value"][at : at + n])
            at, at_time = at + n, at_time + (n if buffer.timed else 0)
        if self._newest is not None:
            self._hot = buffers[-2:]
            steps, buffers = steps[:-2], buffers[:-2]
        self._older = dict(zip(steps, buffers, strict=True))


_NONE = np.empty(0, np.bool_)
_NO_NAMES = np.empty(0, np.int32)
