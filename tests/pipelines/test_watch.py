from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from click.testing import CliRunner

from pipelines.cli import cli
from pipelines.config import Config, Harvest, Http
from pipelines.http import serve
from pipelines.state import StateDB
from pipelines.watch import Watcher
from telemetry.errors import ConfigError
from telemetry.store import Store
from telemetry.types import Events, SeriesKey

ROOT = Path(__file__).parents[2]
PORT = 19000 + os.getpid() % 900


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A real service over this host's /proc: (folder, its metrics, what it said), stopped by SIGTERM."""
    folder = tmp_path_factory.mktemp("watch")
    command = [sys.executable, "-m", "pipelines.cli", "watch", "--listen", f"127.0.0.1:{PORT}", "--host", 'a"b\\c']
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=folder, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environment)
    metrics = ""
    for _ in range(600):
        time.sleep(0.2)
        try:
            if httpx.get(f"http://127.0.0.1:{PORT}/readyz").status_code == 200:
                metrics = httpx.get(f"http://127.0.0.1:{PORT}/metrics").text
                if float(re.findall(r"^tailwatch_samples_scored_total (\S+)", metrics, re.M)[0]) > 5000:
                    break
        except httpx.HTTPError:
            if process.poll() is not None:
                break
    assert httpx.get(f"http://127.0.0.1:{PORT}/healthz").text == "ok\n"
    assert httpx.get(f"http://127.0.0.1:{PORT}/../etc/passwd").status_code == 404
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0, said
    return folder, metrics, said


def test_it_samples_scores_and_stops_gracefully(service: tuple[Path, str, str]) -> None:
    folder, metrics, said = service
    assert "stopped:" in said
    assert "Traceback" not in said
    with Store(folder / "tailwatch-data" / "store", create=False) as store:
        assert list(store.hosts()) == ['a"b\\c']
        stored = sum(len(b) for b in store.read(0, 2**62))
    assert stored >= float(re.findall(r"^tailwatch_samples_scored_total (\S+)", metrics, re.M)[0])
    with StateDB(folder / "tailwatch-data" / "state.db", create=False) as state:
        (part,) = state.parts()
        assert part["checkpoint_path"]
        assert json.loads(part["offsets"])


@pytest.mark.service
@pytest.mark.skipif(shutil.which("promtool") is None, reason="Debian package prometheus")
def test_metrics_rules_and_dashboard_hold_before_promtool(service: tuple[Path, str, str]) -> None:
    done = subprocess.run(["promtool", "check", "metrics"], input=service[1], text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rules = subprocess.run(["promtool", "check", "rules", ROOT / "deploy" / "alert-rules.yml"], capture_output=True)
    assert rules.returncode == 0
    dashboard = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
    used = set(re.findall(r"tailwatch_\w+", json.dumps(dashboard) + (ROOT / "deploy" / "alert-rules.yml").read_text()))
    known = {re.split(r"[{ ]", line)[0] for line in service[1].splitlines() if not line.startswith("#")}
    assert used <= known


def test_what_it_starts_by_itself_reads_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "t.toml"
    names = {"store": "store", "state": "state.db", "checkpoints": "ck"}
    lines = [f'{key} = "{tmp_path / name}"' for key, name in names.items()]
    config.write_text("\n".join([*lines, 'tracking = "http://127.0.0.1:9"', "[scoring]", "checkpoint_s = 0.01"]))
    started: list[str | None] = []

    class Sync:
        def __init__(self, *_: object, **__: object) -> None:
            started.append(os.environ.get("TAILWATCH_CONFIG"))

        def poll(self) -> None:
            """It takes its time."""

    monkeypatch.setattr("pipelines.scorer.subprocess.Popen", Sync)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("TAILWATCH_CONFIG", "")
    done = CliRunner().invoke(
        cli, ["--config", str(config), "watch", "--no-harvest", "--listen", "", "--seconds", "0.3"]
    )
    assert done.exit_code == 0, done.output
    assert started == [str(config)]


def test_it_does_not_listen_to_the_world_without_token_and_tls() -> None:
    with pytest.raises(ConfigError, match="loopback"):
        serve(None, Http(listen="0.0.0.0:19999"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cannot listen"):
        serve(None, Http(listen="127.0.0.1:notaport"))  # type: ignore[arg-type]


@pytest.mark.parametrize(("harvest", "keep_days", "left"), [(False, 7.0, 1), (True, 0.0, 1), (True, 7.0, 0)])
def test_what_a_store_loses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harvest: bool, keep_days: float, left: int
) -> None:
    """A reader removes nothing, keep_days = 0 and max_gb = 0 remove nothing, and 7 days remove what is older."""
    monkeypatch.setattr("pipelines.care.TRIM_EVERY_S", 0.0)
    key, at = SeriesKey.of("old", "v"), np.array([10**18])
    with Store(tmp_path / "store") as store:
        store.append(Events((key,), np.zeros(1, np.int64), at, at, np.ones(1)))
    config = Config(
        store=str(tmp_path / "store"),
        state=str(tmp_path / "state.db"),
        checkpoints=str(tmp_path / "checkpoints"),
        harvest=Harvest(kernel=False, keep_days=keep_days, max_gb=0.0),
    )
    watcher = Watcher(config, host="h", harvest=harvest)
    watcher.run(seconds=1.5)
    watcher.close()
    with Store(tmp_path / "store", create=False) as store:
        assert sum(len(b) for b in store.read(0, 2 * 10**18, select='v{host="old"}')) == left
