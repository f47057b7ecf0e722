"""Features as a scikit-learn transformer: rows are consecutive windows, columns are series.

Importing this imports scikit-learn; nothing on the way of live scoring does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from features.dynamics import Dynamics
from features.params import Params
from telemetry.types import Float64, SeriesKey, State

__all__ = ["EXPECTED_FAILED_CHECKS", "DynamicsTransformer"]

EXPECTED_FAILED_CHECKS = {
    "check_methods_subset_invariance": "a row is described by the rows before it, so batches are not independent",
    "check_methods_sample_order_invariance": "the order of the rows is their order in time",
}
"""For ``sklearn.utils.estimator_checks.check_estimator``: what cannot hold of anything that knows time."""


class DynamicsTransformer(TransformerMixin, BaseEstimator):
    """Differences, slopes, levels against the past, autocorrelation, ... of each column (kind ``dynamics``).

    Parameters
    ----------
    columns : sequence of str
        As of ``features.dynamics.Dynamics``.
    window : str or int
        Length of a window, the time between two rows.
    span : int
        Windows that ``acf_k`` and ``period_k`` look back.

    Notes
    -----
    `fit` takes the rows in; `transform` continues from there, and changes nothing: the same rows give the same
    features again. NaN in a row is a missing value; where the past does not suffice the feature is NaN.
    """

    def __init__(
        self, columns: Sequence[str] = ("diff_1", "slope_5", "level_1m"), window: str | int = "1s", span: int = 60
    ) -> None:  # fmt: skip
        self.columns, self.window, self.span = columns, window, span

    def _stage(self, width: int) -> Dynamics:
        given = {"columns": list(self.columns), "window": self.window, "span": self.span}
        stage = Dynamics(Params(given, "DynamicsTransformer"), ("x",))
        for i in range(width):
            stage.bind(SeriesKey("", f"x{i}"))
        return stage

    def _run(self, stage: Dynamics, x: Float64, rows: int) -> Float64:
        end = (np.arange(rows, rows + len(x), dtype=np.int64) + 1) * stage.step_ns
        return stage.advance(end, x[:, :, None]).reshape(len(x), -1)

    def fit(self, X: ArrayLike, y: Any = None) -> DynamicsTransformer:
        """Take in rows (n_samples, n_features) in order of time."""
        x = validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan")
        stage = self._stage(x.shape[1])
        self._run(stage, x, 0)
        self.state_: State = stage.snapshot()
        self.n_rows_ = len(x)
        return self

    def transform(self, X: ArrayLike) -> Float64:
        """Features of rows that follow those fitted, (n_samples, n_features * len(columns))."""
        check_is_fitted(self)
        x = validate_data(self, X, reset=False, dtype=np.float64, ensure_all_finite="allow-nan")
        stage = self._stage(x.shape[1])
        stage.restore({k: np.array(v, copy=True) for k, v in self.state_.items()})
        return self._run(stage, x, self.n_rows_)

    def get_feature_names_out(self, input_features: Sequence[str] | None = None) -> np.ndarray:
        """Names ``<input>_<column>``."""
        check_is_fitted(self)
        if input_features is None:
            input_features = getattr(self, "feature_names_in_", [f"x{i}" for i in range(self.n_features_in_)])
        return np.array([f"{name}_{c}" for name in input_features for c in self.columns], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags
