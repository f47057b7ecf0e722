"""Rates of samples, sweep by sweep or in any order, against a loop."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from features.rates import sample_rates

S = 1_000_000_000


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
