"""Soak: a day of 5,000 series through the whole service as fast as it goes; memory must stay flat.

A child process does what `watch` does with each second of samples (store, score, group, commit, deliver) and
checkpoints and trims the store now and then; storms come and go, so that incidents open and resolve. The slope is that
of the resident memory over event time, after the first quarter.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.rows import Row, attempt
from telemetry.types import Events, SeriesKey

SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND
NAMES = ("irq_total", "softirq_total", "thread_wait_ns_total", "sched_wait_ns_total", "nic_rx_packets_total")


def keys_of(series: int) -> tuple[SeriesKey, ...]:
    """Series that the catalogue watches: interrupts, softirqs, waits of threads and cpus, packets of a device."""
    return tuple(
        SeriesKey.of("h", NAMES[i % 5], cpu=i // 5, irq=i, type="NET_RX", process=f"p{i}", device="eth0")
        for i in range(series)
    )


def day(series: int, hours: float, seconds_a_batch: int = 10) -> Iterator[Events]:
    """Counters at 1 Hz that advance as Poisson counts; each half an hour a twentieth of them storms for 20 s."""
    rng = np.random.default_rng(3)
    keys, index = keys_of(series), np.arange(series)
    index.setflags(write=False)
    many = np.tile(index, seconds_a_batch)
    many.setflags(write=False)
    totals = np.zeros(series, np.int64)
    for first in range(0, int(hours * 3600), seconds_a_batch):
        rate = np.full((seconds_a_batch, series), 50.0)
        if first % 1800 >= 1780:
            rate[:, ::20] = 5000.0
        values = totals + np.cumsum(rng.poisson(rate), axis=0)
        totals = values[-1].copy()
        t = np.repeat(START + (first + np.arange(seconds_a_batch)) * SECOND, series)
        yield Events(keys, many, t, t, values.reshape(-1))


def soak(series: int, hours: float, folder: Path) -> dict[str, object]:
    """Run in this process; returns the memory curve: (event hours, resident MB) and what was found."""
    from pipelines.config import Config, Sinks
    from pipelines.engine import Engine
    from pipelines.live import live_detectors, make_grouper
    from pipelines.sinks import deliver, make_sinks
    from pipelines.state import StateDB
    from telemetry.store import Store

    config = Config(sinks=Sinks(jsonl=str(folder / "out.jsonl"), max_per_minute=10_000))
    sinks = make_sinks(config)
    curve: list[tuple[float, float]] = []
    trace = os.environ.get("SOAK_TRACE")
    if trace:
        import tracemalloc

        tracemalloc.start(12)
    begun, alerts, incidents, before = time.process_time(), 0, 0, None
    with StateDB(folder / "state.db") as state, Store(folder / "store", background=True, on_full="drop") as store:
        engine = Engine(
            state, "main", live_detectors(state), make_grouper(config), folder / "ck", sinks=[s.name for s in sinks]
        )
        for turn, events in enumerate(day(series, hours)):
            now = int(events.seen_ns[-1])
            store.append(events)
            engine.push(events)
            step = engine.step(now)
            alerts += len(step.alerts)
            incidents += sum(c.action == "opened" for c in step.changes)
            deliver(state, sinks, now, per_minute=10_000)
            if turn % 60 == 59:
                engine.checkpoint(now)
                store.trim(seen_before_ns=now - 3600 * SECOND)
            if turn % 30 == 29:
                curve.append(((turn + 1) / 360, rss_mb()))
            if trace and turn % 360 == 359:
                gc.collect()
                shot = tracemalloc.take_snapshot()
                if before is not None:
                    print(f"--- hour {(turn + 1) / 360:.0f}", file=sys.stderr)
                    for stat in shot.compare_to(before, "traceback")[:8]:
                        print(stat, *stat.traceback.format()[-6:], sep="\n", file=sys.stderr)
                before = shot
    return {
        "curve": curve, "alerts": alerts, "incidents": incidents, "cpu_s": time.process_time() - begun,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }  # fmt: skip


def rss_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def slope(curve: list[tuple[float, float]]) -> float:
    """MB per hour of event time, least squares, without the first quarter."""
    settled = np.array(curve[len(curve) // 4 :])
    return float(np.polyfit(settled[:, 0], settled[:, 1], 1)[0]) if len(settled) > 2 else float("nan")


def measure(series: int, hours: float) -> dict[str, object]:
    """The soak in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.service_soak", str(series), str(hours), folder]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def run(*, data: str | None, quick: bool = False) -> list[Row]:
    rows = [
        Row("soak_rss_slope_mb_per_h", None, "MB/h", 1, "<=", "5,000 series at 1 Hz, per hour of event time"),
        Row("soak_hours", None, "h of event time", None if quick else 24, ">="),
        Row("soak_peak_mb", None, "MB", None, "<="),
        Row("soak_cpu_s", None, "CPU s", None, "<="),
    ]

    def figures() -> list[float]:
        hours = 2.0 if quick else 24.0
        found = measure(5_000, hours)
        if not found["incidents"]:
            raise RuntimeError("no incident in the whole soak: it would prove nothing of the grouper and the outbox")
        return [slope(found["curve"]), hours, float(found["peak_mb"]), float(found["cpu_s"])]  # type: ignore[arg-type]

    return attempt(rows, figures)


if __name__ == "__main__":
    print(json.dumps(soak(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]))))
