from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.cli import main
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
    assert "sysctl" in {k.metric for k in store.keys('metric=~"sysctl|config.*"')}  # settings are told at the start


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
    before, scheduler = os.sched_getaffinity(0), os.sched_getscheduler(0)
    try:
        if before >= {0, 1}:
            assert 1 not in housekeeping_cpus(FIXTURES / "linux-5.14")
            pin(FIXTURES / "linux-5.14")
            assert 1 not in os.sched_getaffinity(0)
        assert os.sched_getscheduler(0) == scheduler  # never real-time by itself
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


def test_everything_by_configuration(tmp_path: Path) -> None:
    """A log, a record, an exporter that is away, a trigger, a faster tier: no option on the command line but time."""
    (tmp_path / "app.log").write_text("")
    (tmp_path / "log.toml").write_text(
        f'path = "{tmp_path}/app.log"\nformat = "json"\n[series.app_latency_ns]\nfield = "ns"\n'
    )
    (tmp_path / "stats").write_bytes((7).to_bytes(8, "little"))
    (tmp_path / "record.toml").write_text(
        f'path = "{tmp_path}/stats"\n[fields.app_orders_total]\noffset = 0\ntype = "u64"\n'
    )
    (tmp_path / "incident").touch()
    (tmp_path / "tailwatch.toml").write_text(
        f"""store = "{tmp_path}/s"
[harvest]
hz = 10
fast_hz = 50
host = "tx9"
root = "{FIXTURES / "linux-5.14"}"
processes = ["strat"]
namespaces = false
logs = ["{tmp_path}/log.toml"]
records = ["{tmp_path}/record.toml"]
scrape = ["http://127.0.0.1:9/metrics"]
scrape_s = 0.2
trigger = "{tmp_path}/incident"
"""
    )
    command = [sys.executable, "-m", "pipelines.cli", "--config", str(tmp_path / "tailwatch.toml"), "harvest", "--json"]
    child = subprocess.Popen(
        [*command, "--seconds", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    time.sleep(1.0)
    with (tmp_path / "app.log").open("a") as log:
        log.write('not json\n{"ns": 5}\n')
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    summary = json.loads(out)
    assert summary["ticks"] + summary["missed_ticks"] == 100
    assert [t for t in summary["troubles"] if "scrapes failed" in t]
    assert "http://127.0.0.1:9/metrics" in err
    store = Store(tmp_path / "s", create=False)
    assert store.hosts() == ["tx9"]
    metrics = {k.metric for k in store.keys()}  # noqa: SIM118 - not a mapping
    assert {"app_orders_total", "incident_tier", "softnet_dropped_total", "thread_wait_ns_total"} <= metrics
    assert not [k for k in store.keys('metric=~"netstat.*"') if k.label("netns")]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('listen = "0.0.0.0:0"', "not loopback"),
        ('listen = "nowhere"', "expected HOST:PORT"),
        ('push = "http://collector:1"\ntoken_file = "{t}"', "in the clear"),
        ('push = "collector"', "expected http"),
        ('token_file = "no-such"\npush = "http://127.0.0.1:9"', "expected a token"),
        ("hz = 0", "hz"),
        ("fasthz = 5", "fasthz"),
    ],
)
def test_wrong_settings_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lines: str, said: str
) -> None:
    (tmp_path / "token").write_text("secret")
    text = f'store = "{tmp_path}/s"\n[harvest]\nroot = "{FIXTURES / "linux-3.10"}"\n'
    (tmp_path / "tailwatch.toml").write_text(text + lines.format(t=tmp_path / "token") + "\n")
    monkeypatch.chdir(tmp_path)
    affinity = os.sched_getaffinity(0)
    try:
        with pytest.raises(SystemExit) as stopped:
            main(["harvest", "--seconds", "0"])
    finally:
        os.sched_setaffinity(0, affinity)
    assert stopped.value.code == 4
    assert said in capsys.readouterr().err
