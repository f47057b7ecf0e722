"""Windows of one series: values kept in order, and running sums over a ring of the last ones."""

from __future__ import annotations

from typing import Any

from numba import njit
from numpy.typing import NDArray

from telemetry.types import Float64

__all__ = ["RING", "back", "median", "ordered_add", "ordered_swap", "place", "roll", "roll_square"]

RING = 512
"""Samples that a ring holds."""


@njit(cache=True, nogil=True)
def place(a: NDArray[Any], n: int, value: float) -> int:
    """How many of the ascending ``a[:n]`` are below `value`."""
    lo, hi = 0, n
    while lo < hi:
        mid = (lo + hi) >> 1
        if a[mid] < value:
            lo = mid + 1
        else:
            hi = mid
    return lo


@njit(cache=True, nogil=True)
def ordered_add(a: Float64, n: int, value: float) -> None:
    """Put `value` into the ascending ``a[:n]``."""
    at = place(a, n, value)
    for j in range(n, at, -1):
        a[j] = a[j - 1]
    a[at] = value


@njit(cache=True, nogil=True)
def ordered_swap(a: Float64, n: int, old: float, new: float) -> None:
    """Take `old` out of the ascending ``a[:n]`` and put `new` in, moving only what lies between."""
    at = place(a, n, old)
    to = place(a, n, new)
    if to > at:
        to -= 1
        for j in range(at, to):
            a[j] = a[j + 1]
    else:
        for j in range(at, to, -1):
            a[j] = a[j - 1]
    a[to] = new


@njit(cache=True, nogil=True)
def median(a: Float64, n: int) -> float:
    """Of the ascending ``a[:n]``."""
    return a[n >> 1] if n & 1 else 0.5 * (a[(n >> 1) - 1] + a[n >> 1])


@njit(cache=True, nogil=True)
def back(ring: Float64, i: int, first: int, last: int) -> float:
    """Sum of a ring over the samples `first` to `last` before sample i (both included; 0 is i itself)."""
    total = 0.0
    for b in range(first, min(last, i) + 1):
        total += ring[(i - b) % RING]
    return total


@njit(cache=True, nogil=True)
def roll(ring: Float64, i: int, width: int, total: float) -> float:
    """Running sum of the last `width` samples, sample i included; afresh when the ring comes round."""
    if i % RING == 0:
        return back(ring, i, 0, width - 1)
    total += ring[i % RING]
    if i >= width:
        total -= ring[(i - width) % RING]
    return total


@njit(cache=True, nogil=True)
def roll_square(ring: Float64, i: int, width: int, total: float) -> float:
    """The same of squares, also afresh when a value leaves that made up most of the sum."""
    left = ring[(i - width) % RING] ** 2 if i >= width else 0.0
    if i % RING == 0 or left > 0.5 * total:
        total = 0.0
        for b in range(min(width - 1, i) + 1):
            total += ring[(i - b) % RING] ** 2
        return total
    return total + ring[i % RING] ** 2 - left
