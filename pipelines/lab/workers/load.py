"""Loads and disturbances, one a process: ``load KIND --option value``; ends at ``--seconds`` or SIGTERM."""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import random
import select
import socket
import time
from collections.abc import Callable

from pipelines.lab.workers.control import prepare

UDP_SEGMENT = 103
Alive = Callable[[], bool]


def flood(a: argparse.Namespace, alive: Alive) -> None:
    """Send UDP at ``--rate`` packets/s; 32 segments a call where the kernel can split them."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect((a.to, a.port))
    batch = 32 if a.rate > 5000 else 1
    try:
        if batch > 1:
            s.setsockopt(socket.SOL_UDP if hasattr(socket, "SOL_UDP") else 17, UDP_SEGMENT, a.size)
    except OSError:
        batch = 1
    data, due = bytes(a.size * batch), time.monotonic()
    while alive():
        with contextlib.suppress(OSError):
            s.send(data)
        due += batch / a.rate
        wait = due - time.monotonic()
        if wait > 0.0005:
            time.sleep(wait)
        elif wait < -0.1:
            due = time.monotonic()


def flows(a: argparse.Namespace, alive: Alive) -> None:
    """Send one packet each from ever new source ports: every one is a new flow."""
    while alive():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, contextlib.suppress(OSError):
            s.sendto(b"x" * 32, (a.to, a.port))
        time.sleep(1 / a.rate)


def sink(a: argparse.Namespace, alive: Alive) -> None:
    """Receive UDP and throw it away."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    s.bind(("0.0.0.0", a.port))
    s.settimeout(0.2)
    while alive():
        with contextlib.suppress(TimeoutError):
            s.recv(65536)


def logins(a: argparse.Namespace, alive: Alive) -> None:
    """Open ``--rate`` connections a second to the login port; keep those that wait for at most 3 s."""
    waiting: list[tuple[float, socket.socket]] = []
    while alive():
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex((a.to, a.port))
        waiting.append((time.monotonic() + 3.0, s))
        done = select.select([x for _, x in waiting], [], [], 1 / a.rate)[0] if waiting else []
        now = time.monotonic()
        for until, x in list(waiting):
            if x in done or now > until:
                x.close()
                waiting.remove((until, x))
        time.sleep(1 / a.rate)


def burn(a: argparse.Namespace, alive: Alive) -> None:
    """Keep a CPU busy ``--duty`` of every ``--period``; with ``--rt`` at that SCHED_RR priority."""
    if a.cpu >= 0:
        os.sched_setaffinity(0, {a.cpu})
    if a.rt:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(a.rt))
    while alive():
        begin = time.monotonic()
        until = begin + a.duty * a.period
        while time.monotonic() < until:
            continue
        time.sleep(max(0.0, begin + a.period - time.monotonic()))


def read(a: argparse.Namespace, alive: Alive) -> None:
    """Read ``--rate`` blocks a second past the page cache, or from a device: each is an interrupt."""
    device = a.path.startswith("/dev/")
    fd = os.open(a.path, os.O_RDONLY | (0 if device else getattr(os, "O_DIRECT", 0)))
    blocks = max(1, os.fstat(fd).st_size // 4096)
    page = mmap.mmap(-1, 4096)
    rng = random.Random(a.seed)
    due = time.monotonic()
    while alive():
        if device:
            os.read(fd, 64)
        else:
            os.preadv(fd, [page], rng.randrange(blocks) * 4096)
        due = max(due + 1 / a.rate, time.monotonic() - 0.1)
        time.sleep(max(0.0, due - time.monotonic()))


def write(a: argparse.Namespace, alive: Alive) -> None:
    """Write ``--rate`` MB/s to a file, started afresh at 64 MB; with ``--sync`` forced out 20 times a second."""
    chunk = os.urandom(1 << 20) if a.rate >= 20 else os.urandom(int(a.rate * 52429))
    with open(a.path, "wb", buffering=0) as f:
        while alive():
            f.write(chunk)
            if a.sync:
                os.fdatasync(f.fileno())
            if f.tell() > 64 << 20:
                f.seek(0)
                f.truncate()
            time.sleep(len(chunk) / (a.rate * 1e6))


def huge(a: argparse.Namespace, alive: Alive) -> None:
    """Ask the kernel to compact memory ``--rate`` times a second, and fault huge pages in between."""
    with open("/proc/sys/vm/compact_memory", "w") as compact:
        while alive():
            with contextlib.suppress(OSError):
                compact.write("1\n")
                compact.flush()
            with mmap.mmap(-1, 64 << 20) as m:
                m.madvise(mmap.MADV_HUGEPAGE)
                for at in range(0, 64 << 20, 2 << 20):
                    m[at] = 1
            time.sleep(1 / a.rate)


def drip(a: argparse.Namespace, alive: Alive) -> None:
    """Send one-byte TCP segments to a reader that hardly reads: its queue is all overhead."""
    s = socket.create_connection((a.to, a.port), timeout=5)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    s.settimeout(0.2)
    while alive():
        with contextlib.suppress(OSError):
            for _ in range(50):
                s.send(b"x")
        time.sleep(50 / a.rate)


def lazy(a: argparse.Namespace, alive: Alive) -> None:
    """Accept TCP connections and read ``--rate`` bytes a second of each, with a small receive buffer."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, a.size)
    s.bind(("0.0.0.0", a.port))
    s.listen(8)
    s.settimeout(0.2)
    peers: list[socket.socket] = []
    while alive():
        with contextlib.suppress(TimeoutError):
            peer, _ = s.accept()
            peer.setblocking(False)
            peers.append(peer)
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.recv(max(1, int(a.rate / 5)))


def idle(a: argparse.Namespace, alive: Alive) -> None:
    """Keep a namespace alive."""
    while alive():
        time.sleep(0.5)


def pingpong(a: argparse.Namespace, alive: Alive) -> None:
    """Two processes on one CPU hand a byte to and fro: two switches a turn, ``--rate`` turns a second at most."""
    if a.cpu >= 0:
        os.sched_setaffinity(0, {a.cpu})
    (r1, w1), (r2, w2) = os.pipe(), os.pipe()
    if os.fork() == 0:
        os.close(w1)
        while byte := os.read(r1, 1):
            os.write(w2, byte)
        os._exit(0)
    begin, turns = time.monotonic(), 0
    while alive():
        for _ in range(100):
            os.write(w1, b"x")
            os.read(r2, 1)
        turns += 100
        time.sleep(max(0.0, begin + turns / a.rate - time.monotonic()))
    os.close(w1)


KINDS = {f.__name__: f for f in (flood, flows, sink, logins, burn, read, write, huge, drip, lazy, idle, pingpong)}


def main() -> None:
    """Run one kind."""
    p = argparse.ArgumentParser()
    p.add_argument("kind", choices=sorted(KINDS))
    p.add_argument("--to", default="10.77.0.2")
    p.add_argument("--port", type=int, default=40000)
    p.add_argument("--rate", type=float, default=100.0)
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--cpu", type=int, default=-1)
    p.add_argument("--rt", type=int, default=0)
    p.add_argument("--duty", type=float, default=0.5)
    p.add_argument("--period", type=float, default=0.02)
    p.add_argument("--path", default="")
    p.add_argument("--seed", default="1")
    p.add_argument("--sync", action="store_true")
    p.add_argument("--seconds", type=float, default=3600.0)
    args = p.parse_args()
    running = True

    def stop() -> None:
        nonlocal running
        running = False

    prepare(stop)
    until = time.monotonic() + args.seconds
    KINDS[args.kind](args, lambda: running and time.monotonic() < until)


if __name__ == "__main__":
    main()
