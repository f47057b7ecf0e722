"""Plain batches to fill stores with."""

from __future__ import annotations

import numpy as np

from telemetry.types import Events, SeriesKey

T0 = 1_700_000_000_000_000_000


def ticks(host: str, n: int, *, start: int = 0, series: int = 5, step: int = 100_000_000) -> list[Events]:
    """`n` samples of a few counters, ten a second."""
    keys = tuple(SeriesKey.of(host, "irq_total", cpu=i) for i in range(series))
    out = []
    for i in range(start, start + n):
        at = T0 + i * step
        values = np.arange(series) + np.int64(i) * 3
        out.append(Events(keys, np.arange(series), np.full(series, at), np.full(series, at + 7), values))
    return out
