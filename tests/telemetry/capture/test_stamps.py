"""Hardware timestamps: each layout, proof before belief, and no false hits."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.capture.columns import Packets
from telemetry.capture.packets import NULL, CaptureStats, read_packets
from telemetry.capture.stamps import crc32
from telemetry.errors import ConfigError
from tests.naive.capture_build import eth, fcs, ip4, pcap, tcp, udp

SEC = 1_700_000_000
T0 = SEC * 1_000_000_000


def read(frames: list[bytes], *, step: int = 1000, wires: list[int] | None = None, **more: Any) -> Packets:
    records = [(T0 + step * i, f, -1 if wires is None else wires[i]) for i, f in enumerate(frames)]
    (batch,) = [b.copy() for b in read_packets(io.BytesIO(pcap(records)), **more)]
    return batch


def plain(i: int) -> bytes:
    return eth(ip4(udp(bytes([i]) * (i % 7)), ident=i)) + b"\0" * (6 if i % 2 else 0)


def metamako(i: int, *, words: list[int] | None = None, real: bool = True, new: bool = True, port: int = 3) -> bytes:
    frame = plain(i)
    original = fcs(frame) if real else b"\xde\xad\xbe\xef"
    tlvs = b"".join(struct.pack(">I", w) for w in words or [])
    out = frame + original + tlvs + struct.pack(">IIBHB", SEC, 1000 * i + 7, 1 | (2 if words else 0), 165, port)
    return out + (fcs(out) if new else b"")


def hpt(i: int, *, real: bool = True, new: bool = True) -> bytes:
    frame = plain(i)
    fraction = (((1000 * i + 7) << 40) // 1_000_000_000 + 1).to_bytes(5, "big")
    out = frame + (fcs(frame) if real else b"ABCD") + struct.pack(">BBI", 1, 9, SEC) + fraction + b"\0"
    return out + (fcs(out) if new else b"")


def test_crc_is_that_of_ethernet() -> None:
    data = np.arange(100, dtype=np.uint8)
    assert crc32(data, 3, 90) == zlib.crc32(data[3:90].tobytes())


@pytest.mark.parametrize("new", [False, True])
def test_metamako_proven(new: bool) -> None:
    b = read([metamako(i, new=new) for i in range(3)])
    assert b.hw_time_ns.tolist() == [T0 + 1000 * i + 7 for i in range(3)]
    assert (b.hw_device.tolist(), b.hw_port.tolist()) == ([165] * 3, [3] * 3)
    assert np.isnan(b.hw_sub_ns).all()
    assert b.payload_len.tolist() == [0, 1, 2]


def test_metamako_extensions() -> None:
    sub = (1 << 23) << 8 | 1  # half a nanosecond
    sequence = 5 << 8 | 0x20
    wide = [0xAAAAAAAA, 0xBBBBBBBB, (1 << 6) | 0x1F]  # a secondary header with two data words
    b = read([metamako(i, words=[sequence, *wide, sub]) for i in range(3)])
    assert b.hw_time_ns.tolist() == [T0 + 1000 * i + 7 for i in range(3)]
    assert b.hw_sub_ns.tolist() == [0.5] * 3


@pytest.mark.parametrize("new", [False, True])
def test_hpt_proven(new: bool) -> None:
    b = read([hpt(i, new=new) for i in range(3)])
    assert b.hw_time_ns.tolist() == [T0 + 1000 * i + 7 for i in range(3)]
    assert ((b.hw_sub_ns >= 0) & (b.hw_sub_ns < 1)).all()
    assert (b.hw_device[0], b.hw_port[0]) == (1, 9)


def test_anonymised_fcs_needs_agreement() -> None:
    stats = CaptureStats()
    b = read([metamako(i, real=False) for i in range(20)], stats=stats)
    assert (b.hw_time_ns != NULL).all()
    assert (stats.hardware, stats.stamp_formats) == (20, ["metamako"])
    few = read([metamako(i, real=False) for i in range(3)])
    assert (few.hw_time_ns == NULL).all(), "too few to believe without proof"
    ports = read([metamako(i, real=False, port=i) for i in range(20)])
    assert (ports.hw_time_ns == NULL).all(), "ports that do not agree"
    mixed = read([metamako(i, real=False) if i % 3 else plain(i) for i in range(30)])
    assert (mixed.hw_time_ns == NULL).all(), "not on nine packets in ten"


def test_a_time_that_is_days_off_is_not_believed() -> None:
    b = read([metamako(i) for i in range(5)], step=3 * 86_400 * 10**9)
    assert (b.hw_time_ns != NULL).tolist() == [True, False, False, False, False]


def test_snapped_packets_have_no_trailer() -> None:
    frames = [metamako(i) for i in range(4)]
    b = read([*frames[:3], frames[3][:-2]], wires=[len(f) for f in frames])
    assert (b.hw_time_ns != NULL).tolist() == [True, True, True, False]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=30), st.booleans())
def test_random_trailers_are_never_stamps(trailers: list[bytes], time_like: bool) -> None:
    head = struct.pack(">II", SEC, 5) if time_like else b""
    b = read([plain(i) + head + t for i, t in enumerate(trailers)])
    assert (b.hw_time_ns == NULL).all()


def test_zero_padding_at_the_epoch_is_no_stamp() -> None:
    records = [(i, plain(i) + b"\0" * 40, -1) for i in range(30)]
    (b,) = [b.copy() for b in read_packets(io.BytesIO(pcap(records)))]
    assert (b.hw_time_ns == NULL).all()


HZ = 350_000_000


def exalink_keyframe(second: int, *, ethertype: bool) -> bytes:
    counter = 1_670_168_600_084 + second * HZ
    body = struct.pack(">4sB3xQQQQ", b"EXKF", 1, T0 + second * 10**9, counter, HZ, counter)
    return eth(body + b"\0" * 24, 0x88B5) if ethertype else eth(ip4(body, 253, "0.0.0.0", "255.255.255.255"))


@pytest.mark.parametrize("ethertype", [True, False])
@pytest.mark.parametrize("append", [True, False])
def test_exalink_32_bit(append: bool, ethertype: bool) -> None:
    frames, want, t, times = [], [], [], []
    for second in range(3):
        frames.append(exalink_keyframe(second, ethertype=ethertype))
        want.append(NULL)
        times.append(T0 + second * 10**9 + 2000)
        for k in range(1, 5):
            ticks = 1_670_168_600_084 + second * HZ + k * HZ // 7
            frame = plain(k) + struct.pack(">I", ticks & 0xFFFFFFFF)
            frames.append(frame + (fcs(frame) if append else b""))
            want.append(T0 + second * 10**9 + (k * HZ // 7) * 10**9 // HZ)
            times.append(want[-1] + 2000 + k)
            t.append(k)
    (b,) = [b.copy() for b in read_packets(io.BytesIO(pcap(list(zip(times, frames, [-1] * len(frames), strict=True)))))]
    assert b.hw_time_ns.tolist() == want


def test_a_stale_keyframe_is_not_used() -> None:
    frames = [exalink_keyframe(0, ethertype=True)]
    ticks = 1_670_168_600_084
    times = [T0]
    for k in (1, 4, 6, 20):
        frames.append(plain(k) + struct.pack(">I", (ticks + k * HZ) & 0xFFFFFFFF))
        times.append(T0 + k * 10**9)
    (b,) = [b.copy() for b in read_packets(io.BytesIO(pcap(list(zip(times, frames, [-1] * 5, strict=True)))))]
    assert (b.hw_time_ns != NULL).tolist() == [False, True, True, False, False]


@pytest.mark.parametrize("kind", [1, 2])
def test_arista_7150(kind: int) -> None:
    asic = 987_654_321_000
    body = struct.pack(">QQQQQQ", asic, T0, 0, 1, 1, 0) + struct.pack(">QHHBB", 0, 21, 34, kind, 0)
    assert len(body) == 62
    frames, times = [eth(ip4(body, 253, "0.0.0.0", "255.255.255.255"))], [T0 + 500]
    want = [NULL]
    for k in range(5):
        ticks = (asic + k * 1_000_000) & 0x7FFFFFFF
        value = (ticks & ~0x7F) << 1 | (ticks & 0x7F)
        frame = plain(k) + struct.pack(">I", value)
        frames.append(frame + (b"\1\2\3\4" if kind == 1 else b""))
        want.append(T0 + k * 1_000_000 * 10**9 // HZ)
        times.append(want[-1] + 700)
    (b,) = [b.copy() for b in read_packets(io.BytesIO(pcap(list(zip(times, frames, [-1] * 6, strict=True)))))]
    assert b.hw_time_ns.tolist() == want
    assert (b.hw_device[1], b.hw_port[1]) == (21, 34)


def test_ixia_by_signature_and_checksum() -> None:
    def frame(i: int, spoil: int = 0) -> bytes:
        body = struct.pack(">BBII", 6, 8, SEC, i) + b"\x0a\xaf\x12"
        total = sum(int.from_bytes((body + b"\0")[k : k + 2], "big") for k in range(0, 14, 2))
        total = (total & 0xFFFF) + (total >> 16)
        return plain(2) + body + struct.pack(">H", (~total & 0xFFFF) ^ spoil)

    assert read([frame(5), frame(6)]).hw_time_ns.tolist() == [T0 + 5, T0 + 6]
    assert (read([frame(5, 1), frame(6, 1)]).hw_time_ns == NULL).all()


def test_configured_formats() -> None:
    def cpacket(i: int) -> bytes:
        return plain(i) + struct.pack(">IIIBHB", 0, SEC, i, 1, 77, 5)

    def vss(i: int, width: str) -> bytes:
        return plain(i) + struct.pack(">II" + width, SEC, 1 << 30 | i, 6)

    for stamps, frames, device, port in (
        ("cpacket", [cpacket(i) for i in range(5)], 77, 5),
        ("vss", [vss(i, "B") for i in range(5)], -1, 6),
        ("vss2", [vss(i, "H") for i in range(5)], -1, 6),
        ("vss", [vss(i, "B") + b"\1\2\3\4" for i in range(5)], -1, 6),
    ):
        if stamps != "cpacket":  # cPacket's trailer is laid out as Metamako's: recognised as that, the same figures
            assert (read(frames).hw_time_ns == NULL).all(), "never without being told"
        b = read(frames, stamps=stamps)
        assert b.hw_time_ns.tolist() == [T0 + i for i in range(5)]
        assert (b.hw_device[0], b.hw_port[0]) == (device, port)


def test_unknown_formats_are_named() -> None:
    with pytest.raises(ConfigError, match="cpacket"):
        read([plain(0)], stamps="sundial")


def test_expcap_footers() -> None:
    def footer(i: int) -> bytes:
        picos = (1000 * i + 7) * 1000 + 250
        return struct.pack("<I", SEC) + picos.to_bytes(5, "little") + struct.pack("<BBBI", 0, 4, 2, 0)

    frames = [eth(ip4(tcp(b"abc"), 6)) for _ in range(6)]
    b = read([f + footer(i) for i, f in enumerate(frames)], wires=[len(f) for f in frames])
    assert b.hw_time_ns.tolist() == [T0 + 1000 * i + 7 for i in range(6)]
    assert b.hw_sub_ns.tolist() == [0.25] * 6
    assert (b.hw_device[0], b.hw_port[0]) == (4, 2)


def test_stamps_can_be_left_alone() -> None:
    assert (read([metamako(i) for i in range(3)], hardware=False).hw_time_ns == NULL).all()
