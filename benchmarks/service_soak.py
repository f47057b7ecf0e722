"""Soak: a day of 5,000 series through the whole service as fast as it goes; memory must stay flat.

A child process does what `watch` does with each second of samples (store, score, group, commit, deliver) and
checkpoints and trims the store now and then; storms come and go, so that incidents open and resolve. The slope is that
of the resident memory over event time, after the first quarter.
"""

from __future__ import annotations

import json
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


STORM = (  # a host whose context switches and threads' waits storm: what the catalogue knows as an incident
    (SeriesKey.of("h", "context_switches_total"), 3_000.0),
    (SeriesKey.of("h", "irq_total", cpu=0, irq="LOC"), 250.0),
    (SeriesKey.of("h", "thread_wait_ns_total", process="strat"), 3e6),
    (SeriesKey.of("h", "thread_wait_ns_total", process="pub"), 2e6),
)


def keys_of(series: int) -> tuple[SeriesKey, ...]:
    """Series that the catalogue watches: interrupts, softirqs, waits of threads and cpus, packets of a device."""
    many = range(series - len(STORM))
    return (
        *(key for key, _ in STORM),
        *(
            SeriesKey.of("h", NAMES[i % 5], cpu=i // 5, irq=i, type="NET_RX", process=f"p{i}", device="eth0")
            for i in many
        ),
    )


def day(series: int, hours: float, seconds: int = 10) -> Iterator[Events]:
    """Batches of counters that advance as Poisson counts: 1 Hz, those of the storm 10 Hz.

    Each half an hour the host storms for a minute, and with it a twentieth of all series.
    """
    rng = np.random.default_rng(3)
    keys, few = keys_of(series), len(STORM)
    slow = np.array([[50.0] * (series - few)])
    fast = np.array([[per_second / 10 for _, per_second in STORM]])
    at = np.concatenate(
        [np.repeat(np.arange(seconds) * SECOND, series - few), np.repeat(np.arange(10 * seconds) * SECOND // 10, few)]
    )
    index = np.concatenate([np.tile(np.arange(few, series), seconds), np.tile(np.arange(few), 10 * seconds)])
    order = np.argsort(at, kind="stable")
    at, index = at[order], index[order]
    index.setflags(write=False)
    totals = [np.zeros(series - few, np.int64), np.zeros(few, np.int64)]
    for first in range(0, int(hours * 3600), seconds):
        storm = first % 1800 >= 1740
        rate = [np.repeat(slow, seconds, axis=0), np.repeat(fast, 10 * seconds, axis=0)]
        if storm:
            rate[0][:, ::20] *= 60
            rate[1] *= 60
        values = [total + np.cumsum(rng.poisson(r), axis=0) for total, r in zip(totals, rate, strict=True)]
        totals = [v[-1].copy() for v in values]
        t = START + first * SECOND + at
        yield Events(keys, index, t, t, np.concatenate([v.reshape(-1) for v in values])[order])


def soak(series: int, hours: float, folder: Path) -> dict[str, object]:
    """Run in this process; returns the memory curve: (event hours, resident MB) and what was found."""
    from pipelines.config import Config, Sinks
    from pipelines.engine import Engine
    from pipelines.live import live_detectors, make_grouper
    from pipelines.sinks import deliver, make_sinks
    from pipelines.state import StateDB
    from pipelines.upkeep import trim
    from telemetry.store import Store

    config = Config(sinks=Sinks(jsonl=str(folder / "out.jsonl"), max_per_minute=10_000))
    sinks = make_sinks(config)
    curve: list[tuple[float, float]] = []
    begun, alerts, incidents = time.process_time(), 0, 0
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
            if turn % 360 == 359:
                trim(state, now - 3600 * SECOND)
                spent = time.process_time() - begun
                told = f"{curve[-1][1]:.0f} MB, {alerts} alerts, {incidents} incidents, {spent:.0f} CPU s"
                print(f"hour {(turn + 1) / 360:.0f}: {told}", file=sys.stderr, flush=True)
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
