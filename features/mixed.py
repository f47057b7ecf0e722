"""One column over counters and other series alike: what a ratio or a share needs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.params import Params
from features.rates import COLUMNS as RATE_COLUMNS
from features.rates import RateBase
from features.window import WindowBase
from telemetry.types import Bool, Float64, Int64, SeriesKey, Snapshot, State

__all__ = ["MixedBase", "base_for"]

MIXED = {"amount": ("increment", "sum"), "value": ("rate", "mean")}
"""Column: what it is of a counter (``*_total``), and of any other series."""


def base_for(params: Params, columns: tuple[str, ...]) -> WindowBase | RateBase | MixedBase:
    """The base that has these columns: all of ``rate``, or one of `MIXED`, or else of ``window``."""
    if len(columns) == 1 and columns[0] in MIXED:
        return MixedBase(params, columns[0])
    if columns and all(c in RATE_COLUMNS for c in columns):
        return RateBase(params.given(columns=columns))
    return WindowBase(params.given(columns=columns))


class MixedBase:
    """``amount``: the increment of a counter, the sum of anything else. ``value``: its rate, or the mean."""

    def __init__(self, params: Params, column: str) -> None:
        counter, other = MIXED[column]
        self.columns: tuple[str, ...] = (column,)
        self._rate, self._window = (
            RateBase(params.given(columns=(counter,))),
            WindowBase(params.given(columns=(other,))),
        )
        self.window_ns, self.step_ns = self._rate.window_ns, self._rate.step_ns
        self._counter: list[bool] = []

    def selects(self, key: SeriesKey) -> bool:
        return self._rate.selects(key)

    def bind(self, key: SeriesKey) -> None:
        counter = key.metric.endswith("_total")
        self._counter.append(counter)
        (self._rate if counter else self._window).bind(key)

    def boot(self, host: str, time: Int64) -> None:
        """The host rebooted at these times."""
        self._rate.boot(host, time)

    def append(self, series: Int64, time: Int64, value: NDArray[Any], keep: Bool | None, local: Int64) -> None:
        counter = np.array(self._counter, np.bool_)
        for base, mine in ((self._rate, counter), (self._window, ~counter)):
            if mine.any():
                number = np.append(np.where(mine, np.cumsum(mine) - 1, -1), -1)  # the last one is for -1
                base.append(series, time, value, keep, number[local])

    def close(self, first: int, last: int, alive: Bool) -> Float64:
        counter = np.array(self._counter, np.bool_)
        out = np.empty((last - first + 1, len(counter), 1))
        out[:, counter] = self._rate.close(first, last, np.ascontiguousarray(alive[:, counter]))
        out[:, ~counter] = self._window.close(first, last, np.ascontiguousarray(alive[:, ~counter]))
        return out

    def snapshot(self) -> State:
        return Snapshot.nest([("rate", self._rate.snapshot()), ("window", self._window.snapshot())])

    def restore(self, state: State) -> None:
        self._rate.restore(Snapshot.unnest(state, "rate"))
        self._window.restore(Snapshot.unnest(state, "window"))
