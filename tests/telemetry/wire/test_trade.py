"""Tick to trade: named triggers, last triggers, Nagle and retransmissions."""

from __future__ import annotations

import struct

import numpy as np

from telemetry.types import Int64
from telemetry.wire.feeds import Feeds
from telemetry.wire.flows import FlowTable
from telemetry.wire.trade import TickToTrade
from tests.naive.wire_frames import ACK, START, SYN, mold, packets, tcp, udp

MS = 1_000_000


def _tick(n: int, line: int = 0) -> bytes:
    return udp("10.0.0.9", 7, f"239.1.1.{1 + line}", 5001, mold(b"S", n, [b"tick"]))


def _order(trigger: int, number: int) -> bytes:
    return struct.pack("<4sIQQQ16x", b"ORD1", number, trigger, 0, 0)


def _run(frames: list[tuple[int, bytes]], rows: int = 8192) -> Int64:
    flows = FlowTable()
    feeds = Feeds(flows, {"239.1.1.1:5001": "moldudp64", "239.1.1.2:5001": "moldudp64"})
    trade = TickToTrade(flows, feeds)
    found = []
    for b in packets(sorted(frames, key=lambda f: f[0]), rows):
        flow = flows.assign(b)
        feeds.push(b, flow)
        found.append(trade.push(b, flow).copy())
    return np.concatenate(found)


def _send(seq: int, payload: bytes) -> bytes:
    return tcp("10.0.0.1", 40_000, "10.0.0.2", 9000, seq=1 + seq, ack=1, payload=payload)


def test_named_triggers_count_from_the_faster_line() -> None:
    frames = [(START, tcp("10.0.0.1", 40_000, "10.0.0.2", 9000, seq=0, flags=SYN))]
    for n in range(1, 30):
        frames += [(START + n * MS, _tick(n)), (START + n * MS - 4000, _tick(n, 1))]
    for i, n in enumerate((10, 20, 21)):
        frames.append((START + n * MS + 30_000, _send(48 * i, _order(n, i))))
    for rows in (1, 7, 8192):
        assert _run(frames, rows)[:, 3].tolist() == [34_000] * 3


def test_orders_that_nagle_joined_and_orders_sent_again() -> None:
    frames = [(START, tcp("10.0.0.1", 40_000, "10.0.0.2", 9000, seq=0, flags=SYN))]
    frames += [(START + n * MS, _tick(n)) for n in range(1, 10)]
    two = _order(3, 1) + _order(4, 2)
    frames.append((START + 4 * MS + 100, _send(0, two)))
    frames.append((START + 9 * MS, _send(0, two)))  # a retransmission
    cut = _order(9, 3)
    frames += [(START + 9 * MS + 50, _send(96, cut[:20])), (START + 9 * MS + 90, _send(116, cut[20:]))]
    assert _run(frames)[:, 3].tolist() == [MS + 100, 100, 50]


def test_without_names_the_last_tick_before_is_the_trigger_once() -> None:
    frames = [(START + n * MS, _tick(n)) for n in range(1, 20)]
    frames += [(START + 5 * MS + 700, _send(0, b"new order")), (START + 5 * MS + 900, _send(9, b"the rest of it"))]
    filled = tcp("10.0.0.2", 9000, "10.0.0.1", 40_000, seq=1, ack=30, flags=ACK, payload=b"filled")
    frames += [(START + 8 * MS + 300, _send(23, b"another")), (START + 30 * MS, filled)]
    assert _run(frames)[:, 3].tolist() == [700, 300]
