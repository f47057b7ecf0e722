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


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(-2, 2**40)), min_size=2, max_size=30),
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.none() | st.integers(0, 29),
)
def test_rates_of_whole_sweeps_are_those_of_cells(
    steps: list[tuple[int, int]], start: int, slide: bool, boot: int | None
) -> None:
    n = len(KEYS)
    time = START + np.cumsum([a for a, _ in steps]) * MS
    value = (start + np.cumsum([b for _, b in steps]))[:, None] % (2**32 + np.arange(n) * 2**40)
    params = {"select": "irq_total", "window": "400ms", "columns": "rate,increment,exposure_s,resets,samples"}
    got = []
    for turn in (np.arange(n), np.r_[0, n - 1 : 0 : -1]):
        part = Part("rate", {**params, "step": "200ms" if slide else "400ms", "gap": "60ms"})
        builder = build_features([part], lateness_ns=3000 * MS)
        first = Events(KEYS, np.arange(n), np.full(n, START), np.full(n, START), np.zeros(n, np.int64))
        builder.push(first)  # so that both know the series by the same numbers
        if boot is not None:
            at = np.array([time[min(boot, len(time) - 1)]])
            key = (SeriesKey("a", "boot_id_changed"),)
            builder.push(Events(key, np.zeros(1, np.int64), at - MS // 2, at, np.ones(1, np.int64)))
        series, when = np.tile(turn, len(time)), np.repeat(time, n)
        builder.push(Events(KEYS, series, when, when, value[:, turn].reshape(-1)))
        got.append(builder.close(builder.newest_ns + 400 * MS)[0])
        assert not builder.late
    np.testing.assert_array_equal(got[0].values, got[1].values)
