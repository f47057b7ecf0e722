"""Sequence headers of market-data feeds: one parse kernel for all, and the names of their codes.

Layouts from the venues' public specifications. A header tells the number of its first message (or of
the packet), how many numbers it uses up, and often a channel and a send time.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

__all__ = ["FORMATS", "HEADER", "SOUP", "mold_again", "parse", "parse_mold"]

FORMATS: Final = (
    "mdf1", "moldudp64", "iextp", "eobi", "pillar", "pitch", "omd", "opra", "cta", "umdf", "optiq", "memx", "impact",
    "mdp3",
)  # fmt: skip
"""Names by code, from the most to the least telling header: of two that fit equally the first wins."""

SOUP: Final = "soupbintcp"
"""The format of messages on TCP, whose numbers are implicit (`telemetry.wire.soup`)."""

HEADER: Final = np.array([24, 20, 40, 32, 16, 8, 16, 21, 20, 16, 16, 18, 16, 12], np.int64)
"""Length of each header: content starts there."""

(MDF1, MOLD, IEX, EOBI, PILLAR, PITCH, OMD, OPRA, CTA, UMDF, OPTIQ, MEMX, IMPACT, MDP3) = range(14)

SESSIONS: Final = IEX
"""Formats up to this one name their session (or are the lab's): equal session and number is equal content."""

_SPACES: Final = 0x2020202020202020
_HIGH: Final = -0x7F7F7F7F7F7F7F80  # 0x80 in each byte
_NULL: Final = np.iinfo(np.int64).min
_EARLY: Final = 946_684_800_000_000_000  # 2000
_COMPARED: Final = 24
_LATE: Final = 4_102_444_800_000_000_000  # 2100

# Fields of a parsed header.
CHANNEL, SEQ, STEP, SENT, KIND, CONTENT = range(6)
DATA, HEARTBEAT, RESET, OTHER = range(4)  # KIND


# Unsigned places (no look at negative ones) and no loops, so that the compiler makes one load of each.


@njit(cache=True, nogil=True)
def _le2(data, at):  # type: ignore[no-untyped-def]
    o = np.uint64(at)
    return np.int64(data[o]) | (np.int64(data[o + np.uint64(1)]) << 8)


@njit(cache=True, nogil=True)
def _le4(data, at):  # type: ignore[no-untyped-def]
    o = np.uint64(at)
    return (
        np.int64(data[o])
        | (np.int64(data[o + np.uint64(1)]) << 8)
        | (np.int64(data[o + np.uint64(2)]) << 16)
        | (np.int64(data[o + np.uint64(3)]) << 24)
    )


@njit(cache=True, nogil=True)
def _le8(data, at):  # type: ignore[no-untyped-def]
    return _le4(data, at) | (_le4(data, at + 4) << 32)


@njit(cache=True, nogil=True)
def _be2(data, at):  # type: ignore[no-untyped-def]
    o = np.uint64(at)
    return (np.int64(data[o]) << 8) | np.int64(data[o + np.uint64(1)])


@njit(cache=True, nogil=True)
def _be4(data, at):  # type: ignore[no-untyped-def]
    o = np.uint64(at)
    return (
        (np.int64(data[o]) << 24)
        | (np.int64(data[o + np.uint64(1)]) << 16)
        | (np.int64(data[o + np.uint64(2)]) << 8)
        | np.int64(data[o + np.uint64(3)])
    )


@njit(cache=True, nogil=True)
def _be8(data, at):  # type: ignore[no-untyped-def]
    return (_be4(data, at) << 32) | _be4(data, at + 4)


@njit(cache=True, nogil=True)
def _plausible(t):  # type: ignore[no-untyped-def]
    return _EARLY < t < _LATE


@njit(cache=True, nogil=True)
def mold_again(head0, head1, head2, cap, channel):  # type: ignore[no-untyped-def]
    """A MoldUDP64 header (its 20 bytes as numbers) of a session that is known: (same, first number, numbers used up).

    The lab's own session is never the same: its messages are looked into.
    """
    session = np.int64(head0)
    seq = np.int64((head1 << np.uint64(16)) | (head2 >> np.uint64(16)))
    count = np.int64(head2 & np.uint64(0xFFFF))
    more = np.int64(head1 >> np.uint64(48))
    same = cap >= 20 and (session * 1_000_003) ^ more == channel and session >> 40 != 0x54574C and seq >= 0
    return same, seq, count if count != 0xFFFF else np.int64(0)


@njit(cache=True, nogil=True)
def parse_mold(data, at, cap, plen):  # type: ignore[no-untyped-def]
    """MoldUDP64 alone, in registers: (fits, channel, first number, numbers used up, send time, kind)."""
    if at < 0 or cap < 20 or at + cap > len(data):
        return False, np.int64(0), np.int64(0), np.int64(0), np.int64(_NULL), np.int64(OTHER)
    session, more = _be8(data, at), _be2(data, at + 8)
    count, seq = _be2(data, at + 18), _be8(data, at + 10)
    # Text: no byte below a space or above 127.
    fits = ((session | (session - _SPACES)) & _HIGH) | ((more | (more - 0x2020)) & 0x8080) == 0 and seq >= 0
    kind, sent = np.int64(DATA), np.int64(_NULL)
    if count == 0 or count == 0xFFFF:
        count, kind = np.int64(0), np.int64(HEARTBEAT)
    else:
        fits = fits and 20 + 2 * count <= plen and (cap < 22 or 22 + _be2(data, at + 20) <= plen)
        if session >> 40 == 0x54574C and cap >= 32 and data[at + 22] == 84:
            # The lab's own session (TWL...): its messages carry the line and the send time.
            sent = _be8(data, at + 24)
    return fits, (session * 1_000_003) ^ more, seq, count, sent, kind


@njit(cache=True, nogil=True)
def _header(code, data, at, cap, plen, out):  # type: ignore[no-untyped-def]
    """Read the header's fields."""
    if at < 0 or cap < HEADER[code] or at + cap > len(data):
        return False
    out[CHANNEL], out[SENT], out[STEP], out[KIND] = 0, _NULL, 1, DATA
    if code == MDF1:
        if data[at] != 77 or data[at + 1] != 68 or data[at + 2] != 70 or data[at + 3] != 49:
            return False
        out[SEQ] = _le8(data, at + 8)
        out[SENT] = _le8(data, at + 16)
        return True
    if code == MOLD:
        fits, out[CHANNEL], out[SEQ], out[STEP], out[SENT], out[KIND] = parse_mold(data, at, cap, plen)
        return fits
    if code == IEX:
        if data[at] != 1 or _le2(data, at + 12) + 40 != plen or not 0x8000 <= _le2(data, at + 2) <= 0x80FF:
            return False
        out[CHANNEL] = _le4(data, at + 4) * 4_294_967_311 + _le4(data, at + 8)
        out[STEP] = _le2(data, at + 14)
        out[SEQ] = _le8(data, at + 24)
        out[SENT] = _le8(data, at + 32)
        if out[STEP] == 0:
            out[KIND] = HEARTBEAT
        return _plausible(out[SENT])
    if code == EOBI:
        if _le2(data, at + 2) != 13003 or _le2(data, at) > plen:
            return False
        out[SEQ] = _le8(data, at + 8)
        out[CHANNEL] = _le4(data, at + 16) * 256 + data[at + 20]
        out[SENT] = _le8(data, at + 24)
        if data[at + 22] == 1:
            out[KIND] = RESET
        return out[SEQ] >= 0
    if code == PILLAR:
        flag = data[at + 2]
        if _le2(data, at) != plen or _le4(data, at + 12) >= 1_000_000_000:
            return False
        if not (flag == 1 or flag == 10 or flag == 11 or flag == 12 or flag == 13 or flag == 15 or 17 <= flag <= 22):
            return False
        out[SEQ], out[STEP] = _le4(data, at + 4), data[at + 3]
        out[SENT] = _le4(data, at + 8) * 1_000_000_000 + _le4(data, at + 12)
        if flag == 1:
            out[STEP], out[KIND] = 0, HEARTBEAT
        elif flag == 12:
            out[KIND] = RESET
        elif flag != 11 and flag != 10:
            out[KIND] = OTHER  # retransmitted and refresh packets carry old numbers on purpose
        return _plausible(out[SENT])
    if code == PITCH:
        if _le2(data, at) != plen:
            return False
        out[STEP], out[CHANNEL], out[SEQ] = data[at + 2], data[at + 3], _le4(data, at + 4)
        if out[STEP] == 0:
            out[KIND] = HEARTBEAT
            return plen == 8
        if plen < 8 + 2 * out[STEP]:
            return False
        if out[SEQ] == 0:
            out[KIND] = OTHER  # unsequenced
        return cap < 9 or 2 <= data[at + 8] <= plen - 8
    if code == OMD:
        if _le2(data, at) != plen or data[at + 3] > 1:
            return False
        out[STEP], out[SEQ] = data[at + 2], _le4(data, at + 4)
        out[SENT] = _le8(data, at + 8)
        if out[STEP] == 0:
            out[KIND] = HEARTBEAT
        return _plausible(out[SENT])
    if code in (OPRA, CTA):
        shift = 1 if code == OPRA else 0
        if _be2(data, at + 1) > plen or _be2(data, at + 1) < HEADER[code] or data[at] == 0 or data[at] > 16:
            return False
        out[SEQ], out[STEP] = _be4(data, at + 5 + shift), data[at + 9 + shift]
        sec, ns = _be4(data, at + 10 + shift), _be4(data, at + 14 + shift)
        out[CHANNEL] = data[at + 5] if code == OPRA else 0
        out[SENT] = sec * 1_000_000_000 + ns
        if out[STEP] == 0:
            out[KIND] = HEARTBEAT
        retransmitted = data[at + 4]
        if retransmitted == 86 or retransmitted == 1:  # 'V' or 1
            out[KIND] = OTHER
        return ns < 1_000_000_000 and _plausible(out[SENT])
    if code == UMDF:
        if data[at + 1] != 0:
            return False
        out[CHANNEL] = data[at] * 65_536 + _le2(data, at + 2)
        out[SEQ], out[SENT] = _le4(data, at + 4), _le8(data, at + 8)
        return _plausible(out[SENT])
    if code == OPTIQ:
        out[SENT], out[SEQ], out[CHANNEL] = _le8(data, at), _le4(data, at + 8), _le2(data, at + 14)
        return _plausible(out[SENT]) and (cap < 18 or _le2(data, at + 16) <= plen - 16)
    if code == MEMX:
        kind, length = data[at], data[at + 1]
        if kind > 2 or length < 18 or length > 32 or length > plen:
            return False
        out[CHANNEL], out[SEQ] = _be8(data, at + 2), _be8(data, at + 10)
        if kind == 2:
            out[STEP] = _be2(data, at + 18) if cap >= 20 and length >= 20 else 1
        else:
            out[STEP], out[KIND] = 0, HEARTBEAT
        return out[SEQ] >= 0
    if code == IMPACT:
        out[CHANNEL], out[SEQ], out[STEP] = _be2(data, at), _be4(data, at + 2), _be2(data, at + 6)
        ms = _be8(data, at + 8)
        if ms <= 0 or ms > _LATE // 1_000_000 or 16 + out[STEP] > plen:
            return False
        out[SENT] = ms * 1_000_000
        if out[STEP] == 0:
            out[KIND] = HEARTBEAT
        return _plausible(out[SENT])
    if code == MDP3:
        out[SEQ], out[SENT] = _le4(data, at), _le8(data, at + 4)
        if not _plausible(out[SENT]):
            return False
        return plen == 12 or (cap < 14) or 2 <= _le2(data, at + 12) <= plen - 12
    return False


@njit(cache=True, nogil=True)
def parse(code, data, at, cap, plen, out):  # type: ignore[no-untyped-def]
    """Read the header at ``data[at:at + cap]`` of a payload `plen` long into `out`; False if it is not one.

    Parameters
    ----------
    out : (6,) int64
        channel, first sequence number, numbers used up, send time ns (or NULL), kind, digest of what is equal on
        the A and B lines of a feed: session and send time, else the first bytes behind the header.
    """
    if not _header(code, data, at, cap, plen, out):
        return False
    if code == MOLD:
        out[CONTENT] = out[CHANNEL]
        return True
    if code <= SESSIONS:
        h = np.uint64(out[CHANNEL]) * np.uint64(0xFF51AFD7ED558CCD)
    else:
        h = np.uint64(0)
        first = at + HEADER[code]
        stop = at + min(cap, plen, HEADER[code] + _COMPARED)
        while first < stop:
            word = np.uint64(0)
            for b in range(first, min(first + 8, stop)):
                word = (word << np.uint64(8)) | np.uint64(data[b])
            h = (h ^ word) * np.uint64(0xC2B2AE3D27D4EB4F)
            h ^= h >> np.uint64(32)
            first += 8
    if out[SENT] != _NULL:
        h ^= np.uint64(out[SENT]) * np.uint64(0x165667B19E3779F9)
    out[CONTENT] = np.int64(h)
    return True
