"""The trader: reads both lines with kernel receive stamps and answers every Nth new message with an order.

Writes, when stopped: ``<out>.md`` (int64 rows: line, sequence, send, kernel receive, user receive,
drops the socket has counted so far), ``<out>.orders`` (id, trigger sequence, sent, acknowledged or 0).

Orders on stdin: ``slow NS`` (busy per message), ``block NS`` (asleep per message), ``fault PAGES``
(fresh pages touched per message), ``fsync PATH|off`` (a log line forced to disk per order), ``nagle
on|off`` (two writes per order).
"""

from __future__ import annotations

import argparse
import array
import mmap
import os
import select
import socket
import struct
import time

from pipelines.lab.workers.control import Orders, prepare

SO_TIMESTAMPNS, SO_RXQ_OVFL = 35, 40
MOLD = struct.Struct(">10sQHHcBQ")
ORDER = struct.Struct("<4sIQQQ16x")
SPEC = struct.Struct("=qq")
GROUPS = (("239.7.7.1", 30001), ("239.7.7.2", 30002))


def line(group: str, port: int, me: str, rcvbuf: int) -> socket.socket:
    """Join one multicast line."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    s.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    s.bind((group, port))
    s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + socket.inet_aton(me))
    s.setblocking(False)
    return s


class Strategy:
    """All state of the trader; one thread, one epoll loop."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.running = True
        self.md = array.array("q")
        self.sent: dict[int, tuple[int, int]] = {}
        self.acked: dict[int, int] = {}
        self.best_seq = 0
        self.next_id = 1
        self.drops = [0, 0]
        self.slow_ns = args.work_ns
        self.block_s = 0.0
        self.pages = 0
        self.log = -1
        self.nagle = False
        self.lines = [line(g, p, args.me, args.rcvbuf) for g, p in GROUPS]
        self.gate = socket.create_connection((args.exchange, 9001), timeout=10)
        self.gate.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.gate.setblocking(False)
        self.inbox = b""
        self.outbox = b""

    def stop(self) -> None:
        self.running = False

    def obey(self, words: list[str]) -> None:
        name, value = words[0], words[1]
        if name == "slow":
            self.slow_ns = max(int(value), self.args.work_ns)
        elif name == "block":
            self.block_s = int(value) / 1e9
        elif name == "fault":
            self.pages = int(value)
        elif name == "fsync":
            if self.log >= 0:
                os.close(self.log)
            self.log = -1 if value == "off" else os.open(value, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        elif name == "nagle":
            self.nagle = value == "on"
            self.gate.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, int(not self.nagle))

    def push(self, data: bytes) -> None:
        """Send to the exchange; what does not fit waits."""
        self.outbox += data
        try:
            n = self.gate.send(self.outbox)
            self.outbox = self.outbox[n:]
        except BlockingIOError:
            return

    def order(self, seq: int, seen_ns: int) -> None:
        me = self.next_id
        self.next_id += 1
        now = time.time_ns()
        data = ORDER.pack(b"ORD1", me, seq, seen_ns, now)
        self.sent[me] = (seq, now)
        if self.log >= 0:
            os.write(self.log, data * 8)
            os.fsync(self.log)
        if self.nagle:  # head and body in two small writes: the second waits for the first's ACK
            self.push(data[:16])
            self.push(data[16:])
        else:
            self.push(data)

    def read_line(self, channel: int) -> None:
        sock = self.lines[channel]
        for _ in range(64):
            try:
                data, control, _, _ = sock.recvmsg(256, 128)
            except BlockingIOError:
                return
            now = time.time_ns()
            stamp = 0
            for level, kind, body in control:
                if level != socket.SOL_SOCKET:
                    continue
                if kind == SO_TIMESTAMPNS:
                    s, ns = SPEC.unpack(body[:16])
                    stamp = s * 1_000_000_000 + ns
                elif kind == SO_RXQ_OVFL:
                    self.drops[channel] = struct.unpack("=I", body[:4])[0]
            _, seq, _, _, _, _, sent = MOLD.unpack_from(data)
            self.md.extend((channel, seq, sent, stamp, now, self.drops[channel]))
            if self.pages:
                with mmap.mmap(-1, self.pages * 4096) as m:
                    for at in range(0, self.pages * 4096, 4096):
                        m[at] = 1
            if self.block_s:
                time.sleep(self.block_s)
            if self.slow_ns:
                until = now + self.slow_ns
                while time.time_ns() < until:
                    continue
            if seq > self.best_seq:
                self.best_seq = seq
                if seq % self.args.every == 0:
                    self.order(seq, now)

    def read_gate(self) -> None:
        try:
            data = self.gate.recv(65536)
        except BlockingIOError:
            return
        now = time.time_ns()
        if not data:
            self.running = False
            return
        self.inbox += data
        whole = len(self.inbox) // ORDER.size * ORDER.size
        for at in range(0, whole, ORDER.size):
            self.acked[ORDER.unpack_from(self.inbox, at)[1]] = now
        self.inbox = self.inbox[whole:]
        if self.outbox:
            self.push(b"")

    def run(self) -> None:
        orders = Orders()
        poll = select.epoll()
        for s in self.lines:
            poll.register(s, select.EPOLLIN)
        poll.register(self.gate, select.EPOLLIN)
        poll.register(0, select.EPOLLIN)
        by_fd = {s.fileno(): i for i, s in enumerate(self.lines)}
        gate = self.gate.fileno()
        while self.running:
            if self.outbox:
                self.push(b"")
            for fd, _ in poll.poll(0.05 if self.outbox else 0.5):
                if fd in by_fd:
                    self.read_line(by_fd[fd])
                elif fd == gate:
                    self.read_gate()
                else:
                    for words in orders.read():
                        self.obey(words)
                    if not orders.open:
                        poll.unregister(0)

    def save(self) -> None:
        with open(self.args.out + ".md", "wb") as f:
            self.md.tofile(f)
        rows = array.array("q")
        for me, (seq, out) in self.sent.items():
            rows.extend((me, seq, out, self.acked.get(me, 0)))
        with open(self.args.out + ".orders", "wb") as f:
            rows.tofile(f)


def main() -> None:
    """Trade until SIGTERM, then write the records."""
    p = argparse.ArgumentParser()
    p.add_argument("--me", default="10.77.0.2")
    p.add_argument("--exchange", default="10.77.0.1")
    p.add_argument("--every", type=int, default=10)
    p.add_argument("--rcvbuf", type=int, default=212992)
    p.add_argument("--work-ns", type=int, default=0, help="what it computes per message")
    p.add_argument("--first-id", type=int, default=1)
    p.add_argument("--out", required=True)
    args = p.parse_args()
    s = Strategy(args)
    s.next_id = args.first_id
    prepare(s.stop)
    try:
        s.run()
    finally:
        s.save()


if __name__ == "__main__":
    main()
