"""Seconds and milliseconds against sorted lists."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.wire.windows import MILLISECOND, SECOND, Windows
from tests.naive.wire import nearest_rank

samples = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 400_000_000), st.integers(-1000, 10**9)),
    min_size=1,
    max_size=120,
)


@given(samples, st.integers(1, 120))
@settings(max_examples=60, deadline=None)
def test_seconds_are_exact_for_any_batches(drawn: list[tuple[int, int, int, int]], size: int) -> None:
    time = np.cumsum([d[2] for d in drawn])
    rows = np.array([[d[0], d[1], t, d[3]] for d, t in zip(drawn, time.tolist(), strict=True)], np.int64)
    made = Windows(3, (0, 2))
    rare, seconds, ms = [], [], []
    for at in range(0, len(rows), size):
        r, s, m = made.push(rows[at : at + size], 4)
        rare += r.tolist()
        seconds += s.tolist()
        ms += m.tolist()
    s, m = made.finish()
    seconds += s.tolist()
    ms += m.tolist()
    assert rare == [r for r in rows.tolist() if r[0] == 1]
    by_second: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    by_ms: dict[tuple[int, int], list[int]] = defaultdict(list)
    for kind, one, t, v in rows.tolist():
        if kind != 1:
            by_second[kind, one, (t // SECOND + 1) * SECOND].append(v)
            by_ms[kind, (t // MILLISECOND + 1) * MILLISECOND].append(v)
    assert {tuple(x[:3]): (x[3], x[5], x[6], x[7]) for x in seconds} == {
        k: (len(v), nearest_rank(v, 50), nearest_rank(v, 99), max(v)) for k, v in by_second.items()
    }
    assert all(abs(x[4] - np.mean(by_second[tuple(x[:3])])) <= 0.51 for x in seconds)
    assert {(x[0], x[1]): (x[2], x[3]) for x in ms} == {k: (len(v), max(v)) for k, v in by_ms.items()}


def test_a_second_of_many_samples_grows_the_buffer() -> None:
    n = 200_000
    rng = np.random.default_rng(5)
    value = rng.lognormal(10, 1, n).astype(np.int64)
    rows = np.stack([np.zeros(n, np.int64), rng.integers(0, 3, n), np.arange(n), value], axis=1)
    made = Windows(1, (0,))
    made.push(rows, 3)
    seconds, _ = made.finish()
    for _, one, _, count, _, p50, p99, top in seconds.tolist():
        mine = value[rows[:, 1] == one].tolist()
        assert (count, p50, p99, top) == (len(mine), nearest_rank(mine, 50), nearest_rank(mine, 99), max(mine))


@given(
    st.lists(
        st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-3, 3), st.integers(1000, 9000)),
        min_size=1,
        max_size=300,
    )
)
@settings(max_examples=100, deadline=None)
def test_ranks_hold_for_any_values(values: list[int]) -> None:
    rows = np.array([[0, 0, i, v] for i, v in enumerate(values)], np.int64)
    made = Windows(1, (0,))
    made.push(rows, 1)
    ((_, _, _, count, _, p50, p99, top),) = made.finish()[0].tolist()
    assert (count, p50, p99, top) == (len(values), nearest_rank(values, 50), nearest_rank(values, 99), max(values))
