"""Clocks of two taps: how far one is ahead of the other, and how that grows.

A TCP connection crosses both taps in both directions. What one direction seems to take too long, the
other seems to take too short; half the difference of the least delays is the offset (as in NTP, RFC 5905:
exact where the least delays are the same both ways). The offset is taken once a second, and a line through the
medians of slopes (Theil and Sen) gives the drift.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from telemetry.types import Events, Int64, Nanos, SeriesKey

__all__ = ["Clock", "ClockEstimate", "estimate_clock"]

_NULL: Final = int(np.iinfo(np.int64).min)
_SECOND: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Clock:
    """How far a tap's clock is ahead: `offset_ns` at `at_ns`, growing by `drift_ppb` (ns a second)."""

    offset_ns: Nanos = 0
    drift_ppb: float = 0.0
    at_ns: Nanos = 0

    def correct(self, time_ns: Int64) -> Int64:
        """Return times with the clock's error taken off (nulls stay)."""
        if not self.offset_ns and not self.drift_ppb:
            return time_ns
        null = time_ns == _NULL
        since = np.where(null, 0, time_ns - self.at_ns)
        error = self.offset_ns + np.rint(since * (self.drift_ppb * 1e-9)).astype(np.int64)
        return np.where(null, _NULL, time_ns - error)


@dataclass(frozen=True, slots=True)
class ClockEstimate:
    """`clock` of the second tap against the first, from `seconds` seconds; `spread_ns` is the median error of one."""

    clock: Clock
    seconds: int
    spread_ns: float


def estimate_clock(events: Iterable[Events], first: str, second: str) -> ClockEstimate | None:
    """Estimate how far `second`'s clock is ahead of `first`'s.

    Parameters
    ----------
    events : batches with ``wire_latency_ns`` of both taps, uncorrected, one event a packet
    first, second : names of taps

    Returns
    -------
    ClockEstimate or None
        None if no TCP connection crossed both taps in both directions.
    """
    deltas: dict[str, list[tuple[Int64, Int64]]] = {}
    for batch in events:
        for s, key in enumerate(batch.keys):
            sign = _direction(key, first, second)
            if sign:
                at = batch.series == s
                deltas.setdefault(key.label("flow"), []).append(
                    (batch.time_ns[at], sign * batch.value[at].astype(np.int64))
                )
    whole = {f: (np.concatenate([t for t, _ in d]), np.concatenate([v for _, v in d])) for f, d in deltas.items()}
    points: dict[int, tuple[int, int]] = {}
    for flow, (time, delta) in whole.items():
        back = _reverse(flow)
        # Of the two directions, the one whose clock difference is larger runs from first to second.
        if back not in whole or (np.median(delta), flow) < (np.median(whole[back][1]), back):
            continue
        forth, over = _least(time, delta), _least(whole[back][0], -whole[back][1])
        for second_of in forth.keys() & over.keys():
            low, high = forth[second_of], -over[second_of]
            known = points.get(second_of)
            points[second_of] = (min(low, known[0]), max(high, known[1])) if known else (low, high)
    if not points:
        return None
    at = np.array(sorted(points), np.float64)
    offset = np.array([sum(points[int(s)]) / 2 for s in at])
    i, j = np.triu_indices(len(at), 1)
    slope = float(np.median((offset[j] - offset[i]) / (at[j] - at[i]))) if len(at) >= 10 else 0.0
    start = int(at[0]) * _SECOND
    level = float(np.median(offset - slope * (at - at[0] + 0.5)))
    spread = float(np.median(np.abs(offset - level - slope * (at - at[0] + 0.5))))
    return ClockEstimate(Clock(round(level), slope, start), len(at), spread)


def _direction(key: SeriesKey, first: str, second: str) -> int:
    if key.metric != "wire_latency_ns" or not key.label("flow").startswith("tcp ") or key.label("stat"):
        return 0
    way = (key.label("from"), key.label("to"))
    return 1 if way == (first, second) else -1 if way == (second, first) else 0


def _reverse(flow: str) -> str:
    source, _, destination = flow.removeprefix("tcp ").partition(">")
    return f"tcp {destination}>{source}"


def _least(time: Int64, value: Int64) -> dict[int, int]:
    """The least value of each second."""
    order = np.lexsort((value, time // _SECOND))
    second = (time // _SECOND)[order]
    first = np.concatenate(([True], second[1:] != second[:-1]))
    return dict(zip(second[first].tolist(), value[order][first].tolist(), strict=True))
