"""The SoupBinTCP kernel: segments of a stream in order, messages counted, holes noticed (see `soup`)."""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

from telemetry.wire.feedgaps import put
from telemetry.wire.feedstate import PACKETS, TICK_NS
from telemetry.wire.prefetch import prefetch

__all__ = ["ACCEPTED", "FIELDS", "HOLE", "LOGIN", "SLOTS", "S_FLOW", "S_NUMBER", "WIDTH", "soup", "tick"]

HOLE, LOGIN = 20, 21
"""Codes of rows besides those of `feedstate`: a hole in the stream; (internal) a login."""

_NULL: Final = np.iinfo(np.int64).min
SLOTS: Final = 8  # segments that may wait for one before them
WIDTH: Final = 2048
_HOLD_NS: Final = 100_000_000
ACCEPTED: Final = 33  # bytes of a login's acceptance: length, type, session 10, number 20

(
    S_FLOW, S_STARTED, S_NEXT, S_SYNC, S_LEFT, S_HEAD, S_KIND, S_NUMBER, S_MESSAGES, S_SESSION, S_HOLES, S_WAITING,
) = range(12)  # fmt: skip
FIELDS: Final = 12
_AHEAD: Final = 16  # packets ahead for whose payload the processor is told to go
_P_SEQ, _P_LEN, _P_CAP, _P_TIME = range(4)
_SYN: Final = 2
_BAD_SYN: Final = ~0x7FFF | _SYN  # and the sign, for flags that are missing


@njit(cache=True, nogil=True)
def _known(kind):  # type: ignore[no-untyped-def]
    """Whether it is the type of a packet: + A H J L O R S U Z."""
    return kind in (43, 65, 72, 74, 76, 79, 82, 83, 85, 90)


@njit(cache=True, nogil=True)
def _accepts(data, at, cap):  # type: ignore[no-untyped-def]
    """Whether a login's acceptance stands at a place."""
    if cap < ACCEPTED or data[at] != 0 or data[at + 1] != 31 or data[at + 2] != 65:
        return False
    digits = 0
    for o in range(at + 13, at + 33):
        if 48 <= data[o] <= 57:
            digits += 1
        elif data[o] != 32 or digits > 0:
            return False
    return digits > 0


@njit(cache=True, nogil=True)
def _whole(data, at, cap, size):  # type: ignore[no-untyped-def]
    """Whether a segment is a row of whole packets."""
    if cap < size or size < 3:
        return False
    o = at
    while o + 3 <= at + size:
        length = (np.int64(data[o]) << 8) | data[o + 1]
        if length < 1 or not _known(data[o + 2]):
            return False
        o += 2 + length
    return o == at + size


@njit(cache=True, nogil=True)
def _lost(state, s, t, out, k):  # type: ignore[no-untyped-def]
    """The stream is not understood any more."""
    state[s, S_SYNC] = state[s, S_HEAD] = state[s, S_LEFT] = 0
    state[s, S_NUMBER] = -1
    state[s, S_HOLES] += 1
    return put(out, k, HOLE, s, t, 1, 0, 0)


@njit(cache=True, nogil=True)
def _missing(state, s, size, t, out, k):  # type: ignore[no-untyped-def]
    """Bytes of the stream that the capture does not have."""
    state[s, S_NEXT] = (state[s, S_NEXT] + size) & 0xFFFFFFFF
    if not state[s, S_SYNC]:
        return k
    if state[s, S_LEFT] >= size and state[s, S_KIND] != 65:
        state[s, S_LEFT] -= size
        return k
    return _lost(state, s, t, out, k)


@njit(cache=True, nogil=True)
def _take(state, s, head, data, at, cap, size, t, out, k):  # type: ignore[no-untyped-def]
    """The next bytes of a stream, in order."""
    if not state[s, S_SYNC]:
        if not _whole(data, at, cap, size):
            return _missing(state, s, size, t, out, k)
        state[s, S_SYNC] = 1
        state[s, S_LEFT] = state[s, S_HEAD] = 0
    state[s, S_NEXT] = (state[s, S_NEXT] + cap) & 0xFFFFFFFF
    o, end = at, at + cap
    while o < end:
        if state[s, S_LEFT] > 0:
            part = min(state[s, S_LEFT], end - o)
            if state[s, S_KIND] == 65:
                for b in range(part):
                    if state[s, S_HEAD] < ACCEPTED:
                        head[s, state[s, S_HEAD]] = data[o + b]
                        state[s, S_HEAD] += 1
            o += part
            state[s, S_LEFT] -= part
            if state[s, S_LEFT] == 0:
                if state[s, S_KIND] == 65 and _accepts(head[s], 0, state[s, S_HEAD]):
                    number, session = np.int64(0), np.int64(0)
                    for b in range(13, 33):
                        if head[s, b] != 32:
                            number = number * 10 + (np.int64(head[s, b]) - 48)
                    for b in range(3, 13):
                        session = session * 1_000_003 + head[s, b]
                    before, state[s, S_NUMBER] = state[s, S_NUMBER], max(number, 1)
                    state[s, S_SESSION] = session
                    k = put(out, k, LOGIN, s, t, max(number, 1), session, before)
                state[s, S_HEAD] = 0
            continue
        head[s, state[s, S_HEAD]] = data[o]
        state[s, S_HEAD] += 1
        o += 1
        if state[s, S_HEAD] == 3:
            length = (np.int64(head[s, 0]) << 8) | head[s, 1]
            kind = np.int64(head[s, 2])
            if length < 1 or not _known(kind):
                # not what it seemed: look for a segment to begin with
                state[s, S_NEXT] = (state[s, S_NEXT] + size - cap) & 0xFFFFFFFF
                return _lost(state, s, t, out, k)
            state[s, S_KIND], state[s, S_LEFT] = kind, length - 1
            if kind == 83:
                state[s, S_MESSAGES] += 1
                if state[s, S_NUMBER] >= 0:
                    state[s, S_NUMBER] += 1
            if kind != 65:
                state[s, S_HEAD] = 0
    if size > cap:
        k = _missing(state, s, size - cap, t, out, k)
    return k


@njit(cache=True, nogil=True)
def _segment(state, s, head, data, at, cap, size, seq, t, out, k):  # type: ignore[no-untyped-def]
    """A segment at or before the next byte: what is new of it."""
    old = (state[s, S_NEXT] - seq) & 0xFFFFFFFF
    if old >= 0x80000000 or old >= size:
        return k
    if old > cap:
        return _missing(state, s, size - old, t, out, k)
    return _take(state, s, head, data, at + old, cap - old, size - old, t, out, k)


@njit(cache=True, nogil=True)
def _drain(state, s, head, waiting, held, t, force, out, k):  # type: ignore[no-untyped-def]
    """Take waiting segments that follow on; with `force` the first of them, past a hole."""
    while state[s, S_WAITING] > 0:
        first, least = -1, np.int64(0x7FFFFFFF)
        for w in range(state[s, S_WAITING]):
            ahead = (waiting[s, w, _P_SEQ] - state[s, S_NEXT]) & 0xFFFFFFFF
            if ahead >= 0x80000000:
                ahead -= 0x100000000
            if ahead < least:
                first, least = w, ahead
        if least > 0:
            if not force:
                break
            k = _missing(state, s, least, t, out, k)
            force = False
        k = _segment(
            state, s, head, held[s, first], 0, waiting[s, first, _P_CAP], waiting[s, first, _P_LEN],
            waiting[s, first, _P_SEQ], waiting[s, first, _P_TIME], out, k,
        )  # fmt: skip
        state[s, S_WAITING] -= 1
        last = state[s, S_WAITING]
        for c in range(4):
            waiting[s, first, c] = waiting[s, last, c]
        held[s, first, :] = held[s, last, :]
    return k


@njit(cache=True, nogil=True)
def soup(  # type: ignore[no-untyped-def]
    start, n, times, flow, proto, flags, seqs, plens, pcaps, poffs, data, soup_of, state, head, waiting, held, clock,
    count, out,
):  # fmt: skip
    """Feed packets from `start`; (next packet, rows, streams known). Stops where a new stream has no room."""
    k = 0
    tick_end = (clock[0] + 1) * TICK_NS if clock[0] != _NULL else _NULL
    for i in range(start, n):
        soon = i + _AHEAD
        if soon < n and soup_of[max(flow[soon], 0)] > 0:
            prefetch(data, poffs[soon])  # of others nothing is read, and a needless line costs what a needed one does
        f = np.int64(flow[i])
        # One question for what most packets are, another protocol or none: a branch that is easy to foretell.
        if (f < 0) | ((soup_of[max(f, 0)] < 0) & (flags[i] & _BAD_SYN != _SYN)):
            continue
        s = np.int64(soup_of[f]) - 1
        if s == -2:
            if proto[i] == 6:
                soup_of[f] = 0  # another connection
            continue
        if plens[i] <= 0 or times[i] == _NULL or poffs[i] < 0 or flags[i] < 0:
            continue
        cap, size, at = np.int64(pcaps[i]), np.int64(plens[i]), poffs[i]
        if at + cap > len(data):
            continue
        if s < 0:
            if not _accepts(data, at, cap):
                soup_of[f] = -1  # a server's first word is whether it accepts
                continue
            if count >= len(state):
                return i, k, count
            s = np.int64(count)
            count += 1
            soup_of[f] = s + 1
            state[s, :] = 0
            state[s, S_FLOW], state[s, S_NUMBER] = f, -1
        if k + 2 * count + cap // 3 + SLOTS * (WIDTH // 3 + 2) + 8 > len(out):
            return i, k, count
        t = times[i]
        if t >= tick_end:
            if tick_end != _NULL:
                k = tick(state, count, tick_end, out, k)
            clock[0] = t // TICK_NS
            tick_end = (clock[0] + 1) * TICK_NS
        seq = seqs[i]
        if _accepts(data, at, cap) and state[s, S_WAITING] == 0 and (seq - state[s, S_NEXT]) & 0xFFFFFFFF != 0:
            state[s, S_STARTED] = 0  # another connection on the same ports
        if not state[s, S_STARTED]:
            state[s, S_STARTED], state[s, S_NEXT] = 1, seq
            state[s, S_LEFT] = state[s, S_HEAD] = state[s, S_WAITING] = 0
            state[s, S_SYNC] = 1 if _accepts(data, at, cap) else 0
        ahead = (seq - state[s, S_NEXT]) & 0xFFFFFFFF
        if 0 < ahead < 0x80000000:
            w = state[s, S_WAITING]
            if w > 0 and (w == SLOTS or t - waiting[s, 0, _P_TIME] > _HOLD_NS):
                k = _drain(state, s, head, waiting, held, t, True, out, k)
                w = state[s, S_WAITING]
                ahead = (seq - state[s, S_NEXT]) & 0xFFFFFFFF
            if 0 < ahead < 0x80000000:
                if w < SLOTS:
                    kept = cap if cap < WIDTH else np.int64(WIDTH)
                    waiting[s, w, 0], waiting[s, w, 1], waiting[s, w, 2], waiting[s, w, 3] = seq, size, kept, t
                    for b in range(kept):
                        held[s, w, b] = data[at + b]
                    state[s, S_WAITING] = w + 1
                continue
        k = _segment(state, s, head, data, at, cap, size, seq, t, out, k)
        k = _drain(state, s, head, waiting, held, t, False, out, k)
    return n, k, count


@njit(cache=True, nogil=True)
def tick(state, count, end, out, k):  # type: ignore[no-untyped-def]
    for s in range(count):
        if state[s, S_MESSAGES] > 0:
            k = put(out, k, PACKETS, s, end - 1, state[s, S_MESSAGES], 0, 0)
            state[s, S_MESSAGES] = 0
    return k
