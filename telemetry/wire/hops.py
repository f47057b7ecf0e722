"""The hop table: where the time goes, and where packets go missing."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from telemetry.types import Events, Int64

__all__ = ["Hop", "HopTable"]


@dataclass(frozen=True, slots=True)
class Hop:
    """One stretch between two taps: packets matched and lost, ns, and its share of the sum of medians."""

    tap_from: str
    tap_to: str
    packets: int
    lost: int
    negative: int
    p50_ns: int
    p99_ns: int
    max_ns: int
    share: float


@dataclass(slots=True)
class HopTable:
    """Gathers ``wire_latency_ns`` and ``wire_lost_packets`` into one row for each stretch.

    Of each stretch the first `limit` latencies are kept for the percentiles, so memory stays bounded; packets and
    losses are counted to the end.
    """

    limit: int = 2_000_000
    _count: dict[tuple[str, str], int] = field(default_factory=dict)
    _latency: dict[tuple[str, str], list[Int64]] = field(default_factory=dict)
    _lost: dict[tuple[str, str], int] = field(default_factory=dict)

    def push(self, events: Events) -> None:
        """Take in a batch of measurements (one event a packet)."""
        for s, key in enumerate(events.keys):
            way = (key.label("from"), key.label("to"))
            if key.metric == "wire_latency_ns" and not key.label("stat"):
                value = events.value[events.series == s].astype(np.int64)
                before = self._count.get(way, 0)
                self._count[way] = before + len(value)
                if before < self.limit:
                    self._latency.setdefault(way, []).append(value)
            elif key.metric == "wire_lost_packets":
                self._lost[way] = self._lost.get(way, 0) + int(events.value[events.series == s].sum())

    def rows(self) -> list[Hop]:
        """Return the table, the slowest stretch first."""
        found = []
        for way in sorted(self._latency.keys() | self._lost.keys()):
            v = np.sort(np.concatenate(self._latency.get(way, [np.empty(0, np.int64)])))
            n = len(v)
            p50, p99, top = (int(v[(n + 1) // 2 - 1]), int(v[(99 * n + 99) // 100 - 1]), int(v[-1])) if n else (0, 0, 0)
            found.append(
                (way, self._count.get(way, 0), self._lost.get(way, 0), int(np.count_nonzero(v < 0)), p50, p99, top)
            )
        total = sum(max(f[4], 0) for f in found) or 1
        table = [Hop(*f[0], f[1], f[2], f[3], f[4], f[5], f[6], max(f[4], 0) / total) for f in found]
        return sorted(table, key=lambda h: -h.p50_ns)
