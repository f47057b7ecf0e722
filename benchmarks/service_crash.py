"""Crash safety: kill -9 a scoring job at random moments; what is stored must equal an undisturbed run's."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.rows import Row, attempt
from telemetry.store import Store
from telemetry.types import Events, SeriesKey

SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND


def make_store(path: Path, seconds: int = 240, seed: int = 7) -> None:
    """A host whose context switches and thread waits storm three times, and a wire whose latency steps."""
    rng = np.random.default_rng(seed)
    counters = [SeriesKey.of("h", "context_switches_total")]
    counters += [SeriesKey.of("h", "irq_total", cpu=c, irq="LOC") for c in range(2)]
    counters += [SeriesKey.of("h", "thread_wait_ns_total", process=p) for p in ("strat", "pub")]
    n = seconds * 10
    t = START + np.arange(n) * SECOND // 10
    storm = (np.arange(n) // 10 % 80 >= 60) & (np.arange(n) // 10 % 80 < 70)
    flow = SeriesKey.of("h", "wire_latency_ns", flow="f", **{"from": "a", "to": "b"})
    totals = np.zeros(len(counters), np.int64)
    with Store(path) as store:
        for i in range(n):
            rates = np.array([3000, 250, 250, 3e6, 2e6]) * (60 if storm[i] else 1)
            totals += rng.poisson(rates / 10)
            seen = np.full(len(counters), t[i])
            store.append(Events(tuple(counters), np.arange(len(counters)), seen, seen, totals.copy()))
            at = np.sort(t[i] + rng.integers(0, SECOND // 10, 40))
            late = np.full(40, at[-1])
            value = rng.lognormal(11, 0.2, 40) * (20 if storm[i] else 1)
            store.append(Events((flow,), np.zeros(40, np.int64), at, late, value.astype(np.int64)))


def job(folder: Path, store: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "pipelines.cli",
        "--config",
        str(folder / "tailwatch.toml"),
        "score",
        "--store",
        str(store),
    ]


def settings(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(
        f'{key} = "{folder / name}"\n'
        for key, name in (("store", "store"), ("state", "state.db"), ("checkpoints", "checkpoints"))
    )
    (folder / "tailwatch.toml").write_text(
        text + f'[scoring]\ncheckpoint_s = 0.05\n[sinks]\njsonl = "{folder / "out.jsonl"}"\n'
    )


def outcome(folder: Path) -> tuple[list[str], list[str], set[str]]:
    """Alerts, incident steps (as stored) and the identities that the sink saw."""
    from pipelines.codec import encode
    from pipelines.state import StateDB

    with StateDB(folder / "state.db", create=False) as state:
        alerts = [encode(a) for a in state.alerts()]
        steps = [
            f"{at} {action} {encode(i)}"
            for incident in sorted(state.incidents(), key=lambda i: i.id)
            for at, action, i in state.history(incident.id)
        ]
    sent = folder / "out.jsonl"
    ids = (
        {json.loads(line)["id"] for line in sent.read_text().splitlines() if line.endswith("}")}
        if sent.exists()
        else set()
    )
    return alerts, steps, ids


def crash(kills: int, seed: int = 1) -> tuple[int, int]:
    """Kill a job `kills` times at random moments; returns (kills that hit, differences)."""
    rng = random.Random(seed)
    hit = differ = 0
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        make_store(root / "store")
        settings(root / "calm")
        begun = time.monotonic()
        subprocess.run(job(root / "calm", root / "store"), check=True, stdout=subprocess.DEVNULL)
        whole = time.monotonic() - begun
        expected = outcome(root / "calm")
        if not expected[0] or not expected[1]:
            raise RuntimeError("the undisturbed run found nothing: the check would prove nothing")
        turn = 0
        while hit < kills:
            turn += 1
            folder = root / f"run{turn}"
            settings(folder)
            for _ in range(40):  # kill the same job again and again until it gets through
                process = subprocess.Popen(job(folder, root / "store"), stdout=subprocess.DEVNULL)
                try:
                    process.wait(rng.uniform(0.3, 1.0) * whole if hit < kills else None)
                except subprocess.TimeoutExpired:
                    os.kill(process.pid, signal.SIGKILL)
                    process.wait()
                    hit += 1
                    continue
                if process.returncode == 0:
                    break
            subprocess.run(job(folder, root / "store"), check=True, stdout=subprocess.DEVNULL)
            got = outcome(folder)
            differ += sum(a != b for a, b in zip(expected, got, strict=True))
    return hit, differ


def run(*, data: str | None, quick: bool = False) -> list[Row]:
    rows = [Row("kills", None, "count", 200, ">="), Row("alerts_differ", None, "count", 0, "<=")]
    return attempt(rows, lambda: crash(20 if quick else 200))
