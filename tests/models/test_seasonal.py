from __future__ import annotations

import numpy as np
import pytest

from models.base import Model
from models.seasonal import SeasonalModel
from models.seasonal_fit import KINDS, fit_series
from telemetry.errors import ConfigError, NoDataError
from telemetry.types import Float64, Panel, SeriesKey

WINDOW = 600 * 10**9
PERIOD = 144
START = 1_700_000_000 * 10**9 // (86_400 * 10**9) * 86_400 * 10**9


def panel_of(values: Float64, first: int = 0, clock: dict[str, Float64] | None = None, names: str = "") -> Panel:
    keys = tuple(SeriesKey.of("h", "m", i=n) for n in (names or range(values.shape[1])))
    end = START + (np.arange(len(values)) + 1 + first) * WINDOW
    cube = [values, *(np.broadcast_to(c[:, None], values.shape) for c in (clock or {}).values())]
    return Panel(keys, ("value", *(clock or {})), WINDOW, end, np.stack(cube, axis=2))


def wave(days: float, series: int = 2, seed: int = 0, first: int = 0) -> Float64:
    rng = np.random.default_rng(seed)
    t = np.arange(first, first + round(days * PERIOD))
    day = 30.0 * np.sin(2 * np.pi * t / PERIOD) + 15.0 * np.sin(4 * np.pi * t / PERIOD)
    weekend = np.where(t // PERIOD % 7 >= 5, -20.0, 0.0)
    return 200.0 + (day + weekend)[:, None] + rng.normal(0.0, 2.0, (len(t), series))


@pytest.mark.parametrize("kind", KINDS)
def test_baselines_predict_another_day(kind: str) -> None:
    model = SeasonalModel(kind)
    assert isinstance(model, Model)
    model.fit(panel_of(wave(21)))
    assert model.notes == {}
    x = wave(1, first=21 * PERIOD, seed=5)
    x[70] += 40.0
    scores = model.advance(panel_of(x, first=21 * PERIOD), explain=True)
    assert scores.expected is not None
    miss = np.abs(np.delete(scores.expected[:, :, 0] - x, 70, axis=0)).mean()
    assert miss < {"level": 60.0, "median": 30.0}.get(kind, 12.0)
    if kind not in ("level",):
        assert scores.surprise[70].min() > 2.5
        assert scores.side[70, 0, 0] == 1


def test_a_day_need_not_be_a_whole_number_of_windows() -> None:
    window, per_day = 700 * 10**9, 86_400 / 700
    t = np.arange(round(15 * per_day))
    x = 200.0 + 30.0 * np.sin(2.0 * np.pi * t / per_day) + np.random.default_rng(0).normal(0.0, 1.0, len(t))
    key, end = (SeriesKey.of("h", "m"),), START + (t + 1) * window
    last = len(t) - 123
    model = SeasonalModel("median")
    model.fit(Panel(key, ("value",), window, end[:last], x[:last, None, None]))
    live = Panel(key, ("value",), window, end[last:], x[last:, None, None])
    expected = model.advance(live, explain=True).expected
    assert expected is not None
    assert np.abs(expected[:, 0, 0] - x[last:]).mean() < 2.5


def test_incidents_of_the_past_do_not_bend_the_baseline() -> None:
    clean, dirty = wave(14, 1), wave(14, 1)
    dirty[5 * PERIOD + 30 : 5 * PERIOD + 60] += 500.0
    dirty[9 * PERIOD : 9 * PERIOD + 20] = 0.0
    dirty[100:110] = np.nan
    a, b = SeasonalModel("stl"), SeasonalModel("stl")
    a.fit(panel_of(clean))
    b.fit(panel_of(dirty))
    np.testing.assert_allclose(a._profile, b._profile, atol=6.0)


def test_what_cannot_be_fitted_falls_back_and_says_so() -> None:
    model = SeasonalModel("mstl")
    x = wave(3)
    x[:, 1] = np.nan
    model.fit(panel_of(x))
    assert any(v.startswith("stl: mstl: 3.0 days of history") for v in model.notes.values())
    assert any(v.startswith("none: no value") for v in model.notes.values())
    s = model.advance(panel_of(wave(1, first=3 * PERIOD), first=3 * PERIOD)).surprise
    assert np.isfinite(s[:, 0]).all()
    assert np.isnan(s[:, 1]).all()
    short = fit_series(np.arange(50.0), np.arange(50) % PERIOD, PERIOD, PERIOD, "stl")
    assert short.used == "level"
    assert "it needs 2" in short.note
    long = fit_series(np.tile(np.arange(400.0), 4), np.arange(1600) % 400, 400, 400, "ets")
    assert long.used == "fourier"
    assert "at most 300 finish" in long.note


def test_the_interval_widens_with_age() -> None:
    rng = np.random.default_rng(3)
    x = wave(14, 1) + np.repeat(np.cumsum(rng.normal(0, 3, 14)), PERIOD)[:, None]
    model = SeasonalModel("stl")
    model.fit(panel_of(x))
    late = np.full((10 * PERIOD, 1), np.nan)
    scores = model.advance(panel_of(late, first=14 * PERIOD), explain=True)
    assert scores.hi is not None
    assert scores.lo is not None
    width = (scores.hi - scores.lo)[:, 0, 0]
    assert width[9 * PERIOD] > 1.5 * width[0]


def test_splitting_and_restoring_change_nothing() -> None:
    model = SeasonalModel("fourier")
    model.fit(panel_of(wave(7)))
    state = model.snapshot()
    x = wave(2, first=7 * PERIOD, seed=8)
    x[20, 1] = np.nan
    whole, part = SeasonalModel("fourier"), SeasonalModel("fourier")
    whole.restore(state)
    part.restore(state)
    expected = whole.advance(panel_of(x, first=7 * PERIOD), explain=True)
    a = part.advance(panel_of(x[:100], first=7 * PERIOD), explain=True)
    again = SeasonalModel("fourier")
    again.restore({k: v.copy() for k, v in part.snapshot().items()})
    b = again.advance(panel_of(x[100:], first=7 * PERIOD + 100), explain=True)
    np.testing.assert_array_equal(np.concatenate([a.surprise, b.surprise]), expected.surprise)
    np.testing.assert_array_equal(np.concatenate([a.hi, b.hi]), expected.hi)


def test_holidays_and_half_days_have_tables_of_their_own() -> None:
    days = 14
    x, n = wave(days, 1), days * PERIOD
    slot = (np.arange(n) % PERIOD).astype(float)
    phase = np.where((slot > 50) & (slot < 100), 2.0, 0.0)
    holiday = np.zeros(n)
    for d in (4, 11):
        at = slice(d * PERIOD, (d + 1) * PERIOD)
        holiday[at], x[at] = 1.0, 20.0 + np.random.default_rng(d).normal(0, 2, (PERIOD, 1))
    model = SeasonalModel("stl")
    model.fit(panel_of(x, clock={"clock_slot": slot, "clock_phase": phase, "clock_holiday": holiday}))
    one = {"clock_slot": slot[:PERIOD], "clock_phase": phase[:PERIOD], "clock_holiday": np.ones(PERIOD)}
    free = np.random.default_rng(1).normal(20.0, 2.0, (PERIOD, 1))
    s = model.advance(panel_of(free, first=n, clock=one), explain=True)
    assert s.expected is not None
    assert np.abs(s.expected - 20.0).max() < 5.0
    assert (s.surprise > 2.5).mean() < 0.05
    half = {**one, "clock_phase": np.where(slot[:PERIOD] < 75, phase[:PERIOD], 0.0), "clock_holiday": np.zeros(PERIOD)}
    e = model.advance(panel_of(wave(1, 1), first=n + PERIOD, clock=half), explain=True).expected
    assert e is not None
    assert abs(e[80, 0, 0] - model._tables[0, 0] - model._other[0, 0, 0]) < 10.0


def test_series_come_and_go() -> None:
    model = SeasonalModel("median")
    model.fit(panel_of(wave(5, 3), names="abc"))
    s = model.advance(panel_of(wave(1, 3, first=5 * PERIOD), first=5 * PERIOD, names="cax")).surprise
    assert np.isfinite(s[:, :2]).all()
    assert np.isnan(s[:, 2]).all()


def test_fitting_again_blends_old_and_new() -> None:
    model = SeasonalModel("median", keep_days=7.0)
    model.fit(panel_of(wave(7, 1)))
    before = model._profile.copy()
    shifted = wave(7, 1, first=0)[:, ::-1] * np.where(np.arange(7 * PERIOD) % PERIOD < 72, 1.5, 1.0)[:, None]
    model.fit(panel_of(shifted, first=7 * PERIOD))
    only = SeasonalModel("median")
    only.fit(panel_of(shifted, first=7 * PERIOD))
    np.testing.assert_allclose(model._profile, (before + only._profile) / 2, atol=1e-3)


@pytest.mark.slow
def test_fitting_in_parallel_gives_the_same_and_tells_progress() -> None:
    told: list[tuple[int, int]] = []
    one, two = SeasonalModel("stl"), SeasonalModel("stl", workers=2)
    two.progress = lambda done, total: told.append((done, total))
    history = panel_of(wave(6, 6))
    one.fit(history)
    two.fit(history)
    np.testing.assert_array_equal(one._profile, two._profile)
    assert told[-1] == (6, 6)


def test_errors_are_one_line() -> None:
    with pytest.raises(ConfigError, match="expected one of stl"):
        SeasonalModel("prophet")
    with pytest.raises(NoDataError, match="fit it on history first"):
        SeasonalModel().advance(panel_of(wave(1)))
    model = SeasonalModel("median")
    model.fit(panel_of(wave(3)))
    with pytest.raises(ConfigError, match="fitted on"):
        model.advance(Panel((), ("other",), WINDOW, np.empty(0, np.int64), np.empty((0, 0, 1))))
