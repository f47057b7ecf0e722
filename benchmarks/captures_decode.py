"""Decoding captures against tcpdump and dpkt: CPU time in one run, on a made-up capture.

Rows of two cores are wall time, which the load of others disturbs; `two_cores_of_tcpdump` tells what the machine
gives to two processes that share nothing.
"""

from __future__ import annotations

import gzip
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
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
import os, resource, sys, time
from pipelines.packets import convert
warm, path, out, threads = sys.argv[1:]
convert([warm], out, threads=int(threads))
def cpu():
    use = resource.getrusage(resource.RUSAGE_SELF)
    return use.ru_utime + use.ru_stime
wall, before = time.perf_counter(), cpu()
stats = convert([path], out, threads=int(threads))
wall = time.perf_counter() - wall
mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(cpu() - before, wall, os.path.getsize(out) / stats.packets, mb)
"""

_INFLATE = """
import resource, sys
from isal import igzip_lib
def cpu():
    use = resource.getrusage(resource.RUSAGE_SELF)
    return use.ru_utime + use.ru_stime
def inflate(path):
    codec, out = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP), 0
    with open(path, 'rb') as file:
        while not codec.eof:
            out += len(codec.decompress(file.read(1 << 18) if codec.needs_input else b'', 1 << 18))
    return out
before = cpu()
inflate(sys.argv[1])
print(cpu() - before)
"""


def _child(code: str, *args: str | Path | int) -> subprocess.Popen[str]:
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
    """Wall seconds until one process a group has decoded its files; without start-up and the interpreter's end."""
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
        assert child.stdout is not None
        child.stdout.readline()  # what it says when all is decoded
    wall = time.perf_counter() - before
    for child in children:
        child.communicate()
    return wall


def _wall_of(*commands: list[str]) -> float:
    """Wall seconds until commands that run side by side have ended."""
    before = time.perf_counter()
    running = [subprocess.Popen(c, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for c in commands]
    codes = [child.wait() for child in running]
    if any(codes):
        raise RuntimeError(f"{commands[0][0]} failed")
    return time.perf_counter() - before


def _parquet(path: Path, warm: Path, out: Path, threads: int) -> tuple[float, float, float, float]:
    """(CPU seconds, wall seconds, bytes a packet, MB) of writing Parquet in a process of its own."""
    output, _ = _child(_PARQUET, warm, path, out, threads).communicate()
    seconds, wall, size, mb = map(float, output.split())
    return seconds, wall, size, mb


def _gzipped(path: Path) -> Path:
    """The same capture, packed as `gzip` does; kept beside it."""
    packed = path.with_name(path.name + ".gz")
    if not packed.exists():
        part = packed.with_name(packed.name + ".part")
        with open(path, "rb") as source, gzip.open(part, "wb", 6) as target:
            shutil.copyfileobj(source, target, 1 << 20)
        part.replace(packed)
    return packed


def _inflated(rounds: int) -> float:
    """Plain inflating of a packed capture against decoding it: CPU seconds, the best of interleaved runs."""
    packed, warm = _gzipped(cached(500_000)), cached(20_000, seed=3)
    inflate, ours = [], []
    for _ in range(rounds):
        inflate.append(float(_child(_INFLATE, packed).communicate()[0]))
        ours.append(_decode([packed], warm)[0])
    return min(inflate) / min(ours)


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
        command = ["tcpdump", "-w", "/dev/null", "-r"]
        seconds: dict[str, list[float]] = defaultdict(list)
        for file in (path, *halves):
            with open(file, "rb") as warming:  # into the page cache
                while warming.read(1 << 24):
                    pass
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "packets.parquet"
            _parquet(warm, warm, out, 1)  # compile in a process whose memory is not measured
            for _ in range(rounds):
                seconds["tcpdump"].append(_cpu_of([*command, str(path)]))
                decode, _, mb = _decode([path], warm)
                seconds["decode"].append(decode)
                parquet, _, size, parquet_mb = _parquet(path, warm, out, 1)
                seconds["parquet"].append(parquet)
                seconds["tcpdump_wall"].append(_wall_of([*command, str(path)]))
                _, wall, _, both_mb = _parquet(path, warm, out, 2)
                seconds["parquet_wall"].append(wall)
                seconds["one"].append(_wall([halves], warm))
                seconds["two"].append(_wall([[halves[0]], [halves[1]]], warm))
                seconds["peer_one"].append(sum(_wall_of([*command, str(half)]) for half in halves))
                seconds["peer_two"].append(_wall_of(*([*command, str(half)] for half in halves)))
                figures["bytes_per_packet"] = size
                figures["rss_mb"] = max(mb, parquet_mb, both_mb, figures.get("rss_mb", 0.0))
        best = {name: min(values) for name, values in seconds.items()}
        figures["decode"] = best["decode"]
        figures["decode_vs_tcpdump"] = best["tcpdump"] / best["decode"]
        figures["packets_parquet_vs_tcpdump"] = best["tcpdump"] / best["parquet"]
        figures["packets_parquet_two_cores_vs_tcpdump"] = best["tcpdump_wall"] / best["parquet_wall"]
        figures["two_cores"] = best["one"] / best["two"]
        figures["two_cores_of_tcpdump"] = best["peer_one"] / best["peer_two"]

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
        Row("packets_parquet_two_cores_vs_tcpdump", None, "x", 0.55, ">="),
        Row("two_cores", None, "x", 1.7, ">="),
        Row("two_cores_of_tcpdump", None, "x", None, ">="),  # what this machine gives to two of a peer
        Row("bytes_per_packet", None, "B", 15, "<="),
        Row("rss_mb", None, "MB", 400, "<="),
    )
    rows = [_attempt(row, lambda name=row.name: figure(name)) for row in goals]  # type: ignore[misc]
    rows.append(_attempt(Row("gzip_vs_inflate", None, "x", 0.7, ">="), lambda: _inflated(rounds)))
    rows.append(_attempt(Row("decode_vs_dpkt", None, "x", 150, ">="), dpkt_ratio))
    return rows
