"""Ours as scikit-learn outlier detectors: rows in order of time, one detector over all columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from models.joint import JointModel
from models.light import LightModel
from telemetry.types import Float64, Int64, Panel, SeriesKey

__all__ = ["EXPECTED_FAILED_CHECKS", "SurpriseDetector"]

EXPECTED_FAILED_CHECKS = {
    "check_methods_subset_invariance": "rows are a stream: what came before a row is part of its score",
    "check_methods_sample_order_invariance": "rows are a stream: what came before a row is part of its score",
}
"""For ``sklearn.utils.estimator_checks.check_estimator(..., expected_failed_checks=...)``."""

_WINDOW_NS = 60 * 10**9


class SurpriseDetector(OutlierMixin, BaseEstimator):
    """Streaming surprise as a novelty and outlier detector.

    Parameters
    ----------
    model : {"light", "joint"}
        One detector a column (the most surprising one counts), or one over all columns together.
    contamination : float
        Share of the training rows that `predict` calls outliers, in (0, 0.5].

    Attributes
    ----------
    offset_ : float
        `decision_function` is `score_samples` minus this.
    n_features_in_ : int

    Notes
    -----
    ``score_samples`` starts from the state after `fit` each time, and does not change it. Scores are minus the
    surprise (minus log10 of a tail probability, negated): low is abnormal.
    """

    def __init__(self, model: str = "light", contamination: float = 0.05) -> None:
        self.model = model
        self.contamination = contamination

    def fit(self, X: Any, y: Any = None) -> SurpriseDetector:
        """Learn from rows in order of time."""
        rows: Float64 = validate_data(self, X, dtype=np.float64)
        if self.model not in ("light", "joint"):
            raise ValueError(f"model: expected 'light' or 'joint', got {self.model!r}")
        if not 0.0 < self.contamination <= 0.5:
            raise ValueError(f"contamination: expected a share in (0, 0.5], got {self.contamination}")
        made = self._blank()
        made.fit(self._panel(rows))
        self._state = made.snapshot()
        self.offset_ = float(np.percentile(self._score(rows), 100.0 * self.contamination))
        return self

    def _blank(self) -> LightModel | JointModel:
        return LightModel(slots=0, warmup=16) if self.model == "light" else JointModel(warmup=32)

    def _panel(self, rows: Float64) -> Panel:
        keys = tuple(SeriesKey("", f"column_{i}") for i in range(rows.shape[1]))
        return Panel(keys, ("value",), _WINDOW_NS, (np.arange(len(rows)) + 1) * _WINDOW_NS, rows[:, :, None])

    def _score(self, rows: Float64) -> Float64:
        made = self._blank()
        made.restore(self._state)
        surprise = np.nan_to_num(made.advance(self._panel(rows)).surprise[:, :, 0], nan=0.0)
        return -surprise.max(axis=1)

    def score_samples(self, X: Any) -> Float64:
        """Minus the surprise of each row, as if it followed the training rows: (n,) float64."""
        check_is_fitted(self, "offset_")
        return self._score(validate_data(self, X, dtype=np.float64, reset=False))

    def decision_function(self, X: Any) -> Float64:
        """`score_samples` shifted so that outliers are below 0."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> Int64:
        """-1 for outliers, 1 for inliers."""
        out: NDArray[np.int64] = np.where(self.decision_function(X) < 0.0, -1, 1)
        return out
