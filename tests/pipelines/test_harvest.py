from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.harvest import housekeeping_cpus, known_boot, pin
from telemetry.store import Store

FIXTURES = Path(__file__).parents[1] / "fixtures/proc"
ALL = (-(2**63), 2**63 - 1)


def run(*options: str, **kind: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines.cli", "harvest", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kind)  # type: ignore


def test_harvests_a_tree_and_reports(tmp_path: Path) -> None:
    child = run(
        "--root", str(FIXTURES / "linux-5.14"), "--store", str(tmp_path / "s"), "--host", "tx07", "--process", "strat",
        "--seconds", "1", "--hz", "20", "--json",
    )  # fmt: skip
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    summary = json.loads(out)
    assert summary["ticks"] + summary["missed_ticks"] == 20
    assert summary["dropped_rows"] == 0
    assert any("snmp6" in name for name in summary["missing"])  # of the other namespace: not in this tree
    store = Store(tmp_path / "s", create=False)
    assert store.hosts() == ["tx07"]
    rows = sum(map(len, store.read(*ALL)))
    assert rows == summary["samples"]
    assert not list((tmp_path / "s/log").glob("*.twl"))  # what is left is Parquet
    assert known_boot(tmp_path / "s", "tx07").startswith("2222")


def test_sigterm_flushes(tmp_path: Path) -> None:
    child = run("--root", str(FIXTURES / "linux-3.10"), "--store", str(tmp_path / "s"), "--host", "h", "--hz", "50")
    store = None
    for _ in range(300):
        time.sleep(0.1)
        if (tmp_path / "s/store.json").exists():
            store = Store(tmp_path / "s", create=False)
            if store.last_seen_ns() is not None:
                break
    assert store is not None
    child.send_signal(signal.SIGTERM)
    asked = time.time_ns()
    out, err = child.communicate(timeout=30)
    assert child.returncode == 0, err
    assert "samples of" in out
    last = store.last_seen_ns()
    assert last is not None
    assert asked - last < 2 * 10**9
    assert "not here" in err


def test_stays_off_isolated_cpus() -> None:
    before = os.sched_getaffinity(0)
    try:
        if before >= {0, 1}:
            assert 1 not in housekeeping_cpus(FIXTURES / "linux-5.14")
            pin(FIXTURES / "linux-5.14")
            assert 1 not in os.sched_getaffinity(0)
        assert os.sched_getscheduler(0) == os.SCHED_OTHER
    finally:
        os.sched_setaffinity(0, before)
    assert housekeeping_cpus(FIXTURES / "linux-3.10") == sorted(before)


def test_a_wrong_pattern_is_one_line(tmp_path: Path) -> None:
    child = run("--store", str(tmp_path / "s"), "--process", "(")
    _, err = child.communicate(timeout=30)
    assert child.returncode == 4
    assert err.startswith("tailwatch: error: process pattern")
    assert "Traceback" not in err


@pytest.mark.parametrize("option", ["--log", "--record"])
def test_a_wrong_description_is_one_line(tmp_path: Path, option: str) -> None:
    (tmp_path / "x.toml").write_text("path = 5")
    child = run("--store", str(tmp_path / "s"), option, str(tmp_path / "x.toml"))
    _, err = child.communicate(timeout=30)
    assert child.returncode == 4
    assert "x.toml" in err
    assert "Traceback" not in err
