"""Kind ``rate``: counters to rates and increments, aware of resets, reboots, 32-bit wraps and gaps.

The difference of two consecutive samples belongs to the window of the later one: causal, and increments add up to
what the counter counted. The rate of a window is the sum of its differences over the time that they span.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.collect import Log
from features.params import Params, unknown
from features.rates_kernels import INNER, finish, rates, rates_of_samples, rates_of_sweeps
from telemetry.errors import ConfigError
from telemetry.types import Bool, Float64, Int64, Nanos, SeriesKey, State

__all__ = ["BOOT_METRIC", "COLUMNS", "RateBase", "sample_rates"]

COLUMNS = ("rate", "increment", "exposure_s", "resets", "samples")
BOOT_METRIC = "boot_id_changed"
WRAP32 = ("irq_total",)
"""Counters that the kernel keeps in 32 bits."""


def sample_rates(
    series: Int64,
    time_ns: Int64,
    value: Int64,
    gap_ns: Nanos = 60_000_000_000,
    *,
    width: int | None = None,
    out: Float64 | None = None,
) -> Float64:
    """Rate per second of each sample against the one before it of its series; NaN for the first, a reset or a gap.

    Parameters
    ----------
    series : (n,) int64, numbers from 0
    time_ns, value : (n,) int64, in order of time within a series
    gap_ns : int
        Two samples further apart tell nothing.
    width : int, optional
        How many series there are, where it is known: spares looking.
    out : (n,) float64, optional
        Filled and returned, to spare a fresh array.
    """
    made = np.empty(len(series)) if out is None else out
    newest = np.full(int(series.max(initial=-1)) + 1 if width is None else width, -1)
    again = np.flatnonzero(series[1 : 1 << 16] == series[:1])
    period = int(again[0]) + 1 if len(again) else 0
    rates_of_samples(series, time_ns, value, gap_ns, newest, period, made)
    return made


class RateBase:
    """Windows over the selected counters.

    Parameters (of the part)
    ------------------------
    select : selector
    window, step : durations; `step` divides `window` (sliding), default: tumbling
    columns : names of `COLUMNS`
    gap : duration; two samples further apart tell nothing. Default: five windows, at least a minute
    wrap32 : names of metrics kept in 32 bits by the kernel

    ``rate`` is per second. Without two samples, or with a reset or a reboot (an event ``boot_id_changed`` of the host)
    between them, rate and increment are missing, never a spike.
    """

    def __init__(self, params: Params) -> None:
        self._select = params.select("select")
        self.window_ns = params.duration("window")
        self.step_ns = params.duration("step", self.window_ns)
        if self.window_ns % self.step_ns:
            raise ConfigError(f"{params.where}: step: expected a divisor of the window, got {self.step_ns} ns")
        self.columns = params.names("columns", ("rate",))
        for name in self.columns:
            if name not in COLUMNS:
                raise unknown("column", name, COLUMNS, params.where)
        self._want = np.array([COLUMNS.index(c) for c in self.columns], np.int64)
        self._gap = params.duration("gap", max(5 * self.window_ns, 60_000_000_000))
        self._wrap32 = frozenset(params.names("wrap32", WRAP32))
        self._reach = self.window_ns // self.step_ns
        self._log = Log(self.step_ns, 1, np.int64, timed=True)
        self._hosts: list[str] = []
        self._wrap = np.zeros(0, np.bool_)
        self._table: tuple[Int64, Int64, Int64] | None = None  # of reboots, made when needed
        self._boots: dict[str, list[Nanos]] = {}
        self._held_t, self._held = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._held_float = np.zeros(0, np.bool_)
        self._back = np.zeros((0, 0, INNER))  # steps before the next one, for sliding windows
        self._back_at = 0  # number of the step after `_back`

    def selects(self, key: SeriesKey) -> bool:
        return key.metric != BOOT_METRIC and self._select.matches(key)

    def bind(self, key: SeriesKey) -> None:
        self._hosts.append(key.host)
        self._table = None
        if len(self._hosts) > len(self._held):
            more = max(16, len(self._hosts))
            self._held_t = np.append(self._held_t, np.full(more, -(1 << 62)))
            self._held = np.append(self._held, np.zeros(more, np.int64))
            self._held_float = np.append(self._held_float, np.zeros(more, np.bool_))
            self._wrap = np.append(self._wrap, np.zeros(more, np.bool_))
        self._wrap[len(self._hosts) - 1] = key.metric in self._wrap32

    def boot(self, host: str, time: Int64) -> None:
        """The host rebooted at these times."""
        self._table = None
        self._boots[host] = sorted({*self._boots.get(host, ()), *(int(t) for t in time)})

    def append(self, series: Int64, time: Int64, value: NDArray[Any], keep: Bool | None, local: Int64) -> None:
        self._log.append(series, time, value, keep, local)

    def close(self, first: int, last: int, alive: Bool) -> Float64:
        width = len(self._hosts)
        inner = np.empty((last - first + 1, width, INNER))
        at = first
        boots = self._boot_table()[0]
        calm = not len(boots) or int(boots.max()) <= int(self._held_t[:width].min(initial=1 << 62))
        if calm and not self._held_float.any():
            for step, values, times in self._log.sweeps(first, last, width):
                if at < step:
                    self._of_cells(at, step - 1, inner[at - first :])
                rates_of_sweeps(values, times, self._held_t, self._held, self._wrap, self._gap, inner[step - first])
                self._log.forget(step)
                at = step + 1
        if at <= last:
            self._of_cells(at, last, inner[at - first :])
        if self._reach > 1:
            inner = self._slide(first, inner)
        out = np.empty((*inner.shape[:2], len(self.columns)))
        finish(inner, self._want, out)
        return out

    def _of_cells(self, first: int, last: int, inner: Float64) -> None:
        """Windows of samples in any order, into inner (W, S, INNER)."""
        width = len(self._hosts)
        boots, start, stop = self._boot_table()
        for cells in self._log.take(first, last, width):
            at = cells.first - first
            rates(
                cells.offset, cells.values, cells.values.view(np.float64), cells.times, cells.names, width,
                cells.windows, self._held_t, self._held, self._held_float, boots, start, stop, self._wrap, self._gap,
                inner[at : at + cells.windows],
            )  # fmt: skip

    def _boot_table(self) -> tuple[Int64, Int64, Int64]:
        """All reboots, host by host, and where each series' host begins and ends in them."""
        if self._table is not None:
            return self._table
        flat: list[Nanos] = []
        place: dict[str, tuple[int, int]] = {}
        for host, times in self._boots.items():
            place[host] = (len(flat), len(flat) + len(times))
            flat += times
        bounds = np.array([place.get(h, (0, 0)) for h in self._hosts], np.int64).reshape(-1, 2)
        self._table = np.array(flat, np.int64), bounds[:, 0].copy(), bounds[:, 1].copy()
        return self._table

    def _slide(self, first: int, inner: Float64) -> Float64:
        """Sums over the last `reach` steps; a step that was skipped counts as one without samples."""
        n, width = inner.shape[:2]
        back = np.zeros((self._reach - 1, width, INNER))
        old = self._back[max(0, first - self._back_at) :] if self._back_at <= first else self._back[:0]
        if len(old):
            back[
                len(back) - (first - self._back_at) - len(old) : len(back) - (first - self._back_at), : old.shape[1]
            ] = old
        whole = np.concatenate([back, inner])
        self._back, self._back_at = whole[len(whole) - (self._reach - 1) :].copy(), first + n
        return np.stack([whole[i : i + self._reach].sum(axis=0) for i in range(n)]) if n else inner

    def snapshot(self) -> State:
        n = len(self._hosts)
        boots = [(h, t) for h, times in self._boots.items() for t in times]
        return {
            **{f"log_{k}": v for k, v in self._log.snapshot().items()},
            "held_t": self._held_t[:n].copy(),
            "held": self._held[:n].copy(),
            "held_float": self._held_float[:n].copy(),
            "boot_hosts": np.array([h for h, _ in boots], dtype=np.str_),
            "boot_times": np.array([t for _, t in boots], np.int64),
            "back": self._back.copy(),
            "back_at": np.array(self._back_at),
        }

    def restore(self, state: State) -> None:
        self._log.restore({k[4:]: v for k, v in state.items() if k.startswith("log_")})
        n = len(self._hosts)
        self._held_t[:n], self._held[:n], self._held_float[:n] = state["held_t"], state["held"], state["held_float"]
        self._boots, self._table = {}, None
        for host, t in zip(state["boot_hosts"], state["boot_times"], strict=True):
            self._boots.setdefault(str(host), []).append(int(t))
        self._back, self._back_at = np.array(state["back"], np.float64), int(state["back_at"])
