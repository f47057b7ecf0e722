"""A fit by parts of the series is the fit of all, bit for bit."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from detectors.build import MODELS, build_model
from models.base import Model
from models.seasonal import SeasonalModel
from models.spread import ONE_PIECE, PER_SERIES, FitsOver, fit_by_series
from telemetry.types import Panel, Part, SeriesKey

MINUTE = 60 * 10**9


def elsewhere(task: Callable[[Any], Any], work: Sequence[Any]) -> list[Any]:
    """As another process would: what goes and what comes is pickled; the last is done first."""
    results = [pickle.dumps(pickle.loads(pickle.dumps(task))(pickle.loads(pickle.dumps(w)))) for w in reversed(work)]
    return [pickle.loads(r) for r in reversed(results)]


def panel_of(series: int, windows: int, *, first: int = 0, clock: bool = False) -> Panel:
    rng = np.random.default_rng(series + first)
    values = rng.poisson(30.0, (windows, series, 2)).astype(float)
    values[:, :, 1] += rng.normal(0.0, 1.0, (windows, series))
    values[windows // 2 :, ::3] += 25.0
    values[: windows // 3, 1] = np.nan
    values[:, 2, 1] = np.nan
    keys = tuple(SeriesKey.of(f"h{i % 4}", "lat_ns", flow="x" * (i % 7) + str(i)) for i in range(series))
    columns = ("count", "p99")
    if clock:
        slot = np.broadcast_to(
            (np.arange(first, first + windows) % 48).astype(float)[:, None], (windows, series)
        ).copy()
        slot[:, 3] = np.nan
        values = np.concatenate([values, slot[:, :, None]], axis=2)
        columns = ("count", "p99", "clock_slot")  # type: ignore[assignment]
    end = 1_700_000_000 * 10**9 // MINUTE * MINUTE + (np.arange(windows) + 1 + first) * MINUTE
    return Panel(keys, columns, MINUTE, end, values)


def same(a: Model, b: Model) -> None:
    left, right = a.snapshot(), b.snapshot()
    assert list(left) == list(right)
    for name, array in left.items():
        assert array.dtype == right[name].dtype, name
        np.testing.assert_array_equal(array, right[name], err_msg=name, strict=True)


@pytest.mark.parametrize("series", [1, 5, 70])
@pytest.mark.parametrize("kind", sorted(PER_SERIES))
def test_series_apart_are_one_fit(kind: str, series: int) -> None:
    history = panel_of(max(series, 4), 260, clock=kind == "full") if series > 1 else _one()
    whole, parts = build_model(Part(kind)), build_model(Part(kind))
    whole.fit(history)
    fit_by_series(parts, history, elsewhere)
    same(whole, parts)
    more = panel_of(len(history.keys), 40, first=260, clock="clock_slot" in history.columns) if series > 1 else history
    a, b = whole.advance(more), parts.advance(more)
    np.testing.assert_array_equal(a.surprise, b.surprise)
    whole.fit(more)  # what has a state already goes on from it
    fit_by_series(parts, more, elsewhere)
    same(whole, parts)


def _one() -> Panel:
    some = panel_of(4, 260)
    return Panel(some.keys[:1], some.columns, some.window_ns, some.end_ns, some.values[:, :1])


def test_a_seasonal_baseline_hands_its_channels_out() -> None:
    x = panel_of(6, 3 * 1440 // 10)
    history = Panel(x.keys, x.columns, 10 * MINUTE, x.end_ns[0] + np.arange(len(x.end_ns)) * 10 * MINUTE, x.values)
    whole, parts = SeasonalModel("stl"), SeasonalModel("stl")
    whole.fit(history)
    parts.fit_over(history, elsewhere)
    same(whole, parts)
    assert whole.notes == parts.notes


def test_every_kind_is_spread_or_known_to_be_one_piece() -> None:
    assert set(MODELS) == {*PER_SERIES, *ONE_PIECE, "seasonal", "light", "counts"}
    assert isinstance(SeasonalModel(), FitsOver)
    assert not any(isinstance(build_model(Part(kind)), FitsOver) for kind in PER_SERIES)
