"""A switch in user space: two AF_PACKET sockets, and rules that delay, drop or reorder what passes.

Orders on stdin: ``set JSON`` replaces the rules (a list of objects), ``clear`` empties them. A rule:

- ``dir``: ``to_trd``, ``to_exch`` or ``both``; ``match``: ``all``, ``md``, ``A``, ``B``, ``tcp``, ``arp``
- ``delay_us``, ``ramp_s`` (the delay grows from 0 over so many seconds), ``loss`` (probability)
- ``tail`` (probability), ``tail_us`` (mean of an exponential extra delay of the packets chosen)
- ``burst_loss`` [probability of a gap to start, packets in it], ``fifo`` (true: order is kept)
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import select
import socket
import struct
import sys
import time
from typing import Any

from pipelines.lab.workers.control import Orders, prepare

SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_IGNORE_OUTGOING, PROMISC = 263, 1, 23, 1
ALL = 0x0003


def port(device: str) -> socket.socket:
    """Open a raw socket on a device, promiscuous, deaf to what it sends itself."""
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    s.bind((device, ALL))
    s.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    index = socket.if_nametoindex(device)
    s.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, struct.pack("IHH8s", index, PROMISC, 0, b""))
    s.setblocking(False)
    return s


def kind_of(frame: bytes) -> frozenset[str]:
    """Name the classes a frame belongs to."""
    ether = frame[12:14]
    if ether == b"\x08\x06":
        return frozenset(("all", "arp"))
    if ether == b"\x08\x00":
        if frame[23] == 6:
            return frozenset(("all", "tcp"))
        if frame[23] == 17:
            dst = frame[36:38]
            if dst == b"\x75\x31":
                return frozenset(("all", "md", "A"))
            if dst == b"\x75\x32":
                return frozenset(("all", "md", "B"))
    return frozenset(("all",))


class Rule:
    """One rule in force since `since` (ns)."""

    def __init__(self, spec: dict[str, Any], rng: random.Random) -> None:
        self.dirs = ("to_trd", "to_exch") if spec.get("dir", "both") == "both" else (spec["dir"],)
        self.match = spec.get("match", "all")
        self.delay_ns = int(spec.get("delay_us", 0) * 1000)
        self.ramp_ns = int(spec.get("ramp_s", 0) * 1e9)
        self.loss = float(spec.get("loss", 0))
        self.tail = float(spec.get("tail", 0))
        self.tail_ns = spec.get("tail_us", 0) * 1000.0
        self.burst = spec.get("burst_loss", [0, 0])
        self.left: dict[str, int] = {}
        self.fifo = bool(spec.get("fifo", True))
        self.since = time.time_ns()
        self.rng = rng

    def judge(self, kinds: frozenset[str], now: int) -> int:
        """Return the extra delay in ns, or -1 to drop."""
        rng = self.rng
        if self.loss and rng.random() < self.loss:
            return -1
        if self.burst[0]:
            line = "B" if "B" in kinds else "A"
            if self.left.get(line, 0) > 0:
                self.left[line] -= 1
                return -1
            if rng.random() < self.burst[0]:
                self.left[line] = int(self.burst[1]) - 1
                return -1
        delay = self.delay_ns
        if self.ramp_ns:
            delay = int(delay * min(1.0, (now - self.since) / self.ramp_ns))
        if self.tail and rng.random() < self.tail:
            delay += int(rng.expovariate(1.0 / self.tail_ns))
        return delay


def main() -> None:
    """Forward until SIGTERM; then write the counts."""
    p = argparse.ArgumentParser()
    p.add_argument("--exch", default="sx")
    p.add_argument("--trd", default="sr")
    p.add_argument("--seed", default="1")
    p.add_argument("--out", required=True)
    args = p.parse_args()
    running = True

    def stop() -> None:
        nonlocal running
        running = False

    prepare(stop)
    orders = Orders()
    rng = random.Random(f"relay:{args.seed}")
    sides = {"to_trd": (port(args.exch), port(args.trd))}
    sides["to_exch"] = (sides["to_trd"][1], sides["to_trd"][0])
    rules: list[Rule] = []
    heap: list[tuple[int, int, str, bytes]] = []
    last: dict[tuple[str, ...], int] = {}  # order is kept among the packets that the same rules touch
    count = {"forwarded": 0, "dropped": 0, "delayed": 0, "failed": 0}
    serial = 0

    def forward(way: str, frame: bytes) -> None:
        try:
            sides[way][1].send(frame)
            count["forwarded"] += 1
        except OSError:
            count["failed"] += 1

    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while running:
        timeout = 0.5 if not heap else max(0.0, (heap[0][0] - time.time_ns()) / 1e9)
        watch: list[Any] = [sides["to_trd"][0], sides["to_exch"][0]]
        if orders.open:
            watch.append(orders)
        ready = select.select(watch, [], [], timeout)[0]
        now = time.time_ns()
        while heap and heap[0][0] <= now:
            _, _, way, frame = heapq.heappop(heap)
            forward(way, frame)
        for way in ("to_trd", "to_exch"):
            source = sides[way][0]
            if source not in ready:
                continue
            for _ in range(64):
                try:
                    frame = source.recv(4096)
                except OSError:  # nothing more, or the device went down
                    break
                now = time.time_ns()
                if not rules and not heap:
                    forward(way, frame)
                    continue
                kinds = kind_of(frame)
                delay, fifo, queue = 0, True, [way]
                for rule in rules:
                    if way in rule.dirs and rule.match in kinds:
                        more = rule.judge(kinds, now)
                        fifo = fifo and rule.fifo
                        queue.append(rule.match)
                        if more < 0:
                            delay = -1
                            break
                        delay += more
                if delay < 0:
                    count["dropped"] += 1
                    continue
                due = now + delay
                if fifo:
                    due = max(due, last.get(tuple(queue), 0))
                    last[tuple(queue)] = due
                if due <= now:
                    forward(way, frame)
                else:
                    serial += 1
                    count["delayed"] += 1
                    heapq.heappush(heap, (due, serial, way, frame))
        if orders in ready:
            for words in orders.read():
                if words[0] == "set":
                    rules = [Rule(spec, rng) for spec in json.loads(" ".join(words[1:]))]
                elif words[0] == "clear":
                    rules = []
    with open(args.out, "w") as f:
        json.dump(count, f)


if __name__ == "__main__":
    main()
