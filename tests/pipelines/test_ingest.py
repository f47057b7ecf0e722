"""Ingest: whole or not at all, once, damaged ones marked, several at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pipelines.cli import cli
from pipelines.ingest import ingest, ingest_unit
from pipelines.units import Unit, plan
from telemetry.bulk import BulkLoad, loaded
from telemetry.errors import InputError, StoreError
from telemetry.store import Store
from telemetry.types import Events, SeriesKey
from tests.naive.wire_frames import START, mold, pcap, udp

MS = 1_000_000


def _capture(path: Path, first: int = 1, count: int = 60, skip: tuple[int, ...] = (), late: int = 0) -> Path:
    frames = [
        (START + n * MS + late, udp("10.0.0.1", 1, "239.1.1.1", 5001, mold(b"S", n, [b"x" * 30]), ident=n))
        for n in range(first, first + count)
        if n not in skip
    ]
    path.write_bytes(pcap(frames))
    return path


def _all(store: Path, select: str | None = None) -> Events:
    return Events.concat(Store(store).read(-(2**63), 2**63 - 1, select=select))


def _run(*args: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["ingest", *map(str, args)])
    return result.exit_code, result.output


def test_a_capture_goes_in_once_and_a_second_time_is_a_line(tmp_path: Path) -> None:
    capture, store = _capture(tmp_path / "day.pcap", skip=(30, 31)), tmp_path / "s"
    code, text = _run(capture, "--store", store)
    assert code == 0
    assert "58 packets" in text
    first = _all(store)
    assert int(_all(store, "feed_gap_packets").value.sum()) == 2
    assert np.array_equal(first.seen_ns, np.maximum.accumulate(first.seen_ns))
    code, text = _run(capture, "--store", store)
    assert (code, text.strip()) == (0, f"{capture}: in the store already")
    assert len(_all(store)) == len(first)


def test_a_capture_that_has_grown_replaces_what_it_was(tmp_path: Path) -> None:
    store, capture = tmp_path / "s", tmp_path / "day.pcap"
    _capture(capture, count=40)
    assert _run(capture, "--store", store)[0] == 0
    _capture(capture, count=90)
    assert _run(capture, "--store", store)[0] == 0
    assert int(_all(store, "wire_packets").value.sum()) == 90


def test_taps_are_matched_with_each_other(tmp_path: Path) -> None:
    a = _capture(tmp_path / "a.pcap")
    b = _capture(tmp_path / "b.pcap", skip=(20,), late=2500)
    store = tmp_path / "s"
    code, _ = _run("--tap", f"core={a}", "--tap", f"edge={b}", "--host", "tx07", "--store", store, "--keep-packets")
    assert code == 0
    latency = _all(store, "wire_latency_ns")
    assert set(latency.value.tolist()) == {2500}
    key = latency.keys[0]
    assert (key.host, key.label("from"), key.label("to")) == ("tx07", "core", "edge")
    assert int(_all(store, "wire_lost_packets").value.sum()) == 1
    assert len(list((store / "packets").glob("*.parquet"))) == 2


def test_a_damaged_capture_goes_in_with_its_good_packets_and_is_marked(tmp_path: Path) -> None:
    good, store = _capture(tmp_path / "day.pcap"), tmp_path / "s"
    raw = good.read_bytes()
    good.write_bytes(raw[:-10])
    code, text = _run(good, "--store", store, "--json")
    assert code == 1
    result = json.loads(text.splitlines()[0])
    assert (result["state"], result["packets"], result["damaged"]) == ("loaded", 59, 1)
    assert any("damaged at byte" in n for n in result["notes"])
    assert _all(store, "capture_damages").value.tolist() == [1]
    assert _run(good, "--store", store)[1].strip().endswith("in the store already")


def test_what_is_no_capture_fails_alone(tmp_path: Path) -> None:
    bad, good, store = tmp_path / "notes.txt", _capture(tmp_path / "day.pcap"), tmp_path / "s"
    bad.write_text("dear diary")
    code, text = _run(bad, good, "--store", store, "--jobs", 1)
    assert code == 2
    assert "60 packets" in text
    assert "expected a capture" in text
    assert "Traceback" not in text
    assert len(_all(store)) > 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "Nothing to read"),
        (["nowhere.pcap"], "there is nothing"),
        (["--tap", "core"], "expected NAME=FILE"),
        (["--feed", "1.1.1.1:5=fix", "x"], "expected one of mdf1"),
    ],
)
def test_mistakes_are_said(tmp_path: Path, args: list[str], words: str) -> None:
    result = CliRunner().invoke(cli, ["ingest", *args, "--store", str(tmp_path / "s")])
    assert result.exit_code != 0
    assert words in result.output + str(result.exception)


def test_a_folder_without_runs_and_a_pipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found none"):
        plan([str(tmp_path)], [], "h")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="expected a file"):
        plan([str(pipe)], [], "h")


def test_taps_are_named_by_file_or_told(tmp_path: Path) -> None:
    one = _capture(tmp_path / "core.day.pcap")
    units = plan([str(one)], [("a", str(one)), ("b", str(one)), ("a", str(one))], "h")
    assert units[0].taps == (("core.day", (str(one),)),)
    assert units[1].taps == (("a", (str(one), str(one))), ("b", (str(one),)))


def test_units_at_once_give_the_same_store(tmp_path: Path) -> None:
    for n in range(3):
        _capture(tmp_path / f"c{n}.pcap", count=30 + n)
    units = plan([str(tmp_path / f"c{n}.pcap") for n in range(3)], [], "h")
    for jobs, name in ((1, "one"), (2, "two")):
        results = list(ingest(units, str(tmp_path / name), jobs=jobs))
        assert {r.state for r in results} == {"loaded"}
    one, two = (_all(tmp_path / n) for n in ("one", "two"))
    assert sorted(map(str, one.keys)) == sorted(map(str, two.keys))
    assert int(one.value.sum()) == int(two.value.sum())
    assert len(one) == len(two)


def test_a_killed_run_leaves_nothing_and_the_next_is_whole(tmp_path: Path) -> None:
    capture, store = _capture(tmp_path / "day.pcap", count=3000), tmp_path / "s"
    ready = tmp_path / "ready"
    script = f"""
import time, pathlib
import telemetry.bulk as bulk
plain = bulk.BulkLoad.commit
def slow(self):
    pathlib.Path({str(ready)!r}).touch()
    time.sleep(60)
    return plain(self)
bulk.BulkLoad.commit = slow
from pipelines.cli import main
main(["ingest", {str(capture)!r}, "--store", {str(store)!r}])
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 120
    while not ready.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    assert ready.exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(_all(store)) == 0
    assert _run(capture, "--store", store)[0] == 0
    assert int(_all(store, "wire_packets").value.sum()) == 3000


def _events(host: str, values: list[int]) -> Events:
    at = np.arange(len(values), dtype=np.int64) + START
    return Events((SeriesKey(host, "wire_packets"),), np.zeros(len(values), np.int64), at, at, np.array(values))


def test_two_runs_of_one_unit_race_and_one_wins(tmp_path: Path) -> None:
    store = tmp_path / "s"
    with BulkLoad(store, "unit", "c1") as one, BulkLoad(store, "unit", "c1") as two:
        one.append(_events("h", [1, 2]))
        two.append(_events("h", [1, 2]))
        assert one.commit()
        assert not two.commit()
    assert _all(store).value.tolist() == [1, 2]
    assert loaded(store, "unit") == "c1"
    assert loaded(store, "other") is None
    with BulkLoad(store, "unit", "c2") as more:
        more.append(_events("h", [7]))
        assert more.commit()
    assert _all(store).value.tolist() == [7]


def test_rows_that_were_joined_with_others_cannot_be_replaced(tmp_path: Path) -> None:
    store = tmp_path / "s"
    for unit, first in (("a", 1), ("b", 4)):
        with BulkLoad(store, unit, "c1") as load:
            load.append(_events("h", [first, first + 1, first + 2]))
            load.commit()
    assert Store(store).compact() >= 1
    with BulkLoad(store, "a", "c2") as load:
        load.append(_events("h", [4]))
        with pytest.raises(StoreError, match="loaded before with other content"):
            load.commit()
    assert len(_all(store)) == 6


def test_windows_for_large_captures(tmp_path: Path) -> None:
    capture = _capture(tmp_path / "day.pcap", count=2000)
    unit = Unit(str(capture), "h", (("t", (str(capture),)),))
    each = ingest_unit(unit, str(tmp_path / "p"))
    windowed = ingest_unit(unit, str(tmp_path / "w"), detail="windows")
    assert (each.detail, windowed.detail) == ("packets", "windows")
    counts = _all(tmp_path / "w", 'wire_packets{window="1ms"}')
    assert int(counts.value.sum()) == 2000


def test_a_folder_or_glob_of_captures_is_one_rotated_set(tmp_path: Path) -> None:
    ring, store = tmp_path / "ring", tmp_path / "s"
    ring.mkdir()
    _capture(ring / "b.pcap", first=1, count=30)
    _capture(ring / "a.pcap", first=31, count=30, skip=(40,))
    (ring / "notes.txt").write_text("dear diary")
    for source in (ring, f"{ring}/*.pcap"):
        (unit,) = plan([str(source)], [], "h")
        assert [Path(f).name for f in unit.files] == ["b.pcap", "a.pcap"]
    code, text = _run(ring, "--store", store)
    assert (code, "59 packets" in text) == (0, True)
    assert int(_all(store, "feed_gap_packets").value.sum()) == 1
    assert _all(store, "feed_gap_packets").keys[0].label("tap") == "ring"


def test_standard_input_and_what_is_still_written(tmp_path: Path) -> None:
    capture, store = _capture(tmp_path / "day.pcap", skip=(30,)), tmp_path / "s"
    argv = [sys.executable, "-m", "pipelines.cli", "ingest", "-", "--store", str(store), "--json", "--line-rate", "1G"]
    done = subprocess.run(argv, input=capture.read_bytes(), capture_output=True, check=False)
    told = json.loads(done.stdout)
    assert (done.returncode, told["packets"], told["events"]) == (0, 59, len(_all(store)))
    assert _all(store, "burst_bytes").keys[0].label("tap") == "stdin"
    grown, text = tmp_path / "g", ""
    for _ in range(2):
        code, text = _run(tmp_path / "day.pcap", "--follow", "0.1", "--store", grown, "--detail", "packets")
    assert code == 0
    assert int(_all(grown, "wire_packets").value.sum()) == 59
    assert "packets" in text
    code, text = _run(capture, tmp_path / "x", "--follow", "1", "--store", store)
    assert (code, "goes in alone" in text) == (2, True)
    assert _run(capture, "--line-rate", "fast", "--store", store)[0] == 2
