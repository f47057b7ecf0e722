"""Quality on the Numenta Anomaly Benchmark, by its own rules: the full model, light, and what others published.

The fixed threshold is that of ``tailwatch detect`` by default (anomaly_score 0.5), chosen without labels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpora import NabFile, load_nab, published
from benchmarks.nab_scorer import PROFILES, Prepared, best, corpus_score, prepare
from benchmarks.rows import Row
from pipelines.detect import score_table
from telemetry.types import Panel, SeriesKey

__all__ = ["run"]

GOALS = {"standard": 72.0, "low_fp": 62.0, "low_fn": 77.0}
STRETCH = {"standard": 75.0, "low_fp": 67.0, "low_fn": 80.5}
PUBLISHED = ("ARTime", "numenta", "contextOSE")


def _full(file: NabFile) -> NDArray[np.float64]:
    return score_table(file.table).score[:, 0]


def _light(file: NabFile) -> NDArray[np.float64]:
    from detectors.policy_rows import RowsPolicy
    from models.light import LightModel

    key = SeriesKey("", "v")
    panel = Panel((key,), ("value",), 300 * 10**9, file.table.time_ns, file.table.values[:, :, None])
    model, policy = LightModel(), RowsPolicy()
    model.align((key,))
    policy.align((key,), ("value",))
    return policy.decide(panel.end_ns, 1, model.advance(panel).surprise).score[:, 0, 0]


def _gaussian(file: NabFile) -> NDArray[np.float64]:
    """The windowed Gaussian of NAB's baselines: tail probability under the last 500 values."""
    from math import erfc, sqrt

    x = file.table.values[:, 0]
    out = np.zeros(len(x))
    for i in range(20, len(x)):
        past = x[max(0, i - 500) : i]
        spread = float(np.nanstd(past)) or 1e-9
        out[i] = 1.0 - erfc(abs(x[i] - float(np.nanmean(past))) / spread / sqrt(2.0))
    return np.nan_to_num(out)


def _rows(name: str, files: list[Prepared], goals: dict[str, float] | None = None) -> list[Row]:
    return [
        Row(f"nab_{name}_{p}", best(files, PROFILES[p]).score, "score", (goals or {}).get(p), ">=") for p in PROFILES
    ]


def run(*, data: str | None, quick: bool = False) -> list[Row]:
    """Score NAB's files below ``data/series/nab``."""
    folder = Path(data or "") / "series" / "nab"
    if data is None or not (folder / "windows.json").is_file():
        return [Row("nab_fixed_standard", None, "score", 72.0, ">=", "no series/nab in the data folder")]
    nab = load_nab(folder)
    prepared = [prepare(_full(f), f.windows) for f in nab]
    rows = _rows("best", prepared, STRETCH)
    for p, goal in GOALS.items():
        rows.append(Row(f"nab_fixed_{p}", corpus_score(prepared, 0.5, PROFILES[p]).score, "score", goal, ">="))
    fixed = corpus_score(prepared, 0.5, PROFILES["standard"])
    rows.append(Row("nab_false_per_1000", 1000.0 * fixed.false / fixed.rows, "alerts", 1.0, "<="))
    rows.append(Row("nab_windows_found", float(fixed.found) / fixed.windows, "share", None, ">="))
    zero = np.mean([(score_table(f.table).score == 0.0).mean() for f in nab[:6]])
    rows.append(Row("detect_quiet_rows", float(zero), "share", 0.95, ">="))
    others: dict[str, Callable[[NabFile], NDArray[np.float64]]] = {"light": _light}
    if not quick:
        others["windowed_gaussian"] = _gaussian
    for name, detector in others.items():
        rows += _rows(name, [prepare(detector(f), f.windows) for f in nab])
    for name in PUBLISHED:
        if (folder / "published" / name).is_dir():
            rows += _rows(name, [prepare(published(folder, name, f.name), f.windows) for f in nab])
    return rows
