from __future__ import annotations

import numpy as np
import pytest

from models.base import Model
from models.sklearn_models import KINDS, SklearnModel
from telemetry.errors import ConfigError, NoDataError, StoreError
from telemetry.types import Float64, Panel, SeriesKey

SECOND = 10**9
SMALL = {"forest": {"n_estimators": 25}}


def panel_of(values: Float64, hosts: str = "a", first: int = 0) -> Panel:
    per = values.shape[1] // len(hosts)
    keys = tuple(SeriesKey.of(h, "m", i=i) for h in hosts for i in range(per))
    return Panel(keys, ("value",), SECOND, (np.arange(len(values)) + 1 + first) * SECOND, values[:, :, None])


def rows(n: int, series: int = 5, seed: int = 0) -> Float64:
    rng = np.random.default_rng(seed)
    load = rng.normal(0.0, 1.0, n)
    return load[:, None] * np.arange(1, series + 1) + rng.normal(0.0, 0.2, (n, series)) + 50.0


def trained(kind: str, hosts: str = "a") -> SklearnModel:
    model = SklearnModel(kind, SMALL.get(kind))
    model.fit(panel_of(np.hstack([rows(700, seed=i) for i, _ in enumerate(hosts)]), hosts))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_relation_is_found_with_its_channel(kind: str) -> None:
    model = trained(kind)
    assert isinstance(model, Model)
    x = rows(200, seed=9)
    x[150, 3] += 25.0
    if kind == "forest":  # it sees extremes, not relations
        x[150] += 60.0 * np.array([0.1, 0.1, 0.1, 1.0, 0.1])
    x[20, 1] = np.nan
    x[30] = np.nan
    scores = model.advance(panel_of(x, first=700))
    s = scores.surprise[:, 0, 0]
    assert s[150] > (1.4 if kind == "forest" else 1.8)
    assert kind == "forest" or s[150] == np.nanmax(s)
    assert scores.parts is not None
    assert kind == "forest" or int(np.nanargmax(scores.parts[150, :, 0])) == 3
    assert np.nanmax(scores.parts[150, :, 0]) > 0.02
    assert scores.side[150, 3, 0] == 1
    assert np.isnan(s[30])
    assert np.isfinite(s[20])
    assert np.isnan(scores.parts[20, 1, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_splitting_and_restoring_change_nothing(kind: str) -> None:
    x = rows(120, seed=3)
    state = trained(kind).snapshot()
    whole, first, second = SklearnModel(kind), SklearnModel(kind), SklearnModel(kind)
    whole.restore(state)
    expected = whole.advance(panel_of(x)).surprise
    first.restore(state)
    a = first.advance(panel_of(x[:50])).surprise
    second.restore({k: v.copy() for k, v in first.snapshot().items()})
    b = second.advance(panel_of(x[50:], first=50)).surprise
    np.testing.assert_array_equal(np.concatenate([a, b]), expected)
    third, fourth = SklearnModel(kind), SklearnModel(kind)
    third.restore(state)
    fourth.restore(state)
    parts = [fourth.advance(panel_of(x[i : i + 40], first=i)).parts for i in (0, 40, 80)]
    np.testing.assert_array_equal(np.concatenate(parts), third.advance(panel_of(x)).parts)


def test_each_host_has_its_own_and_says_it_at_its_top_contributor() -> None:
    model = trained("pca", "ab")
    x = np.hstack([rows(100, seed=5), rows(100, seed=6)])
    x[60, 7] += 30.0
    scores = model.advance(panel_of(x, "ab"))
    assert scores.parts is None
    assert int(np.argmax(scores.surprise[60, :, 0])) == 7
    assert scores.surprise[60, :5, 0].max() < 1.5


def test_series_that_left_or_are_new_have_no_part() -> None:
    model = trained("covariance")
    x = rows(50, seed=4)
    panel = panel_of(x)
    fewer = Panel((*panel.keys[:4], SeriesKey.of("a", "new")), panel.columns, SECOND, panel.end_ns, panel.values)
    scores = model.advance(fewer)
    assert np.isfinite(scores.surprise).all()
    assert scores.parts is not None
    assert np.isnan(scores.parts[:, 4]).all()


def test_errors_are_one_line() -> None:
    with pytest.raises(ConfigError, match="expected one of forest"):
        SklearnModel("svm")
    with pytest.raises(NoDataError, match="not trained"):
        SklearnModel().advance(panel_of(rows(5)))
    with pytest.raises(NoDataError, match="at least 64"):
        SklearnModel().fit(panel_of(rows(20)))
    with pytest.raises(ConfigError, match="unexpected keyword"):
        SklearnModel("forest", {"trees": 3}).fit(panel_of(rows(100)))
    state = dict(trained("pca").snapshot())
    with pytest.raises(StoreError, match="expected state of lof"):
        SklearnModel("lof").restore(state)
    state["digest"] = np.array("0" * 64)
    with pytest.raises(StoreError, match="damaged"):
        SklearnModel("pca").restore(state)


def test_a_host_that_left_does_not_stop_the_others() -> None:
    model = trained("pca", "ab")
    x = rows(100, seed=5)
    x[60, 2] += 30.0
    surprise = model.advance(panel_of(x, "a")).surprise
    assert np.isfinite(surprise).all()
    assert int(np.argmax(surprise[60, :, 0])) == 2


def test_as_many_windows_as_it_says_are_enough() -> None:
    SklearnModel("pca").fit(panel_of(rows(64)))
    with pytest.raises(NoDataError, match="at least 64 windows to train on, got 63"):
        SklearnModel("pca").fit(panel_of(rows(63)))
