"""The exchange's market data: one MoldUDP64 sequence on two multicast lines, A and B.

MoldUDP64 (Nasdaq, MoldUDP64 1.00): session (10 bytes), sequence (u64), message count (u16), then
messages of u16 length and body, all big endian. One message a packet; its body is ``T``, the line
(u8), the send time (u64 ns) and padding to 64 bytes of UDP payload.

Orders on stdin: ``rate F`` (factor), ``burst N`` (N packets at once).
"""

from __future__ import annotations

import argparse
import json
import random
import select
import socket
import struct
import time

from pipelines.lab.workers.control import Orders, prepare

SESSION = b"TWLAB00001"
HEAD = struct.Struct(">10sQHHcBQ")
UDP_SEGMENT = 103
PAD = bytes(64 - HEAD.size)


def line(group: str, port: int, source: str) -> socket.socket:
    """Open one multicast line."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 4)
    s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(source))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    s.connect((group, port))
    return s


def main() -> None:
    """Publish from ``--start-ns`` on until SIGTERM; then write how many packets each line sent."""
    p = argparse.ArgumentParser()
    p.add_argument("--start-ns", type=int, required=True)
    p.add_argument("--rate", type=float, default=400.0)
    p.add_argument("--cluster", type=float, default=0.12)
    p.add_argument("--seed", default="1")
    p.add_argument("--source", default="10.77.0.1")
    p.add_argument("--out", required=True)
    args = p.parse_args()
    running = True

    def stop() -> None:
        nonlocal running
        running = False

    prepare(stop)
    orders = Orders()
    rng = random.Random(f"publisher:{args.seed}")
    lines = [line("239.7.7.1", 30001, args.source), line("239.7.7.2", 30002, args.source)]
    sent, failed, seq, factor = [0, 0], 0, 0, 1.0
    mean_cluster = 1 + args.cluster * 2.5

    def send() -> None:
        nonlocal seq, failed
        seq += 1
        now = time.time_ns()
        for channel, sock in enumerate(lines):
            try:
                sock.send(HEAD.pack(SESSION, seq, 1, 42, b"T", channel, now) + PAD)
                sent[channel] += 1
            except OSError:
                failed += 1

    def burst(count: int) -> None:
        """Send many packets at wire speed: 32 a call, cut apart by the kernel (UDP_SEGMENT, Linux 4.18)."""
        nonlocal seq
        segment = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 64))]
        for _ in range(count // 32):
            now = time.time_ns()
            for channel, sock in enumerate(lines):
                data = b"".join(HEAD.pack(SESSION, seq + i, 1, 42, b"T", channel, now) + PAD for i in range(1, 33))
                try:
                    sock.sendmsg([data], segment)
                except OSError:
                    for i in range(32):
                        sock.send(data[64 * i : 64 * i + 64])
                sent[channel] += 32
            seq += 32

    due = args.start_ns
    while running:
        wait = (due - time.time_ns()) / 1e9
        if wait > 0:
            ready = select.select([orders] if orders.open else [], [], [], min(wait, 0.2))[0]
            if ready:
                for words in orders.read():
                    if words[0] == "rate":
                        factor = float(words[1])
                    elif words[0] == "burst":
                        burst(int(words[1]))
            continue
        for _ in range(rng.randint(2, 5) if rng.random() < args.cluster else 1):
            send()
        due += int(1e9 * rng.expovariate(args.rate * factor / mean_cluster))
        if due < time.time_ns() - 50_000_000:  # after a stall do not catch up in one burst
            due = time.time_ns()
    with open(args.out, "w") as f:
        json.dump({"sent": sent, "failed": failed, "last_seq": seq}, f)


if __name__ == "__main__":
    main()
