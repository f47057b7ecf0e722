"""The log's one compiled step; imported only by a process that has numba anyway (a sampler)."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from telemetry.types import Int64

__all__ = ["differences"]


@njit(cache=True, nogil=True)
def differences(
    time: Int64,
    seen: Int64,
    bits: Int64,
    before: Int64,
    starts: NDArray[np.int32],
    places: NDArray[np.int32],
    values: Int64,
    times: Int64,
) -> int:  # pragma: no cover - compiled
    """Compare a batch with the one before of the same series.

    Fills in `places` and `values` of what changed and the `times` of the runs that begin at `starts`; `before`
    becomes `bits`.

    Returns
    -------
    int
        How many changed; -1 (and nothing has been touched) if seen times differ, times are not equal within the
        runs, all times are equal, or half of the values changed.
    """
    n = len(bits)
    for i in range(1, n):
        if seen[i] != seen[0]:
            return -1
    one = True
    for r in range(len(starts)):
        end = starts[r + 1] if r + 1 < len(starts) else n
        for i in range(starts[r], end):
            if time[i] != time[starts[r]]:
                return -1
            if time[i] != time[0]:
                one = False
    if one and n > 1:
        return -1
    count = 0
    for i in range(n):
        if bits[i] != before[i]:
            count += 1
    if 12 * count >= 6 * n:
        return -1
    for r in range(len(starts)):
        times[r] = time[starts[r]]
    k = 0
    for i in range(n):
        if bits[i] != before[i]:
            places[k] = i
            values[k] = bits[i]
            before[i] = bits[i]
            k += 1
    return count
