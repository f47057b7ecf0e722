"""Kept sketches: merge = whole, stored and read back; folded windows equal those kept whole, to the bit."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import features.window
from features.fold import Fold
from features.rollup import Sketches, bucket_middles, without
from features.sketch import MAX_ERROR, bucket_middle
from features.spec import build_features
from telemetry.errors import ConfigError, InputError
from telemetry.types import Events, Part, SeriesKey

S = 1_000_000_000
START = 1_772_000_000 * S
KEYS = tuple(SeriesKey.of(h, "wire_latency_ns", flow=f) for h in ("a", "b") for f in (1, 2, 3))


def events(n: int, seed: int = 0, spread: float = 0.8) -> Events:
    rng = np.random.default_rng(seed)
    time = START + np.sort(rng.integers(0, 20 * S, n))
    value = np.exp(rng.normal(9, spread, n)) * rng.choice([1, 1, 1, -1, 0], n)
    series = (rng.random(n) ** 3 * len(KEYS)).astype(np.int64)
    return Events(KEYS, series, time, time, value)


def sketches(stream: Events, window: str = "1s", cuts: tuple[int, ...] = ()) -> Sketches:
    builder = build_features([Part("window", {"window": window, "keep_sketches": True, "columns": "count"})])
    found = []
    for a, b in itertools.pairwise([0, *cuts, len(stream)]):
        builder.push(stream[a:b])
        builder.close(builder.watermark_ns)
        found += builder.sketches()
    builder.close(START + 20 * S)
    return Sketches.concat([*found, *builder.sketches()])


def same(a: Sketches, b: Sketches) -> None:
    assert a.keys == b.keys
    for name in ("end_ns", "series", "count", "low", "high", "start", "bucket", "bucket_count"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    np.testing.assert_allclose(a.total, b.total)


def test_merged_is_the_whole_and_quantiles_keep_the_bound() -> None:
    stream = events(20_000)
    small = sketches(stream)
    whole = small.roll(20 * S)
    same(whole, sketches(stream, "20s").roll())
    same(whole, small.roll(4 * S).roll(20 * S))
    same(whole, Sketches.concat([small.roll(2 * S), small.roll(2 * S)][:1]).roll(20 * S))
    got = whole.quantiles(0.0, 0.5, 0.99, 1.0)
    for i in range(len(whole)):
        values = np.sort(stream.value[stream.series == KEYS.index(whole.keys[whole.series[i]])])
        assert whole.count[i] == len(values)
        for j, q in enumerate((0.0, 0.5, 0.99, 1.0)):
            at = q * (len(values) - 1)
            lower, upper = values[int(at)], values[min(int(at) + 1, len(values) - 1)]
            assert lower - MAX_ERROR * abs(lower) <= got[i, j] <= upper + MAX_ERROR * abs(upper)


def test_rolled_up_over_flows_and_hosts() -> None:
    stream = events(5_000)
    by_host = sketches(stream).roll(20 * S, without("flow"))
    assert sorted(str(k) for k in by_host.keys) == ['wire_latency_ns{host="a"}', 'wire_latency_ns{host="b"}']
    (everything,) = sketches(stream).roll(20 * S, without("flow", "host")).quantiles(0.5)
    assert everything[0] == pytest.approx(np.median(stream.value), rel=MAX_ERROR)


def test_stored_and_read_back() -> None:
    import io

    import pyarrow.parquet as pq

    kept = sketches(events(3_000))
    file = io.BytesIO()
    pq.write_table(kept.to_arrow(), file)
    same(kept.roll(), Sketches.from_arrow(pq.read_table(file)).roll())
    with pytest.raises(InputError, match="bucket_count"):
        Sketches.from_arrow(kept.to_arrow().drop(["bucket_count"]))
    with pytest.raises(InputError, match="multiple"):
        kept.roll(3 * S // 2)
    with pytest.raises(InputError, match="one window length"):
        Sketches.concat([kept, kept.roll(2 * S)])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 799), max_size=6).map(sorted))
def test_sketches_do_not_depend_on_batches(cuts: list[int]) -> None:
    stream = events(800, seed=4, spread=30.0)
    same(sketches(stream).roll(), sketches(stream, cuts=tuple(cuts)).roll())


def test_only_plain_windows_keep_sketches() -> None:
    with pytest.raises(ConfigError, match="keep_sketches"):
        build_features([Part("window", {"window": "2s", "step": "1s", "keep_sketches": True})])


def test_middles_are_those_of_the_kernel() -> None:
    edge = np.zeros(2)
    buckets = np.array([0, -1, 1, 64, 65_535, 70_000, 131_007, 131_008, -2, -70_000, -131_009], np.int32)
    wanted = [bucket_middle(int(b), edge, edge.view(np.int64)) for b in buckets]
    np.testing.assert_array_equal(bucket_middles(buckets), wanted)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 50),
    st.lists(st.integers(1, 999), min_size=3, max_size=8).map(sorted),
    st.integers(5, 60),
    st.sampled_from([0.8, 30.0]),
)
def test_folding_changes_nothing(seed: int, cuts: list[int], most: int, spread: float) -> None:
    """However early events are folded, and wherever the state is saved, the windows are the same."""
    stream = events(1_000, seed, spread)
    part = Part("window", {"window": "5s", "columns": "count,sum,mean,min,max,var,exceed,p50,p99,p999", "level": 9000})

    def run(pieces: list[int], restart: bool) -> np.ndarray:
        builder = build_features([part])
        out = []
        for a, b in itertools.pairwise([0, *pieces, len(stream)]):
            builder.push(stream[a:b])
            out += [*builder.close(builder.watermark_ns)]
            if restart:
                state = {k: np.array(v, copy=True) for k, v in builder.snapshot().items()}
                builder = build_features([part])
                builder.restore(state)
        out += [*builder.close(START + 30 * S)]
        width = len(out[-1].keys)
        wide = [np.pad(p.values, ((0, 0), (0, width - len(p.keys)), (0, 0)), constant_values=np.nan) for p in out]
        return np.concatenate(wide)

    wanted = run([], False)
    kept, add, folded = features.window.FOLD, Fold.add, []

    def counted(self: Fold, *given: object) -> object:
        folded.append(1)
        return add(self, *given)  # type: ignore[arg-type]

    try:
        features.window.FOLD = most
        Fold.add = counted  # type: ignore[method-assign,assignment]
        np.testing.assert_array_equal(run(cuts, False), wanted)
        np.testing.assert_array_equal(run(cuts, True), wanted)
    finally:
        features.window.FOLD = kept
        Fold.add = add  # type: ignore[method-assign]
    assert folded


def test_sketches_are_stored_by_the_command_and_rolled_up_later(tmp_path: Path) -> None:
    import pyarrow.parquet as pq
    from click.testing import CliRunner

    from pipelines.commands.features import command
    from telemetry.store import Store

    rng = np.random.default_rng(3)
    n = 20_000
    time = 1_772_000_040 * 10**9 + np.sort(rng.integers(0, 60 * 10**9, n))
    value = np.exp(rng.normal(9, 1, n))
    keys = tuple(SeriesKey.of("a", "wire_latency_ns", flow=i) for i in range(3))
    with Store(tmp_path / "s") as store:
        store.append(Events(keys, rng.integers(0, 3, n), time, time, value))
    spec, out, kept = tmp_path / "spec.toml", tmp_path / "x.parquet", tmp_path / "q.parquet"
    text = '[[features]]\nkind = "window"\nwindow = "1s"\ncolumns = ["p99"]\nkeep_sketches = true\n'
    spec.write_text(text)
    args = [str(spec), "--store", str(tmp_path / "s"), "-o", str(out), "--sketches", str(kept)]
    ran = CliRunner().invoke(command, args, obj=None)
    assert ran.exit_code == 0, ran.output
    minute = Sketches.from_arrow(pq.read_table(kept)).roll(60 * 10**9, without("flow"))
    assert len(minute) == 1
    assert n - 1000 < minute.count[0] <= n, "all but the last second, which had not ended"
    whole = value[: int(minute.count[0])]
    assert minute.quantiles(0.99).item() == pytest.approx(np.quantile(whole, 0.99, method="nearest"), rel=0.01)
    spec.write_text(text.replace("keep_sketches = true\n", ""))
    ran = CliRunner().invoke(command, args, obj=None)
    assert ran.exit_code != 0
    assert "keep_sketches" in str(ran.exception)
