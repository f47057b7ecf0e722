"""Odd cycles: series that repeat themselves at any period, one cycle of which is not like the others; and lone points
in series that can be foreseen.

By the UCR archive's rule: the row of the highest surprise must be in the odd cycle or within 100 rows (or a period, if
that is more); and by alert at the default budget. The peer is the left matrix profile by stumpy, told each period.
Lone points count at their row or the one beside it: by alert, and as the k highest rows of a series with k of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.generated_cycles import ODD, OddCycle, lone_points, odd_cycle
from benchmarks.rows import Row
from pipelines.detect import score_table
from pipelines.series_files import Table
from telemetry.types import Float64

__all__ = ["run"]

SERIES = 120
POINTS = 60
_MINUTE = 60 * 10**9
_LEARN = 0.3
"""Share of the rows in which nothing is counted."""


def _near(series: OddCycle, row: int) -> bool:
    slack = max(100, series.period)
    return series.first - slack <= row < series.last + slack


def _highest(series: OddCycle, score: Float64) -> bool:
    first = int(_LEARN * len(score))
    return _near(series, first + int(np.nanargmax(np.nan_to_num(score[first:], nan=-1.0))))


def _left_profile(series: OddCycle) -> Float64 | None:
    """Distance of each row's last period to the nearest one before it; None without stumpy."""
    try:
        stumpy: Any = import_module("stumpy")
    except ImportError:
        return None
    x, m = series.values, max(series.period, 16)
    left = stumpy.stump(x, m)[:, 2].astype(np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(x, m)
    shape = (windows - windows.mean(axis=1, keepdims=True)) / (windows.std(axis=1, keepdims=True) + 1e-9)
    out = np.full(len(x), np.nan)
    known = np.flatnonzero(left >= 0)
    out[known + m - 1] = np.linalg.norm(shape[known] - shape[left[known]], axis=1)
    return out


def run(*, data: str | None, quick: bool = False) -> list[Row]:
    """Measure on generated series; `data` is not needed."""
    top: list[bool] = []
    peer: list[bool] = []
    found = false = rows = 0
    missed: dict[str, int] = {}
    for seed in range(0, SERIES, 4 if quick else 1):
        series = odd_cycle(seed)
        n = len(series.values)
        time_ns = 1_700_000_000 * 10**9 + _MINUTE * np.arange(n)
        scored = score_table(Table((), time_ns, ("v",), (), series.values[:, None], 0, True), purpose="events")
        top.append(_highest(series, scored.surprise[:, 0]))
        alerts = [r for r in np.flatnonzero(scored.alert[:, 0]).tolist() if r >= _LEARN * n]
        hits = [r for r in alerts if _near(series, r)]
        found += bool(hits)
        false += len(alerts) - len(hits)
        rows += n - int(_LEARN * n)
        if not top[-1]:
            missed[series.odd] = missed.get(series.odd, 0) + 1
        profile = _left_profile(series)
        if profile is not None:
            peer.append(_highest(series, profile))
    worst = sorted(missed, key=lambda odd: -missed[odd])[:3]
    return [
        Row("cycles_highest", float(np.mean(top)), "share", None, ">=", "missed: " + ", ".join(worst) if worst else ""),
        Row("cycles_found", found / len(top), "share", None, ">=", f"{len(ODD)} kinds of odd cycles"),
        Row("cycles_false_per_1000", 1000.0 * false / rows, "alerts", 1.0, "<="),
        Row(
            "cycles_highest_stumpy",
            float(np.mean(peer)) if peer else None,
            "share",
            None,
            ">=",
            "told the period" if peer else "stumpy is not installed",
        ),
        *_points(quick),
    ]


def _beside(row: int, rows: list[int]) -> bool:
    return any(abs(row - other) <= 1 for other in rows)


def _points(quick: bool) -> list[Row]:
    found = highest = points = false = rows = 0
    for seed in range(0, POINTS, 4 if quick else 1):
        series = lone_points(seed)
        n, k = len(series.values), len(series.rows)
        time_ns = 1_400_000_000 * 10**9 + 60 * _MINUTE * np.arange(n)
        scored = score_table(Table((), time_ns, ("v",), (), series.values[:, None], 0, True), purpose="events")
        first = int(0.15 * n)
        alerts = [r for r in np.flatnonzero(scored.alert[:, 0]).tolist() if r >= first]
        top: list[int] = []
        for r in (first + np.argsort(-np.nan_to_num(scored.surprise[first:, 0], nan=-1.0), kind="stable")).tolist():
            if len(top) < k and all(abs(r - other) > 2 for other in top):
                top.append(r)
        found += sum(_beside(p, alerts) for p in series.rows)
        highest += sum(_beside(r, series.rows) for r in top)
        false += sum(not _beside(r, series.rows) for r in alerts)
        points += k
        rows += n - first
    return [
        Row("points_highest", highest / points, "share", None, ">="),
        Row("points_found", found / points, "share", None, ">=", f"{points} points in {rows} rows"),
        Row("points_false_per_1000", 1000.0 * false / rows, "alerts", 1.0, "<="),
    ]
