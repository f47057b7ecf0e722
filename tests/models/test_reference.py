"""The reference model: as its naive twin, under the laws, and still where it should stand still."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.checks import check_model
from models.reference import ReferenceModel
from telemetry.errors import ConfigError, StoreError
from telemetry.types import Panel, SeriesKey
from tests.naive.reference import reference

STEP = 100_000_000
SMALL = {"warmup": 16, "memory": 32, "relearn": 40, "flag": 1.5, "refit": 4}


def panel(values: np.ndarray, column: str = "max") -> Panel:
    values = values.reshape(len(values), -1, 1)
    keys = tuple(SeriesKey.of("h", "m_total", i=i) for i in range(values.shape[1]))
    return Panel(keys, (column,), STEP, (np.arange(len(values)) + 1) * STEP, values)


def surprise(values: np.ndarray, **params: float) -> np.ndarray:
    model = ReferenceModel(**params)  # type: ignore[arg-type]
    p = panel(values)
    model.align(p.keys)
    return model.advance(p).surprise[:, 0, 0]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rest=st.booleans(),
    missing=st.floats(0, 0.2),
    jump=st.floats(0, 50),
)
def test_as_the_naive_twin(seed: int, rest: bool, missing: float, jump: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.poisson(0.1 if rest else 8.0, 220).astype(float)
    x[120:180] += jump
    x[rng.random(220) < missing] = np.nan
    expected = reference(list(x), 1.0, *(SMALL[k] for k in ("warmup", "memory", "relearn", "flag", "refit")))  # type: ignore[arg-type]
    np.testing.assert_allclose(surprise(x, **SMALL), expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(1, 299), max_size=5))
def test_laws(seed: int, cuts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    x = rng.poisson(3.0, (300, 3)).astype(float)
    x[150:, 1] *= 20
    x[rng.random(x.shape) < 0.1] = np.nan
    check_model(lambda: ReferenceModel(**SMALL), panel(x), sorted(set(cuts)))  # type: ignore[arg-type]


def test_an_episode_does_not_move_the_reference() -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(100, 3, 200), rng.normal(200, 3, 300), rng.normal(100, 3, 50)])
    s = surprise(x)
    assert np.nanmin(s[200:500]) > 3.0
    assert np.nanmedian(s[500:]) < 1.0


def test_a_lasting_change_becomes_normal() -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(100, 3, 200), rng.normal(200, 3, 300)])
    s = surprise(x, relearn=100)
    assert np.nanmedian(s[350:]) < 1.0


def test_a_trickle_of_failures_stays_surprising() -> None:
    x = np.zeros(400)
    x[200::20] = 1.0
    assert surprise(x)[200::20].min() > 1.5


def test_noise_is_flagged_about_as_often_as_its_surprise_says() -> None:
    rng = np.random.default_rng(3)
    s = surprise(rng.exponential(1.0, 20_000))
    for level in (1.3, 2.0):
        share = np.nanmean(s >= level)
        assert share < 3 * 10**-level, (level, share)


def test_series_come_and_go_with_their_state() -> None:
    rng = np.random.default_rng(1)
    p = panel(rng.normal(10, 1, (200, 2)))
    model = ReferenceModel()
    model.align(p.keys)
    model.advance(p)
    swapped = Panel(p.keys[::-1], p.columns, STEP, p.end_ns + 200 * STEP, p.values[:5, ::-1])
    model.align(swapped.keys)
    assert np.isfinite(model.advance(swapped).surprise).all()


@pytest.mark.parametrize("cuts", [[], [150], [40, 160, 161, 170]])
def test_an_error_that_appears_is_a_surprise_only_if_it_is_taken_to_have_been_none(cuts: list[int]) -> None:
    x = np.full(200, np.nan)
    x[160:170] = 1.0
    check_model(lambda: ReferenceModel(absent=0.0), panel(np.stack([x, np.zeros(200)], 1)), cuts or [1])
    assert surprise(x, absent=0.0)[160] > 1.5
    assert np.isnan(surprise(x)[160:]).all()
    early = np.full(200, np.nan)
    early[10:] = 1.0
    assert not (surprise(early, absent=0.0) > 0).any(), "what is there from the start is not new"


def test_mistakes_are_said() -> None:
    with pytest.raises(ConfigError, match="warmup"):
        ReferenceModel(warmup=3)
    with pytest.raises(StoreError, match="other parameters"):
        ReferenceModel().restore(ReferenceModel(memory=64).snapshot())


def test_what_a_series_said_does_not_decide_when_another_appears() -> None:
    """Once a value beyond the tail had been scored, what appeared early in the same call started cold."""
    x = np.full((300, 2), np.nan)
    x[:, 0] = np.random.default_rng(0).normal(10.0, 1.0, 300)
    x[245, 0], x[250:, 1] = 30.0, 1.0
    whole = check_model(lambda: ReferenceModel(absent=0.0), panel(x), [240])
    assert whole[250, 1, 0] > 1.5


def test_what_is_not_finite_is_missing() -> None:
    x = np.random.default_rng(0).normal(10.0, 1.0, 300)
    with_gaps, with_inf = x.copy(), x.copy()
    with_gaps[20:200:9], with_inf[20:200:9] = np.nan, np.inf
    np.testing.assert_array_equal(surprise(with_inf), surprise(with_gaps))
