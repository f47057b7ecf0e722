"""A sampler's sweep (each series once, in order) takes a shorter way; what comes of it is the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.spec import build_features
from telemetry.errors import InputError
from telemetry.types import Events, Panel, Part, SeriesKey

MS = 1_000_000
START = 1_772_000_000 * 1000 * MS
KEYS = tuple(SeriesKey.of("a", "irq_total", irq=i) for i in range(7))
COLUMNS = "count,sum,mean,min,max,var,std,exceed,last,p50,p99,twp90,gap_cv"


def panels(batches: list[Events]) -> list[Panel]:
    parts = [
        Part("window", {"select": "irq_total", "window": "100ms", "columns": COLUMNS, "level": 40}),
        Part("rate", {"select": "irq_total", "window": "100ms", "columns": "rate,increment,resets,samples"}),
    ]
    builder = build_features(parts)
    got = []
    for events in batches:
        builder.push(events)
        got.append(builder.close(int(events.time_ns.max()) // (100 * MS) * 100 * MS))
    got.append(builder.close(builder.newest_ns + 200 * MS))
    return list(itertools.chain(*got))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_the_order_within_a_sweep_changes_nothing(data: st.DataObject) -> None:
    n = len(KEYS)
    inorder, mixed = [], []
    for step in range(data.draw(st.integers(2, 6))):
        some = data.draw(st.lists(st.booleans(), min_size=n, max_size=n)) if step else [True] * n
        series = np.flatnonzero(some)
        if not len(series):
            continue
        time = np.full(len(series), START + step * 100 * MS)
        value = np.array(data.draw(st.lists(st.integers(0, 90), min_size=len(series), max_size=len(series))))
        turn = np.array(data.draw(st.permutations(range(len(series))))) if step else np.arange(n)
        inorder.append(Events(KEYS, series, time, time, value))
        mixed.append(Events(KEYS, series[turn], time, time, value[turn]))
    for a, b in zip(panels(inorder), panels(mixed), strict=True):
        assert a.keys == b.keys
        np.testing.assert_array_equal(a.values, b.values)


def test_a_series_beyond_the_keys_is_refused() -> None:
    time = np.full(2, START)
    builder = build_features([Part("window", {"select": "", "window": "100ms"})])
    for bad in (len(KEYS), -1):
        with pytest.raises(InputError, match="series from 0 to 6"):
            builder.push(Events(KEYS, np.array([0, bad]), time, time, np.zeros(2)))
