"""Discords: how far the shape of the last rows is from every shape the series has had, at five scales.

A scale is the series in means of 1, 2, 4, 8 or 16 rows; a shape is 32 of them in a row, less their mean. Its distance
to the nearest of 480 earlier shapes that do not overlap it is a left discord (Yeh et al., ICDM 2016), whose squared
distances follow from those of one row before (Lu et al., KDD 2022), at the cost of one addition each. What repeats
itself, whatever its period, has near neighbours: only there is a far one evidence.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.surprise import FIT, GENERATION, GENERATIONS, KEEP, WARM_UP, refit_every, tail_put, tail_refit, tail_score
from telemetry.types import Float64, Int64

__all__ = ["LENGTH", "MEANS", "SHAPES", "fresh_discords", "nearest_shape", "step_discords"]

_SCALES = 5
LENGTH = 32
"""Means in a shape."""
SHAPES = 480
"""Earlier shapes that are compared with."""
_PAST = SHAPES + 2 * LENGTH - 1
"""Means before the newest that are still needed."""
_RING = _PAST + 64
"""Room for them: they are moved to its front when it is full."""
_FIELDS = 10
_SUM, _ROWS, MEANS, _TOTAL, _DISTANCE, _ENERGY, _SEEN, _MOMENT, _SQUARE, _EVIDENCE = range(_FIELDS)
_STRIDE = 60
"""Shapes are looked through in strides, so that each is vector code."""
_SHARE = 1.0 / LENGTH
_PRECEDENT = 0.8
_REPEATS, _NEVER = 0.3, 0.4
"""Nearest distance as a share of that between unrelated shapes: up to which a series repeats itself, from which not."""
_EVERY = 8.0
"""What is usual is learnt from every eighth shape."""
_PACE = 0.008
_WEIGHT = 1.25
"""Evidence of five scales that all give a surprise of 1."""
_MOST = 4.0
"""A shape counts for the usual distance with at most so many times the usual energy."""


def fresh_discords(channels: int) -> dict[str, NDArray[Any]]:
    """What channels that have seen nothing remember, in the order in which `step_discords` takes it."""
    return {
        "shape_reg": np.zeros((channels, _SCALES, _FIELDS)),
        "shape_ring": np.zeros((channels, _SCALES, _RING), np.float32),
        "shape_middle": np.zeros((channels, _SCALES, _RING), np.float32),
        "shape_gap": np.full((channels, _SCALES, SHAPES), np.inf),
        "shape_counts": np.zeros((channels, _SCALES, GENERATIONS), np.int64),
        "shape_top": np.zeros((channels, _SCALES, GENERATIONS, KEEP), np.float32),
        "shape_held": np.zeros((channels, _SCALES, GENERATIONS), np.int32),
        "shape_fit": np.zeros((channels, _SCALES, FIT)),
    }


@njit(cache=True, nogil=True)
def nearest_shape(
    k: int, value: float, reg: Float64, ring: NDArray[np.float32], middle: NDArray[np.float32], gap: Float64
) -> tuple[float, int]:
    """Mean squared distance of the newest shape to the nearest (not finite if there is none), and where it ends."""
    means = int(reg[k, MEANS])
    room = _RING - _PAST
    at = _PAST + means % room
    if at == _PAST:
        for j in range(_PAST):
            ring[k, j] = ring[k, j + room]
            middle[k, j] = middle[k, j + room]
    ring[k, at] = value
    new, left = np.float64(ring[k, at]), np.float64(ring[k, at - LENGTH])  # float() would stay 32 bits wide
    reg[k, _TOTAL] += new - left
    if at == _PAST:
        reg[k, _TOTAL] = ring[k, at - LENGTH + 1 : at + 1].astype(np.float64).sum()
    mean = reg[k, _TOTAL] * _SHARE
    middle[k, at] = mean
    base = at - LENGTH - SHAPES + 1
    for j in range(SHAPES):  # what comes in, what goes out
        a = new - ring[k, base + j]
        b = left - ring[k, base - LENGTH + j]
        gap[k, j] += a * a - b * b
    # one a row is summed afresh, so that rounding does not gather; at first the one that has just become a shape
    first = SHAPES + 2 * LENGTH - 2 - means
    fresh = first if first >= 0 else means % SHAPES
    if fresh < SHAPES:
        odd, even = 0.0, 0.0
        for j in range(0, LENGTH, 2):
            a = np.float64(ring[k, at - j]) - ring[k, base + fresh - j]
            b = np.float64(ring[k, at - j - 1]) - ring[k, base + fresh - j - 1]
            odd += a * a
            even += b * b
        gap[k, fresh] = odd + even
    nearest = np.empty(_STRIDE)
    for j in range(_STRIDE):
        d = mean - middle[k, base + j]
        best = gap[k, j] * _SHARE - d * d
        for h in range(_STRIDE, SHAPES, _STRIDE):
            d = mean - middle[k, base + j + h]
            s = gap[k, j + h] * _SHARE - d * d
            best = s if s < best else best
        nearest[j] = best
    return nearest.min(), at


@njit(cache=True, nogil=True)
def step_discords(
    x: float,
    reg: Float64,
    ring: NDArray[np.float32],
    middle: NDArray[np.float32],
    gap: Float64,
    counts: Int64,
    top: NDArray[np.float32],
    held: NDArray[np.int32],
    fit: Float64,
) -> float:
    """Evidence of the shapes that the next row ends, 0 while they warm up; then they are learnt.

    Parameters
    ----------
    x : float
        Less the series' origin.
    reg : (_SCALES, _FIELDS) float64
    ring, middle : (_SCALES, _RING) float32
        Means, and the mean of the shape that ends at each.
    gap : (_SCALES, SHAPES) float64
        Squared distances, before the means are taken out.
    counts : (_SCALES, GENERATIONS) int64
    top : (_SCALES, GENERATIONS, KEEP) float32
    held : (_SCALES, GENERATIONS) int32
    fit : (_SCALES, FIT) float64
    """
    evidence = 0.0
    for k in range(_SCALES):
        reg[k, _SUM] += x
        reg[k, _ROWS] += 1.0
        rows = 1 << k
        if reg[k, _ROWS] == rows:
            square, at = nearest_shape(k, reg[k, _SUM] / rows, reg, ring, middle, gap)
            reg[k, _SUM] = reg[k, _ROWS] = 0.0
            reg[k, MEANS] += 1.0
            reg[k, _EVIDENCE] = 0.0
            if square < np.inf:
                if reg[k, _SEEN] % _EVERY == 0.0:
                    _compare(k, max(square, 0.0), ring[k, at - LENGTH + 1 : at + 1], middle[k, at], reg)
                reg[k, _EVIDENCE] = _surprise(k, math.sqrt(max(square, 0.0)), reg, counts, top, held, fit)
        evidence += reg[k, _EVIDENCE]
    return evidence * (_WEIGHT / _SCALES)


@njit(cache=True, nogil=True)
def _compare(k: int, square: float, shape: NDArray[np.float32], mean: float, reg: Float64) -> None:
    """Learn how near the nearest usually is, and how far from each other unrelated shapes would be."""
    energy = 0.0
    for v in shape:
        energy += (np.float64(v) - mean) ** 2
    energy *= 2.0 * _SHARE
    seen = reg[k, _SEEN]
    pace = max(_EVERY / (seen + _EVERY), _PACE)
    if seen > 0.0 and energy > _MOST * reg[k, _ENERGY]:
        pace *= _MOST * reg[k, _ENERGY] / energy
    reg[k, _DISTANCE] += pace * (square - reg[k, _DISTANCE])
    reg[k, _ENERGY] += pace * (energy - reg[k, _ENERGY])


@njit(cache=True, nogil=True)
def _surprise(
    k: int,
    distance: float,
    reg: Float64,
    counts: Int64,
    top: NDArray[np.float32],
    held: NDArray[np.int32],
    fit: Float64,
) -> float:
    """Surprise of a distance to the power of 1.5, less where shapes hardly repeat; then its tail learns it."""
    seen = int(reg[k, _SEEN])
    d = np.float64(np.float32(distance))
    out = 0.0
    if seen >= WARM_UP and d > fit[k, 0]:
        share = math.sqrt(reg[k, _DISTANCE] / max(reg[k, _ENERGY], 1e-300))
        if share < _NEVER:
            s = tail_score(d, top[k], held[k], counts[k].sum(), seen, fit[k], _PRECEDENT)
            out = s * math.sqrt(s) * min((_NEVER - share) / (_NEVER - _REPEATS), 1.0)
    g = (seen // GENERATION) % GENERATIONS
    if seen % GENERATION == 0:
        counts[k, g] = 0
        held[k, g] = 0
    counts[k, g] += 1
    gain = max(1.0 / (seen + 1.0), 1.0 / GENERATION)
    off = d - reg[k, _MOMENT]
    reg[k, _MOMENT] += gain * off
    reg[k, _SQUARE] += gain * (off * off * (1.0 - gain) - reg[k, _SQUARE])
    if held[k, g] < KEEP or d > top[k, g, 0]:
        held[k, g] = tail_put(top[k, g], held[k, g], d)
    if seen + 1 == WARM_UP or (seen >= WARM_UP and (seen + 7 * k) % refit_every(seen) == 0):
        tail_refit(top[k], held[k], counts[k], math.sqrt(max(reg[k, _SQUARE], 0.0)), fit[k])
    reg[k, _SEEN] += 1.0
    return out
