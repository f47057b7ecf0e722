"""Frames and captures made by hand, byte by byte, and read by the real decoder."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address

from telemetry.capture.packets import Packets, read_packets

START = 1_767_623_400_000_000_000

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


def pcap(frames: Iterable[tuple[int, bytes]], snap: int = 65_535) -> bytes:
    """A nanosecond pcap of (time, frame)."""
    out = [struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, snap, 1)]
    for time_ns, frame in frames:
        kept = frame[:snap]
        out.append(struct.pack("<IIII", time_ns // 10**9, time_ns % 10**9, len(kept), len(frame)) + kept)
    return b"".join(out)


def packets(frames: Sequence[tuple[int, bytes]], rows: int = 8192) -> list[Packets]:
    """Decode frames; each batch is a copy."""
    return [b.copy() for b in read_packets(io.BytesIO(pcap(frames)), batch_rows=rows)] if frames else []


def ethernet(body: bytes, vlan: int | None = None, kind: int = 0x0800) -> bytes:
    tag = b"" if vlan is None else struct.pack(">HH", 0x8100, vlan)
    return bytes(6) + bytes(6) + tag + struct.pack(">H", kind) + body


def ipv4(source: str, destination: str, protocol: int, body: bytes, ident: int = 0, ttl: int = 64) -> bytes:
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), ident & 0xFFFF, 0x4000, ttl, protocol, 0,
        IPv4Address(source).packed, IPv4Address(destination).packed,
    )  # fmt: skip
    return head + body


def udp(
    source: str,
    sport: int,
    destination: str,
    dport: int,
    payload: bytes,
    *,
    ident: int = 0,
    ttl: int = 64,
    vlan: int | None = None,
) -> bytes:
    body = struct.pack(">HHHH", sport, dport, 8 + len(payload), 0) + payload
    return ethernet(ipv4(source, destination, 17, body, ident, ttl), vlan)


def tcp(
    source: str,
    sport: int,
    destination: str,
    dport: int,
    *,
    seq: int,
    ack: int = 0,
    flags: int = ACK,
    payload: bytes = b"",
    window: int = 500,
    stamps: tuple[int, int] | None = None,
    ident: int = 0,
    vlan: int | None = None,
) -> bytes:
    options = b"" if stamps is None else struct.pack(">BBBBII", 1, 1, 8, 10, *stamps)
    words = (20 + len(options)) // 4
    head = struct.pack(">HHIIBBHHH", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, words << 4, flags, window, 0, 0)
    return ethernet(ipv4(source, destination, 6, head + options + payload, ident), vlan)


def mold(session: bytes, seq: int, messages: Sequence[bytes]) -> bytes:
    """A MoldUDP64 payload."""
    head = struct.pack(">10sQH", session.ljust(10), seq, len(messages))
    return head + b"".join(struct.pack(">H", len(m)) + m for m in messages)
