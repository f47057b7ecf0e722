"""The wire analysers and ingest against tcpdump: ratios of CPU time in one run, on the made-up capture."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.capture_mix import cached
from benchmarks.rows import Row

__all__ = ["run"]

_FULL = """
import resource, sys
from telemetry.capture.packets import read_packets
from telemetry.wire.feeds import Feeds
from telemetry.wire.flows import FlowTable
from telemetry.wire.tcp import Tcp
from telemetry.wire.throughput import Throughput
def cpu():
    use = resource.getrusage(resource.RUSAGE_SELF)
    return use.ru_utime + use.ru_stime
def full(path):
    flows = FlowTable()
    feeds, tcp, windows = Feeds(flows, lines=False), Tcp(flows), Throughput(1_000_000)
    for batch in read_packets(path):
        flow = flows.assign(batch)
        feeds.push(batch, flow)
        tcp.push(batch, flow)
        windows.push(batch.time_ns, flow, batch.wire_len, flows.count)
    feeds.finish()
    windows.finish()
full(sys.argv[1])
before = cpu()
full(sys.argv[2])
print(cpu() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""

_INGEST = """
import resource, sys, tempfile
from pipelines.ingest import ingest_unit
from pipelines.units import plan
def cpu():
    use = resource.getrusage(resource.RUSAGE_SELF)
    return use.ru_utime + use.ru_stime
def go(path, store):
    return ingest_unit(plan([path], [], "bench")[0], store, detail="windows")
go(sys.argv[1], sys.argv[3] + "/warm")
before = cpu()
done = go(sys.argv[2], sys.argv[3] + "/store")
print(cpu() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, done.events)
"""


def _cpu_of(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def _measure(code: str, *args: object) -> tuple[float, float]:
    """(CPU seconds, MB) of a process of its own, warmed."""
    out = subprocess.run([sys.executable, "-c", code, *map(str, args)], check=True, capture_output=True, text=True)
    seconds, mb, *_ = out.stdout.split()
    return float(seconds), float(mb)


def run(*, data: str | None, quick: bool = False) -> list[Row]:
    """Measure; `data` is not needed. With `quick`, 500,000 packets instead of 5 million."""
    packets = 500_000 if quick else 5_000_000
    goals = (
        Row("full_vs_tcpdump", None, "x", 1.0, ">="),
        Row("ingest_vs_tcpdump", None, "x", 0.7, ">="),
        Row("ingest_rss_mb", None, "MB", 400, "<="),
    )
    try:
        path, warm = cached(packets), cached(20_000, seed=3)
        with open(path, "rb") as warming:  # into the page cache
            while warming.read(1 << 24):
                pass
        tcpdump, full, ingest, rss = [], [], [], 0.0
        for _ in range(3 if quick else 5):
            tcpdump.append(_cpu_of(["tcpdump", "-r", str(path), "-w", "/dev/null"]))
            full.append(_measure(_FULL, warm, path)[0])
            with tempfile.TemporaryDirectory() as folder:
                seconds, mb = _measure(_INGEST, warm, path, Path(folder))
            ingest.append(seconds)
            rss = max(rss, mb)
        values = (min(tcpdump) / min(full), min(tcpdump) / min(ingest), rss)
    except Exception as error:
        return [Row(r.name, None, r.unit, r.goal, r.direction, f"{type(error).__name__}: {error}") for r in goals]
    return [Row(r.name, v, r.unit, r.goal, r.direction) for r, v in zip(goals, values, strict=True)]
