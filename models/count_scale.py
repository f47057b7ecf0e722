"""Counts are looked at on the scale of their square root.

The busier a series of counts is, the more it scatters: an hour of 400 tells less by being 30 off than one of 10. On the
scale sqrt(x + 3/8) a Poisson count scatters alike at any rate, and an overdispersed one far more evenly than as it is
(Anscombe, Biometrika 1948). A series is taken as counts if its first 32 values are whole numbers, none below zero;
where those are large against their scatter, the scale is as good as straight and changes nothing.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from telemetry.types import Float64

__all__ = ["EARLY", "EARLY_FIELDS", "counts_in", "from_root", "origin_of", "to_root"]

EARLY = 32
"""Values that decide what kind of series this is; nothing is scored before."""
EARLY_FIELDS = 5
"""Value, slot of the day, day without work, cosine and sine of the time of day."""
_LOST = 2.0**32
_OFFSET = 0.375
_ROOT = math.sqrt(_OFFSET)


@njit(cache=True, nogil=True)
def counts_in(early: Float64) -> bool:
    """Whether all of the first values, ``early[:, 0]``, are whole numbers and none is negative."""
    for k in range(len(early)):
        x = early[k, 0]
        if x < 0.0 or x != np.floor(x):
            return False
    return True


@njit(cache=True, nogil=True)
def origin_of(early: Float64) -> float:
    """What values are measured from: the first one, unless the later ones would be lost in its rounding."""
    largest = 0.0
    for k in range(len(early) // 2, len(early)):
        largest = max(largest, abs(early[k, 0]))
    return early[0, 0] if largest == 0.0 or abs(early[0, 0]) < _LOST * largest else early[-1, 0]


@njit(cache=True, nogil=True)
def to_root(x: float) -> float:
    """sqrt(x + 3/8), continued below zero by its tangent."""
    if x >= 0.0:
        return math.sqrt(x + _OFFSET)
    return _ROOT + 0.5 * x / _ROOT


@njit(cache=True, nogil=True)
def from_root(y: float) -> float:
    """The inverse of `to_root`."""
    if y >= _ROOT:
        return y * y - _OFFSET
    return 2.0 * _ROOT * (y - _ROOT)
