"""One stream of a feed: found by its channel, and its numbers against what was expected.

Kernels. A step over expected numbers opens a gap; an old number fills one, is a duplicate, or begins the numbers anew.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from telemetry.wire.feedgaps import fill, open_gap, put, settle
from telemetry.wire.feedstate import (
    DUPLICATE,
    GAP,
    GAP_SLOTS,
    REORDERED,
    RESTART,
    S_CHANNEL,
    S_EXPECTED,
    S_GROUP,
    S_LINE,
    S_OLD,
    S_OPEN,
    S_PAIR,
    S_PARTNER,
    S_RESETS,
    S_RUN,
    S_RUN_NEXT,
    S_STARTED,
    S_VOTED,
)
from telemetry.wire.formats import HEARTBEAT, RESET

__all__ = ["advance", "stream_of"]


@njit(cache=True, nogil=True)
def stream_of(group, channel, rank, table, state, count):  # type: ignore[no-untyped-def]
    """Return (stream, streams known); -1 if there is no room."""
    mask = len(table) - 1
    slot = np.int64((np.uint64(group * 7_919 + channel) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)) & mask
    while table[slot] >= 0:
        s = table[slot]
        if state[s, S_GROUP] == group and state[s, S_CHANNEL] == channel:
            return np.int64(s), count
        slot = (slot + 1) & mask
    if count >= len(state):
        return np.int64(-1), count
    table[slot] = count
    state[count, :] = 0
    state[count, S_GROUP], state[count, S_CHANNEL], state[count, S_LINE] = group, channel, rank
    state[count, S_PARTNER] = state[count, S_PAIR] = state[count, S_VOTED] = -1
    return np.int64(count), count + 1


@njit(cache=True, nogil=True)
def advance(state, s, gaps, seq, step, kind, time, out, k):  # type: ignore[no-untyped-def]
    """One packet of a stream."""
    expected = state[s, S_EXPECTED]
    if not state[s, S_STARTED] or kind == RESET:
        if state[s, S_STARTED] and seq < expected:
            state[s, S_RESETS] += 1
            n_open, k = settle(gaps, state[s, S_OPEN], np.iinfo(np.int64).max, GAP, s, out, k)
            state[s, S_OPEN] = n_open
            k = put(out, k, RESTART, s, time, 1, expected, seq)
        state[s, S_STARTED], state[s, S_EXPECTED], state[s, S_RUN] = 1, seq + step, 0
        return k
    if seq == expected:
        state[s, S_EXPECTED] = seq + step
        state[s, S_RUN] = 0
        return k
    if seq > expected:
        if state[s, S_OPEN] == GAP_SLOTS:
            k = put(out, k, GAP, s, gaps[0, 2], gaps[0, 1] - gaps[0, 0] + 1, gaps[0, 0], gaps[0, 1])
            state[s, S_OPEN], _ = fill(gaps, state[s, S_OPEN], gaps[0, 0], gaps[0, 1])
        state[s, S_OPEN] = open_gap(gaps, state[s, S_OPEN], expected, seq - 1, time)
        state[s, S_EXPECTED] = seq + step
        state[s, S_RUN] = 0
        return k
    # An old number: it fills a gap, or is a duplicate, or the numbers have started anew.
    if kind == HEARTBEAT and seq > 1:
        return k
    filled = 0
    if step > 0 and state[s, S_OPEN] > 0:
        state[s, S_OPEN], filled = fill(gaps, state[s, S_OPEN], seq, seq + step - 1)
    if filled > 0:
        return put(out, k, REORDERED, s, time, 1, seq, seq + step - 1)
    if state[s, S_RUN] > 0 and seq == state[s, S_RUN_NEXT]:
        state[s, S_RUN] += 1
    else:
        state[s, S_RUN] = 1 if step > 0 else 0
        state[s, S_OLD] = seq
    state[s, S_RUN_NEXT] = seq + step
    # A restart at the bottom is plain after three packets; elsewhere it might be a replay, so wait longer.
    if state[s, S_RUN] >= (3 if state[s, S_OLD] <= 1 else 64):
        n_open, k = settle(gaps, state[s, S_OPEN], np.iinfo(np.int64).max, GAP, s, out, k)
        state[s, S_OPEN] = n_open
        # The packets that proved it were counted as duplicates: take them back.
        k = put(out, k, DUPLICATE, s, time, -(state[s, S_RUN] - 1), state[s, S_OLD], seq)
        state[s, S_RESETS] += 1
        state[s, S_RUN] = 0
        state[s, S_EXPECTED] = seq + step
        return put(out, k, RESTART, s, time, 1, expected, state[s, S_OLD])
    if step > 0:
        k = put(out, k, DUPLICATE, s, time, 1, seq, seq + step - 1)
    return k
