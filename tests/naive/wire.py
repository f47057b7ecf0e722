"""What the wire kernels do, the slow and plain way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

M = 1 << 32


class Segment(NamedTuple):
    """One TCP segment: `side` 0 or 1."""

    time: int
    side: int
    seq: int
    ack: int
    flags: int
    length: int
    window: int = 500


def after(a: int, b: int) -> bool:
    """Sequence number a is after b."""
    return 0 < (a - b) % M < M // 2


def round_trips(segments: Sequence[Segment]) -> list[tuple[int, int, int]]:
    """(sender's side, time, round trip), by Wireshark's rule: newest first, the oldest match counts."""
    unacked: list[list[list[int]]] = [[], []]
    found = []
    for s in segments:
        if s.length or s.flags & 3:
            end = (s.seq + s.length + (1 if s.flags & 3 else 0)) % M
            unacked[s.side].insert(0, [s.seq, end, s.time])
        other = unacked[1 - s.side]
        rtt = None
        kept = []
        for u in other:
            if s.ack == u[1]:
                rtt = s.time - u[2]
                continue
            if after(s.ack, u[0]) and after(u[1], s.ack):
                u[0] = s.ack
            if after(u[1], s.ack):
                kept.append(u)
        unacked[1 - s.side] = kept
        if rtt is not None:
            found.append((1 - s.side, s.time, rtt))
    return found


def gaps(sequence: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges that never came, of (first number, count) in the order of arrival; the first packet sets the beginning."""
    if not sequence:
        return []
    start = sequence[0][0]
    seen = {n for first, count in sequence for n in range(first, first + count)}
    missing = [n for n in range(start, max(seen) + 1) if n not in seen]
    ranges: list[tuple[int, int]] = []
    for n in missing:
        if ranges and ranges[-1][1] == n - 1:
            ranges[-1] = (ranges[-1][0], n)
        else:
            ranges.append((n, n))
    return ranges


def windows(rows: Sequence[tuple[int, int, int]], length: int) -> dict[tuple[int, int], tuple[int, int]]:
    """(flow, window end) -> (packets, bytes) of (time, flow, bytes), times not decreasing."""
    out: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
    for time, flow, size in rows:
        cell = out[flow, (time // length + 1) * length]
        cell[0] += 1
        cell[1] += size
    return {k: (v[0], v[1]) for k, v in out.items()}


def peak(rows: Sequence[tuple[int, int]], span: int, lo: int, hi: int) -> int:
    """Most bytes in ``(t - span, t]`` over packets t in ``[lo, hi)`` of (time, bytes)."""
    ends = [t for t, _ in rows if lo <= t < hi]
    return max((sum(b for t, b in rows if end - span < t <= end and t < hi) for end in ends), default=0)


def nearest_rank(values: Sequence[int], percent: int) -> int:
    """The smallest value that at least `percent` of all do not exceed."""
    ordered = sorted(values)
    return ordered[(percent * len(ordered) + 99) // 100 - 1]
