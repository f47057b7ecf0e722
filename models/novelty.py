"""Subsequence novelty: how far a stretch of a series is from anything it did before.

A stretch is seven numbers, means over the last 1, 1, 2, 4, 8, 16 and 32 samples, newest first. Its novelty is the L1
distance to the nearest of the last 1,008 stretches that are at least 48 samples old: as it is, with its mean taken
out (shape), and with the time of day as two further coordinates. A left discord, at several scales at once.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["LAG", "MEMORIES", "SCALES", "STRETCH", "nearest"]

SCALES = 7
STRETCH = 10
"""Numbers of a stretch: seven means, their mean, cosine and sine of the time of day."""
MEMORIES = 1008
LAG = 48
LANES = 16


@njit(cache=True, nogil=True)
def nearest(  # type: ignore[no-untyped-def]
    query: NDArray[np.float32], memory: NDArray[np.float32], filled: int, clock_weight: float, out
) -> None:
    """Distances of `query` to the nearest memory: plain, centred, with the clock; written to ``out[:3]``.

    Parameters
    ----------
    query : (STRETCH,) float32
    memory : (STRETCH, MEMORIES) float32
        One column a stretch; the first `filled` count.
    clock_weight : float
        What a difference of 1 in cosine or sine of the time of day is worth.
    out : (3,) float64
        0 where there is no memory yet.
    """
    if filled == 0:
        out[0] = out[1] = out[2] = 0.0
        return
    blocks = (filled + LANES - 1) // LANES
    far = np.float32(3e38)
    plain = np.full(LANES, far, np.float32)
    shape = np.full(LANES, far, np.float32)
    clock = np.full(LANES, far, np.float32)
    q0, q1, q2, q3, q4, q5, q6, qm, qc, qs = query
    weight = np.float32(clock_weight)
    for b in range(blocks):
        base = b * LANES
        for j in range(LANES):  # lanes are independent, so this becomes vector code without reordering any sum
            i = base + j
            d0, d1, d2, d3 = q0 - memory[0, i], q1 - memory[1, i], q2 - memory[2, i], q3 - memory[3, i]
            d4, d5, d6, dm = q4 - memory[4, i], q5 - memory[5, i], q6 - memory[6, i], qm - memory[7, i]
            s = abs(d0) + abs(d1) + abs(d2) + abs(d3) + abs(d4) + abs(d5) + abs(d6)
            t = abs(d0 - dm) + abs(d1 - dm) + abs(d2 - dm) + abs(d3 - dm) + abs(d4 - dm) + abs(d5 - dm) + abs(d6 - dm)
            u = s + weight * (abs(qc - memory[8, i]) + abs(qs - memory[9, i]))
            plain[j] = s if s < plain[j] else plain[j]
            shape[j] = t if t < shape[j] else shape[j]
            clock[j] = u if u < clock[j] else clock[j]
    out[0], out[1], out[2] = plain.min(), shape.min(), clock.min()
