"""Queueing disciplines of our own network namespace, over rtnetlink: backlog, drops, overlimits, requeues."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence

import numpy as np

from telemetry.errors import InputError
from telemetry.types import Int64, SeriesKey

__all__ = ["Qdiscs", "parse_dump"]

_GETQDISC, _NEWQDISC, _DONE, _ERROR = 38, 36, 3, 2
_DUMP = 0x300 | 0x1  # NLM_F_DUMP | NLM_F_REQUEST
_KIND, _STATS2 = 1, 7
_STATS_BASIC, _STATS_QUEUE = 1, 3
_METRICS = (
    "qdisc_backlog_bytes", "qdisc_backlog_packets", "qdisc_drops_total", "qdisc_requeues_total",
    "qdisc_overlimits_total", "qdisc_bytes_total", "qdisc_packets_total",
)  # fmt: skip


class Qdiscs:
    """All queueing disciplines; labels are device, kind and handle."""

    name = "rtnetlink:qdisc"

    def __init__(self, host: str) -> None:
        self._host = host
        self._socket: socket.socket | None = None
        self._shape: list[tuple[int, int, int, str]] = []

    def discover(self) -> Sequence[SeriesKey]:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
            self._socket.settimeout(0.2)
        found = self._dump()
        self._shape = [name for name, _ in found]
        names = dict(socket.if_nameindex())
        out = []
        for index, handle, parent, kind in self._shape:
            label = {"device": names.get(index, str(index)), "kind": kind, "handle": f"{handle >> 16:x}:"}
            if handle == 0:  # made by the kernel: several of them bear no handle
                label["handle"] = f"{parent >> 16:x}:{parent & 0xFFFF:x}"
            out += [SeriesKey.of(self._host, metric, **label) for metric in _METRICS]
        return out

    def read(self, out: Int64) -> bool:
        found = self._dump()
        if [name for name, _ in found] != self._shape:
            return False
        if found:
            out[:] = np.array([numbers for _, numbers in found], np.int64).reshape(-1)
        return True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _dump(self) -> list[tuple[tuple[int, int, int, str], tuple[int, ...]]]:
        if self._socket is None:
            raise InputError("rtnetlink: not open")
        # struct nlmsghdr, struct tcmsg
        self._socket.send(struct.pack("=IHHII", 36, _GETQDISC, _DUMP, 1, 0) + struct.pack("=BxxxiIII", 0, 0, 0, 0, 0))
        out = []
        while True:
            data = self._socket.recv(1 << 16)
            done = False
            for kind, body in _messages(data):
                if kind == _DONE:
                    done = True
                elif kind == _ERROR:
                    raise OSError(-struct.unpack_from("=i", body)[0], "rtnetlink refused")
                elif kind == _NEWQDISC:
                    one = parse_dump(body)
                    if one is not None:
                        out.append(one)
            if done:
                return out


def parse_dump(body: bytes) -> tuple[tuple[int, int, int, str], tuple[int, ...]] | None:
    """Read one discipline: (interface, handle, parent, kind) and the numbers; None if it bears no statistics."""
    if len(body) < 20:
        return None
    index, handle, parent = struct.unpack_from("=iII", body, 4)
    kind, basic, queue = "", (0, 0), (0, 0, 0, 0, 0)
    seen = False
    for what, value in _attributes(body[20:]):
        if what == _KIND:
            kind = value.split(b"\0")[0].decode("ascii", "replace")
        elif what == _STATS2:
            for inner, numbers in _attributes(value):
                if inner == _STATS_BASIC and len(numbers) >= 12:
                    basic = struct.unpack_from("=QI", numbers)
                elif inner == _STATS_QUEUE and len(numbers) >= 20:
                    queue, seen = struct.unpack_from("=IIIII", numbers), True
    if not seen:
        return None
    packets, backlog, drops, requeues, overlimits = queue
    return (index, handle, parent, kind), (backlog, packets, drops, requeues, overlimits, *basic)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if length < 16:
            return
        yield kind, data[at + 16 : at + length]
        at += (length + 3) & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + length]
        at += (length + 3) & ~3
