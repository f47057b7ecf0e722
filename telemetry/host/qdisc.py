"""Queueing disciplines of our own network namespace, over rtnetlink: backlog, drops, overlimits, requeues."""

from __future__ import annotations

import socket
import struct

from telemetry.host.netlink import DUMP, Dump, Layout, attributes, messages, request
from telemetry.types import SeriesKey

__all__ = ["layout", "qdiscs"]

_GET, _NEW = 38, 36
_HEADER = 20  # struct tcmsg
_KIND, _STATS, _XSTATS, _RATE, _STATS2 = 1, 3, 4, 5, 7
_BASIC, _QUEUE = 1, 3
_OF_BASIC = (("qdisc_bytes_total", 0, 8), ("qdisc_packets_total", 8, 4))
_OF_QUEUE = (
    ("qdisc_backlog_packets", 0, 4), ("qdisc_backlog_bytes", 4, 4), ("qdisc_drops_total", 8, 4),
    ("qdisc_requeues_total", 12, 4), ("qdisc_overlimits_total", 16, 4),
)  # fmt: skip


def qdiscs(host: str) -> Dump:
    """All queueing disciplines; labels are device, kind and handle."""
    asked = request(_GET, DUMP, bytes(_HEADER))
    return Dump("rtnetlink:qdisc", socket.NETLINK_ROUTE, lambda _: asked, lambda data: layout(data, host))


def layout(data: bytes, host: str) -> Layout:
    """Where the numbers of a dump are. A discipline without statistics is left out."""
    names = dict(socket.if_nameindex())
    out = Layout()
    for what, start, end in messages(data):
        if what != _NEW or end - start < _HEADER:
            continue
        index, handle, parent = struct.unpack_from("=iII", data, start + 4)
        out.free.append((start + 16, start + 20))  # how many refer to it
        kind, found = "", list[tuple[str, int, int]]()
        for attribute, lo, hi in attributes(data, start + _HEADER, end):
            if attribute == _KIND:
                kind = data[lo:hi].split(b"\0")[0].decode("ascii", "replace")
            elif attribute in (_STATS, _XSTATS, _RATE):
                out.free.append((lo, hi))
            elif attribute == _STATS2:
                for inner, at, stop in attributes(data, lo, hi):
                    out.free.append((at, stop))
                    fields = {_BASIC: _OF_BASIC, _QUEUE: _OF_QUEUE}.get(inner, ())
                    found += [(m, at + o, width) for m, o, width in fields if at + o + width <= stop]
        if not any(m == "qdisc_backlog_bytes" for m, _, _ in found):
            continue
        label = {"device": names.get(index, str(index)), "kind": kind, "handle": f"{handle >> 16:x}:"}
        if handle == 0:  # made by the kernel: several of them bear no handle
            label["handle"] = f"{parent >> 16:x}:{parent & 0xFFFF:x}"
        out.fields += [(SeriesKey.of(host, m, **label), at, width) for m, at, width in found]
    return out
