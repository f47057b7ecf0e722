"""Ours as river estimators: ``learn_one`` / ``score_one`` on dictionaries, scoring without side effects."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from river.base import AnomalyDetector

from models.light import LightModel
from telemetry.types import Panel, SeriesKey

__all__ = ["LightDetector"]

_KEY = SeriesKey("", "row")
_WINDOW_NS = 60 * 10**9


class LightDetector(AnomalyDetector):
    """The light detector over the features of a row: the surprise of the most surprising one.

    Each feature has a detector of its own, so features may appear and vanish; what is not a finite number is missing.
    A feature that was not seen often enough contributes nothing; the score is 0 until one was.

    Parameters
    ----------
    alpha
        Gain of the level, per row.
    warmup
        Rows of a feature before it is scored.
    memory
        Rows that the tails remember.
    features
        Most features that are followed; further ones are ignored.

    Examples
    --------
    >>> import random
    >>> rng = random.Random(1)
    >>> detector = LightDetector()
    >>> for _ in range(200):
    ...     detector.learn_one({"latency": rng.gauss(100, 3)})
    >>> detector.score_one({"latency": 100.0}) < 1.0 < 2.5 < detector.score_one({"latency": 160.0})
    True
    """

    def __init__(self, alpha: float = 0.05, warmup: int = 40, memory: int = 30_000, features: int = 1_000):
        self.alpha = alpha
        self.warmup = warmup
        self.memory = memory
        self.features = features
        self._models: dict[Any, LightModel] = {}
        self._rows = 0

    @classmethod
    def _unit_test_params(cls) -> Any:
        yield {"warmup": 20}

    def _number(self, value: Any) -> float:
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            return math.nan

    def _panel(self, value: float) -> Panel:
        end = np.array([(self._rows + 1) * _WINDOW_NS], np.int64)
        return Panel((_KEY,), ("value",), _WINDOW_NS, end, np.full((1, 1, 1), value))

    def learn_one(self, x: dict[Any, Any]) -> None:
        """Learn one row."""
        for name, value in x.items():
            number = self._number(value)
            if not math.isfinite(number):
                continue
            if name not in self._models:
                if len(self._models) >= self.features:
                    continue
                model = LightModel(alpha=self.alpha, warmup=self.warmup, memory=self.memory, slots=0)
                model.align((_KEY,))
                self._models[name] = model
            self._models[name].advance(self._panel(number))
        self._rows += 1

    def score_one(self, x: dict[Any, Any]) -> float:
        """Return the largest surprise over the row's features (-log10 of a tail probability); changes nothing."""
        best = 0.0
        for name, value in x.items():
            model = self._models.get(name)
            number = self._number(value)
            if model is None or not math.isfinite(number):
                continue
            score = float(model.peek(self._panel(number))[0, 0, 0])
            if score > best:
                best = score
        return best
