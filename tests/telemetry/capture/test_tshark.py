"""Headers of every kind, stacked in many ways, built by hand: all fields as tshark tells them, in one run of it."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.naive.capture_build import arp, eth, gre, ip4, ip6, pcap, tcp, udp, vlan, vxlan
from tests.naive.capture_tshark import compare

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")

T0 = 1_700_000_000_123_456_789
U = udp(b"hello world", 1234, 5678)
T = tcp(b"data!", 4321, 80, 1000, 2000, 0x18, options=bytes.fromhex("0101080a0000000a0000000b"))
FOUR = ip4(T, 6, "192.168.1.1", "192.168.1.2", ident=99, ttl=33)
SIX = ip6(U, 17, 0xFE80 << 112 | 5, 0xFE80 << 112 | 6, hops=9)
FRAME = eth(FOUR)
EIGHT = b"\x01\x04\0\0\0\0"


def labels(payload: bytes, *values: int) -> bytes:
    out = [v << 12 | (0x100 if i == len(values) - 1 else 0) | 64 for i, v in enumerate(values)]
    return b"".join(struct.pack(">I", v) for v in out) + payload


def ppp(payload: bytes, kind: int = 0x21) -> bytes:
    return struct.pack(">H", kind) + payload


def pppoe(payload: bytes) -> bytes:
    return struct.pack(">BBHH", 0x11, 0, 7, len(payload)) + payload


def extended(chain: list[int], payload: bytes, last: int) -> bytes:
    """IPv6 with extension headers: 44 first fragment, 144 later one, 244 whole one, 51 authentication."""
    out, following = payload, last
    for kind in reversed(chain):
        if kind in (44, 144, 244):
            head = struct.pack(">BBHI", following, 0, {44: 1, 144: 41, 244: 0}[kind], 77)
        elif kind == 51:
            head = struct.pack(">BBHII", following, 4, 0, 1, 2) + bytes(12)
        else:
            head = struct.pack(">BB", following, 0) + (EIGHT if kind != 43 else bytes(6))
        out, following = head + out, 44 if kind in (144, 244) else kind
    return eth(ip6(out, following), 0x86DD)


def generic(payload: bytes, kind: int, *, checksum: bool = False, route: bool = False, **more: int) -> bytes:
    """GRE with everything optional in it."""
    head = gre(b"", kind, **more)
    bits = struct.unpack(">H", head[:2])[0] | (0x8000 if checksum else 0) | (0x4000 if route else 0)
    routes = struct.pack(">HBB", 0x0800, 0, 4) + b"\1\2\3\4" + bytes(4) if route else b""
    return struct.pack(">H", bits) + head[2:4] + (bytes(4) if checksum or route else b"") + head[4:] + routes + payload


def erspan3(frame: bytes, more: int = 0) -> bytes:
    return struct.pack(">HHIHH", 0x20C8, 0x0155, 12345, 0, more) + bytes(8 * more) + frame


ERSPAN2 = struct.pack(">HHI", 0x1064, 0x1955, 5)


def frames() -> Iterator[bytes]:
    yield from (eth(ip4(U)), eth(ip4(T, 6)), eth(ip6(U), 0x86DD), eth(ip6(T, 6), 0x86DD), eth(SIX), eth(FOUR, 0x86DD))
    yield from (eth(ip4(U, options=b"\x07\x0b\x04" + bytes(9))), eth(ip4(T, 6, options=b"\1" * 40)))
    yield from (eth(ip4(p, n, bits=b)) for p, n in ((U, 17), (T, 6)) for b in (0x2000, 0x2003, 3, 0x4000))
    yield from (eth(ip4(U, total=n)) for n in (0, 10, 24, 1500))
    yield from (
        eth(b"\x44" + ip4(U)[1:]),
        eth(b"\x55" + ip4(U)[1:]),
        eth(ip4(T, 6)) + bytes(20),
        eth(ip4(udp(b"q" * 9000))),
    )
    for kind in (0x8100, 0x88A8, 0x9100):
        yield from (eth(vlan(ip4(U), 0x2064), kind), eth(vlan(vlan(ip4(U), 20), 10, 0x8100), kind))
    yield from (eth(vlan(ip4(U), 5), 0x8100)[:16], eth(vlan(arp(1, "10.0.0.1", "10.0.0.2"), 7, 0x0806), 0x8100))
    tagged = struct.pack(">I", 0x123456)
    yield from (eth(tagged + FRAME, 0x88E7), eth(vlan(tagged + FRAME, 100, 0x88E7), 0x88A8))
    yield eth(tagged + eth(vlan(FOUR, 55), 0x8100), 0x88E7)
    yield from (eth(labels(p, *n), 0x8847) for p, n in ((FOUR, [16]), (FOUR, [16, 17, 18]), (SIX, [2]), (FOUR, [0])))
    yield from (eth(labels(SIX, 16), 0x8848), eth(vlan(labels(FOUR, 16), 9, 0x8847), 0x8100))
    yield from (eth(pppoe(p), 0x8864) for p in (ppp(FOUR), ppp(SIX, 0x57), b"\x21" + FOUR, ppp(b"\x09\1\0\4", 0xC021)))
    yield eth(vlan(pppoe(ppp(FOUR)), 66, 0x8864), 0x8100)
    for operation in (1, 2):
        yield eth(arp(operation, "1.2.3.4", "5.6.7.8"), 0x0806) + bytes(18 * (operation - 1))
    yield from (eth(ip4(b"\x08\0\0\0\0\1\0\1abcd", 1)), eth(ip4(b"\3\3" + bytes(6) + FOUR, 1)))
    yield from (
        eth(ip6(b"\x80\0\0\0\0\1\0\1", 58), 0x86DD),
        eth(ip4(b"\x16\0\0\0\xe0\1\1\1", 2, options=b"\x94\4\0\0")),
    )
    yield from (eth(ip4(p, n)) for p, n in ((b"\0\0\1\0\0\0\0\1" + bytes(32), 50), (b"\2\1\0\x2c" + bytes(40), 89)))
    for chain in (
        [0], [60], [43], [51], [44], [144], [244], [0, 60], [0, 43, 60], [0, 60, 43, 51], [0, 43, 44], [0, 144],
        [60, 60],
        [0, 60, 43, 244, 51, 60], [43, 0], [51, 0], [60, 44, 60], [144, 60], [51, 51],
    ):  # fmt: skip
        yield from (extended(chain, U, 17), extended(chain, T, 6))
    yield from (extended([0], b"", 59), eth(ip6(b"abc", 59), 0x86DD))
    yield from (eth(ip4(FOUR, 4)), eth(ip4(SIX, 41)), eth(ip6(FOUR, 4), 0x86DD), eth(ip6(SIX, 41), 0x86DD))
    yield from (eth(ip4(FOUR, 4, bits=b)) for b in (3, 0x2000))
    yield from (eth(ip4(p, 51)) for p in (struct.pack(">BBHII", 17, 4, 0, 1, 2) + bytes(12) + U,))
    for more in ({}, {"key": 5}, {"sequence": 6}, {"key": 5, "sequence": 6}):
        for checksum, route in ((False, False), (True, False), (False, True), (True, True)):
            yield eth(ip4(generic(FOUR, 0x0800, checksum=checksum, route=route, **more), 47))
    for payload, kind in (
        (SIX, 0x86DD), (FRAME, 0x6558), (eth(vlan(FOUR, 33), 0x8100), 0x6558), (labels(FOUR, 20), 0x8847),
        (ppp(FOUR), 0x880B), (arp(1, "1.1.1.1", "2.2.2.2"), 0x0806), (FRAME, 0x88BE),
    ):  # fmt: skip
        yield from (eth(ip4(gre(payload, kind), 47)), eth(ip6(gre(payload, kind), 47), 0x86DD))
    for payload, kind in (
        (ERSPAN2 + FRAME, 0x88BE),
        (ERSPAN2 + FRAME, 0x22EB),
        (erspan3(FRAME), 0x22EB),
        (erspan3(FRAME, 1), 0x22EB),
    ):
        yield eth(ip4(gre(payload, kind, sequence=1), 47))
    for inner in (FRAME, eth(SIX, 0x86DD), eth(vlan(FOUR, 33), 0x8100), eth(arp(1, "1.1.1.1", "2.2.2.2"), 0x0806)):
        yield from (eth(ip4(udp(vxlan(inner, 99), 40000, 4789))), eth(ip6(udp(vxlan(inner, 99), 4789, 40000)), 0x86DD))
        yield eth(ip4(udp(struct.pack(">HHI", 0, 0x6558, 0x777 << 8) + inner, 40000, 6081)))
        yield eth(ip4(udp(struct.pack(">BBHI", 2, 0, 0x6558, 7 << 8) + b"\1\2\x80\1abcd" + inner, 40000, 6081)))
        yield eth(ip4(udp(struct.pack(">BBBBI", 0x0C, 0, 0, 3, 55 << 8) + inner, 40000, 4790)))
    yield from (
        eth(ip4(udp(bytes(4) + struct.pack(">I", 55 << 8) + FRAME, 1, 4789))),
        eth(ip4(udp(b"\x08\0\0\0", 1, 4789))),
    )
    yield from (
        eth(ip4(udp(struct.pack(">HHI", 0, k, 7 << 8) + p, 1, 6081))) for p, k in ((FOUR, 0x800), (SIX, 0x86DD))
    )
    yield eth(ip4(udp(struct.pack(">BBBBI", 0x0C, 0, 0, 1, 55 << 8) + FOUR, 40000, 4790)))
    yield from (eth(ip4(b"\x30\0" + FRAME, 97)), eth(ip6(FRAME, 143), 0x86DD))
    yield eth(vlan(ip4(gre(eth(vlan(FOUR, 33), 0x8100), 0x6558), 47), 11), 0x8100)
    yield eth(ip4(gre(ip4(udp(vxlan(FRAME, 5), 1, 4789), 17, "8.8.8.1", "8.8.8.2")), 47))
    yield eth(ip4(ip6(FOUR, 4), 41))
    yield eth(ip4(gre(ERSPAN2 + eth(ip4(gre(FOUR), 47, "7.7.7.1", "7.7.7.2")), 0x88BE, sequence=1), 47))
    snap = b"\xaa\xaa\x03\0\0\0\x08\0" + FOUR
    yield from (
        eth(snap, len(snap)),
        eth(snap, 0x8870),
        eth(b"\6\6\3" + FOUR, 3 + len(FOUR)),
        eth(b"\x42\x42\3" + bytes(35), 38),
    )
    yield from (eth(bytes(4) + b"\x08\0" + FOUR, k) for k in (0x8926, 0x892F, 0xF1C1))
    yield eth(b"\1\1\0\1\0\x10\x08\0" + FOUR, 0x8909)
    yield from (eth(bytes([0, 6, 1, n]) + bytes(20) + p, 0x894F) for n, p in ((1, FOUR), (2, SIX), (3, FRAME)))
    for options in (
        "020405b40402080a00000001000000000103030a", "0101050a0000000100000002", "08000000", "08200000",
        "080a00000003000000040101", "00020405b4000000", "1e0c0081a1a2a3a4a5a6a7a8",
    ):  # fmt: skip
        yield eth(ip4(tcp(b"x", 1, 2, 5, 6, 2, options=bytes.fromhex(options)), 6))
    yield from (eth(ip4(T[:12] + bytes([doff]) + T[13:], 6)) for doff in (0x00, 0x40, 0xF0))
    yield from (eth(ip4(T, 6))[:n] for n in range(12, len(FRAME)))
    yield from (eth(ip4(U))[:n] for n in range(34, 60))
    # found by changing bytes of the others
    yield eth(b"\x21\1" + pppoe(ppp(FOUR))[2:], 0x8864)
    yield from (eth(ip4(bytes([0, bits]) + b"\x08\0" + FOUR, 47)) for bits in (2, 7))
    yield eth(b"\1\xff\0\1\0\x10\x08\0" + FOUR, 0x8909)
    yield from (eth(ip4(gre(FOUR), 47, total=24 + n)) for n in (10, 20, 30, 44))
    yield from (eth(ip4(U[:4] + n + U[6:])) for n in (b"\0\0", b"\0\4", b"\xff\xf0"))


LINKS = {
    0: [b"\2\0\0\0" + FOUR, b"\0\0\0\2" + FOUR, b"\x1e\0\0\0" + SIX, b"\0\0\0\x1c" + SIX],
    9: [b"\xff\3\0\x21" + FOUR, b"\0\x57" + SIX, b"\x21" + FOUR, b"\xff\3\2\x81" + labels(FOUR, 16)],
    12: [FOUR, SIX, b"", b"\x55abc"],
    50: [b"\xff\3\0\x21" + FOUR, b"\x0f\0\x08\0" + FOUR, b"\x8f\0\x86\xdd" + SIX],
    51: [pppoe(ppp(FOUR)), struct.pack(">BBHH", 0x11, 9, 0, 4) + b"\1\1\0\0"],
    101: [FOUR, SIX],
    104: [b"\x0f\0\x08\0" + FOUR, b"\x8f\0\x86\xdd" + SIX, b"\x0f\0\x80\x35" + bytes(14)],
    108: [b"\0\0\0\2" + FOUR, b"\0\0\0\x1e" + SIX],
    109: [struct.pack("<II4s", 2, 256, b"") + FOUR],
    113: [
        bytes(14) + k + p
        for k, p in ((b"\x08\0", FOUR), (b"\x86\xdd", SIX), (b"\x81\0", vlan(FOUR, 7)), (b"\0\4", b"BB\3"))
    ],
    228: [FOUR],
    229: [SIX],
    276: [k + bytes(18) + p for k, p in ((b"\x08\0", FOUR), (b"\x86\xdd", SIX), (b"\x81\0", vlan(FOUR, 7)))],
}


def test_frames_of_all_kinds(tmp_path: Path) -> None:
    path = tmp_path / "all.pcap"
    path.write_bytes(pcap([(T0 + i * 1000, frame, -1) for i, frame in enumerate(frames())]))
    assert compare(str(path)) == []


@pytest.mark.parametrize("link", sorted(LINKS))
def test_link_types(link: int, tmp_path: Path) -> None:
    path = tmp_path / "link.pcap"
    path.write_bytes(pcap([(T0 + i * 1000, frame, -1) for i, frame in enumerate(LINKS[link])], link=link))
    assert compare(str(path)) == []
