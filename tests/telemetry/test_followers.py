from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from telemetry.errors import ConfigError
from telemetry.logfile import LogFollower, read_log_spec
from telemetry.record import RecordReader, read_record_spec
from telemetry.types import Events


def rows(batches: list[Events]) -> list[tuple[str, int, float]]:
    return [
        (str(b.keys[s]), t, v)
        for b in batches
        for s, t, v in zip(b.series.tolist(), b.time_ns.tolist(), b.value.tolist(), strict=True)
    ]


def json_spec(folder: Path, extra: str = "") -> LogFollower:
    (folder / "spec.toml").write_text(
        f'path = "{folder}/app.log"\ntime = "ts"\ntime_unit = "iso"\n{extra}'
        'label_fields = ["stage"]\nlabels = {process = "strat"}\n'
        '[series.app_latency_ns]\nfield = "us"\nscale = 1000\n[series.app_lost_messages]\nfield = "lost"\n'
    )
    return LogFollower(read_log_spec(folder / "spec.toml"), "h")


def test_json_lines_keep_nanoseconds(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    log.write_text('{"ts":"2026-01-01T00:00:00Z","us":1}\n')
    follower = json_spec(tmp_path)
    assert follower.poll() == []  # from the end on
    with log.open("a") as file:
        file.write('{"ts":"2026-01-01T00:00:00.123456789Z","us":12.345,"stage":"tick_to_ack"}\n{"ts":"2026-01-0')
        file.flush()
        (only,) = rows(follower.poll())
        assert only == ('app_latency_ns{host="h",process="strat",stage="tick_to_ack"}', 1767225600123456789, 12345)
        assert follower.poll() == []
        file.write('1T01:00:00.5+01:00","us":2,"lost":7}\n')
    got = rows(follower.poll())
    assert [(n.split("{")[0], t, v) for n, t, v in got] == [
        ("app_latency_ns", 1767225600_500000000, 2000), ("app_lost_messages", 1767225600_500000000, 7),
    ]  # fmt: skip
    follower.close()


def test_rotation_and_truncation_lose_nothing(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    line = '{{"ts":"2026-01-01T00:00:0{}Z","us":{}}}\n'
    log.write_text("")
    follower = json_spec(tmp_path)
    log.write_text(line.format(1, 1))
    os.rename(log, tmp_path / "app.log.1")
    with (tmp_path / "app.log.1").open("a") as old:
        old.write(line.format(2, 2))  # the writer still holds the old file
    assert [v for _, _, v in rows(follower.poll())] == [1000, 2000]
    log.write_text(line.format(3, 3))
    assert [v for _, _, v in rows(follower.poll())] == [3000]
    log.write_text("")
    follower.poll()
    log.write_text(line.format(4, 4))
    assert [v for _, _, v in rows(follower.poll())] == [4000]
    log.unlink()
    assert follower.poll() == []


def test_bad_lines_are_counted(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    log.write_text("")
    follower = json_spec(tmp_path)
    bad = ["not json", "[1]", '{"ts":"2026-01-01T00:00:00Z"}', '{"ts":"soon","us":1}', '{"us":1}', "\\xff\\xfe"]
    bad += ['{"ts":"2026-01-01T00:00:00Z","us":"NaN"}', '{"ts":"2026-01-01T00:00:00Z","us":1e999}', "x" * 3_000_000]
    log.write_text("\n".join(bad) + '\n{"ts":"2026-01-01T00:00:09Z","us":9}\n')
    got = rows(follower.poll())
    assert [v for _, _, v in got] == [9000]
    assert follower.bad == 9
    assert follower.first_bad == "not json"


def test_regular_expression(tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text(
        f'path = "{tmp_path}/app.log"\nformat = "regex"\ntime = "t"\ntime_unit = "ms"\n'
        "pattern = '^(?P<t>\\d+) ack in (?P<n>\\d+)ns'\n[series.app_latency_ns]\nfield = \"n\"\n"
    )
    follower = LogFollower(read_log_spec(tmp_path / "spec.toml"), "h", from_start=True)
    assert follower.poll() == []  # not there yet
    (tmp_path / "app.log").write_text("1700000000123 ack in 9007199254740993ns\nhello\n")
    assert rows(follower.poll()) == [('app_latency_ns{host="h"}', 1700000000123000000, 9007199254740993)]
    assert follower.bad == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("path = 1", "path"),
        ('path = "x"\nextra = 1\n[series.a]\nfield="b"', "extra"),
        ('path = "x"\nseries = {}', "at least one"),
        ('path = "x"\n[series."a b"]\nfield="b"', "not a metric"),
        ('path = "x"\nformat="regex"\npattern="("\n[series.a]\nfield="b"', "regular expression"),
        ('path = "x"\nformat="regex"\npattern="(?P<c>x)"\n[series.a]\nfield="b"', "group named 'b'"),
        ("path = ", "spec.toml"),
    ],
)
def test_bad_descriptions_of_logs(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "spec.toml").write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        read_log_spec(tmp_path / "spec.toml")


RECORD = """
path = "{path}"
size = 32
count = 2
byte_order = "big"
labels = {{process = "strat"}}
sequence = {{offset = 0, type = "u32"}}
[fields.app_orders_total]
offset = 8
type = "u64"
[fields.app_latency_ns]
offset = 16
type = "i64"
labels = {{stage = "tick_to_ack"}}
[fields.app_load]
offset = 4
type = "f32"
"""


def test_record_in_shared_memory(tmp_path: Path) -> None:
    path = tmp_path / "stats"
    (tmp_path / "r.toml").write_text(RECORD.format(path=path))
    reader = RecordReader(read_record_spec(tmp_path / "r.toml"), "h")
    assert reader.poll() == []
    assert "stats" in reader.missing
    one = struct.pack(">IfQqxxxxxxxx", 2, 0.5, 2**63 + 5, -7)
    two = struct.pack(">IfQqxxxxxxxx", 0, 0.25, 9, 8)
    path.write_bytes(one + two)
    got = {n: v for n, _, v in rows(reader.poll())}
    assert got == {
        'app_orders_total{host="h",process="strat",slot="0"}': -(2**63) + 5,
        'app_latency_ns{host="h",process="strat",slot="0",stage="tick_to_ack"}': -7,
        'app_load{host="h",process="strat",slot="0"}': 0.5,
        'app_orders_total{host="h",process="strat",slot="1"}': 9,
        'app_latency_ns{host="h",process="strat",slot="1",stage="tick_to_ack"}': 8,
        'app_load{host="h",process="strat",slot="1"}': 0.25,
    }
    with path.open("r+b") as file:  # being written: the sequence is odd
        file.write(struct.pack(">I", 3))
        file.flush()
        assert reader.poll() == []
        assert reader.torn == 1
    other = tmp_path / "new"
    other.write_bytes((one + two).replace(struct.pack(">q", 8), struct.pack(">q", 80)))
    os.replace(other, path)  # the component was restarted
    assert 80 in [v for _, _, v in rows(reader.poll())]
    reader.close()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("offset = 16", "offset = 30"), "beyond the record's 32"),
        (('"i64"', '"long"'), "long"),
        (("count = 2", "count = 0"), "count of 1"),
        (("offset = 8", "offset = -8"), "offsets of 0"),
    ],
)
def test_bad_descriptions_of_records(tmp_path: Path, change: tuple[str, str], complaint: str) -> None:
    (tmp_path / "r.toml").write_text(RECORD.format(path="x").replace(*change))
    with pytest.raises(ConfigError, match=complaint):
        read_record_spec(tmp_path / "r.toml")


def test_record_too_short(tmp_path: Path) -> None:
    (tmp_path / "stats").write_bytes(b"short")
    (tmp_path / "r.toml").write_text(RECORD.format(path=tmp_path / "stats"))
    reader = RecordReader(read_record_spec(tmp_path / "r.toml"), "h")
    assert reader.poll() == []
    assert "expected 64 bytes, got 5" in reader.missing


def test_followers_are_harvested(tmp_path: Path) -> None:
    from telemetry.harvest import Harvester

    (tmp_path / "app.log").write_text("")
    follower = json_spec(tmp_path)
    (tmp_path / "app.log").write_text('{"ts":"2026-01-01T00:00:09Z","us":9}\n')
    harvester = Harvester(tmp_path, host="h", followers=[follower])
    before = time.time_ns()
    (batch,) = [b for b in harvester.sample() if b.keys[0].metric == "app_latency_ns"]
    assert batch.value.dtype == np.int64
    assert batch.seen_ns[0] >= before > batch.time_ns[0]
    harvester.close()
