"""The sampler: a real process that reads this machine's /proc."""

from __future__ import annotations

import csv
import gzip
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.lab.run import ROOT, worker_argv

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_table_appears_whole_or_not_at_all(tmp_path: Path, how: signal.Signals) -> None:
    out = tmp_path / "proc_10hz.csv.gz"
    argv = worker_argv("sampler", f"--process=me={os.getpid()}", "--out", str(out))
    sampler = subprocess.Popen(argv, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": ROOT})
    assert sampler.stdout is not None
    try:
        assert sampler.stdout.readline().strip() == b"ready"
        time.sleep(1.0)
        assert not out.exists()
        sampler.send_signal(how)
        sampler.wait(60)
    finally:
        sampler.kill()
        sampler.stdout.close()
    if how is signal.SIGKILL:
        assert not out.exists()
        return
    assert list(tmp_path.iterdir()) == [out]
    with gzip.open(out, "rt", newline="") as f:
        header, *rows = csv.reader(f)
    assert header[0] == "t"
    assert any(name.startswith("proc.me.") for name in header)
    assert len(rows) >= 2
    assert all(len(row) == len(header) for row in rows)
