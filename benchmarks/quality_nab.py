"""Quality on the Numenta Anomaly Benchmark, by its own rules: the full model, light, and what others published.

With TAILWATCH_PICTURES=FOLDER it draws each file with a missed window or a false alert.
The fixed threshold is that of ``tailwatch detect`` by default (anomaly_score 0.5), chosen without labels.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpora import NabFile, load_nab, published
from benchmarks.rows import Row
from pipelines.detect import score_table
from pipelines.nab import PROFILES, Prepared, best, corpus_score, prepare
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


def draw(files: list[NabFile], scores: list[NDArray[np.float64]], folder: Path) -> list[Path]:
    """One picture for each file with a missed window or a false alert: the series, windows, alerts."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for f, score in zip(files, scores, strict=True):
        at = np.flatnonzero(score >= 0.5)
        inside = np.zeros(len(score), np.bool_)
        for first, last in f.windows:
            inside[first : last + 1] = True
        missed = [w for w in f.windows if not ((at >= w[0]) & (at <= w[1])).any()]
        if not missed and inside[at].all():
            continue
        figure, axes = plt.subplots(figsize=(12, 3))
        axes.plot(f.table.values[:, 0], lw=0.6, color="0.35")
        for first, last in f.windows:
            axes.axvspan(first, last, color="tab:red" if (first, last) in missed else "tab:green", alpha=0.25)
        for hit, color in ((at[inside[at]], "tab:green"), (at[~inside[at]], "tab:orange")):
            axes.plot(hit, f.table.values[hit, 0], "v", color=color)
        axes.set_title(f"{f.name}: green found, red missed, orange false", fontsize=9)
        out.append(folder / (f.name.replace("/", "_").removesuffix(".csv") + ".png"))
        figure.savefig(out[-1], dpi=90, bbox_inches="tight")
        plt.close(figure)
    return out


def run(*, data: str | None, quick: bool = False) -> list[Row]:
    """Score NAB's files below ``data/series/nab``."""
    folder = Path(data or "") / "series" / "nab"
    if data is None or not (folder / "windows.json").is_file():
        return [Row("nab_fixed_standard", None, "score", 72.0, ">=", "no series/nab in the data folder")]
    nab = load_nab(folder)
    scores = [_full(f) for f in nab]
    prepared = [prepare(s, f.windows) for s, f in zip(scores, nab, strict=True)]
    pictures = os.environ.get("TAILWATCH_PICTURES")
    if pictures:
        print(f"# {len(draw(nab, scores, Path(pictures)))} pictures of hits and misses in {pictures}")
    rows = _rows("best", prepared, STRETCH)
    for p, goal in GOALS.items():
        rows.append(Row(f"nab_fixed_{p}", corpus_score(prepared, 0.5, PROFILES[p]).score, "score", goal, ">="))
    fixed = corpus_score(prepared, 0.5, PROFILES["standard"])
    rows.append(Row("nab_false_per_1000", 1000.0 * fixed.false / fixed.rows, "alerts", 1.0, "<="))
    rows.append(Row("nab_windows_found", float(fixed.found) / fixed.windows, "share", None, ">="))
    zero = min((s == 0.0).mean() for s in scores)
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
