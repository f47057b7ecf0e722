"""Queue and neighbour counts of a network namespace over rtnetlink (uapi/linux/rtnetlink.h, gen_stats.h)."""

from __future__ import annotations

import ctypes
import os
import socket
import struct

__all__ = ["Netlink", "neighbours", "qdiscs"]

_GETQDISC, _GETNEIGH, _DUMP = 38, 30, 0x0301
_TCA_KIND, _TCA_STATS2, _TCA_STATS_BASIC, _TCA_STATS_QUEUE = 1, 7, 1, 3
_CLONE_NEWNET = 0x40000000
STATES = {0x01: "incomplete", 0x02: "reachable", 0x04: "stale", 0x08: "delay", 0x10: "probe", 0x20: "failed"}


class Netlink:
    """A rtnetlink socket that lives in the namespace of process `pid`."""

    def __init__(self, pid: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        try:
            if libc.setns(there, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            self.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
            self.names = dict(socket.if_nameindex())
        finally:
            libc.setns(home, _CLONE_NEWNET)
            os.close(home)
            os.close(there)
        self.sock.settimeout(0.2)
        self.serial = 0

    def dump(self, kind: int) -> bytes:
        """Return the raw messages of one dump request."""
        self.serial += 1
        body = struct.pack("=BxxxiIII", 0, 0, 0, 0, 0)  # tcmsg; ndmsg is shorter and also all zero
        self.sock.send(struct.pack("=IHHII", 16 + len(body), kind, _DUMP, self.serial, 0) + body)
        parts: list[bytes] = []
        while True:
            try:
                data = self.sock.recv(1 << 18)
            except TimeoutError:
                return b"".join(parts)
            parts.append(data)
            at, done = 0, False
            while at + 16 <= len(data):
                size, what = struct.unpack_from("=IH", data, at)
                done = done or what in (2, 3)  # NLMSG_ERROR, NLMSG_DONE
                at += (max(size, 16) + 3) & ~3
            if done:
                return b"".join(parts)

    def qdisc(self) -> bytes:
        return self.dump(_GETQDISC)

    def neigh(self) -> bytes:
        return self.dump(_GETNEIGH)


def _messages(data: bytes, kind: int) -> list[bytes]:
    at, found = 0, []
    while at + 16 <= len(data):
        size, what = struct.unpack_from("=IH", data, at)
        if size < 16:
            break
        if what == kind:
            found.append(data[at + 16 : at + size])
        at += (size + 3) & ~3
    return found


def _attributes(data: bytes) -> dict[int, bytes]:
    at, found = 0, {}
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            break
        found[kind & 0x3FFF] = data[at + 4 : at + size]
        at += (size + 3) & ~3
    return found


def qdiscs(data: bytes, names: dict[int, str]) -> dict[str, int]:
    """Sum qlen, backlog, drops, requeues and overlimits over the queueing disciplines of each device."""
    out: dict[str, int] = {}
    for message in _messages(data, 36):  # RTM_NEWQDISC
        if len(message) < 20:
            continue
        device = names.get(struct.unpack_from("=i", message, 4)[0], "")
        stats = _attributes(_attributes(message[20:]).get(_TCA_STATS2, b""))
        queue = stats.get(_TCA_STATS_QUEUE, b"")
        if not device or len(queue) < 20:
            continue
        for field, value in zip(
            ("qlen", "backlog", "drops", "requeues", "overlimits"), struct.unpack_from("=5I", queue), strict=True
        ):
            name = f"{device}.{field}"
            out[name] = out.get(name, 0) + value
    return out


def neighbours(data: bytes, names: dict[int, str]) -> dict[str, int]:
    """Count the IPv4 neighbours of each device by state."""
    out: dict[str, int] = {}
    for message in _messages(data, 28):  # RTM_NEWNEIGH
        if len(message) < 12:
            continue
        family, index, state = struct.unpack_from("=BxxxiH", message)
        device = names.get(index, "")
        if family != socket.AF_INET or not device or state not in STATES:
            continue
        name = f"{device}.{STATES[state]}"
        out[name] = out.get(name, 0) + 1
    return out
