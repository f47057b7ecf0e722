"""Which format a destination's packets have: the first of them are kept until it can be told.

Kernels. A group is a destination (address, port); its state is a row of ``groups``.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

from telemetry.wire.feedstate import G_FORMAT, G_SEEN, G_SINCE, HEAD_BYTES, LEARN, NONE
from telemetry.wire.formats import CHANNEL, HEADER, SENT, SEQ, STEP, parse

__all__ = ["keep", "tell"]

_NULL: Final = np.iinfo(np.int64).min


@njit(cache=True, nogil=True)
def keep(i, g, t, poff, plen, pcap, data, groups, heads, meta):  # type: ignore[no-untyped-def]
    """Keep what matters of a packet whose group is not told yet; True when there is enough to tell."""
    cap = min(np.int64(pcap[i]), np.int64(HEAD_BYTES))
    if poff[i] < 0 or cap < 0 or poff[i] + cap > len(data):
        return False
    m = groups[g, G_SEEN]
    if m == 0:
        groups[g, G_SINCE] = t
    slot = g * LEARN + m
    meta[slot, 0], meta[slot, 1], meta[slot, 2] = t, plen[i], cap
    for b in range(cap):
        heads[slot * HEAD_BYTES + b] = data[poff[i] + b]
    groups[g, G_SEEN] = m + 1
    return m + 1 >= LEARN or (m + 1 >= 8 and t - groups[g, G_SINCE] > 500_000_000)


@njit(cache=True, nogil=True)
def tell(g, groups, heads, meta, head):  # type: ignore[no-untyped-def]
    """Tell the format of a group by the packets kept of it: every header must fit and the numbers must run on."""
    base, m = g * LEARN, groups[g, G_SEEN]
    best, best_runs = np.int64(NONE), np.int64(0)
    channels = np.empty(16, np.int64)
    expected = np.empty(16, np.int64)
    for code in range(len(HEADER)):
        known = 0
        fits = runs = steps = moves = 0
        early, late = np.iinfo(np.int64).max, np.int64(0)
        for q in range(m):
            slot = base + q
            if not parse(code, heads, slot * HEAD_BYTES, meta[slot, 2], meta[slot, 1], head):
                continue
            fits += 1
            if head[SENT] != _NULL:
                early, late = min(early, head[SENT]), max(late, head[SENT])
            c = 0
            while c < known and channels[c] != head[CHANNEL]:
                c += 1
            if c == known:
                if known == 16:
                    continue
                channels[c] = head[CHANNEL]
                known += 1
            else:
                steps += 1
                # A copy of the packet before says nothing either way.
                if head[SEQ] == expected[c]:
                    runs += 1
                    moves += head[STEP] > 0
                elif head[SEQ] + head[STEP] == expected[c]:
                    steps -= 1
            expected[c] = head[SEQ] + head[STEP]
        if late > 0 and late - early > 86_400_000_000_000:
            continue
        if 20 * fits >= 19 * m and moves >= 2 and 10 * runs >= 6 * steps and runs > best_runs:
            best, best_runs = np.int64(code), np.int64(runs)
    groups[g, G_FORMAT] = best
