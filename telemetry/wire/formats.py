"""Sequence headers of market-data feeds: one parse kernel for all, and the names of their codes.

Layouts from the venues' public specifications. A header tells the number of its first message (or of
the packet), how many numbers it uses up, and often a channel and a send time.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

__all__ = ["FORMATS", "HEADER", "code_of", "parse"]

FORMATS: Final = (
    "mdf1", "moldudp64", "iextp", "eobi", "pillar", "pitch", "omd", "opra", "cta", "umdf", "optiq", "memx", "impact",
    "mdp3",
)  # fmt: skip
"""Names by code, from the most to the least telling header: of two that fit equally the first wins."""

HEADER: Final = np.array([24, 20, 40, 32, 16, 8, 16, 21, 20, 16, 16, 18, 16, 12], np.int64)
"""Length of each header: content starts there."""

(MDF1, MOLD, IEX, EOBI, PILLAR, PITCH, OMD, OPRA, CTA, UMDF, OPTIQ, MEMX, IMPACT, MDP3) = range(14)

SESSIONS: Final = IEX
"""Formats up to this one name their session (or are the lab's): equal session and number is equal content."""

_NULL: Final = np.iinfo(np.int64).min
_EARLY: Final = 946_684_800_000_000_000  # 2000
_LATE: Final = 4_102_444_800_000_000_000  # 2100

# Fields of a parsed header.
CHANNEL, SEQ, STEP, SENT, KIND = range(5)
DATA, HEARTBEAT, RESET, OTHER = range(4)  # KIND


def code_of(name: str) -> int:
    """Return the code of a format by name.

    Raises
    ------
    ValueError
        If there is no such format.
    """
    return FORMATS.index(name)


@njit(cache=True, nogil=True, inline="always")
def _le(data, at, size):  # type: ignore[no-untyped-def]
    v = np.uint64(0)
    for k in range(size):
        v |= np.uint64(data[at + k]) << np.uint64(8 * k)
    return np.int64(v)


@njit(cache=True, nogil=True, inline="always")
def _be(data, at, size):  # type: ignore[no-untyped-def]
    v = np.uint64(0)
    for k in range(size):
        v = (v << np.uint64(8)) | np.uint64(data[at + k])
    return np.int64(v)


@njit(cache=True, nogil=True, inline="always")
def _plausible(t):  # type: ignore[no-untyped-def]
    return _EARLY < t < _LATE


@njit(cache=True, nogil=True)
def parse(code, data, at, cap, plen, out):  # type: ignore[no-untyped-def]
    """Read the header at ``data[at:at + cap]`` of a payload `plen` long into `out`; False if it is not one.

    Parameters
    ----------
    out : (5,) int64
        channel, first sequence number, numbers used up, send time ns (or NULL), kind.
    """
    if at < 0 or cap < HEADER[code] or at + cap > len(data):
        return False
    out[CHANNEL], out[SENT], out[STEP], out[KIND] = 0, _NULL, 1, DATA
    if code == MDF1:
        if data[at] != 77 or data[at + 1] != 68 or data[at + 2] != 70 or data[at + 3] != 49:
            return False
        out[SEQ] = _le(data, at + 8, 8)
        out[SENT] = _le(data, at + 16, 8)
        return True
    if code == MOLD:
        for k in range(10):
            if not 32 <= data[at + k] < 127:
                return False
        count = _be(data, at + 18, 2)
        out[CHANNEL] = (_be(data, at, 8) * 1_000_003) ^ _be(data, at + 8, 2)
        out[SEQ] = _be(data, at + 10, 8)
        if count == 0 or count == 0xFFFF:
            out[STEP], out[KIND] = 0, HEARTBEAT
            return out[SEQ] >= 0
        out[STEP] = count
        if out[SEQ] < 0 or 20 + 2 * count > plen:
            return False
        if cap >= 32 and data[at] == 84 and data[at + 1] == 87 and data[at + 2] == 76 and data[at + 22] == 84:
            # The lab's own session (TWL...): its messages carry the line and the send time.
            out[SENT] = _be(data, at + 24, 8)
        return cap < 22 or 22 + _be(data, at + 20, 2) <= plen
    if code == IEX:
        if data[at] != 1 or _le(data, at + 12, 2) + 40 != plen or not 0x8000 <= _le(data, at + 2, 2) <= 0x80FF:
            return False
        out[CHANNEL] = _le(data, at + 4, 4) * 4_294_967_311 + _le(data, at + 8, 4)
        out[STEP] = _le(data, at + 14, 2)
        out[SEQ] = _le(data, at + 24, 8)
        out[SENT] = _le(data, at + 32, 8)
        if out[STEP] == 0:
            out[KIND] = HEARTBEAT
        return _plausible(out[SENT])
    if code == EOBI:
        if _le(data, at + 2, 2) != 13003 or _le(data, at, 2) > plen:
            return False
        out[SEQ] = _le(data, at + 8, 8)
        out[CHANNEL] = _le(data, at + 16, 4) * 256 + data[at + 20]
        out[SENT] = _le(data, at + 24, 8)
        if data[at + 22] == 1:
            out[KIND] = RESET
        return out[SEQ] >= 0
    if code == PILLAR:
        flag = data[at + 2]
        if _le(data, at, 2) != plen or _le(data, at + 12, 4) >= 1_000_000_000:
            return False
        if not (flag == 1 or flag == 10 or flag == 11 or flag == 12 or flag == 13 or flag == 15 or 17 <= flag <= 22):
            return False
        out[SEQ], out[STEP] = _le(data, at + 4, 4), data[at + 3]
        out[SENT] = _le(data, at + 8, 4) * 1_000_000_000 + _le(data, at + 12, 4)
        if flag == 1:
            out[STEP], out[KIND] = 0, HEARTBEAT
        elif flag == 12:
            out[KIND] = RESET
        elif flag != 11 and flag != 10:
            out[KIND] = OTHER  # retransmitted and refresh packets carry old numbers on purpose
        return _plausible(out[SENT])
    if code == PITCH:
        if _le(data, at, 2) != plen:
            return False
        out[STEP], out[CHANNEL], out[SEQ] = data[at + 2], data[at + 3], _le(data, at + 4, 4)
        if out[STEP] == 0:
            out[KIND] = HEARTBEAT
            return plen == 8
        if plen < 8 + 2 * out[STEP]:
            return False
        if out[SEQ] == 0:
            out[KIND] = OTHER  # unsequenced
        return cap < 9 or 2 <= data[at + 8] <= plen - 8
    if code == OMD:
        if _le(data, at, 2) != plen or data[at + 3] > 1:
            return False
        out[STEP], out[SEQ] = data[at + 2], _le(data, at + 4, 4)
        out[SENT] = _le(data, at + 8, 8)
        if out[STEP] == 0:
            out[KIND] = HEARTBEAT
        return _plausible(out[SENT])
    if code in (OPRA, CTA):
        shift = 1 if code == OPRA else 0
        if _be(data, at + 1, 2) > plen or _be(data, at + 1, 2) < HEADER[code] or data[at] == 0 or data[at] > 16:
            return False
        out[SEQ], out[STEP] = _be(data, at + 5 + shift, 4), data[at + 9 + shift]
        sec, ns = _be(data, at + 10 + shift, 4), _be(data, at + 14 + shift, 4)
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
        out[CHANNEL] = data[at] * 65_536 + _le(data, at + 2, 2)
        out[SEQ], out[SENT] = _le(data, at + 4, 4), _le(data, at + 8, 8)
        return _plausible(out[SENT])
    if code == OPTIQ:
        out[SENT], out[SEQ], out[CHANNEL] = _le(data, at, 8), _le(data, at + 8, 4), _le(data, at + 14, 2)
        return _plausible(out[SENT]) and (cap < 18 or _le(data, at + 16, 2) <= plen - 16)
    if code == MEMX:
        kind, length = data[at], data[at + 1]
        if kind > 2 or length < 18 or length > 32 or length > plen:
            return False
        out[CHANNEL], out[SEQ] = _be(data, at + 2, 8), _be(data, at + 10, 8)
        if kind == 2:
            out[STEP] = _be(data, at + 18, 2) if cap >= 20 and length >= 20 else 1
        else:
            out[STEP], out[KIND] = 0, HEARTBEAT
        return out[SEQ] >= 0
    if code == IMPACT:
        out[CHANNEL], out[SEQ], out[STEP] = _be(data, at, 2), _be(data, at + 2, 4), _be(data, at + 6, 2)
        ms = _be(data, at + 8, 8)
        if ms <= 0 or ms > _LATE // 1_000_000 or 16 + out[STEP] > plen:
            return False
        out[SENT] = ms * 1_000_000
        if out[STEP] == 0:
            out[KIND] = HEARTBEAT
        return _plausible(out[SENT])
    if code == MDP3:
        out[SEQ], out[SENT] = _le(data, at, 4), _le(data, at + 4, 8)
        if not _plausible(out[SENT]):
            return False
        return plen == 12 or (cap < 14) or 2 <= _le(data, at + 12, 2) <= plen - 12
    return False
