"""Counts on the scale of their square root: what is taken as counts, and what it is good for."""

from __future__ import annotations

import numpy as np
import pytest

from models.count_scale import EARLY, EARLY_FIELDS, counts_in, from_root, to_root
from models.ensemble import FullModel
from telemetry.types import Panel, SeriesKey

STEP = 300 * 10**9


def scores(x, *, explain=False):
    key = (SeriesKey("h", "m"),)
    model = FullModel()
    model.align(key)
    return model.advance(Panel(key, ("v",), STEP, STEP * np.arange(len(x)), x[:, None, None]), explain=explain)


def test_the_scale_rises_has_no_kink_and_an_inverse():
    x = np.concatenate([np.linspace(-50.0, 0.0, 101), np.linspace(0.0, 400.0, 1001)[1:], [1e12]])
    y = np.array([to_root(float(v)) for v in x])
    assert np.all(np.diff(y) > 0)
    assert np.allclose([from_root(float(v)) for v in y], x)
    assert (to_root(1e-7) - to_root(0.0)) == pytest.approx(to_root(0.0) - to_root(-1e-7), rel=1e-4)


@pytest.mark.parametrize("rate", [3.0, 10.0, 100.0, 1000.0])
def test_poisson_counts_scatter_alike_at_any_rate(rate):
    x = np.random.default_rng(1).poisson(rate, 20_000)
    assert np.std([to_root(float(v)) for v in x]) == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(("value", "counts"), [(7.0, True), (0.0, True), (-1.0, False), (0.5, False)])
def test_one_value_decides_it(value, counts):
    early = np.zeros((EARLY, EARLY_FIELDS))
    early[:, 0] = np.random.default_rng(0).poisson(4.0, EARLY)
    early[EARLY // 2, 0] = value
    assert counts_in(early) is counts


def test_the_band_is_in_the_units_of_the_values():
    x = np.random.default_rng(2).poisson(50.0, 600).astype(float)
    s = scores(x, explain=True)
    expected, low, high = (b[200:, 0, 0] for b in (s.expected, s.lo, s.hi))
    assert np.all((expected > 35) & (expected < 65))
    assert np.all((low < expected) & (expected < high))
    assert np.mean((x[200:] > low) & (x[200:] < high)) > 0.9


def test_a_silence_of_busy_counts_speaks_louder_than_their_usual_bursts():
    rng = np.random.default_rng(3)
    rate = 40.0 * np.ones(4000)
    for at in rng.integers(0, 3900, 40):
        rate[at : at + 60] *= 1.0 + 4.0 * rng.random() / (1.0 + np.arange(60)) ** 0.7
    x = rng.negative_binomial(5.0, 5.0 / (5.0 + rate)).astype(float)
    x[3950:3970] = 0.0
    s = scores(x).surprise[:, 0, 0]
    assert np.nanmax(s[3950:3970]) > np.nanmax(s[500:3950])


def test_nothing_is_known_of_a_series_before_it_has_begun():
    s = scores(np.random.default_rng(4).poisson(2.0, 128).astype(float), explain=True)
    assert np.isnan(s.surprise).all()
    assert np.isnan(s.expected[: EARLY - 1]).all()
    assert np.isfinite(s.expected[EARLY:]).all()
