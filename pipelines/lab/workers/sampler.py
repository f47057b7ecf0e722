"""Reads the kernel's counters ten times a second and keeps the bytes; parses them when stopped.

Nothing is parsed while the lab runs, so a pass costs what the reads cost. Every file stays open and
is read from its start; a namespace's files are those of a process in it (``/proc/PID/net``).
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import glob
import gzip
import os
import time
from collections.abc import Callable

from pipelines.lab.workers import parse
from pipelines.lab.workers.control import prepare
from pipelines.lab.workers.netlink import Netlink, neighbours, qdiscs

HOST = {
    "irq": "/proc/interrupts",
    "softirq": "/proc/softirqs",
    "stat": "/proc/stat",
    "schedstat": "/proc/schedstat",
    "softnet": "/proc/net/softnet_stat",
    "vmstat": "/proc/vmstat",
    "psi.cpu": "/proc/pressure/cpu",
    "psi.io": "/proc/pressure/io",
    "psi.memory": "/proc/pressure/memory",
    "psi.irq": "/proc/pressure/irq",
    "meminfo": "/proc/meminfo",
    "disk": "/proc/diskstats",
}
SPACE = {
    "snmp": "net/snmp",
    "netstat": "net/netstat",
    "dev": "net/dev",
    "udp": "net/udp",
    "sockstat": "net/sockstat",
    "conntrack_stat": "net/stat/nf_conntrack",
}
PROCESS = {"schedstat": "schedstat", "stat": "stat", "status": "status"}
Frame = tuple[int, int, int, list[bytes]]


class Sampler:
    """Files by name, frames of their bytes."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.reads: list[Callable[[], bytes]] = []
        self.devices: dict[str, dict[int, str]] = {}
        self.frames: list[Frame] = []

    def add(self, name: str, path: str) -> None:
        """Follow a file; one that is not there is left out."""
        try:
            fd = os.open(path, os.O_RDONLY)
            os.pread(fd, 1, 0)
        except OSError:
            return
        self.names.append(name)
        self.reads.append(lambda: os.pread(fd, 1 << 18, 0))

    def add_space(self, space: str, pid: int) -> None:
        """Follow the network counters of the namespace of process `pid`."""
        for name, path in SPACE.items():
            self.add(f"{space}.{name}", f"/proc/{pid}/{path}")
        link = Netlink(pid)
        self.devices[space] = link.names
        self.names += [f"{space}.qdisc", f"{space}.neigh"]
        self.reads += [link.qdisc, link.neigh]
        with contextlib.suppress(OSError):
            root = f"/proc/{pid}/root"  # `ip netns exec` mounts a sysfs of the namespace there
            for path in sorted(glob.glob(f"{root}/sys/class/net/*/carrier_changes")):
                if "/lo/" in path:
                    continue
                self.add(f"{space}.carrier.{path.split('/')[-2]}", path)
        self.add(f"{space}.ctmax", "/proc/sys/net/netfilter/nf_conntrack_max")  # one limit for all namespaces

    def frame(self, due: int) -> None:
        """Read everything once."""
        begin = time.time_ns()
        data: list[bytes] = []
        before = self.frames[-1][3] if self.frames else None
        for at, read in enumerate(self.reads):
            try:
                got = read()
            except OSError:
                got = b""
            data.append(before[at] if before and before[at] == got else got)
        self.frames.append((begin, time.time_ns() - begin, begin - due, data))

    def rows(self) -> tuple[list[str], list[dict[str, int]]]:
        """Parse all frames: column names in order, and one mapping a frame."""
        columns: dict[str, None] = {}
        rows: list[dict[str, int]] = []
        cache: dict[str, tuple[bytes, dict[str, int]]] = {}
        for _, cost, late, data in self.frames:
            row: dict[str, int] = {}
            for name, body in zip(self.names, data, strict=True):
                old = cache.get(name)
                if old is None or old[0] is not body:
                    old = (body, self.parse(name, body))
                    cache[name] = old
                row.update(old[1])
            row["sampler.cost_us"] = cost // 1000
            row["sampler.late_us"] = max(0, late // 1000)
            for column in row:
                columns.setdefault(column)
            rows.append(row)
        return list(columns), rows

    def parse(self, name: str, body: bytes) -> dict[str, int]:
        """Turn the bytes of one file into columns."""
        text = "" if name.endswith((".qdisc", ".neigh")) else body.decode("ascii", "replace")
        head, _, tail = name.partition(".")
        if name.endswith(".qdisc"):
            return {f"{head}.qdisc.{k}": v for k, v in qdiscs(body, self.devices[head]).items()}
        if name.endswith(".neigh"):
            return {f"{head}.neigh.{k}": v for k, v in neighbours(body, self.devices[head]).items()}
        if head == "proc":
            return parse.process(tail, text)
        if head == "affinity":
            return parse.affinity(tail, text)
        if head in self.devices:
            return parse.space(head, tail, text)
        return parse.host(name, text)


def main() -> None:
    """Sample until SIGTERM, then write the table."""
    p = argparse.ArgumentParser()
    p.add_argument("--space", action="append", default=[], help="NAME=PID")
    p.add_argument("--process", action="append", default=[], help="NAME=PID")
    p.add_argument("--hz", type=float, default=10.0)
    p.add_argument("--from-ns", type=int, default=0)
    p.add_argument("--until-ns", type=int, default=1 << 62)
    p.add_argument("--out", required=True)
    args = p.parse_args()
    running = True

    def stop() -> None:
        nonlocal running
        running = False

    prepare(stop)
    s = Sampler()
    for name, path in HOST.items():
        s.add(name, path)
    for path in sorted(glob.glob("/proc/irq/[0-9]*/effective_affinity"), key=lambda x: int(x.split("/")[3])):
        s.add("affinity." + path.split("/")[3], path)
    for item in args.process:
        name, pid = item.split("=")
        for kind, path in PROCESS.items():
            s.add(f"proc.{name}.{kind}", f"/proc/{pid}/{path}")
    for item in args.space:
        name, pid = item.split("=")
        s.add_space(name, int(pid))
    print("ready", flush=True)
    step = int(1e9 / args.hz)
    due = max(args.from_ns, time.time_ns() // step * step + step)
    while running:
        wait = (due - time.time_ns()) / 1e9
        if wait > 0:
            time.sleep(min(wait, 0.2))
            continue
        if due >= args.until_ns:
            time.sleep(0.2)
            continue
        s.frame(due)
        due += step
        if time.time_ns() > due + step:  # too late: go on from now, do not catch up
            due = time.time_ns()
    with contextlib.suppress(OSError):  # from here on it is ordinary work
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    columns, rows = s.rows()
    keep = [c for c in columns if parse.always(c) or len({r.get(c, 0) for r in rows}) > 1]
    part = args.out + ".part"  # whoever is killed while writing leaves no table that looks whole
    with gzip.open(part, "wt", compresslevel=6, newline="") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(["t", *keep])
        for (begin, _, _, _), row in zip(s.frames, rows, strict=True):
            out.writerow([f"{begin / 1e9:.6f}", *(row.get(c, "") for c in keep)])
    os.replace(part, args.out)


if __name__ == "__main__":
    main()
