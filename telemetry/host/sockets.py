"""TCP sockets, for while an incident is open: by state and port from ``net/tcp``, by connection from ``sock_diag``."""

from __future__ import annotations

import os
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from telemetry.errors import InputError
from telemetry.host.fields import of_labels
from telemetry.host.netlink import DUMP, Dump, Layout, attributes, messages, request
from telemetry.types import Int64, SeriesKey

__all__ = ["TcpDiag", "TcpTable", "connection_layout", "connections", "diag_rows", "neighbour_layout", "neighbours"]

_Row = tuple[int, int, int, int, int, int]
"""Local port, remote port, state, send queue, receive queue, retransmits not yet acknowledged."""
_STATES = (
    "", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT",
    "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV",
)  # fmt: skip
_LISTEN = 10
_MOST_BYTES = 256 << 10
_MOST_ROWS = 2000
_EPHEMERAL = 32_768
_BY_PORT = ("tcp_port_sockets", "tcp_port_tx_queue_bytes", "tcp_port_rx_queue_bytes", "tcp_port_retransmits")

NETLINK_SOCK_DIAG = 4
_BY_FAMILY, _INFO = 20, 2
_MESSAGE = 72  # struct inet_diag_msg
_OF_MESSAGE = {"tcp_socket_rx_queue_bytes": 56, "tcp_socket_tx_queue_bytes": 60}
_OF_INFO = {  # struct tcp_info
    "tcp_socket_unacked_segments": 24, "tcp_socket_lost_segments": 32, "tcp_socket_rtt_us": 68,
    "tcp_socket_rttvar_us": 72, "tcp_socket_cwnd_segments": 80, "tcp_socket_retransmits_total": 100,
}  # fmt: skip
_MOST_CONNECTIONS = 256
_SYNCHRONISED = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9  # not those listening, waiting or just beginning

_GET_NEIGHBOUR, _NEW_NEIGHBOUR = 30, 28


class _Tcp(ABC):
    """TCP sockets summed by state and by the port of the service.

    Notes
    -----
    The service's port is the one that somebody here listens at, else the lower one; label `side` says whose it is.
    ``tcp_table_cut`` is 1 where there are more sockets than are looked at.
    """

    name = ""

    def __init__(self, host: str, **labels: str) -> None:
        self._host, self._label = host, labels
        self._keys: list[SeriesKey] = []

    def discover(self) -> Sequence[SeriesKey]:
        self._keys = list(self._count())
        return self._keys

    def read(self, out: Int64) -> bool:
        found = self._count()
        if list(found) != self._keys:
            return False
        out[:] = np.array(list(found.values()), np.int64)
        return True

    @abstractmethod
    def _rows(self) -> tuple[list[_Row], bool]:
        """The sockets, and whether there are more."""

    def _count(self) -> dict[SeriesKey, int]:
        rows, cut = self._rows()
        listening = {local for local, _, state, *_ in rows if state == _LISTEN}
        states = dict.fromkeys(range(1, len(_STATES)), 0)
        ports: dict[tuple[int, str], list[int]] = {}
        for local, remote, state, tx, rx, retransmits in rows:
            states[state] = states.get(state, 0) + 1
            ours = local in listening or not remote or local < min(remote, _EPHEMERAL)
            sums = ports.setdefault((local, "local") if ours else (remote, "remote"), [0, 0, 0, 0])
            for i, value in enumerate((1, tx, rx, retransmits)):
                sums[i] += value
        out = {self._key("tcp_sockets", state=_STATES[s]): n for s, n in states.items() if s < len(_STATES)}
        out[self._key("tcp_table_cut")] = int(cut)
        for (port, side), sums in sorted(ports.items()):
            out |= {self._key(m, port=str(port), side=side): v for m, v in zip(_BY_PORT, sums, strict=True)}
        return out

    def _key(self, metric: str, **labels: str) -> SeriesKey:
        return SeriesKey(self._host, metric, of_labels(**self._label, **labels))


class TcpTable(_Tcp):
    """``net/tcp`` or ``net/tcp6`` of any namespace; the kernel walks a large hash for it (3 ms)."""

    def __init__(self, path: str | Path, host: str, netns: str = "") -> None:
        self.name = str(path)
        super().__init__(host, table=os.path.basename(self.name), netns=netns)
        self._fd = -1

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _rows(self) -> tuple[list[_Row], bool]:
        if self._fd < 0:
            self._fd = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC)
        parts: list[bytes] = []
        size = 0
        while size < _MOST_BYTES:
            part = os.pread(self._fd, _MOST_BYTES - size, size)
            if not part:
                return list(_table_rows(b"".join(parts), self.name)), False
            parts.append(part)
            size += len(part)
        return list(_table_rows(b"".join(parts).rpartition(b"\n")[0], self.name)), True


class TcpDiag(_Tcp):
    """The same of our own namespace by ``sock_diag``, twenty times cheaper."""

    def __init__(self, host: str, family: int = socket.AF_INET) -> None:
        table = "tcp6" if family == socket.AF_INET6 else "tcp"
        self.name = f"sock_diag:{table} by port"
        super().__init__(host, table=table)
        asked = _ask_sockets(family, -1, 0)
        self._dump = Dump(self.name, NETLINK_SOCK_DIAG, lambda _: asked, lambda _: Layout())

    def close(self) -> None:
        self._dump.close()

    def _rows(self) -> tuple[list[_Row], bool]:
        rows = diag_rows(self._dump.listing())
        return rows[:_MOST_ROWS], len(rows) > _MOST_ROWS


def diag_rows(data: bytes) -> list[_Row]:
    """The sockets of a dump. A listening one's queue is what waits to be accepted."""
    out = []
    for kind, start, end in messages(data):
        if kind == _BY_FAMILY and end - start >= _MESSAGE:
            state, _, retransmits = data[start + 1 : start + 4]
            local, remote = struct.unpack_from("!HH", data, start + 4)
            rx, tx = struct.unpack_from("=II", data, start + 56)
            out.append((local, remote, state, 0 if state == _LISTEN else tx, rx, retransmits))
    return out


def _ask_sockets(family: int, states: int, extensions: int) -> bytes:
    body = struct.pack("=BBBBI48x", family, socket.IPPROTO_TCP, extensions, 0, states & 0xFFFFFFFF)
    return request(_BY_FAMILY, DUMP, body)


def _table_rows(text: bytes, name: str) -> Iterator[_Row]:
    for line in text.split(b"\n")[1:]:
        if not line:
            continue
        try:
            words = line.split(None, 7)
            tx, rx = words[4].split(b":")
            yield (
                int(words[1].rpartition(b":")[2], 16),
                int(words[2].rpartition(b":")[2], 16),
                int(words[3], 16),
                int(tx, 16),
                int(rx, 16),
                int(words[6], 16),
            )
        except (IndexError, ValueError):
            raise InputError(f"{name}: expected a table of sockets, got {line[:40]!r}") from None


def connections(host: str, family: int = socket.AF_INET) -> Dump:
    """Connections of our own namespace as ``ss -i`` shows them: queues, round trip, window, losses."""
    asked = _ask_sockets(family, _SYNCHRONISED, 1 << (_INFO - 1))
    name = f"sock_diag:tcp{6 if family == socket.AF_INET6 else ''}"
    return Dump(name, NETLINK_SOCK_DIAG, lambda _: asked, lambda data: connection_layout(data, host))


def connection_layout(data: bytes, host: str) -> Layout:
    """Where the numbers of each connection are; at most 256 of them, those with the most in their queues first."""
    out = Layout()
    found: list[tuple[int, list[tuple[SeriesKey, int, int]]]] = []
    for kind, start, end in messages(data):
        if kind != _BY_FAMILY or end - start < _MESSAGE:
            continue
        out.free += [(start + 1, start + 4), (start + 52, end)]  # state and timers; all but who it is
        family = data[start]
        width = 16 if family == socket.AF_INET6 else 4
        ends = []
        for port, address in ((start + 4, start + 8), (start + 6, start + 24)):
            where = socket.inet_ntop(
                socket.AF_INET6 if width == 16 else socket.AF_INET, data[address : address + width]
            )
            ends.append(f"{where}:{struct.unpack_from('!H', data, port)[0]}")
        label = {"local": ends[0], "remote": ends[1]}
        fields = [(SeriesKey.of(host, m, **label), start + at, 4) for m, at in _OF_MESSAGE.items()]
        for what, lo, hi in attributes(data, start + _MESSAGE, end):
            if what == _INFO:
                fields += [
                    (SeriesKey.of(host, m, **label), lo + at, 4) for m, at in _OF_INFO.items() if lo + at + 4 <= hi
                ]
        queued = sum(struct.unpack_from("=II", data, start + 56))
        found.append((queued, fields))
    found.sort(key=lambda f: -f[0])
    known: set[SeriesKey] = set()
    for _, fields in found[:_MOST_CONNECTIONS]:
        if fields[0][0] not in known:  # the same ends on two devices
            known.add(fields[0][0])
            out.fields += fields
    return out


def neighbours(host: str) -> Dump:
    """``ip neigh``: ``neighbour_state{address,device}``, 1 incomplete, 2 reachable, 4 stale, 8 delay, 16 probe,
    32 failed."""
    asked = request(_GET_NEIGHBOUR, DUMP, bytes(12))
    return Dump("rtnetlink:neigh", socket.NETLINK_ROUTE, lambda _: asked, lambda data: neighbour_layout(data, host))


def neighbour_layout(data: bytes, host: str) -> Layout:
    """Where the states of a dump of neighbours are; permanent ones and those without resolution are left out."""
    names = dict(socket.if_nameindex())
    out = Layout()
    known: set[SeriesKey] = set()
    for kind, start, end in messages(data):
        if kind != _NEW_NEIGHBOUR or end - start < 12:
            continue
        index, state = struct.unpack_from("=iH", data, start + 4)
        out.free.append((start + 8, end))
        if state >= 0x40:
            continue
        for what, lo, hi in attributes(data, start + 12, end):
            if what == 1 and hi - lo in (4, 16):
                address = socket.inet_ntop(socket.AF_INET6 if hi - lo == 16 else socket.AF_INET, data[lo:hi])
                key = SeriesKey.of(host, "neighbour_state", device=names.get(index, str(index)), address=address)
                out.free.pop()
                out.free += [(start + 8, lo), (hi, end)]
                if key not in known:
                    known.add(key)
                    out.fields.append((key, start + 8, 2))
    return out
