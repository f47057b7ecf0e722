"""What others reach on NAB by its rules, each at its best threshold: river, scikit-learn, statsmodels, rrcf, stumpy.

Every peer is used as its documentation shows, strictly causally: online ones score before they learn, those that are
fitted see the rows that NAB does not score (15 %, at most 750). As NAB fines every row that speaks, each speaks only
where its score is the highest of 50 rows: that helps them all. A package that is not installed gives a row without a
value and says so.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpora import NabFile, load_nab
from benchmarks.rows import Row, attempt
from pipelines.nab import PROFILES, best, prepare
from telemetry.types import Float64

__all__ = ["PEERS", "run"]

LAGS = 8


def _values(file: NabFile) -> tuple[Float64, int]:
    """The series without gaps, and how many rows NAB does not score."""
    x = file.table.values[:, 0].copy()
    for i in np.flatnonzero(~np.isfinite(x)):
        x[i] = x[i - 1] if i else 0.0
    return x, max(int(min(0.15 * len(x), 750)), 4 * LAGS)


def _lagged(x: Float64) -> Float64:
    return np.stack([np.r_[np.full(k, x[0]), x[: len(x) - k]] for k in range(LAGS)], axis=1)


def _half_space_trees(file: NabFile) -> Float64:
    from river.anomaly import HalfSpaceTrees
    from river.compose import Pipeline
    from river.preprocessing import MinMaxScaler

    model = Pipeline(MinMaxScaler(), HalfSpaceTrees(seed=1))
    out = []
    for value in _values(file)[0].tolist():
        row = {"v": value}
        out.append(float(model.score_one(row)))
        model.learn_one(row)
    return np.array(out)


def _gaussian_scorer(file: NabFile) -> Float64:
    anomaly: Any = import_module("river.anomaly")
    model = anomaly.GaussianScorer(window_size=500, grace_period=100)
    out = []
    for value in _values(file)[0].tolist():
        out.append(float(model.score_one(None, value)))
        model.learn_one(None, value)
    return np.array(out)


def _isolation_forest(file: NabFile) -> Float64:
    from sklearn.ensemble import IsolationForest

    x, start = _values(file)
    rows = _lagged(x)
    return -np.asarray(IsolationForest(random_state=1).fit(rows[:start]).score_samples(rows))


def _local_outlier_factor(file: NabFile) -> Float64:
    from sklearn.neighbors import LocalOutlierFactor

    x, start = _values(file)
    rows = _lagged(x)
    return -np.asarray(LocalOutlierFactor(novelty=True).fit(rows[:start]).score_samples(rows))


def _autoregression(file: NabFile) -> Float64:
    from statsmodels.tsa.ar_model import AutoReg

    x, start = _values(file)
    fit = AutoReg(x[:start], LAGS).fit()
    rows = np.column_stack([np.ones(len(x)), _lagged(np.r_[x[0], x[:-1]])])
    away = np.abs(x - rows @ np.asarray(fit.params))
    away[:LAGS] = 0.0
    return np.asarray(away / (np.std(away[:start]) + 1e-12 * (1.0 + np.abs(x).max(initial=0.0))))


def _robust_random_cut_forest(file: NabFile) -> Float64:
    rrcf: Any = import_module("rrcf")
    x, _ = _values(file)
    rows = _lagged(x)
    rng = np.random.default_rng(1)
    forest = [rrcf.RCTree(random_state=int(rng.integers(2**31))) for _ in range(20)]
    out = np.zeros(len(x))
    for i, row in enumerate(rows):
        for tree in forest:
            if len(tree.leaves) > 256:
                tree.forget_point(i - 256)
            tree.insert_point(row, index=i)
            out[i] += tree.codisp(i)
    return out


def _left_matrix_profile(file: NabFile) -> Float64:
    stumpy: Any = import_module("stumpy")
    x, start = _values(file)
    stream = stumpy.stumpi(x[:start].astype(np.float64), 4 * LAGS, egress=False)
    for value in x[start:]:
        stream.update(float(value))
    profile = np.asarray(stream.left_P_, np.float64)
    return np.asarray(np.nan_to_num(np.r_[np.zeros(len(x) - len(profile)), profile], posinf=0.0))


def _once(score: Float64, rows: int = 50) -> Float64:
    """Scores that are above all of the `rows` before them; 0 elsewhere."""
    before = np.full(len(score), -np.inf)
    for k in range(1, rows + 1):
        before[k:] = np.maximum(before[k:], score[: len(score) - k])
    return np.where(score > before, score, 0.0)


PEERS: dict[str, Callable[[NabFile], Float64]] = {
    "river_half_space_trees": _half_space_trees,
    "river_gaussian_scorer": _gaussian_scorer,
    "sklearn_isolation_forest": _isolation_forest,
    "sklearn_local_outlier_factor": _local_outlier_factor,
    "statsmodels_autoregression": _autoregression,
    "rrcf": _robust_random_cut_forest,
    "stumpy_left_profile": _left_matrix_profile,
}


def run(*, data: str | None, quick: bool = False) -> list[Row]:
    """Score NAB's files below ``data/series/nab`` by each peer; with `quick` only every sixth file."""
    folder = Path(data or "") / "series" / "nab"
    if data is None or not (folder / "windows.json").is_file():
        return [Row("nab_peers", None, "score", None, ">=", "no series/nab in the data folder")]
    files = load_nab(folder)[:: 6 if quick else 1]
    rows: list[Row] = []
    for name, peer in PEERS.items():

        def measure(peer: Callable[[NabFile], Float64] = peer) -> list[float]:
            scores = [np.asarray(peer(f), np.float64) for f in files]
            low, high = min(float(s.min()) for s in scores), max(float(s.max()) for s in scores)
            prepared = [prepare(_once((s - low) / (high - low)), f.windows) for s, f in zip(scores, files, strict=True)]
            return [best(prepared, profile).score for profile in PROFILES.values()]

        rows += attempt([Row(f"nab_{name}_{p}", None, "score", None, ">=") for p in PROFILES], measure)
    return rows
