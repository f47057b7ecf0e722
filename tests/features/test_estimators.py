"""The scikit-learn and river faces of the features."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.utils.estimator_checks import check_estimator

from features.estimators import EXPECTED_FAILED_CHECKS, DynamicsTransformer
from features.river_features import RiverDynamics
from telemetry.errors import ConfigError


def test_scikit_learn_accepts_it() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = check_estimator(DynamicsTransformer(), expected_failed_checks=EXPECTED_FAILED_CHECKS, on_skip=None)
    failed = [c["check_name"] for c in done if c["status"] == "failed"]
    assert not failed
    really = {c["check_name"] for c in done if c["status"] == "xfail"}
    assert really == set(EXPECTED_FAILED_CHECKS), "an exemption that is not needed is a mistake"


def test_transform_continues_from_fit_and_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 2))
    x[20, 0] = np.nan
    columns = ("diff_1", "slope_4", "level_10s", "acf_1")
    one = DynamicsTransformer(columns, span=12).fit(x[:40])
    first, again = one.transform(x[40:]), one.transform(x[40:])
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(first[:, 0], np.diff(x[:, 0])[39:])
    whole = DynamicsTransformer(columns, span=12).fit(x[:1]).transform(x[1:])
    np.testing.assert_array_equal(first, whole[39:])
    assert one.get_feature_names_out(["a", "b"])[[0, 5]].tolist() == ["a_diff_1", "b_slope_4"]


def test_river_sees_what_scikit_learn_sees() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(30, 2))
    wanted = DynamicsTransformer(("diff_1", "slope_4")).fit(x[:1]).transform(x[1:])
    river = RiverDynamics(("diff_1", "slope_4"))
    for i, row in enumerate(x):
        named = {"a": float(row[0]), "b": float(row[1])}
        before = river.transform_one(named)
        assert river.transform_one({"a": 1.0, "c": 5.0}).keys() == {"a_diff_1", "a_slope_4", "c_diff_1", "c_slope_4"}
        river.learn_one(named)
        after = river.transform_one(named)
        assert list(before) == ["a_diff_1", "a_slope_4", "b_diff_1", "b_slope_4"]
        np.testing.assert_array_equal(list(before.values()), list(after.values()))
        if i:
            np.testing.assert_array_equal(list(after.values()), wanted[i - 1])


def test_river_pipelines_take_it() -> None:
    from river import compose, preprocessing

    model = compose.Pipeline(RiverDynamics(("diff_1",)), preprocessing.MinMaxScaler()).clone()
    for x in (1.0, 2.0, 4.0, 5.0):
        model.learn_one({"x": x})
    assert model["RiverDynamics"].transform_one({"x": 9.0}) == {"x_diff_1": 4.0}


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="slope"):
        DynamicsTransformer(("slop_3",)).fit(np.zeros((5, 1)))
