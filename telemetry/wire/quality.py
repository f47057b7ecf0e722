"""How far a capture is to be trusted: what it cut, dropped, doubled or stamped out of order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from telemetry.types import Int64

if TYPE_CHECKING:
    from telemetry.capture.packets import CaptureStats

__all__ = ["Doubles", "Quality", "judge"]

_TABLE: Final = 1 << 14
_WITHIN_NS: Final = 1_000_000


@njit(cache=True, nogil=True)
def _doubles(n, fp, valid, times, table):  # type: ignore[no-untyped-def]
    found = 0
    mask = np.uint64(len(table) - 1)
    for i in range(n):
        if not valid[i]:
            continue
        slot = (fp[i] >> np.uint64(20)) & mask
        if table[slot, 0] == np.int64(fp[i]) and 0 <= times[i] - table[slot, 1] <= _WITHIN_NS:
            found += 1
        table[slot, 0], table[slot, 1] = np.int64(fp[i]), times[i]
    return found


class Doubles:
    """Counts packets that a mirror (SPAN) port gave twice: equal in all that a hop leaves alone, within 1 ms.

    A retransmission has an IP identification of its own and is none.
    """

    def __init__(self) -> None:
        self._table = np.zeros((_TABLE, 2), np.int64)
        self.count = 0

    def push(self, fp: NDArray[np.uint64], valid: NDArray[np.bool_], time_ns: Int64) -> None:
        """Feed the fingerprints of a batch."""
        self.count += int(_doubles(len(fp), fp, valid, time_ns, self._table))


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
