"""The rows policy: once an event, under a budget, the same for any split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.policy import ALERT, EVIDENCE
from detectors.policy_rows import AGAIN, FADE, KEEP, THRESHOLD, USUAL, RowsPolicy, needed
from models.ensemble import evidence_of, surprise_of
from telemetry.errors import ConfigError, StoreError
from telemetry.types import SeriesKey

KEYS = (SeriesKey("h", "a"), SeriesKey("h", "b"))


def decide(policy, evidence, keys=KEYS[:1], start=0):
    evidence = np.asarray(evidence, float).reshape(len(evidence), len(keys), 1)
    policy.align(keys, ("v",))
    end = 10**9 * np.arange(start, start + len(evidence))
    return policy.decide(end, 10**9, surprise_of(evidence))


def test_an_event_is_told_once_and_again_only_if_it_grows():
    e = np.full(40, 0.1)
    e[10:20] = 3.0
    e[15] = 3.0 * AGAIN * 1.2
    d = decide(RowsPolicy(), e)
    assert np.flatnonzero(d.grade[:, 0, 0] == ALERT).tolist() == [10, 15]
    assert d.score[10, 0, 0] > 0.5
    assert (d.score == 0).sum() == 38


def test_an_equal_event_is_told_again_after_the_bar_has_faded():
    e = np.full(400, 0.05)
    e[10] = e[60] = e[300] = 3.0
    assert KEEP >= 49
    assert FADE**240 * AGAIN < 1
    d = decide(RowsPolicy(), e)
    assert np.flatnonzero(d.grade[:, 0, 0] == ALERT).tolist() == [10, 300]


def test_a_mention_does_not_make_the_alert_harder():
    d = decide(RowsPolicy(), [0.1, THRESHOLD * 0.9, THRESHOLD * 1.05])
    assert d.grade[:, 0, 0].tolist() == [0, EVIDENCE, ALERT]


def test_half_is_the_threshold():
    for e, alert in ((THRESHOLD * 1.001, True), (THRESHOLD * 0.999, False)):
        d = decide(RowsPolicy(), [e])
        assert (d.grade[0, 0, 0] == ALERT) is np.bool_(alert)
        assert (d.score[0, 0, 0] >= 0.5) == alert


def test_a_smaller_budget_needs_more():
    budgets = np.geomspace(1e-7, 0.02, 50)
    need = np.array([needed(float(b)) for b in budgets])
    assert np.all(np.diff(need) < 0)
    assert needed(USUAL) == THRESHOLD


def test_a_smaller_budget_alerts_less_and_dense_alerts_cost_more():
    rng = np.random.default_rng(0)
    e = rng.exponential(0.35, 60_000)
    counts = [int((decide(RowsPolicy(b), e).grade == ALERT).sum()) for b in (0.05, 0.5, 5.0)]
    assert counts[0] < 0.5 * counts[1] < 0.5 * counts[2]


def test_time_budget_uses_the_spacing_seen():
    e = np.random.default_rng(1).exponential(0.35, 20_000)
    by_rows = decide(RowsPolicy(0.5), e)
    by_day = decide(RowsPolicy(per_day=0.0005 * 86_400), e)
    assert np.array_equal(by_rows.grade[2:], by_day.grade[2:])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 299), max_size=5), st.integers(0, 10**6))
def test_chunks_restarts_and_truncation(cuts, seed):
    rng = np.random.default_rng(seed)
    e = rng.exponential(0.5, (300, 2))
    e[rng.random((300, 2)) < 0.1] = np.nan
    whole = decide(RowsPolicy(), e, KEYS)
    policy, at, got = RowsPolicy(), 0, []
    for part in np.split(e, sorted(set(cuts))):
        state = {k: v.copy() for k, v in policy.snapshot().items()}
        policy = RowsPolicy()
        policy.restore(state)
        got.append(decide(policy, part, KEYS, at))
        at += len(part)
    assert np.array_equal(whole.score, np.concatenate([g.score for g in got]))
    assert np.array_equal(whole.grade, np.concatenate([g.grade for g in got]))


def test_evidence_round_trip():
    assert np.allclose(evidence_of(surprise_of(np.array([0.0, 0.3, 1.2, 7.0]))), [0.0, 0.3, 1.2, 7.0])


def test_bad_settings_and_states():
    with pytest.raises(ConfigError, match="per_1000"):
        RowsPolicy(0.0)
    with pytest.raises(StoreError, match="rows"):
        RowsPolicy().restore({"names": np.array(["a"]), "cells": np.zeros((1, 2))})
