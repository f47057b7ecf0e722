"""Arbitrary event streams."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from telemetry.types import Events, SeriesKey

__all__ = ["CPU", "KEYS", "MS", "START", "streams"]

MS = 1_000_000
START = 1_772_960_400 * 1000 * MS  # the hour before New York's change to daylight saving time, 2026
CPU = 'softirq_total{type="NET_RX"}'

KEYS = (
    *(SeriesKey.of(h, "wire_latency_ns", flow=f) for h in ("a", "b") for f in (1, 2)),
    *(SeriesKey.of("a", "softirq_total", cpu=c, type="NET_RX") for c in range(3)),
    SeriesKey.of("b", "irq_total", cpu=0, irq=5),
    SeriesKey.of("b", "boot_id_changed"),
)


@st.composite
def streams(draw: st.DrawFn) -> Events:
    """Unsorted, bursty, late, duplicated; silences; resets and NaN; a few very large gaps."""
    n = draw(st.integers(1, 60))
    moves = draw(st.lists(st.sampled_from([0, 1, 7, 40, 90, 250, -30, -300, 3000, 400_000]), min_size=n, max_size=n))
    time = START + np.cumsum(np.array(moves, np.int64) * MS)
    series = np.array(draw(st.lists(st.integers(0, len(KEYS) - 1), min_size=n, max_size=n)), np.int64)
    value = np.array(draw(st.lists(st.integers(-3, 90), min_size=n, max_size=n)), np.float64)
    counter = np.array([k.metric.endswith("_total") for k in KEYS])[series]
    value[counter] = np.abs(value[counter]).cumsum() % 700
    if draw(st.booleans()):
        value[draw(st.integers(0, n - 1))] = np.nan
        events = Events(KEYS, series, time, np.maximum.accumulate(time), value)
    else:
        events = Events(KEYS, series, time, np.maximum.accumulate(time), value.astype(np.int64))
    return events
