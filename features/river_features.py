"""Features as a river transformer. Importing this imports river; nothing on the way of live scoring does."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from river import base

from features.dynamics import Dynamics
from features.params import Params
from telemetry.types import SeriesKey

__all__ = ["RiverDynamics"]


class RiverDynamics(base.Transformer):
    """Differences, slopes, levels against the past, ... of each feature of a stream (kind ``dynamics``).

    `learn_one` takes a row in; `transform_one` describes a row against those before it and changes nothing, and gives
    the same whether the row has just been learnt or not. Features may come and go; a missing one is NaN.

    Parameters
    ----------
    columns, window, span
        As of ``features.estimators.DynamicsTransformer``.
    """

    def __init__(
        self, columns: Sequence[str] = ("diff_1", "slope_5", "level_1m"), window: str | int = "1s", span: int = 60
    ) -> None:  # fmt: skip
        self.columns, self.window, self.span = columns, window, span
        self._stage = self._fresh()
        self._names: dict[Any, int] = {}
        self._rows = 0
        self._learnt: dict[Any, float] | None = None
        self._told: dict[Hashable, Any] = {}

    def _fresh(self) -> Dynamics:
        given = {"columns": list(self.columns), "window": self.window, "span": self.span}
        return Dynamics(Params(given, "RiverDynamics"), ("x",))

    def _advance(self, x: Mapping[Any, float]) -> dict[Hashable, Any]:
        for name in x:
            if name not in self._names:
                self._names[name] = len(self._names)
                self._stage.bind(SeriesKey("", str(name)))
        row = np.full((1, len(self._names), 1), np.nan)
        for name, value in x.items():
            row[0, self._names[name], 0] = value
        made = self._stage.advance(np.array([(self._rows + 1) * self._stage.step_ns]), row)[0]
        return {
            f"{name}_{c}": float(made[i, j])
            for name, i in self._names.items()
            if name in x
            for j, c in enumerate(self.columns)
        }

    def learn_one(self, x: Mapping[Any, float]) -> None:
        """Take in one row."""
        self._told = self._advance(x)
        self._rows += 1
        self._learnt = dict(x)

    def transform_one(self, x: Mapping[Any, float]) -> dict[Hashable, Any]:
        """Describe one row; nothing is learnt."""
        if self._learnt is not None and dict(x) == self._learnt:
            return dict(self._told)
        kept = {k: np.array(v, copy=True) for k, v in self._stage.snapshot().items()}
        names = dict(self._names)
        told = self._advance(x)
        if len(names) < len(self._names):  # forget what only this row has
            self._names = names
            self._stage = self._fresh()
            for name in names:
                self._stage.bind(SeriesKey("", str(name)))
        self._stage.restore(kept)
        return told
