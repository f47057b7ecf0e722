"""Moved or not: from the records alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.lab.moved import block_bootstrap, judge, lost_messages

SECOND = 1_000_000_000


def samples(rng: np.random.Generator, seconds: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    when = np.sort(rng.integers(0, seconds * SECOND, seconds * 200))
    return when, rng.lognormal(np.log(1e5), 0.3, len(when)) * scale


def test_a_shift_is_seen_and_noise_is_not() -> None:
    rng = np.random.default_rng(1)
    when, value = samples(rng, 30, 1.0)
    windows = ((0, 18 * SECOND), (18 * SECOND, 30 * SECOND))
    assert block_bootstrap(when, value, *windows, 0.5) > 0.001
    assert block_bootstrap(when, value, *windows, 0.99) > 0.001
    moved = np.where(when >= 18 * SECOND, value * 1.3, value)
    assert block_bootstrap(when, moved, *windows, 0.5) < 0.001
    # only the tail: 3 % of the fault's samples are ten times as long
    tail = np.where((when >= 18 * SECOND) & (rng.random(len(when)) < 0.03), value * 10, value)
    assert block_bootstrap(when, tail, *windows, 0.99) < 0.001
    assert block_bootstrap(when, tail, *windows, 0.5) > 0.001


def test_the_same_law_before_and_during_is_rarely_called_moved() -> None:
    rng = np.random.default_rng(3)
    windows = ((0, 18 * SECOND), (18 * SECOND, 30 * SECOND))
    called = [block_bootstrap(*samples(rng, 30, 1.0), *windows, 0.5) < 0.001 for _ in range(15)]
    assert sum(called) <= 1


def test_one_bad_second_does_not_make_a_fault() -> None:
    when, value = samples(np.random.default_rng(4), 30, 1.0)
    value = np.where((when >= 20 * SECOND) & (when < 21 * SECOND), value * 50, value)
    assert block_bootstrap(when, value, (0, 18 * SECOND), (18 * SECOND, 30 * SECOND), 0.5) > 0.001


def test_negative_values_and_too_little_data() -> None:
    when = np.arange(0, 30 * SECOND, SECOND // 50)
    value = np.where(when >= 18 * SECOND, -5e5, 2e4)
    assert block_bootstrap(when, value, (0, 18 * SECOND), (18 * SECOND, 30 * SECOND), 0.5) < 0.001
    assert block_bootstrap(when, value, (0, 2 * SECOND), (18 * SECOND, 30 * SECOND), 0.5) == 1.0
    none = np.empty(0)
    assert block_bootstrap(none.astype(np.int64), none, (0, SECOND), (SECOND, 2 * SECOND), 0.5) == 1.0


@settings(max_examples=60)
@given(
    sent=st.integers(1, 60),
    gone=st.sets(st.tuples(st.integers(0, 1), st.integers(1, 60))),
    window=st.tuples(st.integers(0, 70), st.integers(0, 70)).map(sorted),
)
def test_lost_messages_are_those_sent_in_the_window_and_never_read(
    sent: int, gone: set[tuple[int, int]], window: list[int]
) -> None:
    rows = [(c, s, s * 10, 0, 0, 0) for s in range(1, sent + 1) for c in (0, 1) if (c, s) not in gone]
    md = np.array(rows, np.int64).reshape(-1, 6)
    start, end = window[0] * 10, window[1] * 10
    read = {(int(r[0]), int(r[1])) for r in rows}

    def when(seq: int) -> int:
        """Its send time if either line has it, else that of the last one before it that any line has."""
        known = [s for s in range(1, seq + 1) if (0, s) in read or (1, s) in read]
        return known[-1] * 10 if known else 0

    expected = sum(start <= when(s) < end for s in range(1, sent + 1) for c in (0, 1) if (c, s) not in read)
    assert lost_messages(md, sent, (start, end)) == expected


@pytest.mark.parametrize("q", [0.5, 0.99])
def test_it_is_deterministic(q: float) -> None:
    when, value = samples(np.random.default_rng(5), 30, 1.0)
    windows = ((0, 18 * SECOND), (18 * SECOND, 30 * SECOND))
    assert block_bootstrap(when, value, *windows, q) == block_bootstrap(when, value, *windows, q)


def test_the_demo_recording_is_judged_as_its_label_says() -> None:
    folder = Path(__file__).parents[3] / "pipelines" / "demo_data" / "tail_latency"
    label = json.loads((folder / "label.json").read_text())
    verdict = judge(folder, label, "")
    assert verdict["moved"] is True
    assert verdict["lost"] == verdict["unacked"] == 0
    assert verdict["quantiles_us"] == label["moved"]["quantiles_us"]
    assert {"feed_delay_p50", "feed_delay_p99", "tick_to_ack_p50", "tick_to_ack_p99"} <= set(verdict["why"])
    # the host is quiet: the application's counter of dropped datagrams stays at 0
    quiet = judge(folder, label, r"trd\.udp\.\d+\.drops")
    assert quiet["counter"] == [0.0, 0.0]
    assert "counter" not in quiet["why"]
