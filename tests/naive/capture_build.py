"""Small captures, built byte by byte in plain Python (nothing of the decoder is used)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence

__all__ = [
    "Record", "arp", "erf", "eth", "fcs", "gre", "idb", "ip4", "ip6", "option", "pcap", "pcapng", "snoop", "tcp", "udp",
    "vlan", "vxlan",
]  # fmt: skip

Record = tuple[int, bytes, int]
"""(time in ns, captured bytes, wire length or -1 for the same)"""

MAC = bytes.fromhex("0200000000aa0200000000bb")


def eth(payload: bytes, kind: int = 0x0800) -> bytes:
    return MAC + struct.pack(">H", kind) + payload


def vlan(payload: bytes, vid: int, kind: int = 0x0800) -> bytes:
    """A tag, to be put behind an EtherType of 0x8100 or 0x88A8."""
    return struct.pack(">HH", vid, kind) + payload


def ip4(
    payload: bytes, proto: int = 17, src: str = "10.0.0.1", dst: str = "10.0.0.2", *, ident: int = 7, ttl: int = 64,
    options: bytes = b"", bits: int = 0, total: int | None = None,
) -> bytes:  # fmt: skip
    size = 20 + len(options)
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x40 | size // 4, 0, size + len(payload) if total is None else total, ident, bits, ttl,
        proto, 0,
        bytes(map(int, src.split("."))), bytes(map(int, dst.split("."))),
    )  # fmt: skip
    return head + options + payload


def ip6(payload: bytes, nexth: int = 17, src: int = 1, dst: int = 2, *, hops: int = 60) -> bytes:
    head = struct.pack(">IHBB", 0x60000000, len(payload), nexth, hops)
    return head + src.to_bytes(16, "big") + dst.to_bytes(16, "big") + payload


def udp(payload: bytes, sport: int = 1111, dport: int = 2222) -> bytes:
    return struct.pack(">HHHH", sport, dport, 8 + len(payload), 0) + payload


def tcp(
    payload: bytes, sport: int = 1111, dport: int = 2222, seq: int = 5, ack: int = 6, flags: int = 0x18, *,
    window: int = 500, options: bytes = b"",
) -> bytes:  # fmt: skip
    options += b"\0" * (-len(options) % 4)
    size = 20 + len(options)
    return struct.pack(">HHIIHHHH", sport, dport, seq, ack, size // 4 << 12 | flags, window, 0, 0) + options + payload


def arp(operation: int, sender: str, target: str) -> bytes:
    a, b = (bytes(map(int, x.split("."))) for x in (sender, target))
    return struct.pack(">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, operation, MAC[6:], a, b"\0" * 6, b)


def gre(payload: bytes, kind: int = 0x0800, key: int | None = None, sequence: int | None = None) -> bytes:
    bits = (0x2000 if key is not None else 0) | (0x1000 if sequence is not None else 0)
    out = struct.pack(">HH", bits, kind)
    if key is not None:
        out += struct.pack(">I", key)
    if sequence is not None:
        out += struct.pack(">I", sequence)
    return out + payload


def vxlan(frame: bytes, network: int) -> bytes:
    return struct.pack(">II", 0x08000000, network << 8) + frame


def fcs(frame: bytes) -> bytes:
    return struct.pack("<I", zlib.crc32(frame))


def pcap(
    records: Iterable[Record], *, big: bool = False, nanos: bool = True, modified: bool = False, link: int = 1,
    snaplen: int = 262_144,
) -> bytes:  # fmt: skip
    order = ">" if big else "<"
    magic = 0xA1B2CD34 if modified else 0xA1B23C4D if nanos else 0xA1B2C3D4
    out = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snaplen, link)]
    unit = 1 if nanos and not modified else 1000
    for t, data, wire in records:
        sec, ns = divmod(t, 1_000_000_000)
        out.append(struct.pack(order + "IIII", sec, ns // unit, len(data), len(data) if wire < 0 else wire))
        if modified:
            out.append(struct.pack(order + "IHBB", 3, 0x0800, 0, 0))
        out.append(data)
    return b"".join(out)


def option(order: str, code: int, value: bytes) -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + b"\0" * (-len(value) % 4)


def _block(order: str, kind: int, body: bytes) -> bytes:
    body += b"\0" * (-len(body) % 4)
    size = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + size + body + size


def idb(order: str, link: int = 1, snaplen: int = 0, options: Sequence[bytes] = ()) -> bytes:
    """An interface description block."""
    end = struct.pack(order + "HH", 0, 0) if options else b""
    return _block(order, 1, struct.pack(order + "HHI", link, 0, snaplen) + b"".join(options) + end)


def pcapng(
    records: Iterable[tuple[int, int, bytes]], *, big: bool = False, interfaces: Sequence[bytes] | None = None,
    kind: str = "epb", drops: int | None = None, lost: int | None = None,
) -> bytes:  # fmt: skip
    """One section; records are (interface, ticks, captured bytes), `interfaces` the description blocks."""
    order = ">" if big else "<"
    out = [_block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))]
    out += interfaces if interfaces is not None else [idb(order, options=[option(order, 9, b"\x09")])]
    for interface, ticks, data in records:
        high, low = ticks >> 32, ticks & 0xFFFFFFFF
        if kind == "epb":
            body = struct.pack(order + "IIIII", interface, high, low, len(data), len(data)) + data
            if lost is not None:
                body += b"\0" * (-len(data) % 4) + option(order, 2, b"\1\0\0\0")
                body += option(order, 4, struct.pack(order + "Q", lost)) + struct.pack(order + "HH", 0, 0)
            out.append(_block(order, 6, body))
        elif kind == "pb":
            body = struct.pack(order + "HHIIII", interface, 3, high, low, len(data), len(data)) + data
            out.append(_block(order, 2, body))
        else:
            out.append(_block(order, 3, struct.pack(order + "I", len(data)) + data))
    if drops is not None:
        body = struct.pack(order + "III", 0, 0, 0) + option(order, 5, struct.pack(order + "Q", drops))
        out.append(_block(order, 5, body + struct.pack(order + "HH", 0, 0)))
    return b"".join(out)


def snoop(records: Iterable[Record], *, drops: int = 0) -> bytes:
    out = [b"snoop\0\0\0" + struct.pack(">II", 2, 4)]
    for t, data, wire in records:
        sec, ns = divmod(t, 1_000_000_000)
        padded = data + b"\0" * (-len(data) % 4)
        size = len(data) if wire < 0 else wire
        out.append(struct.pack(">IIIIII", size, len(data), 24 + len(padded), drops, sec, ns // 1000) + padded)
    return b"".join(out)


def erf(records: Iterable[Record], *, lost: int = 0, extensions: int = 0) -> bytes:
    out = []
    for t, data, wire in records:
        sec, ns = divmod(t, 1_000_000_000)
        stamp = sec << 32 | (ns << 32) // 1_000_000_000
        kind = 2 | (0x80 if extensions else 0)
        more = b"".join(bytes([0x80 | 3 if i + 1 < extensions else 3]) + b"\0" * 7 for i in range(extensions))
        size = 16 + len(more) + 2 + len(data)
        length = len(data) if wire < 0 else wire
        out.append(
            struct.pack("<QBB", stamp, kind, 5) + struct.pack(">HHH", size, lost, length) + more + b"\0\0" + data
        )
    return b"".join(out)
