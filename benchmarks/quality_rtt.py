"""Quality on labelled changes of real round-trip times: ``detect --for shifts`` against a median shift.

A change is found by an alert 2 samples before to 15 after it, one to one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpora import RttFile, load_rtt, match
from benchmarks.rows import Row
from pipelines.detect import score_table

__all__ = ["run"]


def _shift(file: RttFile) -> NDArray[np.int64]:
    return np.flatnonzero(score_table(file.table, purpose="shifts").alert[:, 0])


def _median_shift(file: RttFile) -> NDArray[np.int64]:
    """The plain peer: the median of 6 leaves that of up to 80 before by three times their spread."""
    x = file.table.values[:, 0]
    x = np.where(np.isfinite(x), x, np.nanmedian(x[:50]))
    out, start = [], 0
    for i in range(len(x)):
        past, last = x[max(start, i - 85) : i - 5], x[i - 5 : i + 1]
        if len(past) < 20:
            continue
        low, mid, high = np.percentile(past, [25, 50, 75])
        if abs(float(np.median(last)) - mid) > 3.0 * (high - low) + 0.002 * abs(mid):
            out.append(i)
            start = i - 5
    return np.array(out, np.int64)


def _f1(files: list[RttFile], detector: Callable[[RttFile], NDArray[np.int64]]) -> tuple[float, float, float]:
    hits = alerts = labels = 0
    for f in files:
        at = detector(f)
        hits += match(at, f.changes)[0]
        alerts += len(at)
        labels += len(f.changes)
    return 2.0 * hits / max(alerts + labels, 1), hits / max(alerts, 1), hits / max(labels, 1)


def run(*, data: str | None, quick: bool = False) -> list[Row]:
    """Score the traces below ``data/series/rtt``."""
    folder = Path(data or "") / "series" / "rtt"
    if data is None or not folder.is_dir():
        return [Row("rtt_f1", None, "F1", 0.75, ">=", "no series/rtt in the data folder")]
    files = load_rtt(folder)
    f1, precision, recall = _f1(files, _shift)
    rows = [
        Row("rtt_f1", f1, "F1", 0.75, ">="),
        Row("rtt_precision", precision, "share", None, ">="),
        Row("rtt_recall", recall, "share", None, ">="),
    ]
    if not quick:
        rows.append(Row("rtt_f1_median_shift", _f1(files, _median_shift)[0], "F1", None, ">="))
    return rows
