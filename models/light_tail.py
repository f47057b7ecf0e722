"""A tail in a log histogram: how surprising a deviation is, fitted to a channel's own past, forgotten by scaling.

Four buckets an octave from 1/8 to 8,192 deviations; mass and surprise of a bucket share a cache line.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

__all__ = ["BUCKETS", "MANTISSA", "OFFSET", "ONE", "UNIT", "reaches", "refit_tail"]

Array = Any  # numba takes its types from the arguments

BUCKETS = 64
"""Buckets of a tail."""
ONE = 12
"""The bucket that starts at one deviation: less is never a tail."""
OFFSET = (1023 - 3) * 4
MANTISSA = (1 << 50) - 1
UNIT = 2.0**-50
"""Of a float64's bits: ``(bits >> 50) - OFFSET`` is its bucket, ``(bits & MANTISSA) * UNIT`` its place within it."""

_FAR = 30.0
"""An excess counts as at most so many thresholds: by its size alone, one spike would make all that is smaller usual."""
_ROOT2 = math.sqrt(2.0)
_LOG2 = math.log10(2.0)
_HALF = 0.5 * _LOG2
_E2 = 2.0 / math.log(10.0)
_EDGES = np.array([math.ldexp(1.0 + 0.25 * (b & 3), (b >> 2) - 3) for b in range(BUCKETS + 1)])
_MIDDLES = 0.5 * (_EDGES[:-1] + _EDGES[1:])


@njit(cache=True, nogil=True)
def _log10(x: float) -> float:
    """log10 of a normal positive number within 1e-7: the refit's, at a third of the library's time."""
    bits = np.float64(x).view(np.int64)
    exponent = (bits >> 52) - 1023
    m = np.int64((bits & ((1 << 52) - 1)) | (1023 << 52)).view(np.float64)
    t = (m - _ROOT2) / (m + _ROOT2)
    u = t * t
    return float(exponent * _LOG2 + _HALF + _E2 * t * (1.0 + u * (1.0 / 3.0 + u * (0.2 + u / 7.0))))


@njit(cache=True, nogil=True)
def reaches(tails: Array, n: int, j: int, goal: float) -> float:
    """Smallest edge whose surprise is at least `goal`."""
    b = 0
    while b < BUCKETS - 1 and tails[n, j, b, 1] < goal:
        b += 1
    return _EDGES[b]


@njit(cache=True, nogil=True, error_model="numpy")
def refit_tail(tails: Array, n: int, j: int, weight: float, memory: float) -> None:
    """Fit a generalised Pareto tail to the excesses over the 95 % quantile and tabulate -log10 p at each edge.

    Moments shrunk towards a prior while excesses are few (Hosking and Wallis 1987; Siffer et al., KDD 2017). Where as
    large a value has been seen before, the surprise is at most what its frequency says (the precedent rule).

    Parameters
    ----------
    tails : (N, 3, BUCKETS, 2) float32
        Mass of each bucket and, out, surprise at its lower edge.
    n, j : int
        Channel and tail.
    weight : float
        Mass of all deviations seen, those below the first bucket with them.
    memory : float
        Mass above which the past is scaled down.
    """
    h = tails[n, j]
    if weight > memory:
        shrink = np.float32(memory / weight)
        for b in range(BUCKETS):
            h[b, 0] *= shrink
        weight = memory
    top = BUCKETS  # from here on nothing was ever seen
    while top > 0 and h[top - 1, 0] == 0.0:
        top -= 1
    room = np.zeros(3 * BUCKETS)
    past, seen, fitted = room[:BUCKETS], room[BUCKETS : 2 * BUCKETS], room[2 * BUCKETS :]
    total = 0.0
    for b in range(top - 1, -1, -1):
        total += float(h[b, 0])
        past[b] = total  # mass at or above the edge
    allowed = 0.05 * weight
    at = min(max(top, ONE), BUCKETS - 1)
    while at > ONE and past[at - 1] <= allowed:
        at -= 1
    total = past[at]
    t = _EDGES[at]
    m1 = 0.0
    m2 = 0.0
    for b in range(at, top):
        c = float(h[b, 0])
        y = min(_MIDDLES[b] - t, _FAR * t)
        m1 += c * y
        m2 += c * y * y
    # with few excesses sizes are unknown: assume them large and their tail heavy
    prior = max(0.25 * t + 0.1, 2.0 / (1.0 + total))
    mean = (m1 + 4.0 * prior) / (total + 4.0)
    shape = 0.0
    if total > 0.0 and m1 > 0.0:
        own = m1 / total
        var = m2 / total - own * own
        if var > 0.0:
            shape = min(0.5, max(0.0, 0.5 * (1.0 - own * own / var)))
    shape = (shape * total + 0.25 * 10.0) / (total + 10.0)
    slope = shape / (mean * (1.0 - shape))
    per = 1.0 / shape
    above = _log10((weight + 1.0) / (total + 1.0))
    never = _log10(weight + 1.0)
    # loops without branches, four buckets at once: what was seen up to `top`, what is fitted from `at` on
    for b in range(top):
        seen[b] = _log10((weight + 1.0) / ((past[b] if past[b] > 1.0 else 1.0) + 1.0))
    for b in range(top, at):
        seen[b] = never
    for b in range(at, BUCKETS):
        grown = 1.0 + slope * (_EDGES[b] - t)
        fitted[b] = above + _log10(grown if grown > 1.0 else 1.0) * per
    for b in range(at):
        h[b, 1] = seen[b] if b >= ONE else min(seen[b], above * _EDGES[b] * _EDGES[b])
    for b in range(at, BUCKETS):
        h[b, 1] = seen[b] if past[b] >= 0.01 and seen[b] < fitted[b] else fitted[b]
