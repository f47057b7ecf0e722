"""A tracking server that goes away and comes back: runs are kept and sent; and many writers on one SQLite file."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from detectors.build import build
from detectors.spec import DetectorSpec
from pipelines.cli import cli
from pipelines.config import Config
from pipelines.dossier import Dossier
from pipelines.reach import Unreachable
from pipelines.registry import Registry
from pipelines.tracking import Spool, Tracker
from telemetry.errors import StoreError
from telemetry.types import Alert, SeriesKey

SPEC = DetectorSpec.from_toml(
    """
name = "kept"
[[features]]
kind = "window"
select = "lat_ns"
window = "1s"
columns = ["p99"]
[model]
kind = "light"
"""
)
KEY = SeriesKey.of("h", "lat_ns")
ALERT = Alert("a1", "kept", "1", "unknown", KEY, "p99", 10**9, 5 * 10**9, 4 * 10**9, 4.0, 0.7, 1, 9.0)
DOSSIER = Dossier(
    metrics={"corpus": {"event_recall": 0.5, "delay_p50_s": float("nan")}},
    pictures={"x.png": b"\x89PNG"},
    pages={"report.html": "<p>hello"},
    alerts=[ALERT],
    incidents=[{"incident": "inc-1", "found": True, "delay_s": 0.5}],
    params={"p": 1},
    tags={"tailwatch.corpus": "corpus"},
    data=pd.DataFrame({"id": ["inc-1"], "start_ns": [5]}),
    data_digest="abc",
)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def config_for(tracking: str, folder: Path) -> Config:
    return Config(tracking=tracking, artifacts=str(folder / "artifacts"), state=str(folder / "state.db"),
                  checkpoints=str(folder / "ck"))  # fmt: skip


def test_an_absent_server_is_told_at_once_and_the_run_is_kept(tmp_path: Path) -> None:
    config = config_for(f"http://127.0.0.1:{free_port()}", tmp_path)
    said: list[str] = []
    begun = time.monotonic()
    tracker = Tracker(config, said.append)
    snapshot = build(SPEC).snapshot()
    first = tracker.log(SPEC, DOSSIER)
    second = tracker.log(SPEC, DOSSIER, snapshot=snapshot, register=True, alias="challenger", parent=first.run_id)
    assert time.monotonic() - begun < 20
    assert first.spooled
    assert second.spooled
    assert len(said) == 1
    assert "does not answer" in said[0]
    assert [p.name for p in tracker.spool.waiting()] == [first.run_id, second.run_id]
    with pytest.raises(Unreachable, match="does not answer"):
        Registry(config.tracking)

    store = Registry(f"sqlite:///{tmp_path}/m.db", str(tmp_path / "a"))  # as if the server were back
    assert tracker.spool.send(store) == 2
    assert tracker.spool.waiting() == []
    made = store.load("kept", alias="challenger")
    assert made.snapshot is not None
    assert made.snapshot.arrays.keys() == snapshot.arrays.keys()
    run = store.client.get_run(made.run_id)
    assert run.data.metrics["corpus.event_recall"] == 0.5
    parent = store.client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.data.params["p"] == "1"
    assert store.incident_rows(parent.info.run_id)[0]["incident"] == "inc-1"
    names = {f.path for f in store.client.list_artifacts(parent.info.run_id)}
    assert {"report.html", "alerts.json", "pictures"} <= names


def test_a_damaged_entry_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    kept = spool.put(SPEC, DOSSIER)
    (spool.folder / kept.run_id / "alerts.jsonl").unlink()
    store = Registry(f"sqlite:///{tmp_path}/m.db", str(tmp_path / "a"))
    with pytest.raises(StoreError, match=kept.run_id):
        spool.send(store)
    assert len(spool.waiting()) == 1


def serve(folder: Path, port: int) -> subprocess.Popen[bytes]:
    stores = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "art")]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += stores
    env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as s:
                s.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                if b"200" in s.recv(64):
                    return process
        except OSError:
            time.sleep(0.3)
    stop(process)
    raise AssertionError("the MLflow server did not come up")


def stop(process: subprocess.Popen[bytes]) -> None:
    import contextlib
    import signal

    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_real_server_dies_and_comes_back(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "t.toml").write_text(
        f'tracking = "http://127.0.0.1:{port}"\nartifacts = "{tmp_path}/artifacts"\n'
        f'state = "{tmp_path}/state.db"\ncheckpoints = "{tmp_path}/ck"\nstore = "{tmp_path}/store"\n'
    )
    config = config_for(f"http://127.0.0.1:{port}", tmp_path)

    def sync() -> tuple[int, str]:
        command = [sys.executable, "-m", "pipelines.cli", "--config", str(tmp_path / "t.toml"), "sync"]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
        return done.returncode, done.stdout + done.stderr

    server = serve(tmp_path, port)
    try:
        tracker = Tracker(config)
        live = tracker.log(SPEC, DOSSIER)
        assert not live.spooled
        stop(server)
        lost = tracker.log(SPEC, DOSSIER, snapshot=build(SPEC).snapshot(), register=True, alias="challenger")
        assert lost.spooled
        code, said = sync()
        assert code != 0
        assert said.count("\n") <= 2
        assert "does not answer" in said
        server = serve(tmp_path, port)
        code, said = sync()
        assert code == 0, said
        assert "1 kept run" in said
        assert tracker.spool.waiting() == []
        assert Registry(config.tracking).load("kept", alias="challenger").snapshot is not None
    finally:
        stop(server)


def write_some(uri: str, artifacts: str, n: int) -> int:
    registry = Registry(uri, artifacts)
    for i in range(n):
        registry.log_run(SPEC, Dossier(metrics={"c": {"x": float(i)}}))
    return n


@pytest.mark.slow
def test_four_writers_on_a_fresh_sqlite_file(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/m.db"
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(write_some, uri, str(tmp_path / "a"), 5) for _ in range(4)]
        assert sum(j.result(timeout=300) for j in jobs) == 20
    registry = Registry(uri, str(tmp_path / "a"))
    found = registry.client.get_experiment_by_name("tailwatch")
    assert found is not None
    assert len(registry.client.search_runs([found.experiment_id])) == 20


def test_the_command_says_what_it_sent(tmp_path: Path) -> None:
    config = config_for(f"sqlite:///{tmp_path}/m.db", tmp_path)
    Spool(Path(config.artifacts).with_name("spool")).put(SPEC, DOSSIER)
    (tmp_path / "t.toml").write_text(
        f'tracking = "{config.tracking}"\nartifacts = "{config.artifacts}"\nstate = "{config.state}"\n'
        f'checkpoints = "{config.checkpoints}"\n'
    )
    result = CliRunner().invoke(cli, ["--config", str(tmp_path / "t.toml"), "sync"])
    assert result.exit_code == 0, result.output
    assert "1 kept run" in result.output
    assert json.loads(CliRunner().invoke(cli, ["--config", str(tmp_path / "t.toml"), "sync", "--json"]).stdout) == []
