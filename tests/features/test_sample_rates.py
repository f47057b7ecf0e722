"""Rates of samples, sweep by sweep or in any order, against a loop."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from features.rates import sample_rates
from features.spec import build_features
from telemetry.types import Events, Part, SeriesKey

S = 1_000_000_000
START = 1_772_000_040 * S  # a minute begins


def naive(series: list[int], time: list[int], value: list[int], gap: int) -> list[float]:
    last: dict[int, tuple[int, int]] = {}
    out = []
    for s, t, v in zip(series, time, value, strict=True):
        rate = float("nan")
        if s in last and 0 < t - last[s][0] <= gap and v >= last[s][1]:
            rate = (v - last[s][1]) / ((t - last[s][0]) * 1e-9)
        out.append(rate)
        last[s] = (t, v)
    return out


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 3), st.integers(-2, 40), st.booleans()), min_size=1, max_size=120),
)
def test_as_a_loop_would(width: int, rows: list[tuple[int, int, bool]]) -> None:
    """Sweeps over `width` series, broken here and there by a sample out of turn."""
    series = [i % width if not odd else (i * 7) % 5 for i, (_, _, odd) in enumerate(rows)]
    sweep = np.cumsum([step for step, _, _ in rows])
    time = [int(sweep[i // width * width] if width > 1 else sweep[i]) * S for i in range(len(rows))]
    value = np.cumsum([v for _, v, _ in rows]).tolist()
    got = sample_rates(np.array(series), np.array(time), np.array(value), gap_ns=5 * S)
    np.testing.assert_allclose(got, naive(series, time, value, 5 * S))


def test_none_and_one() -> None:
    none = np.empty(0, np.int64)
    assert len(sample_rates(none, none, none)) == 0
    one = np.zeros(1, np.int64)
    assert np.isnan(sample_rates(one, one, one)).all()


BIG = st.sampled_from([0, 2**31, 2**53, 2**53 + 1, 2**62, 2**63 - 40, 2**63 + 7, 2**64 - 9])


@settings(max_examples=40, deadline=None)
@given(BIG, st.lists(st.integers(0, 99), min_size=1, max_size=12), st.booleans())
def test_counters_are_differenced_as_integers(start: int, steps: list[int], sweeps: bool) -> None:
    """Near 2^63 and past 2^64, where a kernel's counter is the bits of an int64: exactly what was counted."""
    counted = [start + sum(steps[:i]) for i in range(len(steps) + 1)]
    value = (np.array([c % 2**64 for c in counted], np.uint64)).view(np.int64)
    width = 3 if sweeps else 1
    time = START + np.repeat(np.arange(len(value)), width) * S
    series = np.tile(np.arange(width), len(value))
    got = sample_rates(series, time, np.repeat(value, width)).reshape(-1, width)
    assert got[1:].tolist() == [[float(step)] * width for step in steps]
    keys = tuple(SeriesKey.of("a", "nic_rx_bytes_total", device=i) for i in range(width))
    builder = build_features([Part("rate", {"select": "", "window": "60s", "columns": "increment,resets"})])
    builder.push(Events(keys, series, time, time, np.repeat(value, width)))
    values = builder.close(START + 60 * S)[0].values
    assert values[0].tolist() == [[float(sum(steps)), 0.0]] * width


def test_many_large_steps_lose_nothing() -> None:
    steps = np.array([2**53, 1, 1, 1, 2**54 + 1, 1, 1, 1])
    value = np.concatenate([[5], 5 + np.cumsum(steps)])
    time = START + np.arange(len(value)) * S
    builder = build_features([Part("rate", {"select": "", "window": "60s", "columns": "increment"})])
    builder.push(Events((SeriesKey("a", "c_total"),), np.zeros(len(value), np.int64), time, time, value))
    assert builder.close(START + 60 * S)[0].values.item() == float(int(steps.sum()))


def test_a_reset_from_above_two_to_the_63_is_no_spike() -> None:
    value = np.array([2**63 + 5, 2**63 + 9, 3, 4], np.uint64).view(np.int64)
    time = START + np.arange(4) * S
    rates = sample_rates(np.zeros(4, np.int64), time, value)
    np.testing.assert_array_equal(rates, [np.nan, 4.0, np.nan, 1.0])
    builder = build_features([Part("rate", {"select": "", "window": "60s", "columns": "increment,resets"})])
    builder.push(Events((SeriesKey("a", "c_total"),), np.zeros(4, np.int64), time, time, value))
    panel = builder.close(START + 60 * S)[0]
    assert np.isnan(panel.values[0, 0, 0])
    assert panel.values[0, 0, 1] == 1.0
