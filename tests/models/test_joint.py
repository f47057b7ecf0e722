from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import Model
from models.joint import JointModel
from models.joint_parts import solve_ridge
from telemetry.errors import ConfigError, StoreError
from telemetry.types import Float64, Panel, Scores, SeriesKey
from tests.naive.joint import evidence, ridge

SECOND = 10**9


def panel_of(values: Float64, names: str = "", first: int = 0) -> Panel:
    keys = tuple(SeriesKey.of("h", "m", i=n) for n in (names or range(values.shape[1])))
    return Panel(keys, ("value",), SECOND, (np.arange(len(values)) + 1 + first) * SECOND, values[:, :, None])


def run(model: JointModel, panel: Panel, cuts: tuple[int, ...] = ()) -> Scores:
    model.align(panel.keys)
    parts = []
    for a, b in zip((0, *cuts), (*cuts, len(panel.end_ns)), strict=True):
        parts.append(
            model.advance(
                Panel(panel.keys, panel.columns, panel.window_ns, panel.end_ns[a:b], panel.values[a:b]), explain=True
            )
        )
    cube = [np.concatenate([getattr(p, n) for p in parts]) for n in ("surprise", "side", "expected", "parts")]
    return Scores(panel.keys, panel.channels, panel.end_ns, cube[0], cube[1], cube[2], parts=cube[3])


def related(rows: int, series: int, seed: int = 0) -> Float64:
    """Series that follow one hidden load with lags, and noise."""
    rng = np.random.default_rng(seed)
    load = np.zeros(rows + 8)
    for i in range(1, len(load)):
        load[i] = 0.95 * load[i - 1] + rng.normal(0, 1)
    return np.stack([load[8 - c % 3 : rows + 8 - c % 3] * (1 + c) + rng.normal(0, 0.3, rows) for c in range(series)], 1)


def test_it_is_a_model() -> None:
    assert isinstance(JointModel(), Model)


def test_the_solver_is_a_ridge_regression() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(0, 1, (200, 7)), rng.normal(0, 1, (200, 3))
    weights = np.zeros((7, 3))
    solve_ridge(x.T @ x, x.T @ y, 2.0, 7, 3, np.zeros((7, 7)), weights)
    np.testing.assert_allclose(weights, ridge(x, y, 2.0), rtol=1e-9)


def test_evidence_is_what_the_plain_version_says() -> None:
    x = related(900, 4)
    model = JointModel(hold=0.0, top=2, share=0.2)
    model.fit(panel_of(x[:600]))
    state = {k: np.array(v) for k, v in model.snapshot().items()}
    state["marks"][2] = state["marks"][3] = 1e18  # no refit of regression or tails from here on
    state["smooth"][:2] = 0.0
    model.restore(state)
    got = model.advance(panel_of(x[600:], first=600)).parts
    assert got is not None
    plain = evidence(x[597:], state["low"], state["size"], state["weights"][0], state["tails"][:2], 2.0, 0.5, 2)
    np.testing.assert_allclose(np.sort(got[:, :, 0], axis=1)[:, -2:].mean(axis=1), plain, atol=1e-9)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 399), max_size=5, unique=True))
def test_splitting_the_windows_changes_nothing(seed: int, cuts: list[int]) -> None:
    x = related(400, 4, seed)
    x[np.random.default_rng(seed).random(x.shape) < 0.05] = np.nan
    whole, split = run(JointModel(), panel_of(x)), run(JointModel(), panel_of(x), tuple(sorted(cuts)))
    for name in ("surprise", "side", "expected", "parts"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(split, name), err_msg=name)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 299))
def test_restoring_continues_exactly(seed: int, cut: int) -> None:
    x = related(300, 3, seed)
    whole = run(JointModel(), panel_of(x)).surprise
    first, second = JointModel(), JointModel()
    run(first, panel_of(x[:cut]))
    second.restore({k: v.copy() for k, v in first.snapshot().items()})
    np.testing.assert_array_equal(run(second, panel_of(x[cut:], first=cut)).surprise, whole[cut:])


def test_a_broken_relation_is_found_and_the_channel_named() -> None:
    x = related(3_000, 6)
    x[2_500:2_520, 2] += np.random.default_rng(3).normal(0, 15, 20)
    model = JointModel()
    model.fit(panel_of(x[:2_000]))
    scores = model.advance(panel_of(x[2_000:], first=2_000))
    s = scores.surprise[:, 0, 0]
    assert scores.parts is not None
    assert s[500:520].max() > 3.0
    assert int(np.argmax(scores.parts[510, :, 0])) == 2
    assert (s[:500] > 3.0).mean() < 0.02
    np.testing.assert_array_equal(scores.surprise[:, 1, 0], s)


def test_a_report_lasts_while_its_channel_is_away_and_fades_soon_after() -> None:
    x = related(2_600, 6)
    x[2_300:2_360, 2] += 40.0
    model = JointModel()
    model.fit(panel_of(x[:2_000]))
    s = model.advance(panel_of(x[2_000:], first=2_000)).surprise[:, 0, 0]
    assert s[300:305].max() > 2.5
    assert s[330] > 0.4 * s[305]
    assert s[395] < 0.1 * s[360]


def test_without_history_it_warms_up_and_caps_what_it_claims() -> None:
    s = run(JointModel(), panel_of(related(600, 3))).surprise[:, 0, 0]
    assert np.isnan(s[:128]).all()
    assert np.isfinite(s[128:]).all()
    assert (s[128:] <= 1.5 * np.log10(np.arange(128, 600) + 1.0)).all()


def test_missing_series_and_series_that_come_and_go() -> None:
    x = related(1_200, 4)
    model = JointModel()
    run(model, panel_of(x[:600, :3], names="abc"))
    with_gap = x[600:700].copy()
    with_gap[20:40, 1] = np.nan
    with_gap[50] = np.nan
    scores = run(model, panel_of(with_gap, names="abcd", first=600))
    s = scores.surprise[:, 0, 0]
    assert np.isnan(s[50])
    assert np.isfinite(np.delete(s, 50)).all()
    assert scores.parts is not None
    assert np.isnan(scores.parts[20:40, 1]).all()
    later = run(model, panel_of(x[700:, [3, 0, 2]], names="dac", first=700)).surprise[:, 0, 0]
    assert (later > 4.0).mean() < 0.02


def test_a_row_without_values_changes_nothing() -> None:
    x = related(300, 3)
    gaps = np.repeat(x, 2, axis=0)
    gaps[1::2] = np.nan
    a, b = run(JointModel(), panel_of(x)).surprise, run(JointModel(), panel_of(gaps)).surprise
    np.testing.assert_array_equal(a, b[::2])


def test_dropping_and_reordering_keeps_the_regression() -> None:
    x = related(1_000, 5)
    model = JointModel()
    run(model, panel_of(x, names="abcde"))
    before = {k: np.array(v) for k, v in model.snapshot().items()}
    model.align(panel_of(x[:, [4, 0, 2]], names="eac").keys)
    after = model.snapshot()
    np.testing.assert_array_equal(after["weights"][0, 0, 1], before["weights"][0, 4, 0])  # a from e, first lag
    np.testing.assert_array_equal(after["gram"][0, 7, 5], before["gram"][0, 10, 7])  # a, c
    np.testing.assert_array_equal(after["weights"][0, 9, 2], before["weights"][0, 15, 2])  # the constant of c


def test_many_series_are_split_into_groups() -> None:
    model = JointModel(group=4)
    s = run(model, panel_of(related(400, 10))).surprise
    assert model.snapshot()["gram"].shape[0] == 3
    assert np.isfinite(s[130:]).all()


def test_wrong_use_is_said_in_one_line() -> None:
    with pytest.raises(ConfigError, match="order must be in"):
        JointModel(order=0)
    with pytest.raises(StoreError, match="joint: state of"):
        JointModel(order=2).restore(JointModel().snapshot())


@pytest.mark.parametrize("rows", [0, 20, 100])
def test_too_little_history_does_not_make_it_blind(rows: int) -> None:
    """After history windows teach hardly anything: but not while the tails know next to nothing."""
    x = np.random.default_rng(1).normal(100.0, 1.0, (6_000, 6))
    x[:, :3] += np.random.default_rng(2).normal(0.0, 3.0, (6_000, 1))
    x[5_500:5_505] += 12.0 * np.array([1.0, -1.0, 1.0, 0.0, 0.0, 1.0])
    model = JointModel()
    model.fit(panel_of(x[:rows]))
    s = model.advance(panel_of(x[rows:])).surprise[:, 0, 0]
    assert np.nanmax(s[5_500 - rows : 5_510 - rows]) > 2.5
    assert (s[1_000 : 5_500 - rows] > 3.0).mean() < 0.01
