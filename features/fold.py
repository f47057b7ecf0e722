"""One step's events as sketches and sums, where they became too many to keep.

What is folded gives, to the bit, what the events would have given: sums go on in the order of arrival, counts of
buckets add up, and a series stays as it is until it has more than the few values whose quantiles are exact.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from features.collect import Cells
from features.rollup import count_buckets, quantiles_of
from features.sketch import EXACT
from telemetry.types import Bool, Float64, Int64, State

__all__ = ["Fold"]

# Rows of a fold's sums: sum, least, largest, first value, sums of differences from it and of their squares.
_SUM, _LOW, _HIGH, _ONE, _D1, _D2 = range(6)


@njit(cache=True, nogil=True)
def _add(offset, values, wanted, level, n, over, sums):
    for s in range(offset.shape[0] - 1):
        v = values[offset[s] : offset[s + 1]]
        if not wanted[s] or v.shape[0] == 0:
            continue
        if n[s] == 0:
            sums[1, s] = sums[2, s] = sums[3, s] = v[0]
        n[s] += v.shape[0]
        one = sums[3, s]
        for i in range(v.shape[0]):
            x = v[i]
            sums[0, s] += x
            sums[1, s] = min(sums[1, s], x)
            sums[2, s] = max(sums[2, s], x)
            sums[4, s] += x - one
            sums[5, s] += (x - one) * (x - one)
            over[s] += x > level


@njit(cache=True, nogil=True)
def _merge(start_a, bucket_a, count_a, start_b, bucket_b, count_b, start, bucket, count):
    k = 0
    for s in range(start.shape[0] - 1):
        start[s] = k
        i, i_end, j, j_end = start_a[s], start_a[s + 1], start_b[s], start_b[s + 1]
        while i < i_end or j < j_end:
            if j == j_end or (i < i_end and bucket_a[i] <= bucket_b[j]):
                bucket[k] = bucket_a[i]
                count[k] = count_a[i]
                if j < j_end and bucket_b[j] == bucket_a[i]:
                    count[k] += count_b[j]
                    j += 1
                i += 1
            else:
                bucket[k] = bucket_b[j]
                count[k] = count_b[j]
                j += 1
            k += 1
    start[start.shape[0] - 1] = k
    return k


class Fold:
    """Folded events of one step, by series."""

    def __init__(self) -> None:
        self.n, self.over, self.sums = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((6, 0))
        self._start = np.zeros(1, np.int64)
        self._bucket, self._count = np.zeros(0, np.int32), np.zeros(0, np.int64)

    def _widen(self, width: int) -> None:
        more = width - len(self.n)
        if more > 0:
            none = np.zeros(more, np.int64)
            self.n, self.over = np.append(self.n, none), np.append(self.over, none)
            self.sums = np.concatenate([self.sums, np.zeros((6, more))], axis=1)
            self._start = np.append(self._start, np.full(more, self._start[-1]))

    def add(self, cells: Cells, level: float, hist: NDArray[np.int32], edge: Float64) -> Bool:
        """Take in the cells of one step; returns which series are folded now (the others' events are to be kept)."""
        self._widen(cells.width)
        many: Bool = (self.n > 0) | (np.diff(cells.offset) > EXACT)
        _add(cells.offset, cells.values, many, level, self.n, self.over, self.sums)
        room = len(cells.values)
        start, bucket, count = np.empty(cells.width + 1, np.int64), np.empty(room, np.int32), np.empty(room, np.int64)
        count_buckets(cells.offset, cells.values, cells.values.view(np.int64), many, hist, edge, start, bucket, count)
        room += len(self._bucket)
        merged = np.empty(cells.width + 1, np.int64), np.empty(room, np.int32), np.empty(room, np.int64)
        used = _merge(self._start, self._bucket, self._count, start, bucket, count, *merged)
        self._start, self._bucket, self._count = merged[0], merged[1][:used].copy(), merged[2][:used].copy()
        return many

    def fill(self, want: Int64, probs: Float64, spot: Int64, out: Float64) -> None:
        """Write the folded series' columns into out (S, C), as ``features.window_kernels.fill`` does."""
        at = np.flatnonzero(self.n)
        n, s = self.n[at], self.sums[:, at]
        var = np.full(len(at), np.nan)
        several = n > 1
        var[several] = np.maximum(s[_D2] - s[_D1] * s[_D1] / n, 0.0)[several] / (n - 1)[several]
        mean = np.minimum(np.maximum(s[_SUM] / n, s[_LOW]), s[_HIGH])
        made = (n, s[_SUM], mean, s[_LOW], s[_HIGH], var, np.sqrt(var), self.over[at])
        for column, value in zip(want.tolist(), made, strict=True):
            if column >= 0:
                out[at, column] = value
        if len(probs):
            low, high = self.sums[_LOW], self.sums[_HIGH]
            found = quantiles_of(self._start, self._bucket, self._count, low, high, probs.tolist())
            out[at[:, None], spot[None, :]] = found[at]

    def snapshot(self) -> State:
        return {
            "n": self.n.copy(),
            "over": self.over.copy(),
            "sums": self.sums.copy(),
            "start": self._start.copy(),
            "bucket": self._bucket.copy(),
            "count": self._count.copy(),
        }

    def restore(self, state: State) -> None:
        self.n, self.over = np.array(state["n"], np.int64), np.array(state["over"], np.int64)
        self.sums = np.array(state["sums"], np.float64)
        self._start, self._bucket = np.array(state["start"], np.int64), np.array(state["bucket"], np.int32)
        self._count = np.array(state["count"], np.int64)
