from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.policy import ALERT, EVIDENCE, BudgetPolicy
from telemetry.errors import ConfigError, StoreError
from telemetry.types import SeriesKey

SECOND = 1_000_000_000
KEYS = tuple(SeriesKey("h", "m", (("i", str(i)),)) for i in range(3))


def made(**params: float) -> BudgetPolicy:
    policy = BudgetPolicy(**params)  # type: ignore[arg-type]
    policy.align(KEYS, ("a", "b"))
    return policy


def ends(n: int) -> np.ndarray:
    return (np.arange(n, dtype=np.int64) + 1) * SECOND


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 199), max_size=4))
def test_chunks_and_restarts_do_not_matter(seed: int, cuts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    surprise = rng.exponential(1.5, (200, 3, 2))
    surprise[rng.random(surprise.shape) < 0.1] = np.nan
    whole = made().decide(ends(200), SECOND, surprise)
    policy, parts = made(), []
    for a, b in itertools.pairwise([0, *sorted(set(cuts)), 200]):
        parts.append(policy.decide(ends(200)[a:b], SECOND, surprise[a:b]))
        kept = {k: np.array(v) for k, v in policy.snapshot().items()}
        policy = BudgetPolicy()
        policy.restore(kept)
        policy.align(KEYS, ("a", "b"))
    for i, field in enumerate(whole[:3]):
        assert np.array_equal(field, np.concatenate([p[i] for p in parts]), equal_nan=True)


def test_budget_is_kept_on_independent_surprise() -> None:
    # honest surprise: -log10 of uniform; 6 channels, 1 s windows, 20 false alarms a day asked for
    n = 200_000
    surprise = -np.log10(np.random.default_rng(1).random((n, 3, 2)))
    grade = made(per_day=20.0).decide(ends(n), SECOND, surprise).grade
    alarms = int((grade == ALERT).sum())
    asked = 20.0 * n / 86_400
    assert asked / 2 < alarms < asked * 2


def test_consecutive_windows_stand_in_for_history() -> None:
    surprise = np.full((60, 3, 2), 0.3)
    surprise[40:, 1, 0] = 3.0  # too little for one window: a day has 86,400 of them and there are six channels
    decision = made().decide(ends(60), SECOND, surprise)
    hits = np.argwhere(decision.grade == ALERT)
    assert len(hits) == 1
    w, s, c = hits[0]
    assert (s, c) == (1, 0)
    assert 41 <= w <= 46
    assert decision.onset_ns[w, s, c] == 40 * SECOND
    assert decision.score[w, s, c] >= 0.5


def test_a_lasting_deviation_alerts_once_and_repeats_as_evidence() -> None:
    surprise = np.zeros((120, 3, 2))
    surprise[20:110, 0, 0] = 8.0
    grade = made(repeat_s=5.0).decide(ends(120), SECOND, surprise).grade
    assert (grade == ALERT).sum() == 1
    assert 12 <= (grade == EVIDENCE).sum() <= 19


def test_missing_never_alerts() -> None:
    decision = made().decide(ends(50), SECOND, np.full((50, 3, 2), np.nan))
    assert not decision.grade.any()
    assert np.isnan(decision.score).all()


def test_a_fixed_threshold_is_taken_as_it_is() -> None:
    surprise = np.zeros((10, 3, 2))
    surprise[5, 2, 1] = 2.5
    assert (made(threshold=2.4, evidence=9.0).decide(ends(10), SECOND, surprise).grade == ALERT).sum() == 1
    assert not made(threshold=2.6, evidence=9.0).decide(ends(10), SECOND, surprise).grade.any()


def test_state_follows_the_channel() -> None:
    policy = made()
    surprise = np.zeros((10, 3, 2))
    surprise[:, 2, 1] = 9.0
    assert (policy.decide(ends(10), SECOND, surprise).grade == ALERT).sum() == 1
    policy.align(KEYS[::-1], ("b", "a"))
    again = np.zeros((5, 3, 2))
    again[:, 0, 0] = 9.0  # the same channel, now first
    assert not (policy.decide(ends(15)[10:], SECOND, again).grade == ALERT).any()


def test_bad_budget() -> None:
    with pytest.raises(ConfigError, match="per_day"):
        BudgetPolicy(per_day=0)


def test_another_layout_of_state_is_refused() -> None:
    policy = made()
    state = dict(policy.snapshot())
    state["ring"] = np.ascontiguousarray(state["ring"].T)
    with pytest.raises(StoreError, match="written by another Tailwatch"):
        policy.restore(state)
    del state["marks"]
    with pytest.raises(StoreError, match="policy budget"):
        policy.restore(state)
