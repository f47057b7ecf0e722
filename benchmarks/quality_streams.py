"""What a user lives with: creep found in time, one alert for a lasting step.

Creep: ramps of +10, +25 and +50 % put into recorded latency series (stretches of RTT
between two labelled changes, or generated ones without the corpus), read as one row a minute, at a budget of one
false alert a week; found if an alert falls in the first half of the ramp. Alerts without a ramp are counted on the same
series read as a row a minute and as a row every four minutes, as they were recorded.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.rows import Row
from pipelines.detect import Budget, score_table
from pipelines.series_files import Table

__all__ = ["run"]

MINUTE = 60 * 10**9
RAMPS = {"10min": 10, "1h": 60, "day": 1440}
SEED = 5


def _table(x: NDArray[np.float64], step_ns: int) -> Table:
    time_ns = np.arange(len(x), dtype=np.int64) * step_ns
    return Table((), time_ns, ("v",), (), x[:, None], 0, True)


def _ar(rng: np.random.Generator, n: int, phi: float) -> NDArray[np.float64]:
    from scipy.signal import lfilter

    return np.asarray(lfilter([np.sqrt(1 - phi * phi)], [1.0, -phi], rng.normal(size=n)))


def _relearn() -> Row:
    worst = 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x = 100 + rng.normal(0, 3, 6000)
        x[3000:] += 40
        alert = score_table(_table(x, MINUTE)).alert[:, 0]
        worst = max(worst, int(alert[3000:3300].sum()))
    return Row("relearn_alerts_per_step", float(worst), "alerts", 2.0, "<=")


def _recorded(data: str | None) -> list[NDArray[np.float64]]:
    """Latency-like recorded series, read as one row a minute."""
    if data is not None:
        folder = Path(data) / "series" / "rtt"
        if folder.is_dir():
            from benchmarks.corpora import load_rtt

            out = []
            for f in load_rtt(folder):
                x = f.table.values[:, 0]
                x = x[np.isfinite(x)]
                gaps = np.diff(np.r_[0, f.changes, len(x)])
                k = int(gaps.argmax())
                start = int(np.r_[0, f.changes][k]) + 20
                out.append(x[start : start + min(int(gaps[k]) - 40, 8000)])
            return [x for x in out if len(x) > 2500][:8]
    rng = np.random.default_rng(SEED)
    return [100 * np.exp(0.05 * _ar(rng, 6000, 0.95) + rng.exponential(0.03, 6000)) for _ in range(4)]


def _creep(data: str | None) -> list[Row]:
    rows = []
    series = _recorded(data)
    week = Budget(per_day=1.0 / 7.0)
    for size in (0.10, 0.25, 0.50):
        for name, rows_long in RAMPS.items():
            found = tried = 0
            for x in series:
                start = len(x) // 2
                if start + rows_long > len(x):
                    continue
                y = x.copy()
                ramp = np.clip((np.arange(len(x)) - start) / rows_long, 0.0, 1.0)
                y *= 1.0 + size * ramp
                alert = score_table(_table(y, MINUTE), budget=week).alert[:, 0]
                found += bool(alert[start : start + max(rows_long // 2, 1) + 1].any())
                tried += 1
            goal = 0.9 if size > 0.2 else None
            value = found / tried if tried else None
            rows.append(Row(f"creep_{round(100 * size)}pct_{name}_before_half", value, "share", goal, ">="))
    for step, name in ((1, "minute_rows"), (4, "as_recorded")):
        false = sum(int(score_table(_table(x, step * MINUTE), budget=week).alert.sum()) for x in series)
        weeks = sum(len(x) for x in series) * step / 10_080
        rows.append(Row(f"creep_alerts_per_week_{name}", false / max(weeks, 1e-9), "alerts", 1.0, "<="))
    return rows


def run(*, data: str | None, quick: bool = False) -> list[Row]:
    """Measure on generated and, if the corpus is there, on recorded series."""
    rows = [_relearn()]
    if not quick:
        rows += _creep(data)
    return rows
