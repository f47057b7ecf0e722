"""Quantiles: exact ones equal a sort, sketched ones keep their bound, on anything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.sketch import (
    EXACT,
    MAX_ERROR,
    SORTED,
    SPAN,
    bucket_middle,
    bucket_of,
    quantiles_exact,
    quantiles_sketch,
    summary,
)

PROBS = np.array([0.0, 0.05, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0])
EDGE = np.zeros(2)


def run(kernel: object, values: np.ndarray) -> np.ndarray:
    v, out, hist = values.astype(np.float64), np.empty(len(PROBS)), np.zeros(SPAN, np.int32)
    counted = kernel is quantiles_sketch or len(v) > SORTED
    total, low, high, over = summary(v, v.view(np.int64), 3.0, hist, counted)
    assert (low, high, over) == (values.min(), values.max(), (values > 3.0).sum())
    assert np.array_equal(total, sum(values.tolist()), equal_nan=True)
    kernel(v, v.view(np.int64), low, high, PROBS, hist, EDGE, EDGE.view(np.int64), out)  # type: ignore[operator]
    assert not hist.any(), "the histogram is left empty"
    return out


def ranks(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two order statistics around each quantile."""
    s = np.sort(values)
    at = PROBS * (len(s) - 1)
    return s[np.floor(at).astype(int)], s[np.minimum(np.floor(at).astype(int) + 1, len(s) - 1)]


numbers = st.one_of(
    st.floats(-1e6, 1e6), st.integers(-40, 40).map(float), st.floats(1e-300, 1e300),
    st.sampled_from([0.0, -0.0, 1e308, -1e308, 5e-320]),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(numbers, min_size=1, max_size=150))
def test_exact_is_a_sort(rows: list[float]) -> None:
    values = np.array(rows)
    lower, upper = ranks(values)
    got, at = run(quantiles_exact, values), PROBS * (len(values) - 1)
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = np.where(upper == lower, lower, lower + (upper - lower) * (at - np.floor(at)))
    whole = at == np.floor(at)
    np.testing.assert_array_equal(got[whole], lower[whole])
    np.testing.assert_array_equal(got[~whole], wanted[~whole])


@pytest.mark.parametrize("seed", range(4))
def test_exact_is_a_sort_for_many(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.exp(rng.normal(10, 0.8, 20_000)).astype(np.int64 if seed % 2 else np.float64)
    if seed > 1:
        values[:15_000] = values[0]
    np.testing.assert_allclose(run(quantiles_exact, values), np.quantile(values, PROBS), rtol=1e-15)


@settings(max_examples=150, deadline=None)
@given(st.lists(numbers.filter(lambda x: x == 0 or abs(x) > 1e-300), min_size=EXACT + 1, max_size=150))
def test_the_sketch_keeps_its_bound(rows: list[float]) -> None:
    values = np.array(rows)
    got, (lower, upper) = run(quantiles_sketch, values), ranks(values)
    slack = 1 + 1e-12
    low = lower - MAX_ERROR * np.abs(lower) * slack
    high = upper + MAX_ERROR * np.abs(upper) * slack
    ok = (got >= low) & (got <= high)
    assert ok.all(), (got, lower, upper)


def test_the_bound_of_every_bucket() -> None:
    """Each bucket's middle is within the bound of both of its edges: the proof, checked on all 131,008."""
    edges = (np.arange(64, 131_009) << 46).astype(np.int64)  # normal numbers, from the smallest
    low, high = edges[:-1].view(np.float64), edges[1:].view(np.float64)
    middle = np.array([bucket_middle(bucket_of(int(e)), EDGE, EDGE.view(np.int64)) for e in edges[:-1]])
    inside = np.isfinite(high)
    assert (np.abs(middle - low)[inside] <= MAX_ERROR * low[inside]).all()
    assert (np.abs(high - middle)[inside] <= MAX_ERROR * high[inside] * (1 + 1e-9)).all()
