"""Gaps of a sequence that are open: taken note of, filled, and declared when they have waited long enough.

Kernels; a gap is a row (first number, last number, time at which it was noticed) of a stream's or pair's own few.
"""

from __future__ import annotations

from numba import njit

__all__ = ["fill", "open_gap", "put", "settle"]


@njit(cache=True, nogil=True)
def put(out, k, code, stream, time, value, lo, hi):  # type: ignore[no-untyped-def]
    out[k, 0], out[k, 1], out[k, 2], out[k, 3], out[k, 4], out[k, 5] = code, stream, time, value, lo, hi
    return k + 1


@njit(cache=True, nogil=True)
def open_gap(gaps, n_open, lo, hi, time):  # type: ignore[no-untyped-def]
    gaps[n_open, 0], gaps[n_open, 1], gaps[n_open, 2] = lo, hi, time
    return n_open + 1


@njit(cache=True, nogil=True)
def fill(gaps, n_open, lo, hi):  # type: ignore[no-untyped-def]
    """Take [lo, hi] out of the open gaps; return (open gaps, numbers filled)."""
    filled = 0
    g = 0
    while g < n_open:
        a, b = gaps[g, 0], gaps[g, 1]
        x, y = max(a, lo), min(b, hi)
        if x > y:
            g += 1
            continue
        filled += y - x + 1
        if x == a and y == b:
            for m in range(g, n_open - 1):
                gaps[m, 0], gaps[m, 1], gaps[m, 2] = gaps[m + 1, 0], gaps[m + 1, 1], gaps[m + 1, 2]
            n_open -= 1
            continue
        if x == a:
            gaps[g, 0] = y + 1
        elif y == b:
            gaps[g, 1] = x - 1
        elif n_open < len(gaps):
            gaps[g, 1] = x - 1
            n_open = open_gap(gaps, n_open, y + 1, b, gaps[g, 2])
        else:  # no room to split: keep the larger side
            if x - a >= b - y:
                gaps[g, 1] = x - 1
            else:
                gaps[g, 0] = y + 1
        g += 1
    return n_open, filled


@njit(cache=True, nogil=True)
def settle(gaps, n_open, before, code, stream, out, k):  # type: ignore[no-untyped-def]
    """Declare gaps opened before a time; return (open gaps, rows)."""
    kept = 0
    for g in range(n_open):
        if gaps[g, 2] < before:
            lo, hi = gaps[g, 0], gaps[g, 1]
            k = put(out, k, code, stream, gaps[g, 2], hi - lo + 1, lo, hi)
        else:
            gaps[kept, 0], gaps[kept, 1], gaps[kept, 2] = gaps[g, 0], gaps[g, 1], gaps[g, 2]
            kept += 1
    return kept, k
