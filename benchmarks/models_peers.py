"""Speed of the light model against what others offer for a point of one series, in the same run.

Every peer scores a point, then learns it, as its documentation shows; those that only score tables (pyod) get the last
eight values as features, all rows in one call, and learn nothing. CPU time, best of two interleaved rounds. A package
that is not installed gives a row without a value and says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.rows import Row, attempt
from telemetry.types import Float64, Panel, SeriesKey

__all__ = ["run"]

LAGS = 8


def _ns(work: Callable[[], object], points: int) -> float:
    start = time.process_time()
    work()
    return (time.process_time() - start) / points * 1e9


def _ours(model: Any, x: Float64) -> Callable[[], object]:
    """A pass over one long series by a model that has seen it once."""
    key = SeriesKey("h", "latency_ns")
    end = (np.arange(len(x)) + 1) * 100_000_000
    panel = Panel((key,), ("p99",), 100_000_000, end, x[:, None, None])
    model.align((key,))
    model.advance(panel)
    return lambda: model.advance(panel)


def _light(x: Float64) -> Callable[[], object]:
    from models.light import LightModel

    return _ours(LightModel(), x)


def _full(x: Float64) -> Callable[[], object]:
    from models.ensemble import FullModel

    return _ours(FullModel(), x)


def _lagged(x: Float64) -> Float64:
    return np.stack([x[k : len(x) - LAGS + k + 1] for k in range(LAGS)], axis=1)


def _river(name: str) -> Callable[[Float64], Callable[[], object]]:
    def prepare(x: Float64) -> Callable[[], object]:
        anomaly: Any = import_module("river.anomaly")
        values = x.tolist()
        if name == "GaussianScorer":
            scorer = anomaly.GaussianScorer()

            def score() -> None:
                for v in values:
                    scorer.score_one(None, v)
                    scorer.learn_one(None, v)

            return score
        trees = anomaly.HalfSpaceTrees(seed=1, limits={"v": (0.0, 200.0)})

        def walk() -> None:
            for v in values:
                row = {"v": v}
                trees.score_one(row)
                trees.learn_one(row)

        return walk

    return prepare


def _adwin(x: Float64) -> Callable[[], object]:
    from river.drift import ADWIN

    drift, values = ADWIN(), x.tolist()  # type: ignore[no-untyped-call]

    def work() -> None:
        for v in values:
            drift.update(v)  # type: ignore[no-untyped-call]

    return work


def _pandas_ewm(x: Float64) -> Callable[[], object]:
    import pandas as pd

    series = pd.Series(x)

    def work() -> object:
        smooth = series.ewm(alpha=0.05)
        return (series - smooth.mean().shift()) / smooth.std().shift()

    return work


def _local_level(x: Float64) -> Callable[[], object]:
    """statsmodels' local level, its parameters fitted once, each point appended."""
    from statsmodels.tsa.statespace.structural import UnobservedComponents

    fitted: Any = UnobservedComponents(x[:100], "llevel").fit(disp=False)

    def work() -> None:
        now = fitted
        for v in x[100:]:
            now.forecast()
            now = now.append([v])

    return work


def _pyod(kind: str) -> Callable[[Float64], Callable[[], object]]:
    def prepare(x: Float64) -> Callable[[], object]:
        made: Any = getattr(import_module(f"pyod.models.{kind.lower()}"), kind)()
        rows = _lagged(x)
        made.fit(rows[: len(rows) // 2])
        return lambda: made.decision_function(rows)

    return prepare


def _stumpi(x: Float64) -> Callable[[], object]:
    stumpy: Any = import_module("stumpy")
    head = len(x) // 2
    stream = stumpy.stumpi(x[:head], 4 * LAGS, egress=True)
    stream.update(float(x[head]))

    def work() -> None:
        for v in x[head:]:
            stream.update(float(v))

    return work


def _rrcf(x: Float64) -> Callable[[], object]:
    rrcf: Any = import_module("rrcf")
    rows = _lagged(x)

    def work() -> None:
        forest = [rrcf.RCTree(random_state=k) for k in range(20)]
        for i, row in enumerate(rows):
            for tree in forest:
                if i >= 256:
                    tree.forget_point(i - 256)
                tree.insert_point(row, index=i)
                tree.codisp(i)

    return work


PEERS: dict[str, tuple[Callable[[Float64], Callable[[], object]], int, float]] = {
    "river_gaussian_scorer": (_river("GaussianScorer"), 20_000, 1.0),
    "river_half_space_trees": (_river("HalfSpaceTrees"), 3_000, 1.0),
    "river_adwin": (_adwin, 100_000, 1.0),
    "pandas_ewm": (_pandas_ewm, 500_000, 1.0),
    "pyod_ecod": (_pyod("ECOD"), 20_000, 1.0),
    "pyod_iforest": (_pyod("IForest"), 20_000, 1.0),
    "statsmodels_local_level": (_local_level, 150, 1 / 3),
    "stumpy_stumpi": (_stumpi, 1_000, 0.5),
    "rrcf": (_rrcf, 400, 1.0),
}
"""Peers, the length of the series and which share of it their work scores."""


def run(*, data: str | None, quick: bool = False) -> list[Row]:
    """One long series, ours and theirs; `data` is not needed."""
    rounds, rng = (1 if quick else 2), np.random.default_rng(0)
    long, shorter = rng.normal(100.0, 3.0, 400_000), rng.normal(100.0, 3.0, 10_000)
    light, full = _light(long), _full(shorter)
    ns = min(_ns(light, len(long)) for _ in range(rounds))
    us = min(_ns(full, len(shorter)) for _ in range(rounds)) / 1e3
    rows = [
        Row("light_ns_one_series", ns, "ns/point", None, "<=", "400,000 points of one series"),
        Row("full_us_one_series", us, "us/point", None, "<=", "10,000 points of one series"),
    ]
    for name, (prepare, points, share) in PEERS.items():

        def measure(
            prepare: Callable[[Float64], Callable[[], object]] = prepare, points: int = points, share: float = share
        ) -> list[float]:
            work = prepare(rng.normal(100.0, 3.0, points))
            pairs = [(_ns(work, round(points * share)), _ns(light, len(long))) for _ in range(rounds)]
            return [min(theirs for theirs, _ in pairs) / min(mine for _, mine in pairs)]

        rows += attempt([Row(f"light_vs_{name}", None, "x", None, ">=", "one series")], measure)
    return rows
