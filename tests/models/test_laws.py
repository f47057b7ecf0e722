"""The three laws, for every kind of model that the table knows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.build import MODELS, build_model
from detectors.checks import check_model
from models.base import Model
from telemetry.types import Panel, Part, SeriesKey

WINDOW = 600 * 10**9
PARTS = {
    "river": Part("river", {"name": "GaussianScorer", "params": {"grace_period": 40}}),
    "seasonal": Part("seasonal", {"kind": "median"}),
    "sklearn": Part("sklearn", {"kind": "pca"}),
    "joint": Part("joint", {"warmup": 40}),
    "subspace": Part("subspace", {"warmup": 40}),
}
TRAINED = {"seasonal", "sklearn"}


def panel(windows: int, seed: int, first: int = 0) -> Panel:
    """Three series of two columns with gaps, a step, and a clock."""
    rng = np.random.default_rng(seed)
    x = rng.normal(100.0, 3.0, (windows, 3, 2))
    x[windows // 2 :, 1] += 30.0
    x[rng.random(x.shape) < 0.05] = np.nan
    slot = np.broadcast_to((np.arange(windows) % 144).astype(float)[:, None, None], (windows, 3, 1))
    keys = tuple(SeriesKey.of("h", "m_ns", i=i) for i in range(3))
    end = (np.arange(windows) + 1 + first) * WINDOW
    return Panel(keys, ("p50", "p99", "clock_slot"), WINDOW, end, np.concatenate([x, slot], axis=2))


def maker(kind: str) -> Callable[[], Model]:
    part = PARTS.get(kind, Part(kind, {}))
    if kind not in TRAINED:
        return lambda: build_model(part)
    trained = build_model(part)
    trained.fit(panel(600, 99))
    state = trained.snapshot()

    def make() -> Model:
        model = build_model(part)
        model.restore({k: np.array(v, copy=True) for k, v in state.items()})
        return model

    return make


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_every_kind_keeps_the_laws(kind: str) -> None:
    make = maker(kind)

    @settings(max_examples=4, deadline=None)
    @given(st.integers(0, 10**6), st.lists(st.integers(1, 299), min_size=1, max_size=4))
    def check(seed: int, cuts: list[int]) -> None:
        surprise = check_model(make, panel(300, seed, 600), cuts)
        assert np.isfinite(surprise[-50:]).any()

    check()


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_no_series_is_no_error(kind: str) -> None:
    p = panel(5, 0, 600)
    none = Panel((), p.columns, p.window_ns, p.end_ns, p.values[:, :0])
    model, again = maker(kind)(), maker(kind)()
    assert model.advance(none).surprise.shape == (5, 0, 2)
    again.restore(model.snapshot())
    np.testing.assert_array_equal(again.advance(p).surprise, model.advance(p).surprise)


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_no_window_changes_nothing(kind: str) -> None:
    some, none = panel(40, 0, 600), panel(0, 0, 600)
    expected = maker(kind)().advance(some)
    model = maker(kind)()
    assert model.advance(none).surprise.shape == (0, 3, 2)
    np.testing.assert_array_equal(model.advance(some).surprise, expected.surprise)
