"""The service: how soon a job starts, how long a live step takes."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.rows import Row, attempt
from benchmarks.service_crash import job, make_store, settings
from detectors.incidents import Grouper
from pipelines.engine import Engine
from pipelines.live import live_detectors
from pipelines.state import StateDB
from telemetry.store import Store
from telemetry.types import Events, SeriesKey

SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND


def cpu_of(command: list[str], runs: int) -> float:
    """Median CPU seconds of a command, one run before to warm up."""
    spent = []
    for _ in range(runs + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(spent[1:])


def starts(runs: int) -> list[float]:
    """CPU of --help, of a job with nothing to do, and of one with a new second of 100 series."""
    help_s = cpu_of([sys.executable, "-m", "pipelines.cli", "--help"], runs)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        settings(root)
        make_store(root / "store", seconds=20)
        subprocess.run(job(root, root / "store"), check=True, stdout=subprocess.DEVNULL)
        idle = cpu_of(job(root, root / "store"), runs)
        keys = tuple(SeriesKey.of("h", "softirq_total", cpu=i, type="NET_RX") for i in range(100))
        spent = []
        for turn in range(runs + 1):
            with Store(root / "store", create=False) as store:
                for tick in range(12):
                    t = np.full(100, START + (1000 + turn * 12 + tick) * SECOND // 10 + 30 * SECOND)
                    store.append(Events(keys, np.arange(100), t, t, np.full(100, turn * 12 + tick)))
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(job(root, root / "store"), check=True, stdout=subprocess.DEVNULL)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return [help_s, idle, statistics.median(spent[1:])]


def live(series: int, ticks: int) -> float:
    """p99 of a live step at 10 Hz in ms (push, close, score, decide, group, commit)."""
    rng = np.random.default_rng(1)
    names = ("irq_total", "softirq_total", "thread_wait_ns_total", "sched_wait_ns_total", "nic_rx_packets_total")
    keys = tuple(
        SeriesKey.of("h", names[i % 5], cpu=i // 5, irq=i, type="NET_RX", process=f"p{i}", device="eth0")
        for i in range(series)
    )
    totals = np.zeros(series, np.int64)
    took = []
    with tempfile.TemporaryDirectory() as folder, StateDB(Path(folder, "state.db")) as state:
        engine = Engine(state, "main", live_detectors(state), Grouper(), Path(folder, "ck"))
        for tick in range(ticks):
            totals += rng.poisson(50, series)
            t = np.full(series, START + tick * SECOND // 10)
            events = Events(keys, np.arange(series), t, t, totals.copy())
            begun = time.perf_counter()
            engine.push(events)
            engine.step(int(t[0]))
            took.append(time.perf_counter() - begun)
    return float(np.quantile(took[100:], 0.99) * 1e3)


def run(*, data: str | None, quick: bool = False) -> list[Row]:
    first = [
        Row("help_s", None, "CPU s", 0.25, "<="),
        Row("start_idle_s", None, "CPU s", 0.6, "<="),
        Row("start_window_s", None, "CPU s", 1.5, "<="),
    ]
    second = [Row("step_p99_ms", None, "ms", 250, "<=", "2,000 series at 10 Hz, the whole catalogue")]
    rows = attempt(first, lambda: starts(3 if quick else 7))
    return rows + attempt(second, lambda: [live(2_000, 600 if quick else 3_000)])
