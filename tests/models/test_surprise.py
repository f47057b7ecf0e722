"""Tails kept by generations against tails of everything; the calibrator's laws and honesty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.surprise import GENERATION, REFIT_EVERY, WARM_UP, Calibrator
from telemetry.errors import StoreError
from tests.naive.full import tail_scores


@pytest.mark.parametrize("kind", ["normal", "heavy", "counts", "constant"])
def test_equals_a_tail_of_everything(kind):
    rng = np.random.default_rng(11)
    n = 2 * GENERATION + 700
    x = (
        {
            "normal": rng.normal(size=n),
            "heavy": rng.standard_t(2, n),
            "counts": rng.poisson(2.0, n).astype(float),
            "constant": np.full(n, 3.0),
        }[kind]
        .astype(np.float32)
        .astype(float)
    )
    got = Calibrator(1).advance(x[:, None])[0][:, 0]
    want = tail_scores(x, lambda seen: seen >= WARM_UP and (seen - WARM_UP) % REFIT_EVERY == 0)
    assert np.array_equal(np.isnan(got), np.isnan(want))
    # the naive spread is that of the whole past, the kernel's fades: it only sets the floor of the scale
    assert np.allclose(got[WARM_UP:GENERATION], want[WARM_UP:GENERATION], atol=1e-6)
    assert np.allclose(got[GENERATION:], want[GENERATION:], atol=0.05)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 399), max_size=4), st.booleans())
def test_chunks_and_restarts_change_nothing(seed, cuts, both):
    rng = np.random.default_rng(seed)
    x = rng.gamma(0.7, size=(400, 3))
    x[rng.random((400, 3)) < 0.1] = np.nan
    whole = Calibrator(3, both=both).advance(x)
    model, out = Calibrator(3, both=both), []
    for part in np.split(x, sorted(set(cuts))):
        state = {k: v.copy() for k, v in model.snapshot().items()}
        model = Calibrator(3, both=both)
        model.restore(state)
        out.append(model.advance(part))
    assert np.array_equal(whole[0], np.concatenate([s for s, _ in out]), equal_nan=True)
    assert np.array_equal(whole[1], np.concatenate([d for _, d in out]))


@pytest.mark.parametrize("kind", ["normal", "heavy", "exponential"])
def test_honest_within_a_factor_of_two(kind):
    rng = np.random.default_rng(2)
    x = {
        "normal": rng.normal(size=(20_000, 8)),
        "heavy": rng.standard_t(3, (20_000, 8)),
        "exponential": rng.exponential(size=(20_000, 8)),
    }[kind]
    s = Calibrator(8).advance(x)[0]
    for level in (2.0, 2.5, 3.0):
        rate = np.nanmean(s > level)
        assert 0.4 * 10**-level < rate < 2.0 * 10**-level


def test_an_incident_is_forgotten_after_two_generations():
    rng = np.random.default_rng(3)
    x = rng.normal(size=3 * GENERATION)
    x[300:340] += 30.0
    x[2 * GENERATION + 10] = 12.0
    s = Calibrator(1).advance(x[:, None])[0][:, 0]
    early = x.copy()
    early[3000] = 12.0
    masked = Calibrator(1).advance(early[:, None])[0][3000, 0]
    assert s[2 * GENERATION + 10] > 3.5 > masked


def test_sides_and_reordering():
    x = np.random.default_rng(4).normal(size=(600, 2))
    x[-1] = [-9.0, 9.0]
    model = Calibrator(2, both=True)
    model.advance(x[:-1])
    model.take(np.array([1, -1, 0]))
    surprise, side = model.advance(x[-1:, [1, 0, 0]])
    assert side.tolist() == [[1, 0, -1]]
    assert np.isnan(surprise[0, 1])
    assert surprise[0, 0] > 3.5


def test_foreign_state_is_refused():
    state = dict(Calibrator(2).snapshot())
    with pytest.raises(StoreError, match="expected"):
        Calibrator(2, both=True).restore(state)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("none", [1e6, 1e300])
def test_a_value_that_stands_for_none_does_not_hide_what_comes_after_it(both, none):
    x = np.random.default_rng(6).normal(size=2_000)
    x = x if both else np.abs(x)
    x[1_000], x[1_500] = none, 12.0
    surprise, _ = Calibrator(1, both=both).advance(x[:, None])
    assert surprise[1_000, 0] > 3.0
    assert surprise[1_500, 0] > 2.0
