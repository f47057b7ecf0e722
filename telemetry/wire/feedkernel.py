"""The feed kernel: sequence numbers of every feed packet against what was expected.

A *group* is a destination (address, port); a *stream* is a channel inside a group and has its own
numbers. A step over expected numbers opens a gap. A gap that is filled within `HOLD_NS` was
reordering; one that is not is a gap event, with its exact range. Numbers that go back and stay back are a
reset: one event, not thousands of old packets.

Streams of two groups that carry the same content are the A and B lines of a feed (`feedlines`).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

from telemetry.wire.chosen import of_flows
from telemetry.wire.feedgaps import put, settle
from telemetry.wire.feedlines import agree, restart_union, union
from telemetry.wire.feedstate import (
    DELAY,
    G_FORMAT,
    G_RANK,
    G_SEEN,
    G_SINCE,
    G_STREAM,
    GAP,
    GAP_SLOTS,
    HEAD_BYTES,
    HOLD_NS,
    LEARN,
    LOST_BOTH,
    NONE,
    P_A,
    P_B,
    P_EXPECTED,
    P_OPEN,
    PACKETS,
    S_CHANNEL,
    S_EXPECTED,
    S_GROUP,
    S_LAST,
    S_OPEN,
    S_PACKETS,
    S_PAIR,
    S_PARTNER,
    S_RESETS,
    S_RUN,
    S_STARTED,
    S_TICK_PACKETS,
    SKEW,
    TICK_NS,
)
from telemetry.wire.feedstream import advance, stream_of
from telemetry.wire.feedtell import keep, tell
from telemetry.wire.formats import (
    CHANNEL,
    CONTENT,
    DATA,
    HEARTBEAT,
    KIND,
    MOLD,
    OTHER,
    RESET,
    SENT,
    SEQ,
    STEP,
    mold_again,
    parse,
    parse_mold,
)

__all__ = ["ROWS_EACH", "feed", "ranges", "sweep"]

ROWS_EACH: Final = 2 * GAP_SLOTS + 8
"""Most rows that one packet gives, but for the sweep."""

_NULL: Final = np.iinfo(np.int64).min


@njit(cache=True, nogil=True)
def sweep(now, state, gaps, pair, pgaps, counts, out, k):  # type: ignore[no-untyped-def]
    """Close a tick that ends at `now`: packets of each stream, and gaps that have waited long enough."""
    for s in range(counts[0]):
        if state[s, S_TICK_PACKETS] > 0:
            k = put(out, k, PACKETS, s, now - 1, state[s, S_TICK_PACKETS], 0, 0)
            state[s, S_TICK_PACKETS] = 0
        if state[s, S_OPEN] > 0:
            state[s, S_OPEN], k = settle(gaps[s], state[s, S_OPEN], now - HOLD_NS, GAP, s, out, k)
    for p in range(counts[1]):
        if pair[p, P_OPEN] > 0:
            pair[p, P_OPEN], k = settle(pgaps[p], pair[p, P_OPEN], now - HOLD_NS, LOST_BOTH, pair[p, P_A], out, k)
    return k


@njit(cache=True, nogil=True)
def ranges(rows):  # type: ignore[no-untyped-def]
    """Those of the rows that tell of missing numbers."""
    n = 0
    for i in range(len(rows)):
        n += (rows[i, 0] == GAP) | (rows[i, 0] == LOST_BOTH)
    found = np.empty((n, rows.shape[1]), np.int64)
    if n == 0:
        return found
    n = 0
    for i in range(len(rows)):
        if rows[i, 0] == GAP or rows[i, 0] == LOST_BOTH:
            found[n] = rows[i]
            n += 1
    return found


@njit(cache=True, nogil=True)
def feed(  # type: ignore[no-untyped-def]
    start, n, times, flow, poff, plen, pcap, data, head0, head1, head2, group_of, groups, heads, meta, clock, stable,
    state, gaps, pair, pgaps, content, counts, head, lines, out, k,
):  # fmt: skip
    """Feed packets from `start`, put rows behind the first `k`; return (next packet, rows).

    A group whose format has just been told is replayed from what was kept of it (`clock`: tick, group to
    replay + 1, packet of it). Stops early where `out` might not hold what the next packet finds.
    """
    chosen = of_flows(start, n, flow, group_of)
    at = 0
    replay, place = clock[1] - 1, clock[2]
    tick_end = (clock[0] + 1) * TICK_NS if clock[0] != _NULL else _NULL
    while True:
        if k + ROWS_EACH > len(out):
            break
        if replay >= 0:
            g = replay
            if place >= groups[g, G_SEEN]:
                replay = np.int64(-1)
                continue
            slot = g * LEARN + place
            place += 1
            code = groups[g, G_FORMAT]
            if code < 0:
                continue
            t = meta[slot, 0]
            fits = parse(code, heads, slot * HEAD_BYTES, meta[slot, 2], meta[slot, 1], head)
            channel, seq, step, kind = head[CHANNEL], head[SEQ], head[STEP], head[KIND]
            sent, digest = head[SENT], head[CONTENT]
        else:
            if at >= len(chosen):
                break
            i = chosen[at]
            g = np.int64(group_of[flow[i]])
            t = times[i]
            if groups[g, G_FORMAT] == NONE or plen[i] <= 0 or t == _NULL:
                at += 1
                continue
            if t >= tick_end:
                if clock[0] != _NULL:
                    if k + ROWS_EACH + (GAP_SLOTS + 1) * counts[0] + GAP_SLOTS * counts[1] > len(out):
                        break
                    k = sweep((clock[0] + 1) * TICK_NS, state, gaps, pair, pgaps, counts, out, k)
                clock[0] = t // TICK_NS
                tick_end = (clock[0] + 1) * TICK_NS
            code = groups[g, G_FORMAT]
            if code < 0:
                if keep(i, g, t, poff, plen, pcap, data, groups, heads, meta):
                    tell(g, groups, heads, meta, head)
                    groups[g, G_SINCE] = t
                    replay, place = g, np.int64(0)
                at += 1
                continue
            if code == MOLD:
                s = groups[g, G_STREAM] - 1
                channel = state[s, S_CHANNEL] if s >= 0 else np.int64(0)
                fits, seq, step = mold_again(head0[i], head1[i], head2[i], pcap[i], channel)
                fits = fits and s >= 0
                sent, kind = np.int64(_NULL), np.int64(DATA if step > 0 else HEARTBEAT)
                if not fits:
                    fits, channel, seq, step, sent, kind = parse_mold(
                        data, poff[i], np.int64(pcap[i]), np.int64(plen[i])
                    )
                digest = channel
            else:
                fits = parse(code, data, poff[i], np.int64(pcap[i]), np.int64(plen[i]), head)
                channel, seq, step, kind = head[CHANNEL], head[SEQ], head[STEP], head[KIND]
                sent, digest = head[SENT], head[CONTENT]
            at += 1
        if not fits:
            counts[2] += 1
            continue
        s = groups[g, G_STREAM] - 1
        if s < 0 or state[s, S_CHANNEL] != channel:
            s, known = stream_of(g, channel, groups[g, G_RANK], stable, state, counts[0])
            counts[0] = known
            if s < 0:
                counts[3] += 1
                continue
            groups[g, G_STREAM] = s + 1
        state[s, S_PACKETS] += 1
        state[s, S_TICK_PACKETS] += 1
        state[s, S_LAST] = t
        if kind == OTHER:
            continue
        if sent != _NULL:
            k = put(out, k, DELAY, s, t, t - sent, 0, 0)
        p = state[s, S_PAIR]
        if seq == state[s, S_EXPECTED] and state[s, S_STARTED] and kind != RESET:
            state[s, S_EXPECTED] = seq + step
            state[s, S_RUN] = 0
        else:
            resets = state[s, S_RESETS]
            k = advance(state, s, gaps[s], seq, step, kind, t, out, k)
            if p >= 0 and state[s, S_RESETS] != resets:
                restart_union(state, pair, s, seq + step)
        if p >= 0:
            if seq == pair[p, P_EXPECTED]:
                pair[p, P_EXPECTED] = seq + step
            elif pair[p, P_OPEN] > 0 or (seq > pair[p, P_EXPECTED] and seq + step >= state[s, S_EXPECTED]):
                k = union(state, pair, pgaps, p, seq, step, t, out, k)
        if not lines or kind != DATA or step <= 0:
            continue
        # The same content under the same number in another group: the other line.
        h = np.uint64(digest ^ sent) ^ (np.uint64(seq) * np.uint64(0x9E3779B97F4A7C15))
        h ^= h >> np.uint64(29)
        h *= np.uint64(0xBF58476D1CE4E5B9)
        c = np.int64(h >> np.uint64(40)) & (len(content) - 1)
        o = content[c, 1] - 1
        if content[c, 0] == np.int64(h) and o >= 0 and o != s and state[o, S_GROUP] != g:
            if state[s, S_PARTNER] != o:
                agree(s, o, state, pair, counts)
            if state[s, S_PARTNER] == o:
                p = state[s, S_PAIR]
                late = t - content[c, 2]
                k = put(out, k, SKEW, pair[p, P_A], t, late if pair[p, P_B] == s else -late, 0, 0)
            content[c, 1] = 0
            continue
        content[c, 0], content[c, 1], content[c, 2] = np.int64(h), s + 1, t
    clock[1], clock[2] = replay + 1, place
    return chosen[at] if at < len(chosen) else n, k
