"""Containers: times and lengths to the nanosecond, whatever the byte order, the chunks and the batches."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.capture.packets import NULL, CaptureStats, Packets, read_packets
from telemetry.errors import InputError
from tests.naive.capture import read_pcap
from tests.naive.capture_build import erf, eth, idb, ip4, option, pcap, pcapng, snoop, tcp, udp

T0 = 1_700_000_000_123_456_789
FRAMES = [eth(ip4(udp(bytes([i]) * i))) for i in range(5)] + [eth(ip4(tcp(b"abc"), proto=6))]
RECORDS = [(T0 + 1000 * i, frame, -1 if i else 2000) for i, frame in enumerate(FRAMES)]


class Trickle(io.RawIOBase):
    """A pipe that brings as many bytes at a time as it is told to."""

    def __init__(self, blob: bytes, sizes: list[int]) -> None:
        self._blob, self._sizes, self._at, self._turn = blob, sizes, 0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        n = min(self._sizes[self._turn % len(self._sizes)], len(into), len(self._blob) - self._at)
        self._turn += 1
        into[:n] = self._blob[self._at : self._at + n]
        self._at += n
        return n


def read(blob: bytes, **more: Any) -> tuple[dict[str, np.ndarray], CaptureStats]:
    """All columns of all batches, offsets left out; and the stats."""
    stats = CaptureStats()
    batches: list[Packets] = [b.copy() for b in read_packets(io.BytesIO(blob), stats=stats, **more)]
    skip = ("n", "source", "file", "has", "data", "frame_off", "payload_off", "l3_end")
    names = [name for name in Packets.__dataclass_fields__ if name not in skip]
    return {
        name: np.concatenate([getattr(b, name) for b in batches]) if batches else np.empty(0) for name in names
    }, stats


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(("nanos", "modified"), [(True, False), (False, False), (False, True)])
def test_pcap(big: bool, nanos: bool, modified: bool) -> None:
    got, _ = read(pcap(RECORDS, big=big, nanos=nanos, modified=modified))
    unit = 1 if nanos else 1000
    assert got["time_ns"].tolist() == [t // unit * unit for t, _, _ in RECORDS]
    assert got["cap_len"].tolist() == [len(f) for f in FRAMES]
    assert got["wire_len"].tolist() == [2000, *(len(f) for f in FRAMES[1:])]
    assert got["interface"].tolist() == [3 if modified else 0] * len(FRAMES)
    assert got["protocol"].tolist() == [17] * 5 + [6]


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("kind", ["epb", "pb", "spb"])
def test_pcapng_blocks(big: bool, kind: str) -> None:
    got, _ = read(pcapng([(0, T0 + i, f) for i, f in enumerate(FRAMES)], big=big, kind=kind))
    assert got["time_ns"].tolist() == [NULL if kind == "spb" else T0 + i for i in range(len(FRAMES))]
    assert got["cap_len"].tolist() == [len(f) for f in FRAMES]
    assert got["dst_port"].tolist() == [2222] * len(FRAMES)


@pytest.mark.parametrize(
    "resolution", [0, 3, 6, 7, 9, 10, 12, 18, 0x80, 0x80 | 10, 0x80 | 20, 0x80 | 32, 0x80 | 40, 0x80 | 63]
)
@pytest.mark.parametrize("offset", [0, 1_600_000_000, -5])
def test_pcapng_resolutions_are_exact(resolution: int, offset: int) -> None:
    per_second = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution
    ticks = [
        0,
        1,
        per_second // 3,
        min(per_second * 5 + 7, 2**64 - 1),
        min(per_second * 100_000 + per_second // 7, 2**64 - 1),
    ]
    options = [option("<", 9, bytes([resolution])), option("<", 14, struct.pack("<q", offset))]
    got, _ = read(pcapng([(0, t, FRAMES[0]) for t in ticks], interfaces=[idb("<", options=options)]))
    assert got["time_ns"].tolist() == [t * 10**9 // per_second + offset * 10**9 for t in ticks]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 255), st.integers(-(2**63), 2**63 - 1))
def test_pcapng_times_are_exact_or_null(ticks: int, resolution: int, offset: int) -> None:
    per_second = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10 ** (resolution & 0x7F)
    options = [option("<", 9, bytes([resolution])), option("<", 14, struct.pack("<q", offset))]
    got, _ = read(pcapng([(0, ticks, FRAMES[0])], interfaces=[idb("<", options=options)]))
    exact = ticks * 10**9 // per_second + offset * 10**9
    limit = 9_223_372_033 * 10**9
    unshifted = ticks * 10**9 // per_second
    if resolution & 0x7F <= 27 or resolution & 0x80:
        assert got["time_ns"][0] in (exact, NULL)
        if abs(exact) < limit and unshifted < limit and abs(offset) < 9_000_000_000:
            assert got["time_ns"][0] == exact


def test_interfaces_have_their_own_resolution_and_link_type() -> None:
    interfaces = [
        idb("<", 1, options=[option("<", 9, b"\x06")]),
        idb("<", 101, options=[option("<", 9, b"\x09")]),
        idb("<", 105),
    ]
    got, _ = read(
        pcapng(
            [(0, 5, FRAMES[1]), (1, 5, FRAMES[1][14:]), (2, 5, b"xy"), (1, 6, FRAMES[1][14:])], interfaces=interfaces
        )
    )
    assert got["time_ns"].tolist() == [5000, 5, 5000, 6]
    assert got["linktype"].tolist() == [1, 101, 105, 101]
    assert got["interface"].tolist() == [0, 1, 2, 1]
    assert got["dst_port"].tolist() == [2222, 2222, -1, 2222]


def test_many_interfaces() -> None:
    interfaces = [idb("<", 1, options=[option("<", 9, bytes([6 + i % 4]))]) for i in range(126)]
    got, _ = read(pcapng([(i, 1, FRAMES[0]) for i in range(126)], interfaces=interfaces))
    assert got["time_ns"].tolist() == [10 ** (3 - i % 4) for i in range(126)]


def test_sections_in_both_byte_orders_and_drops() -> None:
    one = pcapng([(0, 1, FRAMES[0])], drops=7)
    two = pcapng([(0, 2, FRAMES[1])], big=True, drops=5)
    got, stats = read(one + two)
    assert got["time_ns"].tolist() == [1, 2]
    assert stats.dropped == 12
    assert not stats.damages


@pytest.mark.parametrize("big", [False, True])
def test_packet_blocks_tell_drops(big: bool) -> None:
    got, stats = read(pcapng([(0, i, f) for i, f in enumerate(FRAMES)], big=big, lost=4))
    assert got["cap_len"].tolist() == [len(f) for f in FRAMES]
    assert stats.dropped == 4 * len(FRAMES)


def test_erf_records_inside_pcap() -> None:
    record = erf([(T0, FRAMES[1], -1)], extensions=1)
    (batch,) = [b.copy() for b in read_packets(io.BytesIO(pcap([(T0, record, -1)], link=197)))]
    assert (batch.dst_port[0], batch.payload_len[0]) == (2222, 1)


def test_snoop() -> None:
    got, stats = read(snoop(RECORDS, drops=3))
    assert got["time_ns"].tolist() == [t // 1000 * 1000 for t, _, _ in RECORDS]
    assert got["wire_len"][0] == 2000
    assert stats.dropped == 3


@pytest.mark.parametrize("extensions", [0, 1, 2])
def test_erf(extensions: int) -> None:
    got, stats = read(erf(RECORDS, lost=2, extensions=extensions))
    assert np.abs(got["time_ns"] - np.array([t for t, _, _ in RECORDS])).max() <= 1
    assert got["cap_len"].tolist() == [len(f) for f in FRAMES]
    assert got["interface"].tolist() == [1] * len(FRAMES)
    assert got["dst_port"].tolist() == [2222] * len(FRAMES)
    assert stats.dropped == 2 * len(FRAMES)


MAKERS = {
    "pcap": lambda: pcap(RECORDS * 20),
    "pcapng": lambda: pcapng([(0, T0 + i, f) for i, f in enumerate(FRAMES * 20)]),
    "snoop": lambda: snoop(RECORDS * 20),
    "erf": lambda: erf(RECORDS * 20),
}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(MAKERS)), st.lists(st.integers(1, 400), min_size=1, max_size=6), st.integers(1, 50))
def test_neither_chunks_nor_batches_change_anything(kind: str, sizes: list[int], rows: int) -> None:
    blob = MAKERS[kind]()
    want, _ = read(blob)
    stats = CaptureStats()
    batches = [b.copy() for b in read_packets(Trickle(blob, sizes), batch_rows=rows, stats=stats)]  # type: ignore[arg-type]
    assert max(b.n for b in batches) <= rows
    assert stats.packets == len(RECORDS) * 20
    for name, column in want.items():
        joined = np.concatenate([getattr(b, name) for b in batches])
        np.testing.assert_array_equal(joined, column, name)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2**32 * 10**9 - 1), st.binary(max_size=90)), max_size=8),
    st.booleans(),
    st.binary(max_size=15),
)
def test_pcap_equals_the_plain_twin(records: list[tuple[int, bytes]], big: bool, tail: bytes) -> None:
    blob = pcap([(t, d, -1) for t, d in records if t or d], big=big) + tail
    got, stats = read(blob)
    want = list(read_pcap(blob))
    assert list(zip(got["time_ns"].tolist(), got["wire_len"].tolist(), strict=True)) == [(t, w) for t, w, _ in want]
    assert stats.damage_count == (1 if tail else 0)


def test_large_records_grow_the_buffer() -> None:
    big = eth(ip4(udp(b"y" * 50_000)) + b"z" * 200_000)
    got, stats = read(pcap([(T0 + i, big, -1) for i in range(40)]), batch_rows=1000)
    assert got["cap_len"].tolist() == [len(big)] * 40
    assert stats.damage_count == 0


@pytest.mark.parametrize(
    ("blob", "text"),
    [
        (b"", "empty"),
        (b"hello world, this is no capture at all", "expected a capture"),
        (b"\xd4\xc3\xb2\xa1\x02\x00", "header"),
        (pcap([])[:4] + b"\x09" + pcap([])[5:], "version"),
        (b"\x0a\x0d\x0d\x0a" + b"\xff" * 60, "damaged at byte 0"),
        (b"snoop\0\0\0\0\0\0\x09\0\0\0\4", "version 2, got 9"),
    ],
)
def test_foreign_files_are_refused_in_one_line(blob: bytes, text: str) -> None:
    with pytest.raises(InputError, match=text) as error:
        read(blob)
    assert "\n" not in str(error.value)


def test_a_capture_without_packets_is_fine() -> None:
    assert read(pcap([]))[1].packets == 0
    assert read(pcapng([]))[1].packets == 0


def test_stats() -> None:
    records = [(T0 + 5, FRAMES[0], 90), (T0, FRAMES[1], -1), (T0 + 9, FRAMES[2], -1)]
    _, stats = read(pcap(records))
    assert (stats.packets, stats.snapped, stats.backwards) == (3, 1, 1)
    assert (stats.first_ns, stats.last_ns) == (T0, T0 + 9)
    assert stats.summary()["first_ns"] == T0
