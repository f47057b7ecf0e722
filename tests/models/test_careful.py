"""The full model under a small budget: rows must agree and matter; creep is told whatever the spacing of rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.checks import check_model
from models.careful import MEMO, middle
from models.ensemble import FullModel, evidence_of
from telemetry.types import Panel, SeriesKey

SECOND = 10**9
NEED = 2.4


def evidence(x, *, step_s=60, **params):
    key = (SeriesKey("h", "latency"),)
    model = FullModel(**{"careful": NEED, **params})
    model.align(key)
    ends = step_s * SECOND * (1 + np.arange(len(x), dtype=np.int64))
    scores = model.advance(Panel(key, ("p99",), step_s * SECOND, ends, x[:, None, None]))
    return evidence_of(scores.surprise[:, 0, 0])


def latency(n, seed=1):
    rng = np.random.default_rng(seed)
    return 150 * np.exp(0.004 * rng.normal(size=n)) + rng.exponential(0.3, n)


def test_middle_is_the_median_of_the_last_five():
    x = np.random.default_rng(0).normal(size=40)
    memo = np.zeros(MEMO)
    got = [middle(float(v), i, memo) for i, v in enumerate(x)]
    want = [np.median(np.r_[np.full(5, x[0]), x[: i + 1]][-5:]) for i in range(len(x))]
    assert np.allclose(got, want)


@settings(max_examples=5, deadline=None)
@given(st.lists(st.integers(1, 499), max_size=4), st.integers(0, 1000))
def test_laws(cuts, seed):
    rng = np.random.default_rng(seed)
    x = 10 + rng.normal(size=(500, 2, 1))
    x[rng.random(x.shape) < 0.05] = np.nan
    keys = (SeriesKey("h", "a"), SeriesKey("h", "b"))
    panel = Panel(keys, ("v",), SECOND, SECOND * (1 + np.arange(500)), x)
    check_model(lambda: FullModel(careful=NEED), panel, cuts)


@pytest.mark.parametrize(
    ("rows", "height", "told"), [(1, 1.10, False), (2, 1.10, False), (6, 1.10, True), (6, 1.02, False)]
)
def test_neighbours_must_agree_and_it_must_matter(rows, height, told):
    x = latency(3000)
    x[::150] *= 1.03  # a series that knows lone values
    x[2505 : 2505 + rows] *= height
    assert bool(np.nanmax(evidence(x)[2505:2520]) >= NEED) is told


@pytest.mark.parametrize(("step_s", "hours"), [(60, 1), (60, 24), (10, 24)])
def test_ramps_are_told_before_their_half_and_steps_once(step_s, hours):
    length = 3600 * hours // step_s
    n = max(6000, 5 * length // 2)
    at = n - 2000 - length
    x = latency(n)
    assert (evidence(x, step_s=step_s)[300:] >= NEED).sum() == 0
    y = x * (1 + 0.25 * np.clip((np.arange(n) - at) / length, 0, 1))
    e = evidence(y, step_s=step_s)
    assert (e[at : at + length // 2] >= NEED).any()
    assert not (e[300:at] >= NEED).any()


def test_a_lasting_step_is_no_creep_as_well():
    x = latency(6000)
    x[3000:] *= 1.25
    told = np.flatnonzero(evidence(x) >= NEED)
    assert len(told) > 0
    assert told.min() >= 3000
    assert told.max() < 3040


def test_a_stuck_value_is_told():
    x = latency(3000)
    x[2500:] = x[2500]
    assert (evidence(x)[2500:2800] >= NEED).any()
