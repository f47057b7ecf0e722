"""Evidence held to a series' own: raised where it is light, never lowered unless asked."""

from __future__ import annotations

import numpy as np
import pytest

from models.own_evidence import OWN, compare
from tests.naive.full import held_to_its_own


def run(evidence, both=False):
    own = np.zeros(OWN)
    return np.array([compare(float(e), both, own) for e in evidence])


def series(scale, n=30_000, seed=0):
    return np.random.default_rng(seed).exponential(scale, n)


@pytest.mark.parametrize("scale", [0.06, 0.2, 0.5])
@pytest.mark.parametrize("both", [False, True])
def test_it_is_its_definition(scale, both):
    e = series(scale, 1200, seed=3)
    assert np.allclose(run(e, both), held_to_its_own(e, both))


def test_light_evidence_is_raised_and_heavy_is_left_alone():
    light, heavy = series(0.08), series(0.8)
    assert np.all(run(light) >= light)
    assert np.mean(run(light)[5000:] > 1.0) > 2.0 * np.mean(light[5000:] > 1.0)
    assert np.allclose(run(heavy), heavy)


def test_both_ways_heavy_is_lowered():
    heavy = series(0.4)
    assert np.mean(run(heavy, both=True)[5000:] > 2.0) < 0.7 * np.mean(heavy[5000:] > 2.0)


@pytest.mark.parametrize("scale", [0.06, 0.15, 0.5])
@pytest.mark.parametrize("both", [False, True])
def test_order_is_kept_at_any_time(scale, both):
    own = np.zeros(OWN)
    for e in series(scale, 5000):
        compare(float(e), both, own)
    grid = np.linspace(0.0, 6.0, 301)
    assert np.all(np.diff([compare(float(e), both, own.copy()) for e in grid]) > 0)


def test_an_incident_teaches_no_more_than_one_block():
    calm = series(0.1, 4000)
    loud = calm.copy()
    loud[2000:2010] = 50.0
    assert np.allclose(run(loud)[2050:], run(calm)[2050:], rtol=0.25)


def test_missing_evidence_changes_nothing():
    e = series(0.2, 3000)
    with_gaps = np.insert(e, [100, 700, 700], np.nan)
    assert np.array_equal(run(with_gaps)[~np.isnan(with_gaps)], run(e))


def test_a_series_that_is_always_calm_does_not_come_to_alert():
    """What was never seen is not known to be rarer than memory reaches: the raise had no end."""
    out = run(np.minimum(series(0.08, 400_000), 0.4))
    assert out[-50_000:].max() <= out[50_000:100_000].max()
