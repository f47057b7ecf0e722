"""Left discords: the fast distances against plain ones, and what a shape without precedent is worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.discord import LENGTH, MEANS, SHAPES, fresh_discords, nearest_shape, step_discords
from models.ensemble import FullModel
from telemetry.types import Float64, Panel, SeriesKey


class Memory:
    """What a channel's discords remember."""

    def __init__(self) -> None:
        self.arrays = [a[0] for a in fresh_discords(1).values()]
        self.reg, self.ring, self.middle, self.gap = self.arrays[:4]

    def step(self, x: float) -> float:
        return float(step_discords(x, *self.arrays))

    def distance(self, x: float) -> float:
        square, _ = nearest_shape(0, x, self.reg, self.ring, self.middle, self.gap)
        self.reg[0, MEANS] += 1.0
        return float(square)


def plain(x: Float64) -> float:
    """Mean squared distance of the last shape of `x` to the nearest of those before that do not overlap it."""
    shape = x[-LENGTH:] - x[-LENGTH:].mean()
    best = np.inf
    for end in range(max(LENGTH, len(x) - LENGTH - SHAPES + 1), len(x) - LENGTH + 1):
        other = x[end - LENGTH : end]
        best = min(best, float(((shape - (other - other.mean())) ** 2).mean()))
    return best


def cycles(seed: int, n: int, period: int) -> Float64:
    """A cycle of two harmonics whose length and height vary a little, and noise."""
    rng = np.random.default_rng(seed)
    phase = np.cumsum(1.0 / (period * (1.0 + 0.01 * rng.standard_normal(n)))) * 2.0 * np.pi
    return np.sin(phase) + 0.6 * np.cos(2.0 * phase + 1.0) + 0.05 * rng.standard_normal(n)


def evidence(x: Float64) -> Float64:
    """The full model's, in one column."""
    key = (SeriesKey("a", "v"),)
    model = FullModel(creep=False)
    model.align(key)
    end = 1_700_000_000 * 10**9 + 60 * 10**9 * np.arange(len(x))
    return model.evidence(Panel(key, ("v",), 60 * 10**9, end, x[:, None, None]))[0][:, 0]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 1_400), st.sampled_from([1.0, 1e-6, 1e6]), st.booleans())
def test_distances_are_the_plain_ones(seed: int, n: int, unit: float, outlier: bool) -> None:
    rng = np.random.default_rng(seed)
    x = unit * np.cumsum(rng.standard_normal(n))
    if outlier:
        x[rng.integers(n)] += 1e4 * unit
    x = x.astype(np.float32).astype(np.float64)  # as they are kept
    memory = Memory()
    found = np.array([memory.distance(v) for v in x])
    for i in {*rng.integers(0, n, 12).tolist(), n - 1}:
        expected = plain(x[: i + 1]) if i + 1 >= 2 * LENGTH else np.inf
        assert found[i] == pytest.approx(expected, rel=1e-3, abs=1e-3 * unit**2)


def test_a_scale_is_the_series_in_means() -> None:
    x = np.random.default_rng(1).standard_normal(700 * 16)
    whole = Memory()
    for v in x:
        whole.step(v)
    for k in range(len(whole.ring)):
        part = Memory()
        for v in x.reshape(-1, 1 << k).mean(axis=1):
            part.distance(v)
        at = np.sort(part.ring[0][part.ring[0] != 0.0])[-500:]
        assert np.allclose(np.sort(whole.ring[k][whole.ring[k] != 0.0])[-500:], at, atol=1e-6)


@pytest.mark.parametrize("period", [37, 150, 260])
def test_one_odd_cycle_in_hundreds_is_found(period: int) -> None:
    x = cycles(period, 60 * period, period)
    at = 50 * period
    x[at : at + period] = x[at : at + period][::-1]
    seen = evidence(x)
    odd = seen[at : at + 2 * period].max()
    assert odd > 1.25
    assert odd > np.nanmax(np.r_[seen[20 * period : at], seen[at + 3 * period :]])


def test_noise_repeats_nothing_and_says_nothing() -> None:
    memory = Memory()
    x = np.random.default_rng(2).standard_normal(6_000)
    x[5_000] = 30.0
    assert max(memory.step(v) for v in x) == 0.0


def test_values_without_bound_are_forgotten() -> None:
    memory, x = Memory(), cycles(3, 6_000, 50)
    for v in x[:1_000]:
        memory.step(v)
    for v in (1e300, -1e300, 1e200):
        memory.step(v)
    last = [memory.step(v) for v in x[1_000:]]
    assert np.isfinite(last).all()
    assert np.isfinite(memory.reg).all()
    assert np.isfinite(memory.gap[:3]).all()


@pytest.mark.parametrize("foreseen", [True, False])
def test_a_miss_small_against_the_range_is_evidence_where_nearly_all_is_foreseen(foreseen: bool) -> None:
    t = np.arange(1_500)
    noise = np.random.default_rng(4).standard_normal(len(t))
    x = 100.0 * (np.sin(t / 5.0) + np.sin(t / 23.0)) + noise if foreseen else 100.0 * noise
    x[1_400] += 25.0
    assert (evidence(x)[1_400] > 1.25) == foreseen
