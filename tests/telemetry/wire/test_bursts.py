"""Bursts against line rate and gaps between packets: as plain loops say, for any batches."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.wire.bursts import Bursts, Gaps
from telemetry.wire.taps import wire_events
from tests.naive.capture_build import idb, option, pcapng
from tests.naive.wire_frames import START, mold, pcap, udp

WINDOW = 1_000_000
steps = st.lists(st.tuples(st.integers(0, 400_000), st.integers(60, 1500), st.integers(0, 3)), min_size=1, max_size=60)


def _stacked(parts: list[Any], width: int) -> list[list[int]]:
    return [row for part in parts for row in np.asarray(part).reshape(-1, width).tolist()]


@settings(max_examples=60, deadline=None)
@given(steps, st.integers(1, 60))
def test_bursts_are_the_busy_times_of_a_queue(rows: list[tuple[int, int, int]], size: int) -> None:
    times = np.cumsum([d for d, *_ in rows]).astype(np.int64) + 10**18
    lens = np.array([n for _, n, _ in rows], np.int32)
    bursts = Bursts(WINDOW, 100_000_000)  # drains 6.25 bytes a us at half of it
    got = [bursts.push(times[at : at + size], lens[at : at + size]).copy() for at in range(0, len(rows), size)]
    free = first = last = 0.0
    total = 0
    ended: list[tuple[int, int, int]] = []  # (window in which it was known to have ended, length, bytes)
    windows = []
    for t, n in zip(times.tolist(), lens.tolist(), strict=True):
        if t >= free and total:
            ended.append((windows[-1], int(last - first), total))
            total = 0
        if not total:
            first, free = t, t
        windows.append(t // WINDOW)
        free += (n + 24) / 0.00625
        total, last = total + n, t
    ended.append((windows[-1], int(last - first), total))
    want = [
        [
            (w + 1) * WINDOW,
            max([b for a, b, _ in ended if a == w], default=0),
            max([c for a, _, c in ended if a == w], default=0),
        ]
        for w in sorted(set(windows))
    ]
    assert _stacked([*got, bursts.finish()], 3) == want


@settings(max_examples=60, deadline=None)
@given(steps, st.integers(1, 60))
def test_gaps_are_differences_per_flow(rows: list[tuple[int, int, int]], size: int) -> None:
    times = np.cumsum([d for d, *_ in rows]).astype(np.int64) + 10**18
    flow = np.array([f for *_, f in rows], np.int32)
    none = np.empty(0, np.int32)
    gaps = Gaps(WINDOW, every=True)
    got = [
        gaps.push(times[at : at + size], flow[at : at + size], 4, none, np.empty((0, 5), np.int64)).copy()
        for at in range(0, len(rows), size)
    ]
    want: dict[tuple[int, int], list[int]] = {}
    before: dict[int, int] = {}
    for t, f in zip(times.tolist(), flow.tolist(), strict=True):
        if f in before:
            want.setdefault((f, (t // WINDOW + 1) * WINDOW), []).append(t - before[f])
        before[f] = t
    told = {(f, end): (n, mean, most) for _, f, end, n, mean, most in _stacked([*got, gaps.finish()], 6)}
    assert told == {k: (len(v), sum(v) // len(v), max(v)) for k, v in want.items()}


def _frames() -> list[tuple[int, bytes]]:
    """A feed, one packet a ms, with a pause; in the middle a burst of 100 packets every 2 us."""
    pause = 300_000_000
    times = [START + n * 1_000_000 + (pause if n > 600 else 0) for n in range(900)]
    times += [START + 400_500_000 + n * 2000 for n in range(100)]
    return [
        (t, udp("10.0.0.1", 1, "239.1.1.1", 5001, mold(b"S", n, [b"x" * 300]), ident=n))
        for n, t in enumerate(sorted(times), 1)
    ]


def _told(**more: Any) -> dict[tuple[str, str], list[int]]:
    out: dict[tuple[str, str], list[int]] = {}
    for batch in wire_events(**more):
        for s, v in zip(batch.series.tolist(), batch.value.tolist(), strict=True):
            key = batch.keys[s]
            out.setdefault((key.metric, key.label("stat")), []).append(v)
    return out


def test_series_of_bursts_and_gaps(tmp_path: Path) -> None:
    rows = _frames()
    size = len(rows[0][1])
    told = _told(captures={"t": io.BytesIO(pcap(rows))}, line_rates={"t": 1_000_000_000})
    assert max(told["burst_bytes", ""]) == 101 * size, "the packet behind them finds the queue not empty yet"
    assert max(told["burst_length_ns", ""]) == 500_000
    assert max(told["wire_interarrival_ns", "max"]) == 301_000_000
    assert sum(told["wire_interarrival_ns", "count"]) >= 900  # all but those before the feed was told
    assert ("burst_bytes", "") not in _told(captures={"t": io.BytesIO(pcap(rows))}), "no line rate, no bursts"


def test_the_line_rate_that_pcapng_tells(tmp_path: Path) -> None:
    speed = option("<", 8, (10**9).to_bytes(8, "little"))
    blob = pcapng([(0, t, f) for t, f in _frames()], interfaces=[idb("<", options=[option("<", 9, b"\x09"), speed])])
    told = _told(captures={"t": io.BytesIO(blob)})
    assert max(told["burst_length_ns", ""]) == 500_000
