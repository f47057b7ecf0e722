from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from models.base import Model
from models.counts import CountModel, negative_binomial_surprise
from telemetry.errors import ConfigError
from telemetry.types import Float64, Panel, SeriesKey

SECOND = 10**9


def run(model: CountModel, values: Float64, column: str = "count", first: int = 0) -> Float64:
    keys = tuple(SeriesKey.of("h", "m", i=i) for i in range(values.shape[1]))
    end = (np.arange(len(values)) + 1 + first) * SECOND
    model.align(keys)
    return model.advance(Panel(keys, (column,), SECOND, end, values[:, :, None])).surprise[:, :, 0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400), st.floats(0.05, 200.0), st.floats(0.01, 300.0), st.booleans())
def test_tails_are_scipys(count: int, size: float, mean: float, above: bool) -> None:
    law = stats.nbinom(size, size / (size + mean))
    p = law.sf(count - 1) if above else law.cdf(count)
    if p > 1e-250 and ((count >= mean) == above):
        assert negative_binomial_surprise(float(count), size, mean, above) == pytest.approx(-math.log10(p), abs=1e-5)


@pytest.mark.parametrize(
    "draw",
    [
        lambda r: r.poisson(0.02, (6000, 30)),
        lambda r: r.poisson(4.0, (6000, 30)),
        lambda r: r.negative_binomial(0.5, 0.1, (6000, 30)),
        lambda r: r.poisson(1e8, (3000, 10)),
        lambda r: r.poisson(r.gamma(5.0, 2e8, (3000, 10))),
    ],
    ids=["rare", "poisson", "bursty", "many", "many bursty"],
)
def test_it_is_honest(draw: object) -> None:
    s = run(CountModel(), draw(np.random.default_rng(0)).astype(float))[500:]  # type: ignore[operator]
    for level in (1.0, 2.0, 3.0):
        assert np.mean(s >= level) * 10.0**level < 2.0


@pytest.mark.parametrize("size", [0.02, 0.7, 5.0, 3e3, 1e7, 1e12])
@pytest.mark.parametrize("above", [True, False])
def test_tails_of_large_counts_are_scipys(size: float, above: bool) -> None:
    mean = 3e9
    law = stats.nbinom(size, size / (size + mean))
    for p in (0.3, 1e-3, 1e-6):
        count = float(law.isf(p) if above else law.ppf(p))
        if (count >= mean) == above and count > 1e5:
            exact = -math.log10(law.sf(count - 1) if above else law.cdf(count))
            assert negative_binomial_surprise(count, size, mean, above) == pytest.approx(exact, abs=2e-3)


@pytest.mark.parametrize("window", [SECOND // 10, SECOND, 10 * SECOND])
def test_one_event_is_one_at_any_length_of_window(window: int) -> None:
    x = np.zeros((1000, 1, 1))
    x[990] = 1e9 / window
    key = SeriesKey("h", "drops_total")
    model = CountModel()
    s = model.advance(Panel((key,), ("rate",), window, (np.arange(1000) + 1) * window, x)).surprise[:, 0, 0]
    assert 2.3 < s[990] < 3.5


def test_the_first_event_and_many() -> None:
    x = np.zeros((1000, 2))
    x[990] = [1.0, 30.0]
    s = run(CountModel(), x)
    assert 2.3 < s[990, 0] < 3.5
    assert s[990, 1] > 4.0
    assert np.nanmax(np.delete(s, 990, axis=0)) < 0.1


def test_silence_where_there_was_life_is_found() -> None:
    x = np.random.default_rng(1).poisson(20.0, (1000, 1)).astype(float)
    x[900:905] = 0.0
    assert run(CountModel(), x)[900:905].min() > 4.0


def test_laws() -> None:
    rng = np.random.default_rng(2)
    x = rng.poisson(3.0, (400, 2)).astype(float)
    x[50:60, 1] = np.nan
    assert isinstance(CountModel(), Model)
    whole = run(CountModel(), x)
    first, second = CountModel(), CountModel()
    np.testing.assert_array_equal(run(first, x[:150]), whole[:150])
    second.restore(first.snapshot())
    np.testing.assert_array_equal(run(second, x[150:], first=150), whole[150:])
    np.testing.assert_array_equal(run(CountModel(), x[:, :1]), whole[:, :1])
    with pytest.raises(ConfigError, match="memory must be in"):
        CountModel(memory=1)
