"""The feed kernel: sequence numbers of every feed packet against what was expected.

A *group* is a destination (address, port); a *stream* is a channel inside a group and has its own
numbers. A step over expected numbers opens a gap. A gap that is filled within `HOLD_NS` was
reordering; one that is not is a gap event, with its exact range. Numbers that go back and stay back are a
reset: one event, not thousands of old packets.

Streams of two groups that carry the same content are the A and B lines of a feed. Their union has
gaps of its own: those are loss on both lines.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

from telemetry.wire.formats import (
    CHANNEL,
    CONTENT,
    DATA,
    HEADER,
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
from telemetry.wire.prefetch import prefetch

__all__ = ["GAP_SLOTS", "HEAD_BYTES", "HOLD_NS", "LEARN", "ROWS_EACH", "TICK_NS", "feed", "ranges", "sweep", "tell"]

HOLD_NS: Final = 100_000_000
"""How long a gap may wait to be filled before it counts."""
GAP_SLOTS: Final = 32
"""Gaps of one stream that can be open at once."""
LEARN: Final = 32
"""Packets of a group that are looked at before its format is told."""
HEAD_BYTES: Final = 64
"""Bytes of payload that matter: header and enough content to tell A and B lines."""
ROWS_EACH: Final = 2 * GAP_SLOTS + 8
"""Most rows that one packet gives, but for the sweep."""
TICK_NS: Final = 100_000_000
AHEAD: Final = 16
"""Packets ahead for whose payload the processor is told to go."""

_NULL: Final = np.iinfo(np.int64).min
_AGREE: Final = 8  # equal contents before two streams count as lines of one feed

# Group state: format (>= 0), UNKNOWN or NONE; packets learnt from; time of the first, then of the telling; order
# among lines; stream + 1.
UNKNOWN, NONE = -1, -2
G_FORMAT, G_SEEN, G_SINCE, G_RANK, G_STREAM = range(5)

# Stream state, int64.
(
    S_GROUP, S_CHANNEL, S_EXPECTED, S_STARTED, S_RUN_NEXT, S_RUN, S_OPEN, S_PACKETS, S_TICK_PACKETS, S_PARTNER, S_VOTES,
    S_VOTED, S_LINE, S_PAIR, S_RESETS, S_OLD, S_LAST,
) = range(17)  # fmt: skip
STREAM_FIELDS: Final = 17

# Pair (arbitrated) state.
P_EXPECTED, P_OPEN, P_A, P_B = range(4)

# Event codes.
GAP, REORDERED, DUPLICATE, RESTART, SKEW, DELAY, PACKETS, LOST_BOTH, STARTED = range(9)


@njit(cache=True, nogil=True)
def _put(out, k, code, stream, time, value, lo, hi):  # type: ignore[no-untyped-def]
    out[k, 0], out[k, 1], out[k, 2], out[k, 3], out[k, 4], out[k, 5] = code, stream, time, value, lo, hi
    return k + 1


@njit(cache=True, nogil=True)
def _stream_of(group, channel, rank, table, state, count):  # type: ignore[no-untyped-def]
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
def _open_gap(gaps, n_open, lo, hi, time):  # type: ignore[no-untyped-def]
    gaps[n_open, 0], gaps[n_open, 1], gaps[n_open, 2] = lo, hi, time
    return n_open + 1


@njit(cache=True, nogil=True)
def _fill(gaps, n_open, lo, hi):  # type: ignore[no-untyped-def]
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
            n_open = _open_gap(gaps, n_open, y + 1, b, gaps[g, 2])
        else:  # no room to split: keep the larger side
            if x - a >= b - y:
                gaps[g, 1] = x - 1
            else:
                gaps[g, 0] = y + 1
        g += 1
    return n_open, filled


@njit(cache=True, nogil=True)
def _settle(gaps, n_open, before, code, stream, out, k):  # type: ignore[no-untyped-def]
    """Declare gaps opened before a time; return (open gaps, rows)."""
    kept = 0
    for g in range(n_open):
        if gaps[g, 2] < before:
            lo, hi = gaps[g, 0], gaps[g, 1]
            k = _put(out, k, code, stream, gaps[g, 2], hi - lo + 1, lo, hi)
        else:
            gaps[kept, 0], gaps[kept, 1], gaps[kept, 2] = gaps[g, 0], gaps[g, 1], gaps[g, 2]
            kept += 1
    return kept, k


@njit(cache=True, nogil=True)
def _advance(state, s, gaps, seq, step, kind, time, out, k):  # type: ignore[no-untyped-def]
    """One packet of a stream."""
    expected = state[s, S_EXPECTED]
    if not state[s, S_STARTED] or kind == RESET:
        if state[s, S_STARTED] and seq < expected:
            state[s, S_RESETS] += 1
            n_open, k = _settle(gaps, state[s, S_OPEN], np.iinfo(np.int64).max, GAP, s, out, k)
            state[s, S_OPEN] = n_open
            k = _put(out, k, RESTART, s, time, 1, expected, seq)
        state[s, S_STARTED], state[s, S_EXPECTED], state[s, S_RUN] = 1, seq + step, 0
        return k
    if seq == expected:
        state[s, S_EXPECTED] = seq + step
        state[s, S_RUN] = 0
        return k
    if seq > expected:
        if state[s, S_OPEN] == GAP_SLOTS:
            k = _put(out, k, GAP, s, gaps[0, 2], gaps[0, 1] - gaps[0, 0] + 1, gaps[0, 0], gaps[0, 1])
            state[s, S_OPEN], _ = _fill(gaps, state[s, S_OPEN], gaps[0, 0], gaps[0, 1])
        state[s, S_OPEN] = _open_gap(gaps, state[s, S_OPEN], expected, seq - 1, time)
        state[s, S_EXPECTED] = seq + step
        state[s, S_RUN] = 0
        return k
    # An old number: it fills a gap, or is a duplicate, or the numbers have started anew.
    if kind == HEARTBEAT and seq > 1:
        return k
    filled = 0
    if step > 0 and state[s, S_OPEN] > 0:
        state[s, S_OPEN], filled = _fill(gaps, state[s, S_OPEN], seq, seq + step - 1)
    if filled > 0:
        return _put(out, k, REORDERED, s, time, 1, seq, seq + step - 1)
    if state[s, S_RUN] > 0 and seq == state[s, S_RUN_NEXT]:
        state[s, S_RUN] += 1
    else:
        state[s, S_RUN] = 1 if step > 0 else 0
        state[s, S_OLD] = seq
    state[s, S_RUN_NEXT] = seq + step
    # A restart at the bottom is plain after three packets; elsewhere it might be a replay, so wait longer.
    if state[s, S_RUN] >= (3 if state[s, S_OLD] <= 1 else 64):
        n_open, k = _settle(gaps, state[s, S_OPEN], np.iinfo(np.int64).max, GAP, s, out, k)
        state[s, S_OPEN] = n_open
        # The packets that proved it were counted as duplicates: take them back.
        k = _put(out, k, DUPLICATE, s, time, -(state[s, S_RUN] - 1), state[s, S_OLD], seq)
        state[s, S_RESETS] += 1
        state[s, S_RUN] = 0
        state[s, S_EXPECTED] = seq + step
        return _put(out, k, RESTART, s, time, 1, expected, state[s, S_OLD])
    if step > 0:
        k = _put(out, k, DUPLICATE, s, time, 1, seq, seq + step - 1)
    return k


@njit(cache=True, nogil=True)
def _union(state, pair, pgaps, p, seq, step, time, out, k):  # type: ignore[no-untyped-def]
    """One packet of either line, against the union of both."""
    expected = pair[p, P_EXPECTED]
    if seq > expected:
        if pair[p, P_OPEN] == GAP_SLOTS:
            g = pgaps[p]
            k = _put(out, k, LOST_BOTH, pair[p, P_A], g[0, 2], g[0, 1] - g[0, 0] + 1, g[0, 0], g[0, 1])
            pair[p, P_OPEN], _ = _fill(g, pair[p, P_OPEN], g[0, 0], g[0, 1])
        pair[p, P_OPEN] = _open_gap(pgaps[p], pair[p, P_OPEN], expected, seq - 1, time)
        pair[p, P_EXPECTED] = seq + step
    elif seq == expected:
        pair[p, P_EXPECTED] = seq + step
    elif step > 0 and pair[p, P_OPEN] > 0:
        pair[p, P_OPEN], _ = _fill(pgaps[p], pair[p, P_OPEN], seq, seq + step - 1)
    return k


@njit(cache=True, nogil=True)
def _restart_union(state, pair, s, seq_end):  # type: ignore[no-untyped-def]
    """The lines restart one after the other: the union begins anew with the first."""
    p = state[s, S_PAIR]
    if seq_end < pair[p, P_EXPECTED]:
        pair[p, P_EXPECTED], pair[p, P_OPEN] = seq_end, 0


@njit(cache=True, nogil=True)
def _agree(s, o, state, pair, counts):  # type: ignore[no-untyped-def]
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


@njit(cache=True, nogil=True)
def sweep(now, state, gaps, pair, pgaps, counts, out, k):  # type: ignore[no-untyped-def]
    """Close a tick that ends at `now`: packets of each stream, and gaps that have waited long enough."""
    for s in range(counts[0]):
        if state[s, S_TICK_PACKETS] > 0:
            k = _put(out, k, PACKETS, s, now - 1, state[s, S_TICK_PACKETS], 0, 0)
            state[s, S_TICK_PACKETS] = 0
        if state[s, S_OPEN] > 0:
            state[s, S_OPEN], k = _settle(gaps[s], state[s, S_OPEN], now - HOLD_NS, GAP, s, out, k)
    for p in range(counts[1]):
        if pair[p, P_OPEN] > 0:
            pair[p, P_OPEN], k = _settle(pgaps[p], pair[p, P_OPEN], now - HOLD_NS, LOST_BOTH, pair[p, P_A], out, k)
    return k


@njit(cache=True, nogil=True)
def ranges(rows):  # type: ignore[no-untyped-def]
    """Those of the rows that tell of missing numbers."""
    n = 0
    for i in range(len(rows)):
        n += rows[i, 0] == GAP or rows[i, 0] == LOST_BOTH
    found = np.empty((n, rows.shape[1]), np.int64)
    n = 0
    for i in range(len(rows)):
        if rows[i, 0] == GAP or rows[i, 0] == LOST_BOTH:
            found[n] = rows[i]
            n += 1
    return found


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
def feed(  # type: ignore[no-untyped-def]
    start, n, times, flow, poff, plen, pcap, data, group_of, groups, heads, meta, clock, stable, state, gaps, pair,
    pgaps, content, counts, head, lines, out,
):  # fmt: skip
    """Feed packets from `start`; return (next packet, rows written).

    A group whose format has just been told is replayed from what was kept of it (`clock`: tick, group to
    replay + 1, packet of it). Stops early where `out` might not hold what the next packet finds.
    """
    k = 0
    i = start
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
            if i >= n:
                break
            soon = i + AHEAD
            if soon < n and flow[soon] >= 0 and group_of[flow[soon]] >= 0:
                prefetch(data, poff[soon])
            f = flow[i]
            if f < 0:
                i += 1
                continue
            g = np.int64(group_of[f])
            if g < 0 or groups[g, G_FORMAT] == NONE or plen[i] <= 0 or times[i] == _NULL:
                i += 1
                continue
            t = times[i]
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
                i += 1
                continue
            if code == MOLD:
                s = groups[g, G_STREAM] - 1
                channel = state[s, S_CHANNEL] if s >= 0 else np.int64(0)
                fits, seq, step = mold_again(data, poff[i], np.int64(pcap[i]), channel)
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
            i += 1
        if not fits:
            counts[2] += 1
            continue
        s = groups[g, G_STREAM] - 1
        if s < 0 or state[s, S_CHANNEL] != channel:
            s, known = _stream_of(g, channel, groups[g, G_RANK], stable, state, counts[0])
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
            k = _put(out, k, DELAY, s, t, t - sent, 0, 0)
        p = state[s, S_PAIR]
        if seq == state[s, S_EXPECTED] and state[s, S_STARTED] and kind != RESET:
            state[s, S_EXPECTED] = seq + step
            state[s, S_RUN] = 0
        else:
            resets = state[s, S_RESETS]
            k = _advance(state, s, gaps[s], seq, step, kind, t, out, k)
            if p >= 0 and state[s, S_RESETS] != resets:
                _restart_union(state, pair, s, seq + step)
        if p >= 0:
            if seq == pair[p, P_EXPECTED]:
                pair[p, P_EXPECTED] = seq + step
            elif pair[p, P_OPEN] > 0 or (seq > pair[p, P_EXPECTED] and seq + step >= state[s, S_EXPECTED]):
                k = _union(state, pair, pgaps, p, seq, step, t, out, k)
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
                _agree(s, o, state, pair, counts)
            if state[s, S_PARTNER] == o:
                p = state[s, S_PAIR]
                late = t - content[c, 2]
                k = _put(out, k, SKEW, pair[p, P_A], t, late if pair[p, P_B] == s else -late, 0, 0)
            content[c, 1] = 0
            continue
        content[c, 0], content[c, 1], content[c, 2] = np.int64(h), s + 1, t
    clock[1], clock[2] = replay + 1, place
    return i, k
