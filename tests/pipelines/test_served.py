"""`mlflow models serve` answers curl as `score_frame` does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from detectors.spec import DetectorSpec
from pipelines.dossier import Dossier
from pipelines.frames import score_frame
from pipelines.registry import Registry
from pipelines.train import train
from telemetry.source import ArraySource
from telemetry.types import Events, SeriesKey

SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND
KEY = SeriesKey.of("h", "lat_ns")
SPEC = DetectorSpec.from_toml(
    """
name = "served"
[[features]]
kind = "window"
select = "lat_ns"
window = "1s"
columns = ["last"]
[model]
kind = "light"
"""
)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="Debian package curl")
def test_a_served_model_answers_curl(tmp_path: Path) -> None:
    n = 600
    t = START + np.arange(n) * SECOND
    value = np.random.default_rng(0).normal(100.0, 5.0, n)
    value[550:560] = 400.0
    past = Events((KEY,), np.zeros(500, np.int64), t[:500], t[:500], value[:500])
    registry = Registry(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts"))
    trained = train(SPEC, ArraySource(past), 0, 2**62)
    made = registry.register(SPEC, trained.snapshot, Dossier())
    registry.alias("served", "champion", made.version)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = {
        **os.environ, "MLFLOW_TRACKING_URI": registry.tracking, "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": os.getcwd(),
    }  # fmt: skip
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/served@champion", "--env-manager",
               "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]  # fmt: skip
    with (tmp_path / "serve.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)
    frame = pd.DataFrame({"series": str(KEY), "time_ns": t[500:], "value": value[500:]})
    body = json.dumps({"dataframe_split": frame.to_dict(orient="split", index=False)})
    ask = ["curl", "-s", "--max-time", "60", "-H", "Content-Type: application/json", "-d", "@-",
           f"http://127.0.0.1:{port}/invocations"]  # fmt: skip
    try:
        deadline = time.monotonic() + 180
        answers = []
        while len(answers) < 2 and time.monotonic() < deadline:
            done = subprocess.run(ask, input=body, capture_output=True, text=True)
            if done.returncode == 0:
                answers.append(done.stdout)
            else:
                assert server.poll() is None, (tmp_path / "serve.log").read_text()
                time.sleep(0.5)
        assert len(answers) == 2, (tmp_path / "serve.log").read_text()
        assert answers[0] == answers[1]  # stateless
        got = pd.DataFrame(json.loads(answers[0])["predictions"])
        want = score_frame(SPEC, trained.snapshot, frame)
        assert got["end_ns"].tolist() == want["end_ns"].tolist()
        assert got["alert"].tolist() == want["alert"].tolist()
        np.testing.assert_allclose(got["anomaly_score"], want["anomaly_score"])
        assert got["alert"].sum() >= 1
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
