"""What harvesting costs: against reading and parsing the same files, node_exporter and psutil; and what storing takes.

The share of a core is to stay below 2 %; 1 % is what it aims at.

Harvest and peer alternate at their real pace of 10 Hz, so that both meet the cold caches of a process that mostly
sleeps. The cost of cutting Parquet is measured on five minutes' worth of samples and shared out over their ticks.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.rows import Row
from telemetry.harvest import Harvester, Joiner
from telemetry.host.scan import scan_fields
from telemetry.storage.manifest import read_manifest
from telemetry.store import Store

__all__ = ["run"]

HZ = 10
HOST = "bench"


def run(*, data: str | None, quick: bool = False) -> list[Row]:
    """Measure. `data` is not used: the input is this kernel."""
    if not Path("/proc/interrupts").exists():
        names = ("harvest_vs_parse", "harvest_core_share", "bytes_per_sample")
        return [Row(n, None, "", 2.0, "<=", "needs Linux") for n in names]
    folder = Path(tempfile.mkdtemp(prefix="bench-telemetry-"))
    try:
        return [*_cost(folder, 1 if quick else 3, 4.0 if quick else 8.0), *_fast(folder, quick), *_peers(quick)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Parse:
    """The floor: the same files, descriptors open, read and parsed by the same kernel, and nothing else."""

    def __init__(self, paths: list[str]) -> None:
        self._files = []
        none = np.empty(0, np.int64)
        for path in paths:
            with contextlib.suppress(OSError):
                fd = os.open(path, os.O_RDONLY)
                buffer = bytearray(1 << 18)
                hexa = path.endswith(("softnet_stat", "nf_conntrack"))
                room = np.empty(65_536, np.int64)
                self._files.append((fd, memoryview(buffer), np.frombuffer(buffer, np.uint8), hexa, room, none))

    def tick(self) -> None:
        for fd, view, text, hexa, room, none in self._files:
            size = 0
            while got := os.preadv(fd, (view[size:],), size):
                size += got
            scan_fields(text, size, hexa, room, none, none, none)

    def close(self) -> None:
        for fd, *_ in self._files:
            os.close(fd)


def _paced(tick: Callable[[], object], seconds: float, hz: float = HZ) -> tuple[float, int]:
    """CPU seconds of calling at a pace, and how often."""
    start, cpu = time.monotonic(), time.process_time()
    n = round(seconds * hz)
    for i in range(n):
        wait = start + i / hz - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        tick()
    return time.process_time() - cpu, n


def _cost(folder: Path, rounds: int, seconds: float) -> list[Row]:
    harvester = Harvester("/", host=HOST, hz=HZ, namespaces=False)
    harvester.sample()
    parse = _Parse([s.name for tier in (harvester._base,) for s in tier.sources])
    parse.tick()
    store = Store(folder / "paced")

    def harvest() -> None:
        for batch in harvester.sample():
            store.append(batch)

    ours, floor = [], []
    before = resource.getrusage(resource.RUSAGE_SELF)
    wall = time.monotonic()
    for _ in range(rounds):
        cpu, n = _paced(harvest, seconds)
        ours.append(cpu / n)
        cpu, n = _paced(parse.tick, seconds)
        floor.append(cpu / n)
    wall = time.monotonic() - wall
    after = resource.getrusage(resource.RUSAGE_SELF)
    store.close()
    store.compact()
    files = read_manifest(folder / "paced").files
    per_sample = sum(f.size for f in files) / sum(f.rows for f in files)
    cut = _cut_cost(folder, harvester)
    parse.close()
    harvester.close()
    mine, theirs = min(ours) + cut, min(floor)
    return [
        Row("harvest_vs_parse", mine / theirs, "x CPU", 2.0, "<="),
        Row("harvest_core_share", mine * HZ, "core", 0.02, "<="),
        Row("bytes_per_sample", per_sample, "B", 2.0, "<="),
        Row("harvest_series", float(len(harvester.keys)), "series", None, ">="),
        Row("harvest_tick_us", mine * 1e6, "us", None, "<="),
        Row("parse_tick_us", theirs * 1e6, "us", None, "<="),
        Row("cut_tick_us", cut * 1e6, "us", None, "<="),
        Row("switches_per_s", (after.ru_nvcsw - before.ru_nvcsw) / wall, "1/s", None, "<="),
        Row("preemptions_per_s", (after.ru_nivcsw - before.ru_nivcsw) / wall, "1/s", None, "<="),
    ]


def _cut_cost(folder: Path, harvester: Harvester) -> float:
    """CPU seconds a tick for making Parquet of five minutes of samples."""
    ticks = 300 * HZ
    store = Store(folder / "cut", cut_ns=10**18, segment_bytes=1 << 40)
    for _ in range(ticks):
        for batch in harvester.sample():
            store.append(batch)
    store.flush()
    cpu = time.process_time()
    store.close()
    return (time.process_time() - cpu) / ticks


def _fast(folder: Path, quick: bool) -> list[Row]:
    """The whole set with its fast tier at 100 Hz."""
    harvester = Harvester("/", host=HOST, hz=HZ, fast_hz=100, namespaces=False, processes=[f"pid:{os.getpid()}"])
    with Store(folder / "fast") as store:
        joined = Joiner(store.append)  # as the harvest job does

        def both() -> None:
            for batch in harvester.sample():
                joined.append(batch)

        both()

        cpu, n = _paced(both, 3.0 if quick else 6.0, 100)
        share = cpu / n * 100
    harvester.close()
    return [Row("fast_core_share", share, "core", 0.05, "<=")]


def _peers(quick: bool) -> list[Row]:
    return [_against_psutil(quick), _against_node_exporter(quick)]


def _against_psutil(quick: bool) -> Row:
    """CPU a value: psutil's own reading of CPU, memory, disk and network counters."""
    import psutil

    def theirs() -> int:
        n = sum(len(c) for c in psutil.cpu_times(percpu=True)) + len(psutil.cpu_stats()) + len(psutil.virtual_memory())
        n += sum(len(c) for c in psutil.disk_io_counters(perdisk=True).values())
        return n + sum(len(c) for c in psutil.net_io_counters(pernic=True).values())

    harvester = Harvester("/", host=HOST, hz=HZ, namespaces=False)
    harvester.sample()
    seconds = 2.0 if quick else 5.0
    values = theirs()
    cpu_theirs, n = _paced(theirs, seconds)
    per_value = cpu_theirs / n / values
    cpu_ours, n = _paced(harvester.sample, seconds)
    mine = cpu_ours / n / len(harvester.keys)
    harvester.close()
    return Row("vs_psutil", per_value / mine, "x CPU a value", 3.0, ">=")


def _against_node_exporter(quick: bool) -> Row:
    name = "vs_node_exporter"
    program = shutil.which("prometheus-node-exporter")
    if program is None:
        return Row(name, None, "x CPU a value", 3.0, ">=", "prometheus-node-exporter is not installed")
    import httpx
    import psutil

    seconds = 2.0 if quick else 5.0
    with _exporter(program) as (process, url), httpx.Client() as client:
        text = client.get(url).text
        values = sum(1 for line in text.splitlines() if line and not line.startswith("#"))
        before = psutil.Process(process.pid).cpu_times()
        _, n = _paced(lambda: client.get(url), seconds)
        after = psutil.Process(process.pid).cpu_times()
    theirs = (after.user + after.system - before.user - before.system) / n / values
    harvester = Harvester("/", host=HOST, hz=HZ, namespaces=False)
    harvester.sample()
    cpu, n = _paced(harvester.sample, seconds)
    mine = cpu / n / len(harvester.keys)
    harvester.close()
    return Row(name, theirs / mine, "x CPU a value", 3.0, ">=")


@contextlib.contextmanager
def _exporter(program: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = ["interrupts", "stat.softirq", "qdisc", "tcpstat", "processes", "ethtool"]
    process = subprocess.Popen(
        [program, f"--web.listen-address=127.0.0.1:{port}", *(f"--collector.{f}" for f in flags)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                break
            time.sleep(0.05)
        yield process, f"http://127.0.0.1:{port}/metrics"
    finally:
        process.terminate()
        process.wait(10)
