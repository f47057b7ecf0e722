"""Which packets of a batch an analyser looks at, found before it looks.

Protocols alternate at random, and a branch on them that the processor foretells wrongly costs more than what is done
for most packets. These loops have none.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["of_flows", "of_protocol"]


@njit(cache=True, nogil=True)
def of_flows(start, n, flow, known):  # type: ignore[no-untyped-def]
    """Numbers of the packets from `start` on whose flow's place in `known` is not negative."""
    out = np.empty(n - start + 1, np.int32)
    m = np.uint64(0)
    for i in range(start, n):
        f = flow[i]
        out[m] = i
        m += np.uint64((f >= 0) & (known[np.uint64(max(f, 0))] >= 0))
    return out[:m]


@njit(cache=True, nogil=True)
def of_protocol(n, proto, number):  # type: ignore[no-untyped-def]
    """Numbers of the packets of an IP protocol."""
    out = np.empty(n + 1, np.int32)
    m = np.uint64(0)
    for i in range(n):
        out[m] = i
        m += np.uint64(proto[i] == number)
    return out[:m]
