"""Kind ``window``: count, sums, extremes, quantiles and bursts of the values of each series and window."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.collect import Cells, Log
from features.fold import Fold
from features.grid import duration_ns
from features.params import Params, unknown
from features.rollup import Sketches, count_buckets
from features.sketch import SPAN
from features.window_kernels import by_time, fill
from telemetry.errors import ConfigError
from telemetry.types import Bool, Float64, Int64, Nanos, SeriesKey, State

__all__ = ["COLUMNS", "FOLD", "WindowBase", "probability"]

FOLD = 1 << 21
"""Events of one window that are kept; beyond, they are folded into sketches."""

PLAIN = ("count", "sum", "mean", "min", "max", "var", "std", "exceed")
"""Columns that the kernel fills one by one, in this order."""

TIMED = ("last", "gap_cv")
DERIVED = {"tail_ratio": ("p999", "p50"), "tail_index": ("p999", "p99")}
COLUMNS = (
    *PLAIN, *TIMED, *DERIVED, "p50", "p90", "p99", "p999", "p9999", "twp50", "twp90", "twp99", "twp999",
    "peak_1ms", "peak_10ms", "peak_100ms", "iod_1ms", "iod_10ms", "iod_100ms",
)  # fmt: skip
_QUANTILE = re.compile(r"(tw)?p([0-9]{1,9})")
_BURST = re.compile(r"(peak|iod)_([0-9.]+(?:us|ms|s|m))")


def probability(name: str) -> float | None:
    """Read ``p50`` as 0.5, ``p99`` as 0.99, ``p999`` as 0.999, ``p5`` as 0.05; None if it is no quantile."""
    m = _QUANTILE.fullmatch(name)
    if m is None:
        return None
    return int(m[2]) / 100 if len(m[2]) <= 2 else int(m[2]) / 10 ** len(m[2])


class WindowBase:
    """Windows over the values of the selected series.

    Parameters (of the part)
    ------------------------
    select : selector
    window, step : durations; `step` divides `window` (sliding), default: tumbling
    columns : names, any of
        ``count``, ``sum``, ``mean``, ``min``, ``max``, ``var``, ``std``; quantiles ``p50``, ``p99``, ``p999``, ...;
        ``exceed`` (how many values are greater than `level`); ``last``;
        ``tail_ratio`` (p999 over p50), ``tail_index`` (log10 of p999 over p99: the exponent of a power tail);
        ``twp50``, ``twp99``, ... (quantiles weighted by the time for which each value was the newest: a burst cannot
        make them look better); ``gap_cv`` (variation of the times between events, 1 if they are random);
        ``peak_1ms`` (the busiest millisecond over the mean one), ``iod_1ms`` (variance of the counts of milliseconds
        over their mean, 1 if events are random), or any other span
    level : number, for ``exceed``
    exact : quantiles as a sort gives them, memory by events; otherwise within 0.79 % above 24 values
    keep_sketches : the sketches of all windows are kept for ``FeatureSet.sketches`` (``features/rollup.py``)
    hold : duration, how long a value counts in time-weighted quantiles; default ten windows

    An empty window of a live host has count, sum and exceed 0 and no other value; one of a dead host has nothing.
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
            if name not in COLUMNS and probability(name) is None and _BURST.fullmatch(name) is None:
                raise unknown("column", name, COLUMNS, params.where)
        self.keeps = params.flag("keep_sketches")
        if self.keeps and self.step_ns != self.window_ns:
            raise ConfigError(f"{params.where}: keep_sketches: expected windows without a step of their own")
        self.kept: list[Sketches] = []
        self._keys: list[SeriesKey] = []
        self._plan(params.where)
        self._log = Log(self.step_ns, self.window_ns // self.step_ns, timed=self._timed)
        self._width = 0
        self._born = np.zeros(0, np.bool_)
        self._held_t, self._held_v = np.zeros(0, np.int64), np.zeros(0)
        self._folds: dict[int, Fold] = {}  # of windows with very many events
        self._hist = np.zeros(SPAN, np.int32)
        self._edge = np.zeros(2)

    def _plan(self, where: str) -> None:
        """Where each column comes from."""
        inner = dict.fromkeys(c for c in self.columns if c not in DERIVED)
        for name in self.columns:
            inner.update(dict.fromkeys(DERIVED.get(name, ())))
        self._inner = tuple(inner)
        at = {c: i for i, c in enumerate(self._inner)}
        self._want = np.array([at.get(c, -1) for c in PLAIN], np.int64)
        self._probs, self._spot = _ascending(at, tw=False)
        self._tw_probs, self._tw_spot = _ascending(at, tw=True)
        bursts = {c: m for c in at if (m := _BURST.fullmatch(c)) is not None}
        spans: list[Nanos] = sorted({duration_ns(m[2], f"{where}: {c}") for c, m in bursts.items()})
        if spans and not 0 < spans[0] <= spans[-1] <= self.window_ns:
            raise ConfigError(f"{where}: columns: expected spans within the window, got {', '.join(bursts)}")
        place = np.full((2, len(spans)), -1)
        for c, m in bursts.items():
            place[("peak", "iod").index(m[1]), spans.index(duration_ns(m[2]))] = at[c]
        self._spans, self._peak, self._iod = np.array(spans, np.int64), place[0].copy(), place[1].copy()
        self._last, self._gaps = (at.get(c, -1) for c in TIMED)
        self._timed = bool(len(self._tw_probs) or bursts or self._last >= 0 or self._gaps >= 0)
        self._pick = None if self._inner == self.columns else [at.get(c, -1) for c in self.columns]

    def selects(self, key: SeriesKey) -> bool:
        return self._select.matches(key)

    def bind(self, key: SeriesKey) -> None:
        self._width += 1
        self._keys.append(key)
        if self._width > len(self._born):
            more = max(16, self._width)
            self._born = np.append(self._born, np.zeros(more, np.bool_))
            self._held_t = np.append(self._held_t, np.full(more, -(1 << 62)))
            self._held_v = np.append(self._held_v, np.full(more, np.nan))

    def append(self, series: Int64, time: Int64, value: NDArray[Any], keep: Bool | None, local: Int64) -> None:
        most = self._log.append(series, time, value, keep, local)
        if most > FOLD and self.step_ns == self.window_ns and not (self._exact or self._timed or self.keeps):
            for step in self._log.heavy(FOLD):
                self._fold(step)

    def _fold(self, step: int) -> None:
        cells = self._log.step_cells(step, self._width)
        folded = self._folds.setdefault(step, Fold()).add(cells, self._level, self._hist, self._edge)
        self._log.drop(step, folded)

    def close(self, first: int, last: int, alive: Bool) -> Float64:
        out = np.empty((last - first + 1, self._width, len(self._inner)))
        at = first
        for step in sorted(k for k in self._folds if k <= last) if self._folds else ():
            self._fold(step)  # what came since the last time
            self._fill(at, step, first, alive, out)
            fold = self._folds.pop(step)
            fold.fill(self._want, self._probs, self._spot, out[step - first])
            self._born[: len(fold.n)] |= fold.n > 0
            at = step + 1
        if at <= last:
            self._fill(at, last, first, alive, out)
        return out if self._pick is None else self._picked(out)

    def _fill(self, first: int, last: int, zero: int, alive: Bool, out: Float64) -> None:
        """Windows `first` .. `last` into `out`, whose first row is window `zero`."""
        for cells in self._log.take(first, last, self._width):
            at = cells.first - zero
            if self.keeps:
                self.kept.append(self._sketches(cells))
            if self._timed:
                mine, live = out[at : at + cells.windows], alive[at : at + cells.windows]
                mine.fill(np.nan)
                by_time(
                    cells.offset, cells.values, cells.times, (cells.first + 1) * self.step_ns, self.step_ns,
                    self.window_ns, self._width, live, self._held_t, self._held_v, self._hold, self._last, self._gaps,
                    self._tw_probs, self._tw_spot, self._spans, self._peak, self._iod, mine,
                )  # fmt: skip
            fill(
                cells.offset, cells.values, at, cells.windows, alive, self._born, self._want, self._level, self._exact,
                self._probs, self._spot, self._hist, self._edge, not self._timed, out,
            )  # fmt: skip

    def _sketches(self, cells: Cells) -> Sketches:
        n = np.diff(cells.offset)
        cell = np.flatnonzero(n)
        room = len(cells.values)
        start, bucket, count = np.empty(len(n) + 1, np.int64), np.empty(room, np.int32), np.empty(room, np.int64)
        begin = cells.offset[cell]
        total, low, high = np.empty(0), np.empty(0), np.empty(0)
        if room:
            total, low, high = (f.reduceat(cells.values, begin) for f in (np.add, np.minimum, np.maximum))
        v, every = cells.values.copy(), np.ones(len(n), np.bool_)
        used = count_buckets(cells.offset, v, v.view(np.int64), every, self._hist, self._edge, start, bucket, count)
        return Sketches(
            tuple(self._keys), self.window_ns, (cells.first + cell // cells.width + 1) * self.step_ns,
            cell % cells.width, n[cell], total, low, high, np.append(start[cell], used), bucket[:used].copy(),
            count[:used].copy(),
        )  # fmt: skip

    def _picked(self, out: Float64) -> Float64:
        """The columns asked for, some of them made of others."""
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
            "folds": np.array(list(self._folds), np.int64),
            **{f"fold{k}_{name}": v for k, fold in self._folds.items() for name, v in fold.snapshot().items()},
        }

    def restore(self, state: State) -> None:
        self._log.restore({k[4:]: v for k, v in state.items() if k.startswith("log_")})
        self._folds = {}
        for step in state["folds"].tolist():
            self._folds[step] = Fold()
            head = f"fold{step}_"
            self._folds[step].restore({k[len(head) :]: v for k, v in state.items() if k.startswith(head)})
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
