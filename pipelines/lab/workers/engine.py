"""The exchange's matching engine: order entry on TCP 9001 (acknowledges at once), logins on TCP 9002.

An order is 48 bytes: ``ORD1``, id (u32), trigger sequence (u64), time of the trigger (u64 ns), time
of sending (u64 ns), padding; little endian. The acknowledgement is the same with ``ACK1``.

Orders on stdin: ``accept off|on`` (logins are left waiting in the listen queue).
"""

from __future__ import annotations

import argparse
import select
import socket
from typing import Any

from pipelines.lab.workers.control import Orders, prepare

SIZE = 48


def listener(host: str, port: int, backlog: int) -> socket.socket:
    """Open a listening socket."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((host, port))
    s.listen(backlog)
    s.setblocking(False)
    return s


def main() -> None:
    """Serve until SIGTERM."""
    p = argparse.ArgumentParser()
    p.add_argument("--host", default="10.77.0.1")
    p.add_argument("--login-backlog", type=int, default=4)
    args = p.parse_args()
    running = True

    def stop() -> None:
        nonlocal running
        running = False

    prepare(stop)
    orders = Orders()
    entry, login = listener(args.host, 9001, 16), listener(args.host, 9002, args.login_backlog)
    buffers: dict[socket.socket, bytearray] = {}
    owed: dict[socket.socket, bytearray] = {}  # acknowledgements that the peer's window had no room for
    accepting = True

    def pay(peer: socket.socket) -> None:
        try:
            n = peer.send(owed[peer])
        except BlockingIOError:
            return
        except OSError:  # gone: the read side will tell
            n = len(owed[peer])
        del owed[peer][:n]
        if not owed[peer]:
            del owed[peer]

    while running:
        watch: list[Any] = [entry, *buffers]
        if orders.open:
            watch.append(orders)
        if accepting:
            watch.append(login)
        readable, writable, _ = select.select(watch, list(owed), [], 0.5)
        for peer in writable:
            pay(peer)
        for ready in readable:
            if ready is orders:
                for words in orders.read():
                    if words[0] == "accept":
                        accepting = words[1] == "on"
            elif ready is entry:
                peer, _ = entry.accept()
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peer.setblocking(False)
                buffers[peer] = bytearray()
            elif ready is login:
                guest, _ = login.accept()
                guest.close()
            else:
                try:
                    data = ready.recv(65536)
                except OSError:
                    data = b""
                if not data:
                    buffers.pop(ready).clear()
                    owed.pop(ready, None)
                    ready.close()
                    continue
                held = buffers[ready]
                held += data
                whole = len(held) // SIZE * SIZE
                answers = b"".join(b"ACK1" + held[at + 4 : at + SIZE] for at in range(0, whole, SIZE))
                owed.setdefault(ready, bytearray()).extend(answers)
                pay(ready)
                del held[:whole]


if __name__ == "__main__":
    main()
