"""Honesty: on series without anomalies a budget of N false alerts gives about N, whatever the series is like.

21 kinds of series, several seeds and lengths of each; at every budget the kind that alerts least and the one that
alerts most, as a multiple of the budget, and the mean of all. A series that never changes alerts never.
"""

from __future__ import annotations

import numpy as np

from benchmarks.generated import anomaly_free
from benchmarks.rows import Row
from pipelines.detect import SMALL_PER_ROW, Budget, score_table
from pipelines.series_files import Table
from telemetry.types import Float64, Panel, SeriesKey

__all__ = ["run"]

BUDGETS = (0.2, 0.5, 1.0, 2.0)
"""False alerts in 1,000 rows; the first is one at which detection is careful."""
LENGTHS = ((4_000, 6), (12_000, 6), (30_000, 2))
"""Rows, and seeds."""
_STEP = 300 * 10**9


def _alerts(x: Float64) -> list[int]:
    """Alerts at each budget; the model runs once for all that it does not depend on."""
    from detectors.policy import ALERT
    from detectors.policy_rows import RowsPolicy
    from models.ensemble import FullModel

    key, end = (SeriesKey("", "v"),), 1_424_900_000 * 10**9 + _STEP * np.arange(len(x), dtype=np.int64)
    model = FullModel(creep=False)
    model.align(key)
    surprise = model.advance(Panel(key, ("value",), _STEP, end, x[:, None, None])).surprise
    out = []
    for budget in BUDGETS:
        if budget < 1_000 * SMALL_PER_ROW:
            table = Table((), end, ("v",), (), x[:, None], 0, True)
            out.append(int(score_table(table, purpose="events", budget=Budget(budget)).alert.sum()))
            continue
        policy = RowsPolicy(budget)
        policy.align(key, ("value",))
        out.append(int((policy.decide(end, _STEP, surprise).grade == ALERT).sum()))
    return out


def run(*, data: str | None, quick: bool = False) -> list[Row]:
    """Measure on generated series; `data` is not needed."""
    alerts: dict[str, Float64] = {}
    rows = 0
    for n, seeds in LENGTHS[:1] if quick else LENGTHS:
        for seed in range(seeds):
            for name, x in anomaly_free(seed, n).items():
                alerts[name] = alerts.get(name, np.zeros(len(BUDGETS))) + _alerts(x)
            rows += n
    out = []
    for j, budget in enumerate(BUDGETS):
        ratio = {name: float(a[j]) / (budget / 1_000 * rows) for name, a in alerts.items()}
        least, most = min(ratio, key=ratio.__getitem__), max(ratio, key=ratio.__getitem__)
        out += [
            Row(f"honest_low_{budget:g}", ratio[least], "budgets", 0.5, ">=", least),
            Row(f"honest_high_{budget:g}", ratio[most], "budgets", 2.0, "<=", most),
            Row(f"honest_mean_{budget:g}", float(np.mean(list(ratio.values()))), "budgets", None, "<="),
        ]
    out.append(Row("honest_constant", float(max(_alerts(np.full(12_000, 5.0)))), "alerts", 0.0, "<="))
    return out
