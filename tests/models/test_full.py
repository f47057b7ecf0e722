"""The full model against its naive twin, the laws, and what it promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from detectors.checks import check_model
from models import views as kernel
from models.ensemble import FullModel, evidence_of, surprise_of
from models.novelty import LAG, MEMORIES, STRETCH
from models.seasonal_slots import PROFILE
from models.views import ORIGIN, RANKS, REGISTERS, RING, RLS, VIEWS, step_views
from telemetry.errors import ConfigError, StoreError
from telemetry.types import Panel, SeriesKey
from tests.naive.full import views as naive_views

STEP = 300 * 10**9


def panel_of(*series, start=0, step=STEP):
    values = np.stack(series, axis=1)[:, :, None]
    keys = tuple(SeriesKey("h", f"m{i}") for i in range(values.shape[1]))
    return Panel(keys, ("v",), step, start + step * np.arange(len(values)), values)


def surprise_by(model, panel):
    model.align(panel.keys)
    return model.advance(panel).surprise[:, :, 0]


@njit
def run_views(x, slots, others, angle, out):
    reg, rings, medians = np.zeros(REGISTERS), np.zeros((4, RING)), np.zeros((2, 144))
    ranks, profile, weights = np.zeros((2, RANKS)), np.zeros((PROFILE, 288)), np.zeros(RLS)
    cov, memory = np.zeros((RLS, RLS)), np.zeros((STRETCH, MEMORIES), np.float32)
    waiting, band = np.zeros((LAG, STRETCH), np.float32), np.zeros(5)
    reg[ORIGIN] = x[0]
    for i in range(len(x)):
        c, s = np.cos(angle[i]), np.sin(angle[i])
        step_views(
            x[i], slots[i], others[i], c, s, reg, rings, medians, ranks, profile, weights, cov, memory, waiting,
            out[i], band,
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["normal", "counts", "season"])
def test_views_equal_their_definitions(kind):
    rng = np.random.default_rng(7)
    n = 1400
    t = np.arange(n)
    x = {
        "normal": rng.normal(50.0, 4.0, n),
        "counts": rng.poisson(1.3, n).astype(float),
        "season": 10 * np.sin(2 * np.pi * t / 288) + rng.normal(0, 1, n),
    }[kind]
    slots, others = t % 288, (t // 288 % 7 >= 5).astype(np.int64)
    angle = 2 * np.pi * slots / 288
    got = np.zeros((n, len(VIEWS)))
    run_views(x, slots, others, angle, got)
    want = naive_views(x, slots, others, angle)
    assert set(want) == set(VIEWS)
    for j, name in enumerate(VIEWS):
        tolerance = 1e-3 if name.startswith("novel") else 1e-6
        worst = np.abs(got[:, j] - want[name]).max()
        assert worst <= tolerance * max(np.abs(want[name]).max(), 1.0), (name, worst)


def test_running_sums_survive_a_giant():
    rng = np.random.default_rng(3)
    x = rng.normal(0, 1, 1600)
    x[300] = 1e12
    slots = np.arange(1600) % 288
    got = np.zeros((1600, len(VIEWS)))
    run_views(x, slots, np.zeros(1600, np.int64), 2 * np.pi * slots / 288, got)
    quiet = got[1300:, kernel.VIEWS.index("spread_12")]
    assert np.all((quiet > 0.2) & (quiet < 3.0))
    assert np.abs(got[1300:, kernel.VIEWS.index("mean_48")] - (0 - x[0])).max() < 2.0


@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(1, 499), max_size=4), st.integers(0, 1000))
def test_laws(cuts, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(500, 2))
    x[rng.random((500, 2)) < 0.05] = np.nan
    check_model(FullModel, panel_of(x[:, 0], x[:, 1]), cuts)


def test_series_do_not_know_each_other_and_state_follows_the_key():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=400), rng.gamma(2.0, size=400)
    both = panel_of(a, b)
    alone = Panel(both.keys[1:], both.columns, both.window_ns, both.end_ns, both.values[:, 1:])
    together = surprise_by(FullModel(), both)
    assert np.array_equal(together[:, 1:], surprise_by(FullModel(), alone), equal_nan=True)
    model = FullModel()
    model.align(both.keys)
    head = Panel(both.keys, both.columns, both.window_ns, both.end_ns[:200], both.values[:200])
    model.advance(head)
    tail = Panel(both.keys[::-1], both.columns, both.window_ns, both.end_ns[200:], both.values[200:, ::-1])
    assert np.array_equal(surprise_by(model, tail), together[200:, ::-1], equal_nan=True)


def test_truncation_changes_nothing_before():
    x = np.random.default_rng(2).normal(size=700)
    whole = surprise_by(FullModel(), panel_of(x))
    assert np.array_equal(surprise_by(FullModel(), panel_of(x[:450])), whole[:450], equal_nan=True)


def test_missing_values_are_not_scored_and_teach_nothing():
    x = np.random.default_rng(4).normal(size=400)
    gappy = np.insert(x, 250, [np.nan, np.inf])
    clean = surprise_by(FullModel(clock=False), panel_of(x))
    holed = surprise_by(FullModel(clock=False), panel_of(gappy))
    assert np.isnan(holed[250:252]).all()
    assert np.array_equal(np.delete(holed, [250, 251], axis=0), clean, equal_nan=True)


@pytest.mark.parametrize("shape", ["spike", "step", "drop", "flat", "noise"])
def test_finds_what_anyone_would_see(shape):
    rng = np.random.default_rng(5)
    x = 100 + rng.normal(0, 2, 2000)
    at = 1500
    if shape == "spike":
        x[at : at + 2] += 40
    elif shape == "step":
        x[at:] += 15
    elif shape == "drop":
        x[at:] -= 15
    elif shape == "flat":
        x[at:] = x[at]
    else:
        x[at:] += rng.normal(0, 12, 500)
    s = surprise_by(FullModel(), panel_of(x))[:, 0]
    assert np.nanmax(s[at : at + 40]) > 2.05  # the alert's threshold
    assert (s[200:at] > 2.05).mean() < 0.005


@pytest.mark.parametrize("hours", [1, 24])
def test_a_slow_ramp_is_told_before_its_half(hours):
    rng = np.random.default_rng(8)
    n, at, length = 6000, 3000, 60 * hours
    x = 150 * np.exp(0.004 * rng.normal(size=n)) + rng.exponential(0.3, n)
    x *= 1 + 0.25 * np.clip((np.arange(n) - at) / length, 0, 1)
    s = surprise_by(FullModel(), panel_of(x, step=60 * 10**9))[:, 0]
    assert np.nanmax(s[at : at + length // 2]) > 3.3
    assert (s[300:at] > 3.3).sum() <= 2


def test_constant_series_is_never_surprising():
    assert np.nanmax(surprise_by(FullModel(), panel_of(np.full(800, 7.0)))) == 0.0


@pytest.mark.parametrize("first", [2.0**63, 1e36, -1.7976931348623157e308])
@pytest.mark.parametrize("careful", [0.0, 2.0])
def test_a_first_value_that_stands_for_none_does_not_make_it_blind(first, careful):
    """Values are measured from the first one: beside the largest number there is, all others had been alike."""
    x = np.random.default_rng(0).normal(100.0, 3.0, 3_000)
    x[0] = first
    x[2_500:2_504] += 60.0
    s = surprise_by(FullModel(careful=careful), panel_of(x))[:, 0]
    assert s[2_500:2_506].max() > 2.5
    assert (s[1_000:2_500] > 3.0).mean() < 3e-3


def test_session_clock_is_used():
    rng = np.random.default_rng(6)
    n, day = 6000, 400
    slot = np.arange(n) % day
    x = rng.normal(0, 1, n) + np.where((slot >= 100) & (slot < 130), 30.0, 0.0)
    x[12 * day + 200] += 30.0
    key = (SeriesKey("h", "m"),)
    values = np.stack([x, slot.astype(float)], axis=1)[:, None, :]
    panel = Panel(key, ("v", "clock_slot"), STEP, STEP * np.arange(n), values)
    s = surprise_by(FullModel(), panel)
    assert s.shape == (n, 1)
    opens = np.flatnonzero((slot >= 100) & (slot < 112) & (np.arange(n) > 13 * day))
    assert s[12 * day + 200 : 12 * day + 203, 0].max() > 2.0
    assert np.nanmax(s[opens]) < 2.0


def test_evidence_and_surprise_are_inverse():
    e = np.linspace(0.0, 9.0, 50)
    assert np.allclose(evidence_of(surprise_of(e)), e)
    assert np.all(np.diff(surprise_of(e)) > 0)


def test_wrong_state_and_columns_are_refused():
    model = FullModel()
    panel = panel_of(np.arange(5.0))
    surprise_by(model, panel)
    with pytest.raises(ConfigError, match="learnt columns"):
        model.advance(Panel(panel.keys, ("other",), STEP, panel.end_ns, panel.values))
    state = dict(model.snapshot())
    with pytest.raises(StoreError, match="version"):
        FullModel().restore({**state, "version": np.array([99, 288])})
    with pytest.raises(StoreError, match="shape"):
        FullModel().restore({**state, "fit": np.zeros((1, 2))})


@pytest.mark.parametrize("none", [1e6, 1e12, -(2.0**63)])
def test_a_value_that_stands_for_none_does_not_hide_what_comes_after_it(none):
    x = np.random.default_rng(11).normal(100.0, 3.0, 1_600)
    x[1_000] = none
    x[1_300:1_330] += 30.0
    seen = surprise_by(FullModel(), panel_of(x))[:, 0]
    assert seen[1_000] > 3.0
    assert seen[1_300:1_330].max() > 3.0
