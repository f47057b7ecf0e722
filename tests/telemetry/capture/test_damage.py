"""Hostile and damaged input: all that is good comes out, it is said what was wrong where, and nothing breaks."""

from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from telemetry.capture.packets import CaptureStats, Packets, read_packets
from telemetry.errors import InputError
from tests.naive.capture_build import erf, eth, ip4, pcap, pcapng, snoop, tcp, udp

T0 = 1_700_000_000_000_000_000
N = 60


def _frame(i: int) -> bytes:
    payload = random.Random(i).randbytes(20 + i % 40)
    return eth(ip4(udp(payload) if i % 3 else tcp(payload), 17 if i % 3 else 6, ident=i))


RECORDS = [(T0 + i * 1_000_000, _frame(i), -1) for i in range(N)]
BLOBS = {
    "pcap": pcap(RECORDS),
    "pcap-big": pcap(RECORDS, big=True, nanos=False),
    "pcapng": pcapng([(0, t, f) for t, f, _ in RECORDS]),
    "snoop": snoop(RECORDS),
    "erf": erf(RECORDS),
}


def read(blob: bytes, **more: Any) -> tuple[list[tuple[int, bool]], CaptureStats]:
    """(ip_id, recovered) of each packet, and the stats."""
    stats, out = CaptureStats(), []
    for b in read_packets(io.BytesIO(blob), stats=stats, **more):
        _in_bounds(b)
        out += list(zip(b.ip_id.tolist(), b.recovered.astype(bool).tolist(), strict=True))
    return out, stats


def _in_bounds(b: Packets) -> None:
    assert b.frame_off.min() >= 0
    assert (b.frame_off + b.cap_len).max() <= len(b.data)
    has = b.payload_off >= 0
    assert (b.payload_cap[has] >= 0).all()
    assert (b.payload_off[has] + b.payload_cap[has] <= (b.frame_off + b.cap_len)[has]).all()


@pytest.mark.parametrize("kind", sorted(BLOBS))
@pytest.mark.parametrize("keep", [0.3, 0.5, 0.99])
def test_a_truncated_tail_keeps_what_is_whole(kind: str, keep: float) -> None:
    blob = BLOBS[kind][: int(len(BLOBS[kind]) * keep)]
    got, stats = read(blob)
    assert [i for i, _ in got] == list(range(len(got)))
    assert abs(len(got) - N * keep) < 8
    assert stats.damage_count <= 1
    if stats.damages:
        assert "ends" in stats.damages[0].what
        assert stats.damages[0].offset <= len(blob)


@pytest.mark.parametrize("kind", sorted(BLOBS))
@pytest.mark.parametrize("size", [3, 100, 1000])
@pytest.mark.parametrize("what", ["garbage", "zeros", "cut", "inserted"])
def test_packets_before_and_after_damage_are_kept(kind: str, size: int, what: str) -> None:
    blob = BLOBS[kind]
    for at in (len(blob) // 3, len(blob) // 2 + 7):
        noise = b"\0" * size if what == "zeros" else random.Random(size).randbytes(size)
        middle = b"" if what == "cut" else noise
        hurt = blob[:at] + middle + (blob[at:] if what == "inserted" else blob[at + size :])
        got, stats = read(hurt)
        ids = {i for i, _ in got}
        lost = size // 70 + 4
        assert len(ids & set(range(N))) >= N - lost - (3 if kind in ("snoop", "erf") else 0), (at, stats.damages)
        before = int(N * at / len(blob)) - 4
        assert ids >= set(range(before)), "what was good before the damage"
        assert ids >= set(range(before + lost + 8, N)), "what was good after it"
        if stats.damage_count:
            assert any(r for _, r in got)
            assert all(at - 400 < d.offset for d in stats.damages)


def test_a_wrong_length_does_not_swallow_what_follows() -> None:
    blob = bytearray(BLOBS["pcap"])
    at = 24
    for _ in range(9):
        at += 16 + int.from_bytes(blob[at + 8 : at + 12], "little")
    blob[at + 8 : at + 12] = (900).to_bytes(4, "little")
    got, stats = read(bytes(blob))
    assert {i for i, _ in got} >= set(range(N)) - {9, 10}
    assert stats.damage_count == 1
    assert stats.damages[0].resumed > 0


def test_an_absurd_length_costs_one_record() -> None:
    blob = bytearray(BLOBS["pcap"])
    size = 16 + len(RECORDS[0][1])
    blob[24 + size + 8 : 24 + size + 12] = b"\xff\xff\xff\x7f"
    got, stats = read(bytes(blob))
    assert [i for i, _ in got] == [0, *range(2, N)]
    assert [r for _, r in got] == [False] + [True] * (N - 2)
    assert (stats.damages[0].offset, stats.recovered) == (24 + size, N - 2)
    assert str(24 + size) in str(stats.damages[0])


def test_zeros_to_the_end_are_empty_records() -> None:
    """As tshark counts them; a hole in the middle is damage."""
    got, stats = read(BLOBS["pcap"] + b"\0" * 160)
    assert (len(got), stats.damage_count) == (N + 10, 0)
    got, stats = read(BLOBS["pcap"] + b"\0" * 167)  # once went round and round at the last seven
    assert (len(got), stats.damage_count) == (N + 10, 1)
    half = len(BLOBS["pcap"]) // 2
    got, stats = read(BLOBS["pcap"][:half] + b"\0" * 1000 + BLOBS["pcap"][half:])
    assert {i for i, _ in got} >= set(range(half // 80 - 5))
    assert stats.damage_count >= 1


def test_damage_wider_than_the_buffer_is_stepped_over() -> None:
    blob = BLOBS["pcap"]
    half = 24 + sum(16 + len(f) for _, f, _ in RECORDS[:30])
    got, stats = read(blob[:half] + random.Random(1).randbytes(5_000_000) + blob[half:])
    assert [i for i, r in got if not r] == list(range(30))
    assert {i for i, r in got if r} >= set(range(30, N))
    assert stats.damages[0].offset == half


@pytest.mark.parametrize("kind", sorted(BLOBS))
@pytest.mark.parametrize("rows", [1, 17, 4096])
def test_reading_goes_on_where_it_stopped(kind: str, rows: int, tmp_path: Any) -> None:
    path = tmp_path / "grown"
    blob = BLOBS[kind]
    path.write_bytes(blob[: int(len(blob) * 0.6)])
    stats, ids = CaptureStats(), []
    for b in read_packets(path, stats=stats, batch_rows=rows):
        ids += b.ip_id.tolist()
        position = stats.position()
        if len(ids) > 20:
            break
    path.write_bytes(blob)
    for b in read_packets(path, start=position):
        ids += b.ip_id.tolist()
        assert not b.recovered.any()
    assert ids == list(range(N))


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(sorted(BLOBS)),
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=12), st.booleans()), min_size=1, max_size=5
    ),
    keep=st.floats(0.05, 1),
    rows=st.sampled_from([1, 5, 4096]),
)
@example(kind="pcapng", edits=[(0.0, b"\x0a\x0d\x0d\x0a", False)], keep=1.0, rows=5)
@example(kind="pcap", edits=[(0.5, b"\xff\xff\xff\xff", False)], keep=1.0, rows=1)
def test_any_bytes_at_all(kind: str, edits: list[tuple[float, bytes, bool]], keep: float, rows: int) -> None:
    """No crash, no hang, nothing outside the buffer, and no more packets than bytes allow."""
    blob = bytearray(BLOBS[kind])
    for where, what, insert in edits:
        at = int(where * len(blob))
        blob[at : at if insert else at + len(what)] = what
    data = bytes(blob[: int(len(blob) * keep)])
    try:
        got, stats = read(data, batch_rows=rows)
    except InputError:
        return
    assert len(got) <= len(data) // 12
    assert stats.packets == len(got)
    for damage in stats.damages:
        assert 0 <= damage.offset <= len(data)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\x0a\x0d\x0d\x0a", b"snoop\0\0\0", b""]),
    st.binary(max_size=300),
)
def test_pure_noise(magic: bytes, noise: bytes) -> None:
    try:
        got, _ = read(magic + noise)
    except InputError:
        return
    assert len(got) <= (len(magic) + len(noise)) // 12


@settings(max_examples=150, deadline=None)
@given(
    st.binary(min_size=1, max_size=120),
    st.sampled_from([0, 1, 9, 51, 101, 104, 109, 113, 197, 276]),
    st.integers(0, 200),
)
def test_any_frame_of_any_link_type(frame: bytes, link: int, wire: int) -> None:
    got, _ = read(pcap([(T0, frame, wire), (T0 + 1, frame[::-1], -1)], link=link))
    assert len(got) == 2


@pytest.mark.parametrize("kind", [0x0800, 0x86DD, 0x8100, 0x8847, 0x8864, 0x0806, 0xD28B, 0x22EB, 0x88BE, 0x88B5])
def test_every_layer_cut_off_anywhere(kind: int) -> None:
    """Each prefix of a frame of a layer's first bytes, random after that."""
    rng = np.random.default_rng(kind)
    records = []
    for _ in range(30):
        frame = eth(rng.bytes(60), kind)
        records += [(T0, frame[:n], len(frame)) for n in range(1, len(frame))]
    got, _ = read(pcap(records))
    assert len(got) == len(records)
