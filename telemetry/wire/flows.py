"""Flow ids: the directed 5-tuple of each packet as a small integer, and its readable name.

Ids are given in the order in which flows first appear, so they do not depend on how the packets
were cut into batches. VLAN tags are no part of a flow: the same conversation on either side of a
switch is one flow.
"""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

if TYPE_CHECKING:
    from telemetry.capture.columns import Packets

__all__ = ["NO_FLOW", "FlowTable", "address_text", "protocol_name"]

NO_FLOW: Final = -1
"""The flow of what is not IP, and of what came after the table was full."""

_PROTOCOLS: Final = {
    1: "icmp",
    2: "igmp",
    6: "tcp",
    17: "udp",
    47: "gre",
    50: "esp",
    58: "icmp6",
    89: "ospf",
    132: "sctp",
}
_WORDS: Final = 5  # src hi, src lo, dst hi, dst lo, ports with protocol and version


@njit(cache=True, nogil=True)
def _mix(a, b, c):  # type: ignore[no-untyped-def]
    h = (a * np.uint64(0x9E3779B97F4A7C15)) ^ (b * np.uint64(0xC2B2AE3D27D4EB4F)) ^ (c * np.uint64(0x165667B19E3779F9))
    h ^= h >> np.uint64(29)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    return h ^ (h >> np.uint64(32))


@njit(cache=True, nogil=True)
def _find(table, keys, a, b, c, d, e):  # type: ignore[no-untyped-def]
    """Return (flow or -1, the slot where it is or would be)."""
    mask = np.uint64(len(table) - 1)
    slot = _mix(a ^ b, c ^ (d << np.uint64(1)), e) & mask
    while True:
        f = table[slot]
        if f < 0:
            return np.int64(-1), np.int64(slot)
        if keys[f, 1] == b and keys[f, 3] == d and keys[f, 4] == e and keys[f, 0] == a and keys[f, 2] == c:
            return np.int64(f), np.int64(slot)
        slot = (slot + np.uint64(1)) & mask


@njit(cache=True, nogil=True)
def _assign(start, n, sh, sl, dh, dl, sport, dport, proto, version, table, keys, peer, count, limit, out):  # type: ignore[no-untyped-def]
    """Write the flow id of each packet to `out`; return (next packet, flows known, packets refused).

    Stops where a new flow has no room.
    """
    refused = 0
    for i in range(start, n):
        if version[i] == 0:
            out[i] = -1
            continue
        e = (
            (np.uint64(np.uint16(proto[i])) << np.uint64(48))
            | (np.uint64(version[i]) << np.uint64(40))
            | (np.uint64(np.uint32(sport[i] + 1)) << np.uint64(20))
            | np.uint64(np.uint32(dport[i] + 1))
        )
        a, b, c, d = np.uint64(0), sl[i], np.uint64(0), dl[i]
        if version[i] == 6:
            a, c = sh[i], dh[i]
        f, slot = _find(table, keys, a, b, c, d, e)
        if f < 0:
            if count >= limit:
                out[i] = -1
                refused += 1
                continue
            if count >= len(keys):
                return i, count, refused
            f = np.int64(count)
            count += 1
            table[slot] = f
            keys[f, 0], keys[f, 1], keys[f, 2], keys[f, 3], keys[f, 4] = a, b, c, d, e
            swapped = (
                (np.uint64(np.uint16(proto[i])) << np.uint64(48))
                | (np.uint64(version[i]) << np.uint64(40))
                | (np.uint64(np.uint32(dport[i] + 1)) << np.uint64(20))
                | np.uint64(np.uint32(sport[i] + 1))
            )
            r, _ = _find(table, keys, c, d, a, b, swapped)
            peer[f] = r
            if r >= 0:
                peer[r] = f
        out[i] = f
    return n, count, refused


@njit(cache=True, nogil=True)
def _rehash(table, keys, count):  # type: ignore[no-untyped-def]
    for f in range(count):
        _, slot = _find(table, keys, keys[f, 0], keys[f, 1], keys[f, 2], keys[f, 3], keys[f, 4])
        table[slot] = f


class FlowTable:
    """Directed 5-tuples seen so far.

    Parameters
    ----------
    limit : int
        Most flows kept; packets of further ones get `NO_FLOW` and are counted in `refused`
        (a port scan must not take all memory).

    Attributes
    ----------
    count : int
        Flows known.
    peer : (count,) int32
        The flow of the other direction, -1 while it is unseen.
    refused : int
    """

    def __init__(self, limit: int = 1 << 20) -> None:
        self.count = 0
        self.refused = 0
        self._limit = limit
        self._table = np.full(1 << 12, -1, np.int32)  # at most half full
        self._keys = np.zeros((1 << 11, _WORDS), np.uint64)
        self._peer = np.full(1 << 11, -1, np.int32)
        self._out = np.empty(0, np.int32)
        self._names: list[str] = []

    @property
    def peer(self) -> NDArray[np.int32]:
        return self._peer[: self.count]

    @property
    def keys(self) -> NDArray[np.uint64]:
        """(count, 5): source high and low, destination high and low, ports with protocol and version."""
        return self._keys[: self.count]

    def assign(self, packets: Packets) -> NDArray[np.int32]:
        """Return the flow id of each packet (a buffer that the next call overwrites)."""
        p, at = packets, 0
        if len(self._out) < p.n:
            self._out = np.empty(p.n, np.int32)
        while True:
            at, self.count, refused = _assign(
                at, p.n, p.src_hi, p.src_lo, p.dst_hi, p.dst_lo, p.src_port, p.dst_port, p.protocol, p.ip_version,
                self._table, self._keys, self._peer, self.count, self._limit, self._out,
            )  # fmt: skip
            self.refused += refused
            if at >= p.n:
                return self._out[: p.n]
            self._grow()

    def protocol(self, flow: int) -> int:
        """IP protocol number of a flow."""
        return int(self._keys[flow, 4]) >> 48

    def destination(self, flow: int) -> tuple[int, int, int]:
        """(address high, address low, port) that a flow goes to; port -1 if there is none."""
        k = self._keys[flow]
        return int(k[2]), int(k[3]), (int(k[4]) & 0xFFFFF) - 1

    def destination_text(self, flow: int) -> str:
        """``address:port`` that a flow goes to."""
        hi, lo, port = self.destination(flow)
        return _endpoint(self._version(flow), hi, lo, port)

    def source_text(self, flow: int) -> str:
        """``address:port`` that a flow comes from."""
        k = self._keys[flow]
        return _endpoint(self._version(flow), int(k[0]), int(k[1]), ((int(k[4]) >> 20) & 0xFFFFF) - 1)

    def name(self, flow: int) -> str:
        """Readable name, ``proto src:port>dst:port``."""
        while len(self._names) <= flow:
            f = len(self._names)
            self._names.append(f"{protocol_name(self.protocol(f))} {self.source_text(f)}>{self.destination_text(f)}")
        return self._names[flow]

    def _version(self, flow: int) -> int:
        return (int(self._keys[flow, 4]) >> 40) & 0xFF

    def _grow(self) -> None:
        """Room for twice as many flows; not more than that, for a small table stays near."""
        size = len(self._keys)
        self._keys = np.concatenate([self._keys, np.zeros_like(self._keys)])
        self._peer = np.concatenate([self._peer, np.full(size, -1, np.int32)])
        self._table = np.full(2 * len(self._table), -1, np.int32)
        _rehash(self._table, self._keys, self.count)


def protocol_name(number: int) -> str:
    """Return ``tcp``, ``udp``, ... or ``ipN``."""
    return _PROTOCOLS.get(number, f"ip{number}")


def address_text(version: int, high: int, low: int) -> str:
    """Return an address as text; IPv4 is in `low`."""
    if version == 4:
        return f"{low >> 24 & 255}.{low >> 16 & 255}.{low >> 8 & 255}.{low & 255}"  # a sixth of what `ipaddress` takes
    return str(IPv6Address((high << 64) | low))


def _endpoint(version: int, high: int, low: int, port: int) -> str:
    text = address_text(version, high, low)
    if port < 0:
        return text
    return f"{text}:{port}" if version == 4 else f"[{text}]:{port}"
