"""What the joint model does now and then: solve its regression, refit tails, widen a channel's unit, end a report."""

from __future__ import annotations

import math
from typing import Any

from numba import njit

__all__ = ["EDGE_BITS", "SHAPE", "STEPS", "lasting", "refit_views", "solve_ridge", "widen"]

Array = Any  # numba takes its types from the arguments

STEPS = 160
"""Buckets of a view's histogram: four an octave, from 2^-24 to 2^16 of the channel's range."""
EDGE_BITS = 24
SHAPE = 0.2
_BACK = 0.6
_SETTLED = 0.15


@njit(cache=True, nogil=True)
def solve_ridge(gram: Array, cross: Array, ridge: float, size: int, targets: int, work: Array, weights: Array) -> None:
    """Solve ``(gram + ridge I) weights = cross`` by Cholesky; only the lower half of `gram` is read.

    Parameters
    ----------
    gram : (P, P) float64
    cross, weights : (P, T) float64
    size, targets : int
        How much of them is used.
    work : (P, P) float64
    """
    for i in range(size):
        for j in range(i + 1):
            s = gram[i, j]
            if i == j:
                s += ridge
            for k in range(j):
                s -= work[i, k] * work[j, k]
            if i == j:
                work[i, i] = math.sqrt(max(s, 1e-12))
            else:
                work[i, j] = s / work[j, j]
    for i in range(size):
        for t in range(targets):
            weights[i, t] = cross[i, t]
        for k in range(i):
            f = work[i, k]
            for t in range(targets):
                weights[i, t] -= f * weights[k, t]
        for t in range(targets):
            weights[i, t] /= work[i, i]
    for i in range(size - 1, -1, -1):
        for k in range(i + 1, size):
            f = work[k, i]
            for t in range(targets):
                weights[i, t] -= f * weights[k, t]
        for t in range(targets):
            weights[i, t] /= work[i, i]


@njit(cache=True, nogil=True)
def refit_views(hist: Array, tails: Array, share: float, memory: float) -> None:
    """Threshold (the `1 - share` quantile) and mean excess of every channel's views."""
    for v in range(hist.shape[0]):
        for c in range(hist.shape[1]):
            h = hist[v, c]
            mass = 0.0
            for b in range(STEPS):
                mass += h[b]
            if mass <= 0.0:
                continue
            if mass > memory:
                for b in range(STEPS):
                    h[b] *= memory / mass
                mass = memory
            above = 0.0
            at = STEPS
            while at > 0 and above + h[at - 1] <= share * mass:
                at -= 1
                above += h[at]
            # the quantile lies inside bucket at - 1
            inside = 1.0
            if at > 0:
                inside = 1.0 - (share * mass - above) / h[at - 1] if h[at - 1] > 0.0 else 1.0
            below = max(at - 1, 0)
            lo = math.ldexp(1.0 + 0.25 * (below & 3), (below >> 2) - EDGE_BITS)
            hi = math.ldexp(1.0 + 0.25 * ((below + 1) & 3), ((below + 1) >> 2) - EDGE_BITS)
            t = lo + inside * (hi - lo)
            if below == 0:
                t = 0.0
            excess = 0.0
            count = 0.0
            for b in range(below, STEPS):
                if h[b] > 0.0:
                    left = math.ldexp(1.0 + 0.25 * (b & 3), (b >> 2) - EDGE_BITS)
                    right = math.ldexp(1.0 + 0.25 * ((b + 1) & 3), ((b + 1) >> 2) - EDGE_BITS)
                    if b == below and b > 0:
                        excess += h[b] * (1.0 - inside) * 0.5 * (right - t)
                        count += h[b] * (1.0 - inside)
                    elif b > below:
                        excess += h[b] * (0.5 * (left + right) - t)
                        count += h[b]
            tails[v, c, 0] = t
            tails[v, c, 1] = max(excess / count if count > 0.0 else 0.0, 1e-6) * (1.0 - SHAPE)


@njit(cache=True, nogil=True)
def widen(
    c: int, order: int, group: int, channels: int, low: Array, size: Array, least: Array, most: Array, lags: Array,
    gram: Array, cross: Array, smooth: Array, away: Array, hist: Array, tails: Array,
) -> None:  # fmt: skip
    """Where a channel's range has outgrown its unit, double the unit (as often as needed) and all that is in it."""
    span = most[c] - least[c]
    if size[c] <= 0.0 or not span >= 2.0 * size[c]:
        return
    factor = 1.0
    steps = 0
    while factor * 2.0 * size[c] <= span and steps < 20:
        factor *= 2.0
        steps += 1
    part = 1.0 / factor
    size[c] *= factor
    g = c // group
    count = min(group, channels - g * group)
    used = order * count + 1
    i = c - g * group
    for k in range(order):
        lags[k, c] *= part
        p = k * count + i
        for q in range(used):
            if q <= p:
                gram[g, p, q] *= part
            if q >= p:
                gram[g, q, p] *= part
        for t in range(count):
            cross[g, p, t] *= part
    for p in range(used):
        cross[g, p, i] *= part
    for k in range(smooth.shape[0]):
        smooth[k, c] *= part
    away[1, c] *= part
    away[2, c] *= part
    shift = 4 * steps
    for v in range(hist.shape[0]):
        for b in range(STEPS):
            to = max(b - shift, 0)
            if to != b:
                mass = hist[v, c, b]
                hist[v, c, b] = 0.0
                hist[v, c, to] += mass
        tails[v, c, 0] *= part
        tails[v, c, 1] *= part


@njit(cache=True, nogil=True)
def lasting(values: Array, where: int, smooth: Array, away: Array) -> bool:
    """Whether a channel that told most is still away from where it was then; `where` (-1: none) has just done so."""
    if where >= 0 and away[0, where] == 0.0:
        away[0, where] = 1.0
        away[1, where] = smooth[3, where]
        away[2, where] = 0.0
    some = False
    for c in range(len(values)):
        if away[0, c] != 0.0 and math.isfinite(values[c]):
            distance = abs(smooth[2, c] - away[1, c])
            away[2, c] = max(away[2, c], distance)
            if away[0, c] > 0.0 and distance < _BACK * away[2, c]:
                away[0, c] = -1.0
            level = smooth[2, c] if away[0, c] > 0.0 else away[1, c]
            near = 1.0 - _BACK if away[0, c] > 0.0 else _SETTLED
            if abs(level - smooth[3, c]) < near * away[2, c]:
                away[0, c] = 0.0  # a new normal, or the old one again
        if away[0, c] > 0.0:
            some = True
    return some
