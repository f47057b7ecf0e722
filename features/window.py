"""Kind ``window``: count, sums, extremes and quantiles of the values of each series and window."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from features.collect import Log
from features.params import Params, unknown
from features.sketch import _SPAN, quantiles_exact, quantiles_sketch
from telemetry.errors import ConfigError
from telemetry.types import Bool, Float64, Int64, SeriesKey, State

__all__ = ["COLUMNS", "WindowBase", "probability"]

PLAIN = ("count", "sum", "mean", "min", "max", "var", "std", "exceed", "last")
"""Columns that the kernel fills one by one, in this order."""

DERIVED = {"tail_ratio": ("p999", "p50"), "tail_index": ("p999", "p99")}
COLUMNS = (*PLAIN, *DERIVED, "p50", "p90", "p99", "p999", "p9999", "twp50", "twp90", "twp99", "twp999")
_QUANTILE = re.compile(r"(tw)?p([0-9]{1,9})")


def probability(name: str) -> float | None:
    """Read ``p50`` as 0.5, ``p99`` as 0.99, ``p999`` as 0.999, ``p5`` as 0.05; None if it is no quantile."""
    m = _QUANTILE.fullmatch(name)
    if m is None:
        return None
    return int(m[2]) / 100 if len(m[2]) <= 2 else int(m[2]) / 10 ** len(m[2])


@njit(cache=True, nogil=True)
def _fill(
    offset,
    values,
    bits,
    times,
    starts,
    ends,
    width,
    alive,
    born,
    held_t,
    held_v,
    hold,
    want,
    level,
    exact,
    probs,
    spot,
    tw_probs,
    tw_spot,
    hist,
    edge,
    edge_bits,
    out,
):
    """Fill out[w, s, :] window by window. `want[f]` is the column of plain field f or -1."""
    timed = times.shape[0] > 0 or tw_probs.shape[0] > 0 or want[8] >= 0
    found = np.empty(probs.shape[0])
    for w in range(ends.shape[0]):
        for s in range(width):
            a = offset[w * width + s]
            b = offset[w * width + s + 1]
            n = b - a
            row = out[w, s]
            if n == 0:
                if born[s] and alive[w, s]:
                    if want[0] >= 0:
                        row[want[0]] = 0.0
                    if want[1] >= 0:
                        row[want[1]] = 0.0
                    if want[7] >= 0:
                        row[want[7]] = 0.0
                    if tw_probs.shape[0] and starts[w] - held_t[s] <= hold:
                        for p in range(tw_probs.shape[0]):
                            row[tw_spot[p]] = held_v[s]
                continue
            born[s] = True
            if timed:
                for i in range(a + 1, b):  # by time, stable; mostly in order already
                    t = times[i]
                    if t < times[i - 1]:
                        x = values[i]
                        j = i - 1
                        while j >= a and times[j] > t:
                            times[j + 1] = times[j]
                            values[j + 1] = values[j]
                            j -= 1
                        times[j + 1] = t
                        values[j + 1] = x
                if want[8] >= 0:
                    row[want[8]] = values[b - 1]
                if tw_probs.shape[0]:
                    _time_weighted(
                        values, times, a, b, starts[w], ends[w], held_t[s], held_v[s], hold, tw_probs, tw_spot, row
                    )
                held_t[s] = times[b - 1]
                held_v[s] = values[b - 1]
            total = 0.0
            low = values[a]
            high = values[a]
            over = 0
            for i in range(a, b):
                x = values[i]
                total += x
                low = min(low, x)
                high = max(high, x)
                over += x > level
            if want[0] >= 0:
                row[want[0]] = n
            if want[1] >= 0:
                row[want[1]] = total
            if want[2] >= 0:
                row[want[2]] = min(max(total / n, low), high)
            if want[3] >= 0:
                row[want[3]] = low
            if want[4] >= 0:
                row[want[4]] = high
            if want[5] >= 0 or want[6] >= 0:
                # Around the first value: stable where the spread is small beside the level.
                one = values[a]
                d1 = 0.0
                d2 = 0.0
                for i in range(a, b):
                    d = values[i] - one
                    d1 += d
                    d2 += d * d
                var = max(d2 - d1 * d1 / n, 0.0) / (n - 1) if n > 1 else np.nan
                if want[5] >= 0:
                    row[want[5]] = var
                if want[6] >= 0:
                    row[want[6]] = np.sqrt(var)
            if want[7] >= 0:
                row[want[7]] = over
            if probs.shape[0]:
                if exact or n <= 24:
                    quantiles_exact(values, a, b, probs, found)
                else:
                    quantiles_sketch(values, bits, a, b, low, high, probs, hist, edge, edge_bits, found)
                for p in range(probs.shape[0]):
                    row[spot[p]] = found[p]


@njit(cache=True, nogil=True)
def _time_weighted(values, times, a, b, start, end, held_t, held_v, hold, probs, spot, row):
    """Each value counts for as long as it was the newest one (at most `hold`), the carried-in one first."""
    n = b - a
    v = np.empty(n + 1)
    weight = np.empty(n + 1)
    v[0] = held_v
    weight[0] = max(min(times[a], held_t + hold) - start, 0) if held_t >= start - hold else 0.0
    for i in range(n):
        until = times[a + i + 1] if i + 1 < n else end
        v[i + 1] = values[a + i]
        weight[i + 1] = min(until - times[a + i], hold)
    order = np.argsort(v, kind="mergesort")
    whole = weight.sum()
    p = 0
    mass = 0.0
    for k in order:
        mass += weight[k]
        while p < probs.shape[0] and mass >= probs[p] * whole and (weight[k] > 0.0 or whole == 0.0):
            row[spot[p]] = v[k]
            p += 1
    while p < probs.shape[0]:  # rounding of the last sums
        row[spot[p]] = v[order[n]]
        p += 1


class WindowBase:
    """Windows over the values of the selected series.

    Parameters (of the part)
    ------------------------
    select : selector
    window, step : durations; `step` divides `window` (sliding), default: tumbling
    columns : names of `COLUMNS`, any ``p<digits>`` and ``twp<digits>``
    level : number, for ``exceed`` (how many values are greater)
    exact : quantiles as a sort gives them, memory by events; otherwise within 0.79 % above 24 values
    hold : duration, how long a value counts in time-weighted quantiles; default ten windows

    An empty window of a live host has count, sum and exceed 0 and no other value; of a dead host nothing.
    """

    def __init__(self, params: Params) -> None:
        self._select = params.select("select")
        self.window_ns = params.duration("window")
        self.step_ns = params.duration("step", self.window_ns)
        if self.window_ns % self.step_ns:
            raise ConfigError(f"{params.where}: step: expected a divisor of the window, got {self.step_ns} ns")
        self.columns = params.names("columns", ("count", "mean", "p50", "p99", "max"))
        if not self.columns:
            raise ConfigError(f"{params.where}: columns: expected at least one")
        self._exact = params.flag("exact")
        self._hold = params.duration("hold", 10 * self.window_ns)
        if "exceed" in self.columns and not params.has("level"):
            raise ConfigError(f"{params.where}: level: expected a number, for the column 'exceed'")
        self._level = params.number("level", math.inf)
        for name in self.columns:
            if name not in COLUMNS and probability(name) is None:
                raise unknown("column", name, COLUMNS, params.where)
        inner = dict.fromkeys(c for c in self.columns if c not in DERIVED)
        for name in self.columns:
            inner.update(dict.fromkeys(DERIVED.get(name, ())))
        self._inner = tuple(inner)
        at = {c: i for i, c in enumerate(self._inner)}
        self._want = np.array([at.get(c, -1) for c in PLAIN], np.int64)
        self._probs, self._spot = _ascending(at, tw=False)
        self._tw_probs, self._tw_spot = _ascending(at, tw=True)
        self._timed = bool(len(self._tw_probs)) or "last" in at
        self._pick = None if self._inner == self.columns else [at.get(c, -1) for c in self.columns]
        self._log = Log(self.step_ns, self.window_ns // self.step_ns)
        self._width = 0
        self._born = np.zeros(0, np.bool_)
        self._held_t, self._held_v = np.zeros(0, np.int64), np.zeros(0)
        self._hist = np.zeros(_SPAN, np.int32)
        self._edge = np.zeros(2)

    def selects(self, key: SeriesKey) -> bool:
        return self._select.matches(key)

    def bind(self, key: SeriesKey) -> None:
        self._width += 1
        if self._width > len(self._born):
            more = max(16, self._width)
            self._born = np.append(self._born, np.zeros(more, np.bool_))
            self._held_t = np.append(self._held_t, np.full(more, -(1 << 62)))
            self._held_v = np.append(self._held_v, np.full(more, np.nan))

    def append(self, series: Int64, time: Int64, value: NDArray[Any], keep: Bool | None, local: Int64) -> None:
        self._log.append(series, time, value, keep, local)

    def close(self, first: int, last: int, alive: Bool) -> Float64:
        out = np.full((last - first + 1, self._width, len(self._inner)), np.nan)
        for cells in self._log.take(first, last, self._width, self._timed):
            at = cells.first - first
            ends = (np.arange(cells.first, cells.first + cells.windows) + 1) * self.step_ns
            _fill(
                cells.offset, cells.values, cells.values.view(np.int64), cells.times, ends - self.window_ns, ends,
                self._width, alive[at : at + cells.windows], self._born, self._held_t, self._held_v, self._hold,
                self._want, self._level, self._exact, self._probs, self._spot, self._tw_probs, self._tw_spot,
                self._hist, self._edge, self._edge.view(np.int64), out[at : at + cells.windows],
            )  # fmt: skip
        return self._finish(out)

    def _finish(self, out: Float64) -> Float64:
        if self._pick is None:
            return out
        picked = out[:, :, self._pick]
        for i, name in enumerate(self.columns):
            if name in DERIVED:
                top, low = (out[:, :, self._inner.index(c)] for c in DERIVED[name])
                with np.errstate(divide="ignore", invalid="ignore"):
                    ratio = np.where(low > 0, top / low, np.nan)
                    picked[:, :, i] = ratio if name == "tail_ratio" else np.log10(ratio)
        return picked

    def snapshot(self) -> State:
        n = self._width
        return {
            **{f"log_{k}": v for k, v in self._log.snapshot().items()},
            "born": self._born[:n].copy(),
            "held_t": self._held_t[:n].copy(),
            "held_v": self._held_v[:n].copy(),
        }

    def restore(self, state: State) -> None:
        self._log.restore({k[4:]: v for k, v in state.items() if k.startswith("log_")})
        n = self._width
        self._born[:n], self._held_t[:n], self._held_v[:n] = state["born"], state["held_t"], state["held_v"]


def _ascending(at: dict[str, int], *, tw: bool) -> tuple[Float64, Int64]:
    found = []
    for name, column in at.items():
        p = probability(name)
        if p is not None and name.startswith("tw") == tw:
            found.append((p, column))
    found.sort()
    return np.array([p for p, _ in found], np.float64), np.array([c for _, c in found], np.int64)
