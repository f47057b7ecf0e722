"""Declared features: errors, limits, merging, frames, the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from features.frames import to_arrow, to_pandas, to_tensor
from features.grid import duration_ns, duration_text
from features.spec import build_features, digest, parts_from_toml
from telemetry.errors import ConfigError, InputError, StoreError
from telemetry.store import Store
from telemetry.types import Events, Panel, Part, SeriesKey

S = 1_000_000_000
START = 1_772_000_000 * S


def events(n: int = 50, series: int = 2, value: float = 1.0, metric: str = "m") -> Events:
    keys = tuple(SeriesKey.of("a", metric, x=i) for i in range(series))
    time = START + np.arange(n, dtype=np.int64) * S // 10
    return Events(keys, np.arange(n) % series, time, time, np.full(n, value))


def closed(parts: list[Part], *batches: Events) -> tuple[Panel, ...]:
    builder = build_features(parts)
    for b in batches:
        builder.push(b)
    return builder.close(builder.watermark_ns)


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (Part("windw", {"window": "1s"}), "did you mean window"),
        (Part("window", {"window": "1s", "columns": ["p99", "cuont"]}), "unknown column 'cuont'.*count"),
        (Part("window", {"window": "1s", "colums": ["p99"]}), "unknown parameter 'colums'.*columns"),
        (Part("window", {"window": "soon"}), "window.*expected '100ms'"),
        (Part("window", {}), "window: expected a duration"),
        (Part("window", {"window": "1s", "step": "300ms"}), "divisor"),
        (Part("window", {"window": "1s", "columns": "exceed"}), "level"),
        (Part("window", {"window": "1s", "select": "m{x="}), "select"),
        (Part("rate", {"window": "1s", "columns": ["rates"]}), "did you mean rate"),
        (Part("shape", {"window": "1s"}), "over"),
        (Part("shape", {"window": "1s", "over": "cpu", "columns": ["entropi"]}), "entropy"),
        (Part("ratio", {"window": "1s", "numerator": "a"}), "denominator"),
        (Part("dynamics", {"window": "1s", "columns": "slop_3"}), "slope"),
        (Part("window", {"window": "1s", "columns": "peak_2s"}), "spans within the window"),
        (Part("window", {"window": "1s", "columns": "iod_0ms"}), "spans within the window"),
        (Part("window", {"window": 1 << 61}), "window: expected more than 0 ns, less than"),
        (Part("compose", {"window": "1s", "steps": []}), "steps"),
        (Part("compose", {"window": "1s", "steps": [{"kind": "shape"}]}), "unknown kind 'shape'"),
        (Part("clock", {"calendar": "XNYZ"}), "XNYS"),
    ],
)
def test_mistakes_are_named(part: Part, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_features([part])


def test_none_and_two_steps() -> None:
    with pytest.raises(ConfigError, match="at least one part"):
        build_features([Part("clock", {})])
    with pytest.raises(ConfigError, match="one step"):
        build_features([Part("window", {"window": "2s"}), Part("window", {"window": "2s", "step": "1s"})])


def test_durations() -> None:
    assert [duration_ns(t) for t in ("100ms", "1.5s", "0.1us", "2d", 7)] == [S // 10, 3 * S // 2, 100, 172_800 * S, 7]
    assert [duration_text(n) for n in (S, 90 * S, 120 * S, 1500, 7)] == ["1s", "90s", "2m", "1500ns", "7ns"]
    for bad in ("1", "0.15ns", "-1s", "1 week", None, True, 1.5):
        with pytest.raises(ConfigError):
            duration_ns(bad)


def test_panels_of_one_length_are_one_panel() -> None:
    parts = [
        Part("window", {"select": "m", "window": "1s", "columns": "count"}),
        Part("window", {"select": "n", "window": "1s", "columns": "count,max"}),
        Part("window", {"select": "m", "window": "2s", "columns": "max"}),
    ]
    both = Events.concat([events(metric="m"), events(metric="n", value=4.0)])
    one, two = closed(parts, both[np.argsort(both.time_ns, kind="stable")])
    assert (one.window_ns, two.window_ns) == (S, 2 * S)
    assert one.columns == ("count", "max")
    assert [k.metric for k in one.keys] == ["m", "n", "m", "n"], "in the order of their first events"
    assert np.isnan(one.values[:, ::2, 1]).all()
    assert (one.values[:, 1::2, 1] == 4).all()
    assert [k.metric for k in two.keys] == ["m", "m"]


def test_a_metric_that_explodes_is_named() -> None:
    builder = build_features([Part("window", {"window": "1s", "max_series": 10})])
    builder.push(events(n=100, series=3, metric="calm"))
    late = events(n=100, series=40, metric="per_order_ns")
    builder.push(Events(late.keys, late.series, late.time_ns + 100 * S, late.seen_ns + 100 * S, late.value))
    (panel,) = builder.close(builder.watermark_ns)
    assert len(panel.keys) == 10
    assert builder.refused == {"per_order_ns": 33}
    assert "33 series of per_order_ns refused" in builder.report()


def test_read_only_strided_and_float32_arrays_will_do() -> None:
    plain = events()
    wide = np.repeat(plain.value.astype(np.float32), 2)[::2]
    time = plain.time_ns.copy()
    time.flags.writeable = False
    odd = Events(plain.keys, plain.series.astype(np.int32), time, plain.seen_ns[::1], wide)
    part = Part("window", {"window": "1s"})
    np.testing.assert_array_equal(closed([part], odd)[0].values, closed([part], plain)[0].values)


def test_events_that_are_not_what_they_say_are_refused() -> None:
    good = events()
    builder = build_features([Part("window", {"window": "1s"})])
    for series in (good.series + 1, good.series - 1, good.series[:-1]):
        with pytest.raises(InputError, match="events: expected"):
            builder.push(Events(good.keys, series, good.time_ns, good.seen_ns, good.value))


def test_restoring_forgets_what_was_known() -> None:
    part = Part("window", {"window": "1s"})
    one, two = build_features([part]), build_features([part])
    one.push(events(metric="m"))
    state = one.snapshot()
    two.push(events(metric="n", n=500))
    two.restore(state)
    (a,), (b,) = one.close(one.watermark_ns), two.close(two.watermark_ns)
    assert a.keys == b.keys
    np.testing.assert_array_equal(a.values, b.values)
    with pytest.raises(StoreError, match="format"):
        two.restore({"format": np.array(99)})


def test_spec_as_toml_and_its_digest() -> None:
    text = '[[features]]\nkind = "window"\nselect = "m"\nwindow = "1s"\ncolumns = ["p99"]\n'
    (part,) = parts_from_toml(text)
    assert part == Part("window", {"select": "m", "window": "1s", "columns": ["p99"]})
    assert digest([part]) == digest([Part("window", {"columns": ["p99"], "window": "1s", "select": "m"})])
    assert digest([part]) != digest([Part("window", {**part.params, "window": "2s"})])
    for bad, says in (("x = [", "not TOML"), ("x = 1", "features"), ("[[features]]\nselect = 'm'", "kind")):
        with pytest.raises(ConfigError, match=says):
            parts_from_toml(bad)


def test_frames_share_the_memory_where_they_can() -> None:
    (panel,) = closed([Part("window", {"window": "1s", "columns": "count,max"})], events())
    frame = to_pandas(panel)
    assert frame.shape == (len(panel.end_ns), 4)
    assert np.shares_memory(frame.to_numpy(), panel.values)
    assert frame[(str(panel.keys[1]), "max")].iloc[0] == 1
    tensor = to_tensor(panel)
    np.testing.assert_array_equal(tensor["values"].combine_chunks().to_numpy_ndarray(), panel.values)
    assert tensor["values"].chunk(0).storage.flatten().buffers()[1].address == panel.values.ctypes.data
    table = to_arrow(panel, ["max", "p50"])
    assert table.column_names == ["end", "window_ns", "host", "metric", "series", "max", "p50"]
    assert table["p50"].null_count == table.num_rows == 2 * len(panel.end_ns)


def test_the_command_writes_what_the_builder_makes(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from pipelines.commands.features import command

    with Store(tmp_path / "s") as store:
        store.append(events())
    spec = tmp_path / "spec.toml"
    spec.write_text('[[features]]\nkind = "window"\nselect = "m"\nwindow = "1s"\ncolumns = ["count", "p99"]\n')
    out = tmp_path / "x.parquet"
    ran = CliRunner().invoke(command, [str(spec), "--store", str(tmp_path / "s"), "--out", str(out)], obj=None)
    assert ran.exit_code == 0, ran.output
    assert "50 events, 4 windows, 2 series, 8 rows" in ran.output
    table = pq.read_table(out).to_pandas()
    assert table["count"].tolist() == [5.0] * 8
    assert table["end"].iloc[0].value == START + S
    empty = CliRunner().invoke(
        command, [str(spec), "--store", str(tmp_path / "s"), "-o", str(out), "--to", "2020-01-01"], obj=None
    )
    assert "expected events" in str(empty.exception)
    assert not list(tmp_path.glob("*.partial"))
