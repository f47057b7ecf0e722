"""A capture of a trading network, made up: the benchmark mix.

Multicast feeds in MoldUDP64 on two lines (A first, B a few microseconds later, each losing one packet in
ten thousand), and TCP order entry whose orders follow feed packets: order, acknowledgement, report,
acknowledgement, one retransmission in two thousand. About 200 bytes a packet on disk, nanosecond pcap.
The same arguments give the same bytes.
"""

from __future__ import annotations

import os
import struct
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numba import njit

__all__ = ["cached", "generate"]

GROUPS: Final = 8
FLOWS: Final = 200
START_NS: Final = 1_767_623_400_000_000_000  # 2026-01-05 14:30 UTC
MESSAGE: Final = 56

_A, _B, _ORDER, _ORDER_ACK, _REPORT, _REPORT_ACK, _AGAIN, _SYN, _SYNACK, _HELLO = range(10)


def generate(path: str | os.PathLike[str], packets: int, seed: int = 7, *, rate: float = 200_000.0) -> Path:
    """Write a nanosecond pcap of `packets` packets, `rate` a second, and return its path.

    Groups are 233.54.12.(1+g):26400+g on line A and 233.54.13.(1+g):26400+g on line B, from 10.1.0.1 and
    10.1.0.2; session "TW" + group. Order flows are 10.2.0.(1+f):40000+f to 10.3.0.1:9000.
    """
    path = Path(path)
    time_ns, kind, who, index, count, first = _plan(packets, seed, rate)
    state = np.zeros((FLOWS, 4), np.int64)
    state[:, 0] = np.arange(FLOWS) * 7919 + 1000
    state[:, 1] = np.arange(FLOWS) * 104_729 + 5000
    buffer = np.zeros(8 << 20, np.uint8)
    done = 0
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "wb") as out:
        out.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, 1))
        while done < packets:
            done, used = _write(buffer, done, time_ns, kind, who, index, count, first, state)
            out.write(buffer[:used].data)
    temporary.replace(path)
    return path


def cached(packets: int, seed: int = 7) -> Path:
    """The same, kept in the cache folder (``TAILWATCH_CACHE``, default: the system's temporary one)."""
    folder = Path(os.environ.get("TAILWATCH_CACHE", tempfile.gettempdir())) / "tailwatch-captures"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"mix-{packets}-{seed}.pcap"
    return path if path.exists() else generate(path, packets, seed)


int64: Any = np.int64  # untyped: inside kernels numba types it


def _plan(packets: int, seed: int, rate: float) -> tuple[Any, ...]:
    """When each packet is sent, what it is, of which group or flow, and its number there."""
    rng = np.random.default_rng(seed)
    span = packets / rate * 1e9
    ticks = max(int(packets * 0.3), 1)
    at = np.sort(rng.random(ticks) * span)
    # a tenth of the ticks come in bursts, as after a trade
    burst = rng.random(ticks) < 0.1
    at[burst] = np.floor(at[burst] / 1e7) * 1e7 + rng.exponential(2e5, int(burst.sum()))
    base = np.sort(at).astype(np.int64) + 2_000_000
    group = rng.integers(0, GROUPS, ticks)
    order = np.argsort(group, kind="stable")
    number = np.empty(ticks, np.int64)
    sizes = np.bincount(group, minlength=GROUPS)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    number[order] = np.arange(ticks)  # index into the tables of counts, ordered by group
    count = rng.choice(np.array([1, 1, 1, 2, 2, 3, 5]), ticks).astype(np.int64)
    first = np.cumsum(count) - count
    first -= np.repeat(first[starts], sizes) - 1
    keep_a, keep_b = rng.random(ticks) >= 1e-4, rng.random(ticks) >= 1e-4
    skew = rng.lognormal(7.5, 0.5, ticks).astype(np.int64)

    orders = max(int(packets * 0.1), 1)
    trigger = np.sort(rng.integers(0, ticks, orders))
    flow = rng.integers(0, FLOWS, orders)
    sent = base[trigger] + rng.lognormal(9.2, 0.4, orders).astype(np.int64)
    acked = sent + rng.lognormal(9.8, 0.3, orders).astype(np.int64)
    report = acked + rng.lognormal(11.0, 0.4, orders).astype(np.int64)
    closed = report + rng.lognormal(9.0, 0.3, orders).astype(np.int64)
    again = rng.random(orders) < 5e-4
    zero = np.zeros(FLOWS, np.int64)
    flows = np.arange(FLOWS)
    opened = flows * 5000

    parts = [
        (base[keep_a], _A, group[keep_a], number[keep_a]),
        ((base + skew)[keep_b], _B, group[keep_b], number[keep_b]),
        (sent, _ORDER, flow, 100 + 20 * rng.integers(0, 8, orders)),
        (acked, _ORDER_ACK, flow, np.zeros(orders, np.int64)),
        (report, _REPORT, flow, 180 + 30 * rng.integers(0, 8, orders)),
        (closed, _REPORT_ACK, flow, np.zeros(orders, np.int64)),
        (sent[again] + 200_000, _AGAIN, flow[again], np.zeros(int(again.sum()), np.int64)),
        (opened, _SYN, flows, zero),
        (opened + 20_000, _SYNACK, flows, zero),
        (opened + 21_000, _HELLO, flows, zero),
    ]
    time_ns = np.concatenate([p[0] for p in parts])
    kind = np.concatenate([np.full(len(p[0]), p[1], np.uint8) for p in parts])
    who = np.concatenate([p[2] for p in parts]).astype(np.int16)
    index = np.concatenate([p[3] for p in parts]).astype(np.int32)
    by_time = np.argsort(time_ns, kind="stable")
    if len(by_time) < packets:  # losses: top up with more of the first
        return _plan_more(packets, seed, rate)
    by_time = by_time[:packets]
    return time_ns[by_time] + START_NS, kind[by_time], who[by_time], index[by_time], count, first


def _plan_more(packets: int, seed: int, rate: float) -> tuple[Any, ...]:
    """A plan for a few more packets than asked for, cut to what was asked for."""
    time_ns, kind, who, index, count, first = _plan(packets + packets // 100 + 100, seed, rate)
    return time_ns[:packets], kind[:packets], who[:packets], index[:packets], count, first


@njit(cache=True, nogil=True)
def _put(out: Any, o: int, value: int, size: int) -> int:
    for k in range(size):
        out[o + k] = (value >> (8 * (size - 1 - k))) & 0xFF
    return o + size


@njit(cache=True, nogil=True)
def _ip(out: Any, o: int, length: int, proto: int, ident: int, src: int, dst: int, ttl: int) -> int:
    """Ethernet and IPv4 headers; returns where the payload begins."""
    if dst >> 28 == 14:
        _put(out, o, 0x01005E000000 | (dst & 0x7FFFFF), 6)
    else:
        _put(out, o, 0x02000000_0000 | (dst & 0xFFFFFFFF), 6)
    _put(out, o + 6, 0x02000000_0000 | src, 6)
    _put(out, o + 12, 0x0800, 2)
    o += 14
    _put(out, o, 0x4500, 2)
    _put(out, o + 2, length, 2)
    _put(out, o + 4, ident & 0xFFFF, 2)
    _put(out, o + 6, 0x4000, 2)
    out[o + 8] = ttl
    out[o + 9] = proto
    _put(out, o + 10, 0, 2)
    _put(out, o + 12, src, 4)
    _put(out, o + 16, dst, 4)
    total = 0
    for k in range(0, 20, 2):
        total += (out[o + k] << 8) | out[o + k + 1]
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    _put(out, o + 10, ~total & 0xFFFF, 2)
    return o + 20


@njit(cache=True, nogil=True)
def _noise(out: Any, o: int, size: int, seed: int) -> None:
    """Text-like payload that differs from packet to packet."""
    x = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1)
    for k in range(size):
        if k & 7 == 0:
            x ^= x >> np.uint64(12)
            x ^= x << np.uint64(25)
            x ^= x >> np.uint64(27)
        out[o + k] = 48 + ((x >> np.uint64(8 * (k & 7))) & np.uint64(31))


@njit(cache=True, nogil=True)
def _write(
    out: Any, at: int, time_ns: Any, kind: Any, who: Any, index: Any, count: Any, first: Any, state: Any
) -> tuple[int, int]:
    """Write packets from `at` on until the buffer is full; (next packet, bytes used)."""
    o = 0
    while at < len(time_ns) and o + 2048 < len(out):
        t = time_ns[at]
        what = kind[at]
        w = int64(who[at])
        head = o
        o += 16
        if what <= 1:
            k = index[at]
            messages = count[k]
            size = 20 + messages * (MESSAGE + 2)
            group = (233 << 24) | (54 << 16) | ((12 + what) << 8) | (1 + w)
            o = _ip(out, o, 28 + size, 17, at, (10 << 24) | (1 << 16) | (1 + what), group, 16)
            _put(out, o, 26_400 + w, 2)
            _put(out, o + 2, 26_400 + w, 2)
            _put(out, o + 4, 8 + size, 2)
            _put(out, o + 6, 0, 2)
            o += 8
            out[o] = 84
            out[o + 1] = 87
            out[o + 2] = 48 + w
            for j in range(3, 10):
                out[o + j] = 32
            _put(out, o + 10, first[k], 8)
            _put(out, o + 18, messages, 2)
            o += 20
            for m in range(messages):
                _put(out, o, MESSAGE, 2)
                out[o + 2] = 65
                _noise(out, o + 3, MESSAGE - 1, first[k] + m + (w << 40))
                o += MESSAGE + 2
        else:
            client = what in (_ORDER, _REPORT_ACK, _AGAIN, _SYN, _HELLO)
            size = int64(index[at])
            flags = 0x10
            mine = 0 if client else 1
            seq = state[w, mine]
            if what == _AGAIN:
                size = state[w, 2]
                seq -= size
            if size > 0:
                flags |= 8
            if what in (_SYN, _SYNACK):
                flags = 2 if what == _SYN else 0x12
            options = 20 if what in (_SYN, _SYNACK) else 12
            a = (10 << 24) | (2 << 16) | (1 + w)
            b = (10 << 24) | (3 << 16) | 1
            o = _ip(out, o, 40 + options + size, 6, at, a if client else b, b if client else a, 64)
            _put(out, o, 40_000 + w if client else 9000, 2)
            _put(out, o + 2, 9000 if client else 40_000 + w, 2)
            _put(out, o + 4, seq, 4)
            _put(out, o + 8, 0 if what == _SYN else state[w, 1 - mine], 4)
            out[o + 12] = ((20 + options) >> 2) << 4
            out[o + 13] = flags
            _put(out, o + 14, 501, 2)
            _put(out, o + 16, 0, 4)
            o += 20
            if options == 20:
                _put(out, o, 0x020405B4, 4)
                _put(out, o + 4, 0x04020101, 4)
                _put(out, o + 8, 0x01030307, 4)
                _put(out, o + 12, 0, 4)
                _put(out, o + 16, 0, 4)
            else:
                _put(out, o, 0x0101080A, 4)
                _put(out, o + 4, (t // 1_000_000) & 0x7FFFFFFF, 4)
                _put(out, o + 8, (t // 1_000_000 - 1) & 0x7FFFFFFF, 4)
            o += options
            _noise(out, o, size, seq * 8191 + w * 2 + mine)
            o += size
            if what in (_SYN, _SYNACK):
                state[w, mine] += 1
            elif what != _AGAIN:
                state[w, mine] += size
                if what == _ORDER:
                    state[w, 2] = size
        length = o - head - 16
        sec = t // 1_000_000_000
        for k in range(4):
            out[head + k] = (sec >> (8 * k)) & 0xFF
            out[head + 4 + k] = ((t - sec * 1_000_000_000) >> (8 * k)) & 0xFF
            out[head + 8 + k] = (length >> (8 * k)) & 0xFF
            out[head + 12 + k] = (length >> (8 * k)) & 0xFF
        at += 1
    return at, o
