"""Windows, rates, shapes, ratios and joins against their definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings

from features.spec import build_features
from telemetry.types import Events, Panel, Part, SeriesKey
from tests.features.streams import CPU, MS, START, streams
from tests.naive import features as naive

S = 1000 * MS
LATE, IDLE, AHEAD = 120 * MS, 900 * MS, 10**15


def panels(parts: Sequence[Part], events: Events, **setting: int) -> tuple[Panel, ...]:
    given_ = {"lateness_ns": LATE, "idle_timeout_ns": IDLE, "max_ahead_ns": AHEAD, **setting}
    builder = build_features(parts, **given_)  # type: ignore[arg-type]
    builder.push(events)
    return builder.close(builder.watermark_ns)


def stream(rows: list[tuple[str, int, float]], ints: bool = False) -> Events:
    """Rows of (series, milliseconds, value)."""
    names = list(dict.fromkeys(r[0] for r in rows))
    time = np.array([START + r[1] * MS for r in rows], np.int64)
    value = np.array([r[2] for r in rows])
    keys = tuple(SeriesKey.parse(n) for n in names)
    series = np.array([names.index(r[0]) for r in rows], np.int64)
    return Events(keys, series, time, np.maximum.accumulate(time), value.astype(np.int64) if ints else value)


def close_to(got: float, wanted: float, where: object = None) -> None:
    assert got == pytest.approx(wanted, rel=1e-9, abs=1e-9, nan_ok=True), where


@settings(max_examples=40, deadline=None)
@given(streams())
def test_windows(events: Events) -> None:
    columns = "count,sum,mean,min,max,var,std,p50,p90,p99,last,twp50,twp90"
    for window, step in ((100 * MS, 100 * MS), (300 * MS, 100 * MS)):
        part = Part("window", {"window": window, "step": step, "columns": columns, "select": "wire_latency_ns"})
        (panel,) = panels([part], events)
        kept, marks = naive.watermarks(events, LATE, IDLE, AHEAD)
        samples = naive.by_series(events, kept)
        assert (panel.end_ns % step == 0).all()
        assert all(panel.end_ns <= max(marks))
        for s, key in enumerate(panel.keys):
            mine = samples.get(key, [])
            born = min((t // step * step for t, _ in mine), default=math.inf)
            for w, end in enumerate(panel.end_ns.tolist()):
                got = dict(zip(panel.columns, panel.values[w, s], strict=True))
                inside = np.array([v for _, v in naive.in_window(mine, end - window, end)])
                for q, name in ((0.5, "twp50"), (0.9, "twp90")):
                    if len(inside):
                        close_to(got[name], naive.time_weighted(mine, end - window, end, 10 * window, q), (name, w))
                for name, of in naive.PLAIN.items():
                    if len(inside):
                        close_to(got[name], of(inside), (name, key, w))
                    elif name in ("count", "sum"):
                        assert got[name] == 0 or math.isnan(got[name])
                        assert math.isnan(got[name]) or born < end
                    else:
                        assert math.isnan(got[name])


@settings(max_examples=40, deadline=None)
@given(streams())
def test_rates(events: Events) -> None:
    window, gap = 200 * MS, 1000 * MS
    part = Part("rate", {"window": window, "columns": "rate,increment", "gap": gap, "select": 'metric=~".*_total"'})
    (panel,) = panels([part], events)
    kept, _ = naive.watermarks(events, LATE, IDLE, AHEAD)
    samples = naive.by_series(events, kept)
    boots = {k.host: [t for t, v in x if v] for k, x in samples.items() if k.metric == "boot_id_changed"}
    for s, key in enumerate(panel.keys):
        pairs = naive.increments(samples.get(key, []), gap, key.metric == "irq_total", boots.get(key.host, []))
        for w, end in enumerate(panel.end_ns.tolist()):
            rate, up = naive.rate(pairs, end - window, end)
            close_to(panel.values[w, s, 0], rate, (key, w))
            close_to(panel.values[w, s, 1], up, (key, w))


@settings(max_examples=30, deadline=None)
@given(streams())
def test_shapes(events: Events) -> None:
    columns = ("total", "top_share", "entropy", "gini", "imbalance", "active")
    base = Part("rate", {"select": CPU, "window": "200ms", "columns": "increment"})
    part = Part("shape", {"select": CPU, "over": "cpu", "window": "200ms", "columns": list(columns)})
    (members,), (groups,) = panels([base], events), panels([part], events)
    assert all(k.label("cpu") == "" for k in groups.keys)
    for g, group in enumerate(groups.keys):
        mine = [i for i, k in enumerate(members.keys) if k.host == group.host]
        for w in range(len(groups.end_ns)):
            wanted = naive.shape(members.values[w, mine, 0].tolist())
            for c, name in enumerate(columns):
                close_to(groups.values[w, g, c], wanted[name], (name, w))


def test_a_silent_flow_is_not_a_dead_host() -> None:
    rows = [('m{host="a",f="1"}', 100, 5.0), ('m{host="b"}', 110, 1.0)]
    rows += [('m{host="a",f="2"}', ms, 1.0) for ms in range(1000, 20_000, 500)]
    (panel,) = panels(
        [Part("window", {"window": "1s", "columns": "count,sum,p50"})],
        stream(rows),
        lateness_ns=0,
        idle_timeout_ns=3 * S,
    )
    at = {str(k): i for i, k in enumerate(panel.keys)}
    silent, dead = panel.values[:, at['m{host="a",f="1"}']], panel.values[:, at['m{host="b"}']]
    assert silent[0].tolist() == [1, 5, 5]
    assert (silent[1:, :2] == 0).all()
    assert np.isnan(silent[1:, 2]).all()
    assert np.isnan(dead[1:]).all(), "a host that says nothing is missing, not at rest"
    assert np.isnan(panel.values[0, at['m{host="a",f="2"}']]).all(), "nothing before its first event"


def test_nothing_is_made_of_a_long_silence() -> None:
    rows = [("m", 0, 1.0), ("m", 2_500, 1.0), ("m", 3_000_000, 1.0), ("m", 3_003_500, 1.0)]
    (panel,) = panels([Part("window", {"window": "1s", "columns": "count"})], stream(rows), lateness_ns=0)
    second = ((panel.end_ns - START) // S).tolist()
    assert second == [1, 2, 3, 3001, 3002, 3003]
    assert panel.values[:, 0, 0].tolist() == [1, 0, 1, 1, 0, 0]
    (short,) = panels(
        [Part("window", {"window": "1s", "columns": "count"})], stream(rows), lateness_ns=0, max_gap_ns=3600 * S
    )
    assert len(short.end_ns) == 3003


def test_rate_never_spikes() -> None:
    key = 'irq_total{host="a",cpu="0"}'
    rows = [
        (key, 0, 2**32 - 50),
        (key, 1000, 2**32 - 10),
        (key, 2000, 30),
        (key, 3000, 70),
        (key, 4000, 5),
        (key, 5000, 45),
    ]
    rows += [
        ('boot_id_changed{host="a"}', 5500, 1),
        (key, 6000, 90),
        (key, 7000, 130),
        (key, 200_000, 9000),
        (key, 202_000, 9080),
    ]
    part = Part("rate", {"window": "1s", "select": "irq_total", "columns": "rate,increment,resets"})
    (panel,) = panels([part], stream(rows, ints=True), lateness_ns=0)
    second = ((panel.end_ns - START) // S - 1).tolist()
    got = {s: panel.values[i, 0].tolist() for i, s in enumerate(second)}
    nan = pytest.approx(math.nan, nan_ok=True)
    assert got[0][:2] == [nan, nan], "one sample is no rate"
    assert got[1] == [40, 40, 0]
    assert got[2] == [40, 40, 0], "32 bits wrapped"
    assert got[4] == [nan, nan, 1], "a reset"
    assert got[6] == [nan, nan, 1], "a reboot, although the counter grew"
    assert got[7] == [40, 40, 0]
    assert got[200][:2] == [nan, nan], "a gap"
    assert got[201][2] == pytest.approx(math.nan, nan_ok=True)


def test_counters_stay_integers_until_they_are_differenced() -> None:
    key, big = "run_ns_total", 2**62
    part = Part("rate", {"window": "1s", "columns": "increment"})
    (panel,) = panels([part], stream([(key, 0, 0), (key, 3000, 0)], ints=True), lateness_ns=0)
    events = stream([(key, 0, 0), (key, 1000, 0), (key, 2000, 0)], ints=True)
    events.value[:] = [big, big + 1, big + 3]
    (panel,) = panels([part], events, lateness_ns=0)
    assert panel.values[1, 0, 0] == 1


def test_real_counters_and_mixed_batches() -> None:
    builder = build_features([Part("rate", {"window": "1s"})])
    builder.push(stream([("x_seconds_total", 0, 0.25), ("x_seconds_total", 1000, 0.5)]))
    builder.push(
        stream([("x_seconds_total", 2000, 1), ("x_seconds_total", 3000, 2), ("x_seconds_total", 4000, 2)], ints=True)
    )
    (panel,) = builder.close(builder.watermark_ns)
    np.testing.assert_allclose(panel.values[:, 0, 0], [np.nan, 0.25, 0.5, 1.0])


def test_ratio_of_drops_to_packets_by_label() -> None:
    rows = []
    for i in range(5):
        for device, packets, drops in (("e0", 100, 1), ("e1", 10, 0)):
            rows.append((f'nic_rx_packets_total{{host="a",device="{device}"}}', i * 1000, packets * i))
            rows.append((f'nic_rx_dropped_total{{host="a",device="{device}"}}', i * 1000, drops * i))
    part = Part(
        "ratio",
        {
            "numerator": "nic_rx_dropped_total", "denominator": "nic_rx_packets_total", "on": ["host", "device"],
            "name": "drop_ratio", "window": "1s", "columns": "ratio,loss,difference",
        },
    )  # fmt: skip
    (panel,) = panels([part], stream(rows, ints=True), lateness_ns=0)
    assert [str(k) for k in panel.keys] == ['drop_ratio{host="a",device="e0"}', 'drop_ratio{host="a",device="e1"}']
    np.testing.assert_allclose(panel.values[1], [[0.01, 0.99, 99], [0, 1, 10]])


def test_the_one_that_moved() -> None:
    values = {0: [0, 10, 20, 20, 20], 1: [0, 0, 0, 10, 20]}
    rows = [(f'irq_total{{host="a",cpu="{c}"}}', i * 1000, values[c][i]) for i in range(5) for c in (0, 1)]
    part = Part("shape", {"select": "irq_total", "over": "cpu", "window": "1s", "columns": "top_share,mover,share"})
    (panel,) = panels([part], stream([*rows, ('irq_total{host="a",cpu="0"}', 5000, 20)], ints=True), lateness_ns=0)
    group = panel.values[:, 0]
    assert group[2:4].tolist() == [
        [1, 0, pytest.approx(math.nan, nan_ok=True)],
        [1, -1, pytest.approx(math.nan, nan_ok=True)],
    ]
    share = panel.values[:, 1:, 2]
    assert share[2].tolist() == [1, 0]
    assert share[3].tolist() == [0, 1]


def test_join_is_as_of_and_ages() -> None:
    rows = [('m{host="a"}', ms, 1.0) for ms in range(0, 6000, 500)] + [('t{host="a"}', 1200, 50.0)]
    rows.sort(key=lambda r: r[1])
    part = Part("join", {"select": "m", "with": "t", "window": "1s", "max_age": "2s"})
    (panel,) = panels([part], stream(rows), lateness_ns=0)
    assert panel.columns == ("value", "with_value")
    np.testing.assert_array_equal(panel.column("with_value")[:, 0], [np.nan, 50, 50, 50, np.nan])


def test_correlation_finds_who_runs_ahead() -> None:
    rng = np.random.default_rng(5)
    cause = rng.normal(size=40)
    rows = [('t{host="a"}', 1000 * i, v) for i, v in enumerate(cause)]
    rows += [('m{host="a"}', 1000 * i, 3 - 2 * cause[i - 2]) for i in range(2, 40)]
    rows.sort(key=lambda r: r[1])
    part = Part("join", {"select": "m", "with": "t", "window": "1s", "correlate": 12, "max_lag": 4})
    (panel,) = panels([part], stream(rows), lateness_ns=0)
    assert panel.columns == ("value", "with_value", "corr", "lag")
    assert panel.values[-1, 0, 2:].tolist() == [pytest.approx(-1), 2]
    part = Part("join", {"select": "m", "with": "t", "window": "1s", "correlate": 12})
    (panel,) = panels([part], stream(rows), lateness_ns=0)
    wanted = np.corrcoef(panel.values[-12:, 0, 0], panel.values[-12:, 0, 1])[0, 1]
    assert panel.values[-1, 0, 2:].tolist() == [pytest.approx(wanted), 0]


def test_bursts() -> None:
    rng = np.random.default_rng(3)
    times = np.sort(rng.integers(0, 1000, 400))
    part = Part("window", {"window": "1s", "columns": "peak_10ms,iod_10ms,gap_cv"})
    rows = [("m", int(t), 1.0) for t in times] + [("m", 1500, 1.0)]
    (panel,) = panels([part], stream(rows), lateness_ns=0)
    peak, iod = naive.dispersion((START + times * MS).tolist(), START, START + S, 10 * MS)
    gaps = np.diff(times)
    np.testing.assert_allclose(panel.values[0, 0], [peak, iod, gaps.std(ddof=1) / gaps.mean()])


def test_a_burst_does_not_make_latency_look_better() -> None:
    """1,000 quick messages within a millisecond, and ten slow ones a second apart from them."""
    rows = [("m", 100 * i, 16.0) for i in range(10)] + [("m", 950, 5.0)] * 1000 + [("m", 951, 16.0), ("m", 1500, 1.0)]
    part = Part("window", {"window": "1s", "columns": "p50,twp50"})
    (panel,) = panels([part], stream(rows), lateness_ns=0)
    assert panel.values[0, 0].tolist() == [pytest.approx(5, rel=1 / 128), 16]


def test_dynamics() -> None:
    n = 40
    x = np.array([3.0 * i + (i % 4 == 0) * 20 for i in range(n)])
    rows = [("m", i * 1000, float(v)) for i, v in enumerate(x)] + [("m", n * 1000, 0.0)]
    part = Part(
        "dynamics",
        {
            "of": "mean",
            "window": "1s",
            "span": 16,
            "columns": "diff_2,slope_8,curvature_8,acf_4,period_4,level_10s,ratio_10s,peak_8,dispersion_8",
        },
    )
    (panel,) = panels([part], stream(rows), lateness_ns=0)
    got = {c.removeprefix("mean_"): panel.column(c)[n - 1, 0] for c in panel.columns}
    back = x[-8:]
    slope, curvature = np.polyfit(np.arange(8), back, 1)[0], np.polyfit(np.arange(8), back, 2)[0]
    d = x[-16:] - x[-16:].mean()
    wave = np.exp(2j * np.pi * np.arange(16) / 4)
    wanted = {
        "diff_2": x[-1] - x[-3],
        "slope_8": slope,
        "curvature_8": curvature,
        "acf_4": (d[4:] * d[:-4]).sum() / (d**2).sum(),
        "period_4": 2 * abs((d * wave).sum()) ** 2 / (16 * (d**2).sum()),
        "level_10s": x[-1] - x[-11:-1].mean(),
        "ratio_10s": x[-1] / x[-11:-1].mean(),
        "peak_8": back.max() / back.mean(),
        "dispersion_8": back.var(ddof=1) / back.mean(),
    }
    for name, value in wanted.items():
        close_to(got[name], value, name)


def test_a_counter_that_rests_and_its_first_move() -> None:
    """Drops: none for a while, then some, then more, a rest too short, a rest, a window without a sample."""
    moves = [5, 0, 0, 0, 7, 1, 0, 2, 0, 0, 0, 3]
    rows = [("c_total", i * 1000 + 500, float(v)) for i, v in enumerate(np.cumsum([0, *moves]))]
    del rows[10]  # its move comes with the next sample: that window is missing
    part = Part("dynamics", {"of": "increment", "window": "1s", "columns": "first_3"})
    (panel,) = panels([part], stream([*rows, ("c_total", 14_000, 0.0)]), lateness_ns=0)
    got = panel.column("increment_first_3")[: len(moves) + 1, 0]
    wanted = [np.nan] * 4 + [0, 1, 0, 0, 0, 0] + [np.nan] * 3
    np.testing.assert_array_equal(got, wanted)
