"""The TCP kernel: what each segment says about its connection.

The rules for acknowledgements, retransmissions, keep-alives and zero windows are those that
Wireshark documents for its TCP analysis, so that round-trip times are equal to
``tcp.analysis.ack_rtt`` to the nanosecond. Round trips by the timestamps option follow RFC 7323 and
Kathleen Nichols' pping: from a value's first appearance to its first echo, one probe at a time.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

from telemetry.wire.chosen import of_protocol

__all__ = ["EVENTS", "MOST_UNACKED", "TCP_FIELDS", "segments"]

MOST_UNACKED: Final = 10_000
"""Segments of one direction that are remembered without an acknowledgement."""

EVENTS: Final = (
    "rtt", "syn_rtt", "ts_rtt", "retransmission", "fast", "spurious", "out_of_order", "hole", "zero_window", "reset",
    "duplicate_ack", "delayed_ack", "nagle",
)  # fmt: skip
"""Kinds of row that `segments` writes."""
(RTT, SYN_RTT, TS_RTT, RETRANS, FAST, SPURIOUS, OOO, HOLE, ZERO, RST, DUPACK, DELAYED, NAGLE) = range(13)

# State of one direction.
(
    T_BASE_SET, T_BASE, T_SAW, T_NEXT, T_NEXT_TIME, T_LASTACK, T_LASTACK_TIME, T_WINDOW, T_FLAGS, T_DUPACKS, T_HEAD,
    T_COUNT, T_LOW, T_SYN_TIME, T_FIRST_RTT, T_PROBE, T_PROBE_TIME, T_PROBED, T_LEAST_RTT, T_STALL_TIME, T_STALL_WAIT,
    T_LAST_LEN, T_MSS, T_PEER_SET, T_PEER_BASE,
) = range(25)  # fmt: skip
TCP_FIELDS: Final = 25

_FIN, _SYN, _RST, _PSH, _ACK = 1, 2, 4, 8, 16
_SAW_SYN, _SAW_SYNACK = 1, 2
_KEEP_ALIVE, _PROBE = 1, 2  # of T_FLAGS
_NULL: Final = np.iinfo(np.int64).min
_M32: Final = 0xFFFFFFFF
_HALF: Final = 0x80000000
_SLOW_ACK_NS: Final = 20_000_000  # a delayed acknowledgement waits 40 ms or more; below half of that it is the path

# A remembered segment: sequence, next sequence, time; a free one links by U_LINK too.
U_SEQ, U_NEXT, U_TIME, U_LINK = range(4)


@njit(cache=True, nogil=True)
def _gt(a, b):  # type: ignore[no-untyped-def]
    """Whether sequence number a is after b (RFC 1982)."""
    d = (a - b) & _M32
    return 0 < d < _HALF


@njit(cache=True, nogil=True)
def _row(out, k, kind, flow, time, value):  # type: ignore[no-untyped-def]
    out[k, 0], out[k, 1], out[k, 2], out[k, 3] = kind, flow, time, value
    return k + 1


@njit(cache=True, nogil=True)
def _forget(state, f, pool, free):  # type: ignore[no-untyped-def]
    """Give back all segments of a direction."""
    at = state[f, T_HEAD] - 1
    while at >= 0:
        link = pool[at, U_LINK]
        pool[at, U_LINK] = free[0]
        free[0] = at
        at = link
    free[1] -= state[f, T_COUNT]
    state[f, T_HEAD] = state[f, T_COUNT] = 0


@njit(cache=True, nogil=True)
def _clear(state, f, pool, free):  # type: ignore[no-untyped-def]
    """Start a direction anew."""
    _forget(state, f, pool, free)
    for c in range(TCP_FIELDS):
        state[f, c] = 0


@njit(cache=True, nogil=True)
def segments(  # type: ignore[no-untyped-def]
    n, times, flow, proto, frag, seqs, acks, flagss, windows, plens, ts_vals, ts_ecrs, msss, peer, state, pool,
    free, counts, out,
):  # fmt: skip
    """Feed a batch; return rows written to `out` (kind, flow, time, value), at most 8 a packet.

    `flow` of a row is the direction that the finding is about: round trips and losses belong to the data's
    sender, windows and resets to the segment's. `counts`: segments, segments not remembered.
    """
    k = 0
    for i in of_protocol(n, proto, 6):
        f = np.int64(flow[i])
        if f < 0 or frag[i] != 0 or flagss[i] < 0 or times[i] == _NULL:
            continue
        r = np.int64(peer[f])
        t, seq, ack, seglen, window = times[i], seqs[i], acks[i], np.int64(plens[i]), np.int64(windows[i])
        flags = np.int64(flagss[i])
        counts[0] += 1
        if r >= 0 and not state[r, T_BASE_SET]:
            r = np.int64(-1)  # known from further on in the batch: nothing has been seen of it
        if flags & (_SYN | _ACK) == _SYN:
            own = state[f, T_BASE_SET] and seq != state[f, T_BASE]
            others = not state[f, T_BASE_SET] and r >= 0 and state[r, T_PEER_SET] and state[r, T_PEER_BASE] != seq
            if own or others:
                # Ports used again: another connection.
                _clear(state, f, pool, free)
                if r >= 0:
                    _clear(state, r, pool, free)
                    r = np.int64(-1)
        if not state[f, T_BASE_SET]:
            state[f, T_BASE_SET] = 1
            if flags & _SYN:
                state[f, T_BASE] = seq
                state[f, T_SAW] |= _SAW_SYNACK if flags & _ACK else _SAW_SYN
            else:
                state[f, T_BASE] = (seq - 1) & _M32
        if not state[f, T_PEER_SET] and flags & _ACK:
            state[f, T_PEER_SET], state[f, T_PEER_BASE] = 1, (ack - 1) & _M32
        # The handshake: from the SYN to the acknowledgement that ends it.
        if flags & (_SYN | _ACK) == _SYN:
            state[f, T_SYN_TIME] = t
            state[f, T_MSS] = msss[i]
        elif flags & (_SYN | _ACK) == (_SYN | _ACK):
            state[f, T_MSS] = msss[i]
        elif (
            r >= 0
            and flags & _ACK
            and state[f, T_FIRST_RTT] == 0
            and state[f, T_SYN_TIME] != 0
            and state[r, T_SAW] & _SAW_SYNACK
        ):
            state[f, T_FIRST_RTT] = state[r, T_FIRST_RTT] = max(t - state[f, T_SYN_TIME], 1)
            k = _row(out, k, SYN_RTT, f, t, t - state[f, T_SYN_TIME])
        nextseq = state[f, T_NEXT]
        lastack = state[f, T_LASTACK]
        control = flags & (_SYN | _FIN | _RST)
        told = 0
        done = False
        rev_window = state[r, T_WINDOW] if r >= 0 else 0
        if flags & _RST:
            k = _row(out, k, RST, f, t, 1)
        if seglen == 1 and seq == nextseq and rev_window == 0 and r >= 0:
            told |= _PROBE
            done = True
        if not done:
            if window == 0 and control == 0:
                k = _row(out, k, ZERO, f, t, 1)
            if nextseq != 0 and _gt(seq, nextseq) and not flags & _RST:
                k = _row(out, k, HOLE, f, t, (seq - nextseq) & _M32)
            if seglen <= 1 and seq == (nextseq - 1) & _M32 and control == 0:
                told |= _KEEP_ALIVE
            if seglen == 0 and window == state[f, T_WINDOW] and seq == nextseq and ack == lastack and control == 0:
                before = state[r, T_FLAGS] if r >= 0 else 0
                # The answer to a keep-alive or a window probe repeats the last acknowledgement, too.
                if window != 0 and not before & _KEEP_ALIVE:
                    state[f, T_DUPACKS] += 1
                    k = _row(out, k, DUPACK, f, t, 1)
        if ack != lastack:
            state[f, T_DUPACKS] = 0
        if (seglen > 0 or flags & (_SYN | _FIN)) and not told & _KEEP_ALIVE:
            back = nextseq != 0 and _gt(nextseq, seq)
            if seglen > 1 and (nextseq - 1) & _M32 == seq:
                back = False
            rev_ack = state[r, T_LASTACK] if r >= 0 else 0
            limit = state[f, T_FIRST_RTT] if state[f, T_FIRST_RTT] else 3_000_000
            if (
                back
                and r >= 0
                and state[r, T_DUPACKS] >= 2
                and rev_ack == seq
                and t - state[r, T_LASTACK_TIME] < 20_000_000
            ):
                k = _row(out, k, FAST, f, t, 1)
            elif back and t - state[f, T_NEXT_TIME] < limit and nextseq != (seq + seglen) & _M32:
                k = _row(out, k, OOO, f, t, 1)
            elif seglen > 0 and rev_ack != 0 and not _gt((seq + seglen) & _M32, rev_ack):
                k = _row(out, k, SPURIOUS, f, t, 1)
            elif back:
                k = _row(out, k, RETRANS, f, t, 1)
        # Nagle against delayed acknowledgements: small data goes out the moment a late acknowledgement comes.
        if seglen > 0:
            if state[f, T_STALL_TIME] != 0 and t - state[f, T_STALL_TIME] <= 1_000_000:
                k = _row(out, k, NAGLE, f, t, state[f, T_STALL_WAIT])
            state[f, T_STALL_TIME] = 0
            state[f, T_LAST_LEN] = seglen
        after = (seq + seglen) & _M32
        if seglen > 0 or flags & (_SYN | _FIN):
            if state[f, T_COUNT] < MOST_UNACKED and free[0] >= 0:
                if flags & (_SYN | _FIN):
                    after = (after + 1) & _M32
                u = free[0]
                free[0] = pool[u, U_LINK]
                if state[f, T_COUNT] == 0 or _gt(state[f, T_LOW], seq):
                    state[f, T_LOW] = seq
                pool[u, U_SEQ], pool[u, U_NEXT], pool[u, U_TIME], pool[u, U_LINK] = seq, after, t, state[f, T_HEAD] - 1
                state[f, T_HEAD] = u + 1
                state[f, T_COUNT] += 1
                free[1] += 1
            else:
                counts[1] += 1
        if not told & _PROBE and (nextseq == 0 or _gt(after, nextseq)):
            state[f, T_NEXT], state[f, T_NEXT_TIME] = after, t
        state[f, T_WINDOW], state[f, T_LASTACK], state[f, T_LASTACK_TIME], state[f, T_FLAGS] = window, ack, t, told
        # Timestamps option: the echo of the value that the other side is being timed by.
        if ts_vals[i] >= 0:
            if r >= 0 and state[r, T_PROBED] and flags & _ACK:
                d = (ts_ecrs[i] - state[r, T_PROBE]) & _M32
                if d < _HALF:
                    if d == 0:
                        k = _row(out, k, TS_RTT, r, t, t - state[r, T_PROBE_TIME])
                    state[r, T_PROBED] = 0
            if not state[f, T_PROBED] and (seglen > 0 or flags & _SYN) and ts_vals[i] != state[f, T_PROBE]:
                state[f, T_PROBED], state[f, T_PROBE], state[f, T_PROBE_TIME] = 1, ts_vals[i], t
        if r < 0:
            continue
        # What this segment acknowledges, newest first; the oldest match is the one that counts.
        if state[r, T_COUNT] > 0 and _gt(ack, state[r, T_LOW]):
            at, prev = state[r, T_HEAD] - 1, np.int64(-1)
            sent = _NULL
            low = np.int64(0)
            kept = 0
            while at >= 0:
                link = pool[at, U_LINK]
                if ack != pool[at, U_NEXT]:
                    if _gt(ack, pool[at, U_SEQ]) and _gt(pool[at, U_NEXT], ack):
                        pool[at, U_SEQ] = ack
                    if _gt(pool[at, U_NEXT], ack):
                        if kept == 0 or _gt(low, pool[at, U_SEQ]):
                            low = pool[at, U_SEQ]
                        kept += 1
                        prev, at = at, link
                        continue
                else:
                    sent = pool[at, U_TIME]
                if prev < 0:
                    state[r, T_HEAD] = link + 1
                else:
                    pool[prev, U_LINK] = link
                pool[at, U_LINK] = free[0]
                free[0] = at
                state[r, T_COUNT] -= 1
                free[1] -= 1
                at = link
            state[r, T_LOW] = low
            if sent != _NULL:
                rtt = t - sent
                k = _row(out, k, RTT, r, t, rtt)
                least = state[r, T_LEAST_RTT]
                if least == 0 or rtt < least:
                    state[r, T_LEAST_RTT] = max(rtt, 1)
                elif rtt - least >= _SLOW_ACK_NS and rtt < 1_000_000_000 and seglen == 0 and kept == 0:
                    k = _row(out, k, DELAYED, f, t, rtt)
                    if state[r, T_MSS] <= 0 or state[r, T_LAST_LEN] < state[r, T_MSS]:
                        state[r, T_STALL_TIME], state[r, T_STALL_WAIT] = t, rtt
    return k
