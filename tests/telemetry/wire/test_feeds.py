"""Feeds: every header of the table, gaps, resets, duplicates, reordering, lines A and B."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.capture.packets import read_packets
from telemetry.errors import ConfigError
from telemetry.types import Int64
from telemetry.wire import feedstate as fs
from telemetry.wire.feeds import Feeds
from telemetry.wire.flows import FlowTable
from telemetry.wire.formats import FORMATS
from tests.naive.wire import gaps
from tests.naive.wire_frames import START, mold, packets, udp

SENT = START - 1000

HEADERS: dict[str, Callable[[int], bytes]] = {
    "mdf1": lambda n: struct.pack("<4sBBHQQ40x", b"MDF1", 0, 1, 64, n, SENT + n),
    "moldudp64": lambda n: mold(b"SESS", n, [b"A" * 20]),
    "iextp": lambda n: struct.pack("<BBHIIHHqqq", 1, 0, 0x8003, 1, 9, 12, 1, n * 12, n, SENT + n) + bytes(12),
    "eobi": lambda n: struct.pack("<HHIQiBBBxQ", 32, 13003, 0xFFFFFFFF, n, 7, 1, 1, 0, SENT + n) + bytes(24),
    "pillar": lambda n: struct.pack("<HBBIII", 40, 11, 1, n, SENT // 10**9, n) + bytes(24),
    "pitch": lambda n: struct.pack("<HBBI", 22, 1, 3, n) + bytes([14]) + bytes(13),
    "omd": lambda n: struct.pack("<HBBIQ", 32, 1, 0, n, SENT + n) + bytes(16),
    "opra": lambda n: struct.pack(">BHBBBIBIIH", 6, 60, 79, 0, 1, n, 1, SENT // 10**9, n, 0) + bytes(39),
    "cta": lambda n: struct.pack(">BHBBIBIIH", 1, 60, 69, 79, n, 1, SENT // 10**9, n, 0) + bytes(41),
    "umdf": lambda n: struct.pack("<BBHIQ", 51, 0, 2, n, SENT + n) + struct.pack("<H", 20) + bytes(18),
    "optiq": lambda n: struct.pack("<QIHH", SENT + n, n, 0, 65) + struct.pack("<H", 22) + bytes(20),
    "memx": lambda n: struct.pack(">BBQQH", 2, 20, 77, n, 1) + bytes(30),
    "impact": lambda n: struct.pack(">HIHQ", 55, n, 1, SENT // 10**6 + n) + bytes(30),
    "mdp3": lambda n: struct.pack("<IQ", n, SENT + n) + struct.pack("<H", 30) + bytes(28),
}

LINES = (("239.1.1.1", 5001), ("239.1.1.2", 5002))


def _frame(time: int, payload: bytes, line: int = 0) -> tuple[int, bytes]:
    return time, udp("10.0.0.1", 4000 + line, *LINES[line], payload)


def _feed(
    frames: list[tuple[int, bytes]], rows: int = 8192, formats: dict[str, str] | None = None
) -> tuple[Feeds, Int64]:
    flows = FlowTable()
    feeds = Feeds(flows, formats)
    found = [feeds.push(b, flows.assign(b)).rows.copy() for b in packets(frames, rows)]
    found.append(feeds.finish().rows)
    return feeds, np.concatenate(found)


def _sum(rows: Int64, code: int) -> int:
    return int(rows[rows[:, 0] == code, 3].sum())


def test_the_table_is_whole() -> None:
    assert set(HEADERS) == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_told_and_its_gap_has_the_exact_range(name: str) -> None:
    numbers = [*range(100, 160), *range(163, 200)]
    frames = [_frame(START + 1_000_000 * i, HEADERS[name](n)) for i, n in enumerate(numbers)]
    feeds, rows = _feed(frames)
    summary = feeds.summary()
    assert [(s.feed, s.format, s.packets) for s in summary] == [("239.1.1.1:5001", name, len(numbers))]
    assert [(g.first, g.last) for g in feeds.gaps] == [(160, 162)]
    assert _sum(rows, fs.GAP) == 3
    assert feeds.malformed == 0
    delays = rows[rows[:, 0] == fs.DELAY, 3]
    assert len(delays) in (0, len(numbers))
    if len(delays) and name in ("mdf1", "iextp", "eobi", "omd", "umdf", "optiq", "mdp3"):
        assert delays[0] == START - (SENT + 100)


def test_payload_without_numbers_is_no_feed() -> None:
    rng = np.random.default_rng(3)
    frames = [_frame(START + i * 1000, rng.integers(0, 256, 60, np.uint8).tobytes()) for i in range(300)]
    feeds, rows = _feed(frames)
    assert feeds.summary() == []
    assert len(rows) == 0


def test_a_configured_format_counts_from_the_first_packet_and_an_unknown_one_is_refused() -> None:
    frames = [_frame(START, HEADERS["mdp3"](5)), _frame(START + 10, HEADERS["mdp3"](8))]
    _, rows = _feed(frames, formats={"239.1.1.1:5001": "mdp3"})
    assert _sum(rows, fs.GAP) == 2
    with pytest.raises(ConfigError, match="expected one of"):
        Feeds(FlowTable(), {"239.1.1.1:5001": "nosuch"})


sequences = st.lists(st.sampled_from(["next", "next", "next", "skip", "again", "swap"]), min_size=5, max_size=80)


@given(sequences, st.integers(1, 100))
@settings(max_examples=60, deadline=None)
def test_gaps_are_what_never_came_for_any_batches(moves: list[str], rows: int) -> None:
    numbers: list[tuple[int, int]] = [(1, 1), (2, 2), (4, 1), (5, 1), (6, 1)]
    following, late = 7, []
    for move in moves:
        if move == "skip":
            following += 3
        elif move == "again":
            numbers.append(numbers[-1])
        elif move == "swap":
            late.append(following)
            following += 1
        else:
            numbers.append((following, 2))
            following += 2
            numbers += [(n, 1) for n in late]
            late = []
    numbers += [(following + i, 1) for i in range(4)]
    frames = [_frame(START + 1000 * i, mold(b"S", n, [b"x" * 5] * count)) for i, (n, count) in enumerate(numbers)]
    known = {"239.1.1.1:5001": "moldudp64"}
    feeds, found = _feed(frames, rows, known)
    assert sorted((g.first, g.last) for g in feeds.gaps) == gaps(numbers)
    repeats = sum(a == b for a, b in pairwise(numbers))
    assert _sum(found, fs.DUPLICATE) == repeats
    _, whole = _feed(frames, formats=known)
    assert np.array_equal(found, whole)


def test_a_restart_at_one_is_one_event_and_no_old_packets() -> None:
    numbers = [*range(5000, 5100), *range(1, 400)]
    frames = [_frame(START + i * 10_000, HEADERS["iextp"](n)) for i, n in enumerate(numbers)]
    feeds, rows = _feed(frames)
    assert _sum(rows, fs.RESTART) == 1
    assert _sum(rows, fs.DUPLICATE) == 0
    assert _sum(rows, fs.GAP) == 0
    assert feeds.summary()[0].resets == 1


def test_a_replay_of_old_packets_is_duplicates_not_a_reset() -> None:
    numbers = [*range(100, 200), *range(150, 170), *range(200, 300)]
    frames = [_frame(START + i * 10_000, HEADERS["mdp3"](n)) for i, n in enumerate(numbers)]
    _, rows = _feed(frames)
    assert _sum(rows, fs.DUPLICATE) == 20
    assert _sum(rows, fs.RESTART) == 0
    assert _sum(rows, fs.GAP) == 0


def test_heartbeats_show_a_loss_at_the_end_of_a_burst() -> None:
    frames = [_frame(START + i * 1000, mold(b"S", i + 1, [b"abc"])) for i in range(40)]
    frames.append(_frame(START + 50_000, mold(b"S", 43, [])))
    feeds, _ = _feed(frames)
    assert [(g.first, g.last) for g in feeds.gaps] == [(41, 42)]


@pytest.mark.parametrize("name", ["mdf1", "moldudp64", "mdp3", "pitch"])
def test_lines_of_one_feed_are_found_and_only_loss_on_both_is_lost(name: str) -> None:
    def payload(n: int, line: int) -> bytes:
        body = bytearray(HEADERS[name](n))
        if name == "mdf1":
            body[4] = line
        if name == "pitch":
            body[9:13] = struct.pack("<I", n)
        return bytes(body)

    frames = []
    for n in range(1, 300):
        if n not in (100, 200):
            frames.append(_frame(START + n * 1_000_000, payload(n, 0), 0))
        if n not in (150, 200):
            frames.append(_frame(START + n * 1_000_000 + 7000, payload(n, 1), 1))
    feeds, rows = _feed(frames)
    first, second = feeds.summary()
    assert (first.partner, second.partner) == (second.feed, first.feed)
    skew = rows[rows[:, 0] == fs.SKEW, 3]
    assert set(skew.tolist()) == {7000}
    assert len(skew) > 280
    assert [(g.feed, g.first, g.last) for g in feeds.gaps if g.both] == [("239.1.1.1:5001|239.1.1.2:5002", 200, 200)]
    assert sorted((g.feed, g.first) for g in feeds.gaps if not g.both) == [
        ("239.1.1.1:5001", 100), ("239.1.1.1:5001", 200), ("239.1.1.2:5002", 150), ("239.1.1.2:5002", 200),
    ]  # fmt: skip


def test_channels_of_one_destination_have_numbers_of_their_own() -> None:
    frames = []
    for i in range(60):
        frames.append(_frame(START + i * 2000, struct.pack("<HBBI", 22, 1, 1, 10 + i) + bytes([14]) + bytes(13)))
        frames.append(_frame(START + i * 2000 + 9, struct.pack("<HBBI", 22, 1, 2, 900 + i) + bytes([14]) + bytes(13)))
    feeds, rows = _feed(frames)
    assert [s.feed for s in feeds.summary()] == ["239.1.1.1:5001", "239.1.1.1:5001/1"]
    assert _sum(rows, fs.GAP) == 0


@given(st.binary(max_size=80), st.integers(0, 13))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_without_harm(junk: bytes, code: int) -> None:
    good = HEADERS[FORMATS[code]](7)
    frames = [_frame(START + i, p) for i, p in enumerate([junk, good[: len(junk)], junk + good, good])]
    feeds, _ = _feed(frames, formats={"239.1.1.1:5001": FORMATS[code]})
    assert len(feeds.summary()) >= 1


@pytest.mark.corpus
@pytest.mark.skipif(not os.environ.get("TAILWATCH_DATA"), reason="TAILWATCH_DATA is not set")
@pytest.mark.parametrize(
    ("path", "name", "numbers"),
    [
        ("Nyse/ImbalancesFeed.Xdp.v2.1.f/Nyse.ImbalancesFeed.v2.1.f.Example.pcap", "pillar", 11_818),
        ("Cme/Mdp3.Sbe.v1.6/Cme.Mdp3.Sbe.v6.1.pcap", "mdp3", 9_998),
        ("Ice/Mdf.iMpact.v1.1.24/Ice.Mdf.iMpact.v1.1.24.Example.pcap", "impact", 8_679),
    ],
)
def test_real_feeds_have_no_false_gap(path: str, name: str, numbers: int) -> None:
    flows = FlowTable()
    feeds = Feeds(flows)
    rows = []
    for b in read_packets(Path(os.environ["TAILWATCH_DATA"]) / "captures" / "feeds" / path):
        rows.append(feeds.push(b, flows.assign(b)).rows.copy())
    rows.append(feeds.finish().rows)
    whole = np.concatenate(rows)
    assert {s.format for s in feeds.summary()} == {name}
    assert feeds.malformed == 0
    for code in (fs.GAP, fs.RESTART, fs.DUPLICATE, fs.REORDERED, fs.LOST_BOTH):
        assert _sum(whole, code) == 0
    # Steps from packet to packet that were checked: all packets but the first of each stream, or all numbers.
    checked = sum(s.packets - 1 for s in feeds.summary())
    assert checked == numbers or (name == "impact" and checked == 529)
