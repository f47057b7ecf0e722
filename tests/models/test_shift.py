"""The shift head: one report a change, none for spikes, the laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.checks import check_model
from models.shift import BAR, ShiftModel
from telemetry.errors import ConfigError, StoreError
from telemetry.types import Panel, SeriesKey


def panel_of(*series):
    values = np.stack(series, axis=1)[:, :, None]
    keys = tuple(SeriesKey("h", f"m{i}") for i in range(values.shape[1]))
    return Panel(keys, ("p50",), 10**9, 10**9 * np.arange(len(values)), values)


def changes(x):
    panel = panel_of(x)
    model = ShiftModel()
    model.align(panel.keys)
    scores = model.advance(panel)
    at = np.flatnonzero(scores.surprise[:, 0, 0] >= BAR)
    return at, scores.side[at, 0, 0]


def noise(n, seed=0, sd=0.4):
    return 150.0 + np.random.default_rng(seed).normal(0, sd, n)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 299), max_size=4), st.integers(0, 1000))
def test_laws(cuts, seed):
    rng = np.random.default_rng(seed)
    x = 100 + np.cumsum(rng.normal(size=(300, 2)) * (rng.random((300, 2)) < 0.05) * 8, axis=0)
    x += rng.normal(0, 0.3, x.shape)
    x[rng.random(x.shape) < 0.05] = np.nan
    check_model(ShiftModel, panel_of(x[:, 0], x[:, 1]), cuts)


@pytest.mark.parametrize("move", [3.0, -3.0, 25.0])
def test_a_lasting_step_is_told_once_and_soon(move):
    x = noise(1500)
    x[700:] += move
    at, side = changes(x)
    assert len(at) == 1
    assert 700 <= at[0] <= 715
    assert side[0] == np.sign(move)


def test_there_and_back():
    x = noise(1200, 1)
    x[500:560] += 20.0
    at, side = changes(x)
    assert len(at) == 2
    assert 500 <= at[0] <= 510
    assert 560 <= at[1] <= 570
    assert side.tolist() == [1, -1]


@pytest.mark.parametrize(("height", "reports"), [(4.0, 1), (20.0, 2)])
def test_the_end_of_a_short_small_excursion_is_no_new_event(height, reports):
    x = noise(1200, 1)
    x[500:516] += height
    assert len(changes(x)[0]) == reports


@pytest.mark.parametrize("seed", range(4))
def test_noise_and_lone_spikes_are_no_changes(seed):
    rng = np.random.default_rng(seed)
    x = noise(5000, seed)
    spikes = rng.random(5000) < 0.03
    x[spikes] += rng.exponential(30.0, spikes.sum())
    assert len(changes(x)[0]) <= 1


def test_a_constant_has_no_changes():
    assert len(changes(np.full(500, 5.0))[0]) == 0


def test_missing_values_are_skipped():
    x = noise(900, 2)
    x[500:] += 10.0
    holed = np.insert(x, 300, [np.nan] * 3)
    assert (changes(holed)[0] - 3).tolist() == changes(x)[0].tolist()


def test_bad_settings_and_states():
    with pytest.raises(ConfigError, match="bar"):
        ShiftModel(bar=0.0)
    with pytest.raises(StoreError, match="version"):
        ShiftModel().restore({"version": np.array([7])})
