"""Quantiles of values: exact where there are few, a log histogram with a proven error where there are many.

A bucket is 1/64 of an octave, linear within it (the sign, the exponent and 6 bits of the mantissa of a float64), and
stands for its middle. A value x in ``[lo, lo + w)`` has ``w <= |lo| / 64``, so its middle is off by at most
``w / 2 <= |x| / 128``: the relative error of any order statistic is at most `MAX_ERROR` = 0.79 %. A quantile lies
between two order statistics; where they have one sign the bound carries over. Counts add up: sketches merge without
loss.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = [
    "EXACT",
    "MAX_ERROR",
    "SORTED",
    "SPAN",
    "bucket_middle",
    "bucket_of",
    "quantiles_exact",
    "quantiles_sketch",
    "sort_with",
    "summary",
]

EXACT = 24
"""Up to so many values a quantile is exact."""

SORTED = 64
"""Up to so many values exact quantiles come of a sort; of more, only the buckets in which they lie are sorted."""

MAX_ERROR = 1 / 128
"""Largest relative error of an order statistic read from a sketch (normal float64 numbers)."""

SPAN = 4096  # buckets of the reused histogram: 16 kB, stays in the first cache
_MASK = SPAN - 1  # bucket b is counted at `b & _MASK`: around and around, so nobody need know the first one


@njit(cache=True, nogil=True)
def sort_with(v, carried, a, b):
    """Sort v[a:b] in place, and `carried` (unless it is empty) along with it; insertion for few, heap sort for many."""
    n = b - a
    carry = carried.shape[0] > 0
    if n <= 24:
        for i in range(a + 1, b):
            x = v[i]
            j = i - 1
            if carry:
                y = carried[i]
                while j >= a and v[j] > x:
                    v[j + 1] = v[j]
                    carried[j + 1] = carried[j]
                    j -= 1
                carried[j + 1] = y
            else:
                while j >= a and v[j] > x:
                    v[j + 1] = v[j]
                    j -= 1
            v[j + 1] = x
        return
    first = n // 2 - 1
    last = n - 1
    while last > 0:
        if first >= 0:  # build the heap
            root = first
            first -= 1
        else:  # take the largest to the end
            v[a], v[a + last] = v[a + last], v[a]
            if carry:
                carried[a], carried[a + last] = carried[a + last], carried[a]
            last -= 1
            root = 0
        while True:
            child = 2 * root + 1
            if child > last:
                break
            if child < last and v[a + child] < v[a + child + 1]:
                child += 1
            if not v[a + root] < v[a + child]:
                break
            v[a + root], v[a + child] = v[a + child], v[a + root]
            if carry:
                carried[a + root], carried[a + child] = carried[a + child], carried[a + root]
            root = child


@njit(cache=True, nogil=True)
def _between(v, a, n, q):
    """Linear interpolation between order statistics of the sorted v[a : a + n], as ``numpy.quantile``."""
    r = q * (n - 1)
    k = int(r)
    f = r - k
    x = v[a + k]
    if f > 0.0 and k + 1 < n:
        y = v[a + k + 1]
        if y != x:
            x += (y - x) * f
    return x


@njit(cache=True, nogil=True)
def bucket_of(bits):
    """Bucket of a float64 given as its bits; rises with the value, below 0 for negative ones."""
    if bits >= 0:
        return bits >> 46
    return -((bits & 0x7FFFFFFFFFFFFFFF) >> 46) - 1


@njit(cache=True, nogil=True)
def bucket_middle(bucket, edge, edge_bits):
    """Middle of a bucket; `edge` and `edge_bits` are one (2,) scratch array seen as float64 and int64."""
    k = bucket if bucket >= 0 else -bucket - 1
    if k == 0:
        return 0.0
    if k >= 131008:  # infinity
        return np.inf if bucket >= 0 else -np.inf
    edge_bits[0] = k << 46
    edge_bits[1] = (k + 1) << 46
    if k + 1 >= 131008:
        middle = edge[0]
    else:
        middle = edge[0] + (edge[1] - edge[0]) * 0.5
    return middle if bucket >= 0 else -middle


@njit(cache=True, nogil=True)
def summary(v, bits, level, hist, counted):
    """Sum, least and largest of v, and how many are above `level`; if `counted`, `hist` counts its buckets."""
    total = 0.0
    low = high = v[0]
    over = 0
    for i in range(v.shape[0]):
        x = v[i]
        total += x
        low = min(low, x)
        high = max(high, x)
        over += x > level
        if counted:
            hist[bucket_of(bits[i]) & _MASK] += 1
    return total, low, high, over


@njit(cache=True, nogil=True)
def _range(low, high, edge, edge_bits):
    """First bucket and number of buckets from `low` to `high`."""
    edge[0], edge[1] = low, high
    # Zero has two signs, and either may have been taken for the least or the largest.
    first = -1 if low == 0.0 else bucket_of(edge_bits[0])
    last = 0 if high == 0.0 else bucket_of(edge_bits[1])
    return first, last - first + 1


@njit(cache=True, nogil=True)
def quantiles_sketch(v, bits, low, high, probs, hist, edge, edge_bits, out):
    """Quantiles of v (between `low` and `high`) to within the sketch's error.

    `bits` is v seen as int64; `probs` rise; `hist` comes as `summary` counted and is left zero; v may be left sorted.
    """
    n = v.shape[0]
    first, span = _range(low, high, edge, edge_bits)
    if span > SPAN:  # many octaves: buckets keep the order, so those of the sorted values are theirs
        hist[:] = 0
        sort_with(v, probs[:0], 0, n)
        for p in range(probs.shape[0]):
            r = probs[p] * (n - 1)
            k = int(r)
            f = r - k
            x = min(max(bucket_middle(bucket_of(bits[k]), edge, edge_bits), low), high)
            if f > 0.0 and k + 1 < n:
                y = min(max(bucket_middle(bucket_of(bits[k + 1]), edge, edge_bits), low), high)
                if y != x:
                    x += (y - x) * f
            out[p] = x
        return
    at = first - 1
    below = 0  # values in buckets up to `at`
    for p in range(probs.shape[0]):
        r = probs[p] * (n - 1)
        k = int(r)
        f = r - k
        while below <= k:
            at += 1
            below += hist[at & _MASK]
        x = min(max(bucket_middle(at, edge, edge_bits), low), high)
        if f > 0.0 and below <= k + 1 and k + 1 < n:
            beyond = at + 1
            while hist[beyond & _MASK] == 0:
                beyond += 1
            y = min(max(bucket_middle(beyond, edge, edge_bits), low), high)
            x += (y - x) * f
        out[p] = x
    for k in range(first, first + span):
        hist[k & _MASK] = 0


@njit(cache=True, nogil=True)
def quantiles_exact(v, bits, low, high, probs, hist, edge, edge_bits, out):
    """Quantiles of v as a sort gives them; where v has more than `SORTED` values, `hist` comes as `summary` counted."""
    n = v.shape[0]
    first, span = _range(low, high, edge, edge_bits)
    if n <= SORTED or span > SPAN:
        if n > SORTED:
            hist[:] = 0
        sort_with(v, probs[:0], 0, n)
        for p in range(probs.shape[0]):
            out[p] = _between(v, 0, n, probs[p])
        return
    most = 2 * probs.shape[0]
    bucket, base, place = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most + 1, np.int64)
    found = 0  # buckets wanted
    at = first - 1
    below = 0
    place[0] = 0
    for p in range(probs.shape[0]):
        r = probs[p] * (n - 1)
        k = int(r)
        for rank in range(k, min(k + 2, n)):
            while below <= rank:
                at += 1
                below += hist[at & _MASK]
            if found == 0 or bucket[found - 1] != at & _MASK:
                bucket[found] = at & _MASK
                base[found] = below - hist[bucket[found]]
                place[found + 1] = place[found] + hist[bucket[found]]
                found += 1
    for k in range(first, first + span):
        hist[k & _MASK] = 0
    for j in range(found):
        hist[bucket[j]] = j + 1
    some = np.empty(place[found])
    fill = place[:found].copy()
    for i in range(n):
        j = hist[bucket_of(bits[i]) & _MASK]
        if j > 0:
            some[fill[j - 1]] = v[i]
            fill[j - 1] += 1
    for j in range(found):
        hist[bucket[j]] = 0
        sort_with(some, probs[:0], place[j], place[j + 1])
    j = 0
    for p in range(probs.shape[0]):
        r = probs[p] * (n - 1)
        k = int(r)
        f = r - k
        while k >= base[j] + place[j + 1] - place[j]:
            j += 1
        x = some[place[j] + k - base[j]]
        if f > 0.0 and k + 1 < n:
            # The next rank lies in this bucket or begins the next one wanted.
            inside = k + 1 < base[j] + place[j + 1] - place[j]
            y = some[place[j] + k + 1 - base[j]] if inside else some[place[j + 1]]
            if y != x:
                x += (y - x) * f
        out[p] = x
