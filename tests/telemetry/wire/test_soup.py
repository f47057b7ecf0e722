"""SoupBinTCP: implicit numbers on a TCP stream, however it is cut, disordered, repeated or full of holes."""

from __future__ import annotations

import io
import random
import struct
from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.wire import feedstate as fs
from telemetry.wire.flows import FlowTable
from telemetry.wire.soup import HOLE, Soup
from telemetry.wire.taps import wire_events
from tests.naive.wire_frames import ACK, PSH, START, packets, pcap, tcp

SERVER, CLIENT = ("10.0.0.1", 9000), ("10.0.0.2", 40000)


def packet(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">H", 1 + len(body)) + kind + body


def accepted(session: str, number: int) -> bytes:
    return packet(b"A", f"{session:>10}{number:>20}".encode())


def segment(at: int, seq: int, payload: bytes, port: int = CLIENT[1]) -> tuple[int, bytes]:
    return START + at * 1_000_000, tcp(*SERVER, CLIENT[0], port, seq=seq, ack=1, flags=PSH | ACK, payload=payload)


def fed(
    frames: list[tuple[int, bytes]], rows: int = 8192, formats: dict[str, str] | None = None
) -> tuple[Soup, np.ndarray]:
    flows = FlowTable()
    soup = Soup(flows, formats)
    out = [soup.push(b, flows.assign(b)) for b in packets(frames, rows)]
    return soup, np.concatenate([*out, soup.finish()])


def counts(rows: np.ndarray) -> Counter[int]:
    total: Counter[int] = Counter()
    for code, value in rows[:, [0, 3]].tolist():
        total[code] += value
    return total


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=40),
    cuts=st.lists(st.integers(1, 400), min_size=1, max_size=60),
    seed=st.integers(0, 999),
    first=st.integers(0, 2**32 - 1),
    rows=st.sampled_from([1, 5, 8192]),
)
def test_each_sequenced_message_counts_once(
    sizes: list[int], cuts: list[int], seed: int, first: int, rows: int
) -> None:
    rng = random.Random(seed)
    stream = accepted("S1", 101)
    for n, size in enumerate(sizes):
        stream += packet(b"S", rng.randbytes(size)) + (packet(b"H") if n % 3 == 0 else b"")
    frames, at, place = [], 0, 0
    parts = [33, *cuts]
    while place < len(stream):
        size = parts[at % len(parts)] if at else 33 + cuts[0] % 3
        frames.append((place, stream[place : place + size]))
        place, at = place + size, at + 1
    order = list(frames)
    for i in range(1, len(order) - 1):  # neighbours change places; some come twice
        if rng.random() < 0.3:
            order[i], order[i + 1] = order[i + 1], order[i]
    order = [f for f in order for _ in range(2 if rng.random() < 0.2 else 1)]
    if order[0] != frames[0]:
        order.insert(0, frames[0])
    soup, got = fed([segment(i, (first + o) & 0xFFFFFFFF, b) for i, (o, b) in enumerate(order)], rows)
    assert soup.number(0) == 101 + len(sizes)
    assert counts(got) == {fs.PACKETS: len(sizes)}


def test_a_hole_within_a_message_loses_nothing_and_a_wider_one_is_said() -> None:
    start = accepted("S1", 1)
    large = packet(b"S", bytes(3000))
    rest = [packet(b"S", b"x" * 20) + packet(b"S", b"y" * 9) for _ in range(30)]
    frames = [segment(0, 0, start), segment(1, 33, large[:1000]), segment(3, 33 + 2000, large[2000:] + rest[0])]
    place = 33 + len(large) + len(rest[0])
    for n, part in enumerate(rest[1:], 1):
        if n not in (10, 11):
            frames.append(segment(3 + 20 * n, place, part))
        place += len(part)
    soup, got = fed(frames)
    told = counts(got)
    assert told[HOLE] == 1, "the middle of the large message is none"
    assert told[fs.PACKETS] == 1 + 60 - 4
    assert soup.number(0) == -1
    login = segment(900, place, accepted("S1", 62))
    soup, got = fed([*frames, login, segment(901, place + 33, packet(b"S", b"z"))])
    assert soup.number(0) == 63


def test_logins_tell_gaps_replays_and_resets() -> None:
    def connection(at: int, port: int, session: str, number: int, messages: int) -> list[tuple[int, bytes]]:
        stream = accepted(session, number) + b"".join(packet(b"S", b"m") for _ in range(messages))
        return [segment(at, 7, stream, port)]

    frames = [
        *connection(0, 40000, "S1", 1, 10), *connection(300, 40001, "S1", 15, 5), *connection(600, 40002, "S1", 18, 2),
        *connection(900, 40003, "S2", 1, 3), *connection(1200, 40003, "S2", 4, 1),
    ]  # fmt: skip
    soup, got = fed(frames)
    assert [(c, v, lo, hi) for c, _, _, v, lo, hi in got.tolist() if c != fs.PACKETS] == [
        (fs.GAP, 4, 11, 14), (fs.DUPLICATE, 2, 18, 19), (fs.RESTART, 1, 20, 1),
    ]  # fmt: skip
    assert counts(got)[fs.PACKETS] == 21
    assert soup.number(3) == 5


def test_a_configured_server_needs_no_login_and_others_are_none() -> None:
    frames = [segment(n, 100 + 46 * n, packet(b"S", b"x" * 20) * 2) for n in range(10)]
    assert fed(frames)[0].streams == 0
    soup, got = fed(frames, formats={"10.0.0.1:9000": "soupbintcp"})
    assert (soup.streams, soup.number(0), counts(got)) == (1, -1, {fs.PACKETS: 20})


def test_series_are_those_of_a_feed() -> None:
    frames = [segment(0, 0, accepted("S1", 1) + packet(b"S", b"a")), segment(5, 37, packet(b"S", b"b"))]
    told: dict[str, list[Any]] = {}
    for batch in wire_events({"t": io.BytesIO(pcap(frames))}):
        for s, v in zip(batch.series.tolist(), batch.value.tolist(), strict=True):
            told.setdefault(f"{batch.keys[s].metric} {batch.keys[s].label('feed')}", []).append(v)
    assert told["feed_packets tcp 10.0.0.1:9000>10.0.0.2:40000"] == [2]
    assert told["feed_gap_packets tcp 10.0.0.1:9000>10.0.0.2:40000"] == [0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=80), st.integers(0, 3)), min_size=1, max_size=30))
def test_any_bytes_after_a_login(parts: list[tuple[int, bytes, int]]) -> None:
    frames = [segment(0, 0, accepted("S1", 1))]
    frames += [
        segment(n, o, accepted("S", n) if k == 0 else b, CLIENT[1] + (k == 3)) for n, (o, b, k) in enumerate(parts, 1)
    ]
    soup, got = fed(frames)
    assert soup.streams <= 2
    assert (got[:, 3] > 0).all()
