from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import Model
from models.light import LightModel
from models.light_kernels import BUCKETS, FIELDS, refit_tail
from models.light_layout import blocks_of, rows_of
from telemetry.errors import ConfigError, StoreError
from telemetry.types import Float64, Panel, Scores, SeriesKey
from tests.naive.light import NaiveLight, naive_tail

SECOND = 10**9


def panel_of(
    values: Float64,
    window_ns: int = SECOND // 10,
    first: int = 0,
    slots: Float64 | None = None,
    names: Sequence[object] = "",
) -> Panel:
    """A panel of one column `p99` (and the clock's slot) from (windows, series) values."""
    windows, series = values.shape
    keys = tuple(SeriesKey.of("h", "m_ns", i=n) for n in (names or range(series)))
    cube = values[:, :, None]
    columns: tuple[str, ...] = ("p99",)
    if slots is not None:
        cube = np.concatenate([cube, np.broadcast_to(slots[:, None, None], cube.shape)], axis=2)
        columns = ("p99", "clock_slot")
    return Panel(keys, columns, window_ns, (np.arange(windows) + 1 + first) * window_ns, cube)


def run(model: LightModel, panel: Panel, cuts: tuple[int, ...] = ()) -> Scores:
    model.align(panel.keys)
    parts = []
    for a, b in zip((0, *cuts), (*cuts, len(panel.end_ns)), strict=True):
        parts.append(
            model.advance(
                Panel(panel.keys, panel.columns, panel.window_ns, panel.end_ns[a:b], panel.values[a:b]), explain=True
            )
        )

    def join(name: str) -> Float64:
        return np.concatenate([getattr(p, name) for p in parts])

    return Scores(
        panel.keys,
        panel.channels,
        panel.end_ns,
        *(join(n) for n in ("surprise", "side", "expected", "lo", "hi")),
    )


def same(a: Scores, b: Scores) -> None:
    for name in ("surprise", "side", "expected", "lo", "hi"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def noise(windows: int, series: int, seed: int = 0) -> Float64:
    return np.random.default_rng(seed).normal(100.0, 3.0, (windows, series))


def test_it_is_a_model() -> None:
    assert isinstance(LightModel(), Model)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 399), max_size=6, unique=True), st.booleans())
def test_splitting_the_windows_changes_nothing(seed: int, cuts: list[int], clock: bool) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(100.0, 3.0, (400, 3))
    x[rng.random(x.shape) < 0.1] = np.nan
    x[200:, 1] += 40.0
    slots = (np.arange(400) % 60 // 5).astype(float) if clock else None
    panel = panel_of(x, slots=slots)
    same(run(LightModel(), panel), run(LightModel(), panel, tuple(sorted(cuts))))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 299))
def test_restoring_continues_exactly(seed: int, cut: int) -> None:
    x = np.random.default_rng(seed).exponential(5.0, (300, 2))
    panel = panel_of(x, slots=(np.arange(300) % 30).astype(float))
    whole = run(LightModel(), panel)
    first = LightModel()
    run(first, Panel(panel.keys, panel.columns, panel.window_ns, panel.end_ns[:cut], panel.values[:cut]))
    second = LightModel()
    second.restore({k: v.copy() for k, v in first.snapshot().items()})
    rest = run(second, Panel(panel.keys, panel.columns, panel.window_ns, panel.end_ns[cut:], panel.values[cut:]))
    np.testing.assert_array_equal(whole.surprise[cut:], rest.surprise)
    np.testing.assert_array_equal(whole.hi[cut:] if whole.hi is not None else 0, rest.hi)


def test_later_windows_change_nothing() -> None:
    x = noise(400, 2)
    other = x.copy()
    other[300:] *= 5.0
    np.testing.assert_array_equal(
        run(LightModel(), panel_of(x)).surprise[:300], run(LightModel(), panel_of(other)).surprise[:300]
    )


def test_missing_values_change_nothing() -> None:
    x = noise(300, 1)
    with_gaps = np.full((600, 1), np.nan)
    with_gaps[::2] = x
    with_gaps[1::4] = np.inf
    scores = run(LightModel(), panel_of(with_gaps))
    np.testing.assert_array_equal(scores.surprise[::2], run(LightModel(), panel_of(x)).surprise)
    assert np.isnan(scores.surprise[1::2]).all()
    assert (scores.side[1::2] == 0).all()


def test_series_do_not_know_each_other_and_state_follows_the_key() -> None:
    x = noise(300, 3)
    model = LightModel()
    run(model, panel_of(x[:100, :2], names="ab"))
    first = run(model, panel_of(x[100:200, [0, 1, 2]], first=100, names="abc"))
    later = run(model, panel_of(x[200:, [2, 0]], first=200, names="ca"))
    alone = run(LightModel(), panel_of(x[:, :1], names="a")).surprise
    np.testing.assert_array_equal(first.surprise[:, :1], alone[100:200])
    np.testing.assert_array_equal(later.surprise[:, 1:], alone[200:])
    newcomer = run(LightModel(), panel_of(x[100:, 2:], names="c")).surprise
    np.testing.assert_array_equal(later.surprise[:, :1], newcomer[100:])


@pytest.mark.parametrize("clock", [False, True])
def test_a_channel_does_not_know_its_neighbours_in_a_block(clock: bool) -> None:
    rng = np.random.default_rng(3)
    x = noise(400, 70, seed=3)
    x[rng.random(x.shape) < 0.05] = np.nan  # so their ages differ: each has its slow views and refits at its own time
    x[200:, 1::9] *= 2.0
    x[:150, 40:50] = np.nan
    x[:, 66] = 7.0
    slots = (np.arange(400) % 40 // 4).astype(float) if clock else None
    together = run(LightModel(relearn=60), panel_of(x, slots=slots), (100, 101, 250))
    for n in (0, 10, 31, 32, 45, 63, 64, 66, 69):
        alone = run(LightModel(relearn=60), panel_of(x[:, n : n + 1], slots=slots, names=[n]))
        for name in ("surprise", "side", "expected", "lo", "hi"):
            np.testing.assert_array_equal(
                getattr(together, name)[:, n], getattr(alone, name)[:, 0], err_msg=f"{n} {name}"
            )


def test_registers_go_into_blocks_and_come_back() -> None:
    for channels in (0, 1, 32, 33, 100):
        rows = np.random.default_rng(channels).random((channels, len(FIELDS)))
        blocks = blocks_of(rows)
        assert not channels or blocks.ctypes.data % 64 == 0
        np.testing.assert_array_equal(rows_of(blocks, channels), rows)


def test_columns_are_independent() -> None:
    x = noise(200, 2)
    key = SeriesKey.of("h", "m_ns", i=0)
    both = Panel((key,), ("p50", "p99"), SECOND, np.arange(1, 201) * SECOND, x[:, None, :])
    one = Panel((key,), ("p50",), SECOND, both.end_ns, x[:, None, :1])
    np.testing.assert_array_equal(run(LightModel(), both).surprise[:, :, :1], run(LightModel(), one).surprise)


def test_warm_up_is_nan_and_little_history_cannot_claim_much() -> None:
    x = noise(200, 5)
    x[100:105] += 1e6
    scores = run(LightModel(warmup=40), panel_of(x)).surprise[:, :, 0]
    assert np.isnan(scores[:40]).all()
    assert np.isfinite(scores[40:]).all()
    assert (scores[40:] <= 1.5 * np.log10(np.arange(40, 200) + 1.0)[:, None]).all()
    assert (scores[100] > 2.9).all()


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, n: rng.normal(0.0, 1.0, n),
        lambda rng, n: rng.standard_t(3, n),
        lambda rng, n: np.exp(rng.normal(0.0, 1.5, n)),
        lambda rng, n: rng.poisson(0.05, n).astype(float),
        lambda rng, n: rng.poisson(5.0, n).astype(float),
        lambda rng, n: (rng.random(n) < 0.05) * rng.exponential(50.0, n),
        lambda rng, n: np.full(n, 7.0),
    ],
    ids=["normal", "heavy", "lognormal", "rare counts", "counts", "zero-inflated", "constant"],
)
def test_surprise_is_honest(draw: object) -> None:
    rng = np.random.default_rng(5)
    s = run(LightModel(), panel_of(draw(rng, (12_000, 40)))).surprise[2_000:]  # type: ignore[operator]
    for level in (1.0, 2.0, 3.0):
        assert np.mean(s >= level) * 10.0**level < 2.0, level


def test_a_first_event_after_many_zeros_and_many_of_them() -> None:
    x = np.zeros((2_000, 2))
    x[1_000, 0] = 1.0
    x[1_000, 1] = 5_000.0
    key = SeriesKey("h", "udp_rcvbuf_errors_total")
    panel = Panel((key,), ("count", "count_b"), SECOND, np.arange(1, 2_001) * SECOND, x[:, None, :])
    s = run(LightModel(), panel).surprise[:, 0, :]
    assert 2.5 < s[1_000, 0] < s[1_000, 1]
    assert (np.delete(s, 1_000, axis=0)[40:] < 2.5).all()


def test_a_constant_series_that_moves_is_found() -> None:
    x = np.full((500, 1), 1e9)
    x[400:] = 1.01e9
    s = run(LightModel(), panel_of(x))
    assert s.surprise[400, 0, 0] > 3.0
    assert s.side[400, 0, 0] == 1


def test_a_lasting_step_is_flagged_then_becomes_normal() -> None:
    x = noise(6_000, 20)
    x[2_000:] += 60.0
    s = run(LightModel(relearn=200), panel_of(x)).surprise[:, :, 0]
    assert (s[2_000:2_020].max(axis=0) > 4.0).all()
    assert (s[3_000:] > 4.0).mean() < 2e-4


def test_small_lasting_shifts_add_up() -> None:
    x = noise(4_000, 20)
    x[3_000:] -= 6.0  # two sigma: no single window says much
    scores = run(LightModel(), panel_of(x))
    s = scores.surprise[:, :, 0]
    assert (s[3_000:3_100].max(axis=0) > 3.3).all()
    assert (s[2_000:3_000].max(axis=0) > 3.3).mean() < 0.5


def test_creep_does_not_hide_in_adaptation() -> None:
    minutes = 10 * 1440
    rng = np.random.default_rng(1)
    x = rng.normal(100.0, 3.0, (minutes, 10))
    ramp = np.clip((np.arange(minutes) - 8 * 1440) / 1440.0, 0.0, 1.0)
    x *= 1.0 + 0.5 * ramp[:, None]
    s = run(LightModel(), panel_of(x, window_ns=60 * SECOND)).surprise[:, :, 0]
    half = slice(8 * 1440, 8 * 1440 + 720)
    assert (s[half].max(axis=0) > 3.0).all()
    assert (s[1440 : 8 * 1440] > 3.0).mean() < 2e-3


def test_the_open_of_every_day_is_learnt_from_the_clock() -> None:
    rng = np.random.default_rng(2)
    day, days = 480, 12
    slots = np.tile(np.arange(day, dtype=float), days)
    x = rng.normal(100.0, 3.0, (day * days, 6))
    x[slots < 3] *= 20.0
    x[8 * day + 1, 0] *= 1.6  # a fault on top of the burst
    s = run(LightModel(), panel_of(x, window_ns=60 * SECOND, slots=slots)).surprise[:, :, 0]
    opens = (slots < 3) & (np.arange(day * days) >= 3 * day)
    opens[8 * day + 1] = False
    assert np.median(s[opens]) < 1.0
    assert s[8 * day + 1, 0] > max(2.2, s[opens].max())


def test_sides_and_the_band() -> None:
    x = noise(600, 1)
    x[500], x[520] = 160.0, 40.0
    scores = run(LightModel(), panel_of(x))
    assert scores.side[500, 0, 0] == 1
    assert scores.side[520, 0, 0] == -1
    assert scores.lo is not None
    assert scores.hi is not None
    assert scores.expected is not None
    inside = (x[100:500] > scores.lo[100:500, :, 0]) & (x[100:500] < scores.hi[100:500, :, 0])
    assert inside.mean() > 0.99
    assert abs(scores.expected[499, 0, 0] - 100.0) < 3.0


def test_wrong_use_is_said_in_one_line() -> None:
    with pytest.raises(ConfigError, match="alpha must be in"):
        LightModel(alpha=2.0)
    model = LightModel()
    run(model, panel_of(noise(10, 1)))
    with pytest.raises(ConfigError, match="learnt columns"):
        run(model, panel_of(noise(10, 1), window_ns=SECOND))
    state = dict(model.snapshot())
    state["version"] = np.array([99, 1])
    with pytest.raises(StoreError, match="version 99"):
        LightModel().restore(state)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6))
def test_the_kernel_is_what_the_plain_version_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = 700
    x = np.stack(
        [
            rng.normal(100.0, 3.0, rows),
            np.cumsum(rng.normal(0.0, 1.0, rows)),
            rng.poisson(0.1, rows).astype(float),
            rng.normal(50.0, 1.0, rows) + np.where(np.arange(rows) > 300, 30.0, 0.0),
            np.full(rows, 7.0),
            rng.exponential(5.0, rows) * np.where(rng.random(rows) < 0.01, 50.0, 1.0),
        ],
        axis=1,
    )
    x[rng.random(x.shape) < 0.05] = np.nan
    panel = panel_of(x)
    model = LightModel(relearn=50, memory=400)
    got = run(model, panel).surprise[:, :, 0]
    prm, quanta = model._settings()
    plain = NaiveLight(prm, model.snapshot()["registers"][:, FIELDS.index("stagger")], float(quanta[0]))
    want = np.array([plain.step(row) for row in x])
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    close = np.isclose(got, want, atol=2e-3, equal_nan=True)
    assert close.mean() > 0.999  # single precision of the tails may decide a tie the other way


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 63), st.floats(1.0, 20_000.0))
def test_a_tail_is_what_the_plain_version_says(seed: int, top: int, extra: float) -> None:
    rng = np.random.default_rng(seed)
    tails = np.zeros((1, 3, BUCKETS, 2), np.float32)
    tails[0, 0, : top + 1, 0] = rng.poisson(2.0, top + 1) * rng.random(top + 1).round(1)
    weight = float(tails[0, 0, :, 0].sum()) + extra
    refit_tail(tails, 0, 0, weight, 1e9)
    np.testing.assert_allclose(tails[0, 0, :, 1], naive_tail(tails[0, 0, :, 0].astype(float), weight), atol=1e-5)


def test_one_spike_does_not_hide_what_comes_later() -> None:
    """A stall of thousands of deviations had made one of thirteen usual for ten thousand windows."""
    x = np.random.default_rng(0).normal(100.0, 3.0, (4_000, 10))
    x[600] = 1e5
    x[3_600:3_603] += 40.0
    s = run(LightModel(), panel_of(x)).surprise[:, :, 0]
    assert np.median(s[3_600:3_603].max(axis=0)) > 2.5
    assert (s[1_000:3_600] > 3.0).mean() < 2e-3


def test_the_largest_number_there_is_stands_for_none() -> None:
    """As the first of a series (a least latency, say) it had made it blind for ever."""
    x = np.random.default_rng(0).normal(100.0, 3.0, (400, 1))
    x[300:303] += 60.0
    odd, gaps = x.copy(), x.copy()
    odd[[0, 3]], gaps[[0, 3]] = 1.7976931348623157e308, np.nan
    s = run(LightModel(), panel_of(odd)).surprise
    np.testing.assert_array_equal(s, run(LightModel(), panel_of(gaps)).surprise)
    assert s[300:303].max() > 2.0
