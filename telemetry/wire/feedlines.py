"""The A and B lines of a feed: two streams of the same content, and what is missing on both.

Kernels. Their union has gaps of its own: those are loss on both lines.
"""

from __future__ import annotations

from typing import Final

from numba import njit

from telemetry.wire.feedgaps import fill, open_gap, put
from telemetry.wire.feedstate import (
    GAP_SLOTS,
    LOST_BOTH,
    P_A,
    P_B,
    P_EXPECTED,
    P_OPEN,
    S_EXPECTED,
    S_LINE,
    S_PAIR,
    S_PARTNER,
    S_VOTED,
    S_VOTES,
)

__all__ = ["agree", "restart_union", "union"]

_AGREE: Final = 8  # equal contents before two streams count as lines of one feed


@njit(cache=True, nogil=True)
def union(state, pair, pgaps, p, seq, step, time, out, k):  # type: ignore[no-untyped-def]
    """One packet of either line, against the union of both."""
    expected = pair[p, P_EXPECTED]
    if seq > expected:
        if pair[p, P_OPEN] == GAP_SLOTS:
            g = pgaps[p]
            k = put(out, k, LOST_BOTH, pair[p, P_A], g[0, 2], g[0, 1] - g[0, 0] + 1, g[0, 0], g[0, 1])
            pair[p, P_OPEN], _ = fill(g, pair[p, P_OPEN], g[0, 0], g[0, 1])
        pair[p, P_OPEN] = open_gap(pgaps[p], pair[p, P_OPEN], expected, seq - 1, time)
        pair[p, P_EXPECTED] = seq + step
    elif seq == expected:
        pair[p, P_EXPECTED] = seq + step
    elif step > 0 and pair[p, P_OPEN] > 0:
        pair[p, P_OPEN], _ = fill(pgaps[p], pair[p, P_OPEN], seq, seq + step - 1)
    return k


@njit(cache=True, nogil=True)
def restart_union(state, pair, s, seq_end):  # type: ignore[no-untyped-def]
    """The lines restart one after the other: the union begins anew with the first."""
    p = state[s, S_PAIR]
    if seq_end < pair[p, P_EXPECTED]:
        pair[p, P_EXPECTED], pair[p, P_OPEN] = seq_end, 0


@njit(cache=True, nogil=True)
def agree(s, o, state, pair, counts):  # type: ignore[no-untyped-def]
    """Stream `s` carries what `o` carried: count that, and make them lines of one feed when it is plain."""
    if state[s, S_PARTNER] >= 0 or state[o, S_PARTNER] >= 0:
        return
    if state[s, S_VOTED] != o:
        state[s, S_VOTED], state[s, S_VOTES] = o, 0
    state[s, S_VOTES] += 1
    if state[s, S_VOTES] >= _AGREE and counts[1] < len(pair):
        p = counts[1]
        counts[1] += 1
        a, b = (s, o) if state[s, S_LINE] < state[o, S_LINE] else (o, s)
        state[s, S_PARTNER], state[o, S_PARTNER] = o, s
        state[s, S_PAIR] = state[o, S_PAIR] = p
        pair[p, P_A], pair[p, P_B], pair[p, P_OPEN] = a, b, 0
        pair[p, P_EXPECTED] = max(state[s, S_EXPECTED], state[o, S_EXPECTED])
