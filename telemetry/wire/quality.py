"""How far a capture is to be trusted: what it cut, dropped, doubled or stamped out of order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from telemetry.types import Bool, Int64, Nanos

if TYPE_CHECKING:
    from telemetry.capture.packets import CaptureStats, Packets

__all__ = ["MARKS", "Doubles", "Marks", "Quality", "judge"]

MARKS: Final = (
    "capture_drops", "capture_damages", "capture_snapped_packets", "capture_steps_back", "capture_doubles",
)  # fmt: skip
"""Series of what lowers confidence: increments, for each second in which there was any."""

_TABLE: Final = 1 << 14
_WITHIN_NS: Final = 1_000_000
_SECOND: Final = 1_000_000_000
_NULL: Final = np.iinfo(np.int64).min
_NOTHING: Final = np.empty((0, 3), np.int64)
_DROPS, _DAMAGES, _SNAPPED, _BACK, _DOUBLES = range(5)


@njit(cache=True, nogil=True)
def _doubles(n, fp, valid, times, table, out):  # type: ignore[no-untyped-def]
    found = 0
    mask = np.uint64(len(table) - 1)
    for i in range(n):
        out[i] = False
        if not valid[i]:
            continue
        slot = (fp[i] >> np.uint64(20)) & mask
        if table[slot, 0] == np.int64(fp[i]) and 0 <= times[i] - table[slot, 1] <= _WITHIN_NS:
            found += 1
            out[i] = True
        table[slot, 0], table[slot, 1] = np.int64(fp[i]), times[i]
    return found


class Doubles:
    """Counts packets that a mirror (SPAN) port gave twice: equal in all that a hop leaves alone, within 1 ms.

    A retransmission has an IP identification of its own and is none.
    """

    def __init__(self) -> None:
        self._table = np.zeros((_TABLE, 2), np.int64)
        self.count = 0

    def push(self, fp: NDArray[np.uint64], valid: NDArray[np.bool_], time_ns: Int64) -> Bool | None:
        """Feed the fingerprints of a batch; return which came before, or None if none did."""
        twice = np.empty(len(fp), np.bool_)
        found = int(_doubles(len(fp), fp, valid, time_ns, self._table, twice))
        self.count += found
        return twice if found else None


class Marks:
    """What lowers confidence in a capture, second by second.

    Drops and damage belong to the second of the last packet read when they were noticed: a container tells of them
    by and by.

    Parameters
    ----------
    stats : CaptureStats
        Of the capture, kept up to date by its reader.
    """

    def __init__(self, stats: CaptureStats) -> None:
        self._stats = stats
        self._seen = (0, 0, 0, 0)
        self._open: dict[tuple[int, int], int] = {}  # (mark, second) -> how many
        self._high = self._last = _NULL

    def push(self, packets: Packets, time_ns: Int64, high: Nanos, doubled: Bool | None) -> Int64:
        """Feed a batch; return rows (place in `MARKS`, last instant of the second, how many) of what is over.

        Parameters
        ----------
        time_ns : (n,) int64
            Their (corrected) times.
        high : int
            The highest time so far, this batch included.
        doubled : (n,) bool, optional
            Packets that came before.
        """
        dropped, damages, snapped, back = self._seen
        s = self._stats
        if not self._open and doubled is None and self._seen == (s.dropped, s.damage_count, s.snapped, s.backwards):
            self._high, self._last = high, int(time_ns[-1])
            return _NOTHING
        self._seen = (s.dropped, s.damage_count, s.snapped, s.backwards)
        last = high // _SECOND
        self._add(_DROPS, last, s.dropped - dropped)
        self._add(_DAMAGES, last, s.damage_count - damages)
        if s.snapped != snapped:
            self._spread(_SNAPPED, time_ns, packets.cap_len < packets.wire_len)
        if s.backwards != back:
            before = np.concatenate(([self._last], time_ns[:-1]))
            self._spread(_BACK, time_ns, (time_ns < before) & (time_ns != _NULL))
        if doubled is not None:
            self._spread(_DOUBLES, time_ns, doubled)
        self._high, self._last = high, int(time_ns[-1])
        return self._over(last)

    def finish(self) -> Int64:
        """Return what is still open, and what was noticed behind the last packet."""
        dropped, damages, _, _ = self._seen
        last = max((second for _, second in self._open), default=self._high // _SECOND)
        if self._high != _NULL:
            self._add(_DROPS, last, self._stats.dropped - dropped)
            self._add(_DAMAGES, last, self._stats.damage_count - damages)
        return self._over(last + 1)

    def _add(self, mark: int, second: int, count: int) -> None:
        if count:
            self._open[mark, second] = self._open.get((mark, second), 0) + count

    def _spread(self, mark: int, time_ns: Int64, which: Bool) -> None:
        now = np.maximum.accumulate(np.maximum(time_ns, self._high))  # the second that is open counts what came late
        seconds, counts = np.unique(now[which] // _SECOND, return_counts=True)
        for second, count in zip(seconds.tolist(), counts.tolist(), strict=True):
            self._add(mark, second, count)

    def _over(self, before: Nanos) -> Int64:
        done = sorted(key for key in self._open if key[1] < before)
        rows = [(mark, (second + 1) * _SECOND - 1, self._open.pop((mark, second))) for mark, second in done]
        return np.array(rows, np.int64).reshape(-1, 3)


@dataclass(frozen=True, slots=True)
class Quality:
    """`confidence` in [0, 1], and in words what lowers it."""

    confidence: float
    reasons: tuple[str, ...]


def judge(stats: CaptureStats, doubles: int = 0, unpaired: int = 0) -> Quality:
    """Judge a capture by what was counted in it.

    Each fault takes off the share of packets that it touches; drops and damage count tenfold, for what
    is missing is taken for loss on the wire. Snapped packets only matter where they could not be compared (`unpaired`).
    """
    n = max(stats.packets, 1)
    faults = (
        (stats.dropped, 10.0, "the capture itself dropped {} packets: losses may be its own"),
        (stats.damage_count, 10.0, "damaged at {} places: packets are missing there that the wire had"),
        (stats.backwards, 1.0, "time runs backwards at {} packets: intervals there are not to be trusted"),
        (doubles, 1.0, "{} packets came twice within 1 ms (a mirror port?): counts and throughput are too high"),
        (unpaired, 1.0, "{} packets were cut too short to be told apart: their latency is missing"),
    )
    confidence = 1.0
    reasons = []
    for count, weight, text in faults:
        if count:
            confidence *= max(0.0, 1.0 - weight * count / (n + count))
            reasons.append(text.format(count))
    return Quality(confidence, tuple(reasons))
