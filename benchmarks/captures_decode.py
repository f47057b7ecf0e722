"""Decoding captures against tcpdump and dpkt: CPU time in one run (two cores: wall time), on a made-up capture."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.capture_mix import cached
from benchmarks.rows import Row

__all__ = ["run"]

ROUNDS = 5
DPKT_PACKETS = 20_000

_DECODE = """
import resource, sys
from telemetry.capture.packets import read_packets
warm, *paths = sys.argv[1:]
for batch in read_packets(warm): pass
def cpu():
    use = resource.getrusage(resource.RUSAGE_SELF)
    return use.ru_utime + use.ru_stime
print('ready', flush=True)
sys.stdin.readline()
before, n = cpu(), 0
for path in paths:
    for batch in read_packets(path):
        n += batch.n
print(cpu() - before, n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)
"""

_PARQUET = """
import os, resource, sys
from pipelines.packets import convert
warm, path, out = sys.argv[1:]
convert([warm], out)
def cpu():
    use = resource.getrusage(resource.RUSAGE_SELF)
    return use.ru_utime + use.ru_stime
before = cpu()
stats = convert([path], out)
print(cpu() - before, os.path.getsize(out) / stats.packets, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def _child(code: str, *args: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _cpu_of(command: list[str]) -> float:
    """CPU seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def _decode(paths: list[Path], warm: Path) -> tuple[float, float, float]:
    """(CPU seconds, packets, MB) of decoding in a process of its own."""
    child = _child(_DECODE, warm, *paths)
    out, _ = child.communicate("go\n")
    seconds, packets, mb = out.split("\n")[1].split()
    return float(seconds), float(packets), float(mb)


def _wall(groups: list[list[Path]], warm: Path) -> float:
    """Wall seconds until one process a group has decoded its files; start-up is not counted."""
    children = [_child(_DECODE, warm, *paths) for paths in groups]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    before = time.perf_counter()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        child.communicate()
    return time.perf_counter() - before


def _dpkt_seconds(path: Path, packets: int) -> float:
    """CPU seconds of dpkt's full parse of the first packets: the same columns, one tuple a packet."""
    import dpkt  # type: ignore[import-untyped, import-not-found, unused-ignore]

    rows: list[tuple[object, ...]] = []
    before = time.process_time()
    with open(path, "rb") as file:
        for number, (stamp, frame) in enumerate(dpkt.pcap.Reader(file)):
            if number == packets:
                break
            ether = dpkt.ethernet.Ethernet(frame)
            ip = ether.data
            if not isinstance(ip, dpkt.ip.IP):
                continue
            row: tuple[object, ...] = (
                stamp, len(frame), ether.type, socket.inet_ntop(socket.AF_INET, ip.src),
                socket.inet_ntop(socket.AF_INET, ip.dst), ip.p, ip.ttl, ip.id,
            )  # fmt: skip
            layer = ip.data
            if isinstance(layer, dpkt.udp.UDP):
                row = (*row, layer.sport, layer.dport, len(layer.data))
            elif isinstance(layer, dpkt.tcp.TCP):
                options = dpkt.tcp.parse_opts(layer.opts)
                row = (
                    *row, layer.sport, layer.dport, len(layer.data), layer.seq, layer.ack, layer.flags, layer.win,
                    tuple(options),
                )  # fmt: skip
            rows.append(row)
    return time.process_time() - before


def _attempt(row: Row, measure: Callable[[], float]) -> Row:
    try:
        return Row(row.name, measure(), row.unit, row.goal, row.direction)
    except Exception as error:
        return Row(row.name, None, row.unit, row.goal, row.direction, f"{type(error).__name__}: {error}")


def run(*, data: str | None, quick: bool = False) -> list[Row]:
    """Measure; `data` is not needed. With `quick`, 500,000 packets instead of 5 million."""
    packets = 500_000 if quick else 5_000_000
    path, warm = cached(packets), cached(20_000, seed=3)
    halves = [cached(packets // 2, seed=8), cached(packets // 2, seed=9)]
    rounds = 3 if quick else ROUNDS
    figures: dict[str, float] = {}

    def ratios() -> None:
        """Interleaved runs; the best of each."""
        tcpdump, ours, parquet, one, two = ([] for _ in range(5))
        for file in (path, *halves):
            with open(file, "rb") as warming:  # into the page cache
                while warming.read(1 << 24):
                    pass
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "packets.parquet"
            _child(_PARQUET, warm, warm, out).communicate()  # compile in a process whose memory is not measured
            for _ in range(rounds):
                tcpdump.append(_cpu_of(["tcpdump", "-r", str(path), "-w", "/dev/null"]))
                seconds, _, mb = _decode([path], warm)
                ours.append(seconds)
                child = _child(_PARQUET, warm, path, out)
                seconds, size, parquet_mb = map(float, child.communicate()[0].split())
                parquet.append(seconds)
                one.append(_wall([halves], warm))
                two.append(_wall([[halves[0]], [halves[1]]], warm))
                figures["bytes_per_packet"] = size
                figures["rss_mb"] = max(mb, parquet_mb, figures.get("rss_mb", 0.0))
        figures["decode"] = min(ours)
        figures["decode_vs_tcpdump"] = min(tcpdump) / min(ours)
        figures["packets_parquet_vs_tcpdump"] = min(tcpdump) / min(parquet)
        figures["two_cores"] = min(one) / min(two)

    def figure(name: str) -> float:
        if not figures:
            ratios()
        return figures[name]

    def dpkt_ratio() -> float:
        each = min(_dpkt_seconds(path, DPKT_PACKETS) for _ in range(2)) / DPKT_PACKETS
        return each / (figure("decode") / packets)

    goals = (
        Row("decode_vs_tcpdump", None, "x", 1.5, ">="),
        Row("packets_parquet_vs_tcpdump", None, "x", 0.33, ">="),
        Row("two_cores", None, "x", 1.7, ">="),
        Row("bytes_per_packet", None, "B", 15, "<="),
        Row("rss_mb", None, "MB", 400, "<="),
    )
    rows = [_attempt(row, lambda name=row.name: figure(name)) for row in goals]  # type: ignore[misc]
    rows.append(_attempt(Row("decode_vs_dpkt", None, "x", 150, ">="), dpkt_ratio))
    return rows
