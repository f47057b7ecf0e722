from __future__ import annotations

import numpy as np
import pytest

from models.base import Model
from models.river_models import KINDS, RiverModel
from telemetry.errors import ConfigError, StoreError
from telemetry.types import Float64, Panel, SeriesKey

SECOND = 10**9
SMALL = {
    "HalfSpaceTrees": {"n_trees": 4, "window_size": 60, "height": 6},
    "LODA": {"n_random_cuts": 5},
    "GaussianScorer": {"grace_period": 40},
    "KSWIN": {"window_size": 60},
    "LocalOutlierFactor": {"n_neighbors": 5},
}


def panel_of(values: Float64, names: str = "", first: int = 0) -> Panel:
    keys = tuple(SeriesKey.of("h", "m", i=n) for n in (names or range(values.shape[1])))
    return Panel(keys, ("value",), SECOND, (np.arange(len(values)) + 1 + first) * SECOND, values[:, :, None])


def run(model: RiverModel, panel: Panel) -> Float64:
    model.align(panel.keys)
    return model.advance(panel).surprise[:, :, 0]


@pytest.mark.parametrize("name", sorted(KINDS))
def test_laws_of_a_model(name: str) -> None:
    rng = np.random.default_rng(0)
    rows = 240 if name == "LocalOutlierFactor" else 300
    x = rng.normal(100.0, 3.0, (rows, 2))
    x[40:60, 1] = np.nan
    x[5, 0] = np.inf
    make = lambda: RiverModel(name, SMALL.get(name))  # noqa: E731
    assert isinstance(make(), Model)
    whole = run(make(), panel_of(x))
    split = make()
    cut = rows - 50
    np.testing.assert_array_equal(
        np.vstack([run(split, panel_of(x[:70])), run(split, panel_of(x[70:cut], first=70))]), whole[:cut]
    )
    again = make()
    again.restore({k: v.copy() for k, v in split.snapshot().items()})
    np.testing.assert_array_equal(run(again, panel_of(x[cut:], first=cut)), whole[cut:])
    np.testing.assert_array_equal(run(make(), panel_of(x[:, :1])), whole[:, :1])
    assert np.isnan(whole[:100]).all()  # warm-up is not 0
    assert np.isnan(whole[5, 0])
    assert np.isfinite(whole[-20:]).all()  # neither NaN nor infinity spoilt it


@pytest.mark.parametrize(
    "name", ["HalfSpaceTrees", "GaussianScorer", "HoltWinters", "SNARIMAX", "StandardAbsoluteDeviation"]
)
def test_a_spike_stands_out(name: str) -> None:
    x = np.random.default_rng(1).normal(100.0, 3.0, (500, 1))
    x[450] += 60.0
    s = run(RiverModel(name, SMALL.get(name)), panel_of(x))[:, 0]
    assert s[450] > np.nanquantile(s[:450], 0.985)
    assert s[450] > 1.5


@pytest.mark.parametrize("name", ["ADWIN", "PageHinkley", "KSWIN"])
def test_a_shift_is_noticed(name: str) -> None:
    x = np.random.default_rng(2).normal(100.0, 3.0, (700, 1))
    x[500:] += 30.0
    s = run(RiverModel(name), panel_of(x))[:, 0]
    assert np.nanmax(s[500:600]) > 1.7


def test_scoring_twice_what_mutates_in_river_changes_nothing() -> None:
    x = np.random.default_rng(3).normal(0.0, 1.0, (200, 1))
    model = RiverModel("PredictiveAnomalyDetection")
    run(model, panel_of(x))
    counted = model._channels[0].model.iter
    run(model, panel_of(np.full((1, 1), np.nan)))
    run(model, panel_of(x[:1]))
    assert model._channels[0].model.iter <= counted + 1


def test_state_follows_the_key() -> None:
    x = np.random.default_rng(4).normal(0.0, 1.0, (400, 3))
    model = RiverModel("GaussianScorer")
    run(model, panel_of(x[:200, :2], names="ab"))
    later = run(model, panel_of(x[200:, [2, 0]], names="ca", first=200))
    alone = run(RiverModel("GaussianScorer"), panel_of(x[:, :1], names="a"))
    np.testing.assert_array_equal(later[:, 1], alone[200:, 0])


def test_damaged_or_foreign_state_is_refused_before_it_is_unpickled() -> None:
    model = RiverModel("GaussianScorer")
    run(model, panel_of(np.zeros((5, 1))))
    state = dict(model.snapshot())
    broken = state["pickle"].copy()
    broken[len(broken) // 2] ^= 1
    with pytest.raises(StoreError, match="damaged"):
        RiverModel("GaussianScorer").restore({**state, "pickle": broken})
    with pytest.raises(StoreError, match="train it again"):
        RiverModel("GaussianScorer").restore({**state, "versions": np.array(["python 3.11", "river 0.1"])})
    with pytest.raises(StoreError, match="expected state of ADWIN"):
        RiverModel("ADWIN").restore(state)


def test_wrong_names_and_parameters() -> None:
    with pytest.raises(ConfigError, match="expected one of ADWIN"):
        RiverModel("Magic")
    with pytest.raises(ConfigError, match="unknown parameter 'trees'"):
        RiverModel("HalfSpaceTrees", {"trees": 3})
    with pytest.raises(ConfigError, match="policy decides"):
        RiverModel("ThresholdFilter")


def test_the_side_is_that_of_the_time() -> None:
    """Not that of the mean at the end of the call: it must not depend on how windows are split over calls."""
    x = np.random.default_rng(0).normal(100.0, 3.0, (400, 1))
    x[300:] += 60.0
    model = RiverModel("GaussianScorer", {"grace_period": 40})
    whole = model.advance(panel_of(x)).side
    model = RiverModel("GaussianScorer", {"grace_period": 40})
    each = [model.advance(panel_of(x[i : i + 1], first=i)).side for i in range(len(x))]
    np.testing.assert_array_equal(np.concatenate(each), whole)
    assert (whole != 0).any()
