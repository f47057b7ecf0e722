"""What the decode kernel is made of: big-endian reads, where a link type's packets begin, TCP options.

Callers check bounds before `be16`, `be32` and `be64`; the others check their own.
"""

from __future__ import annotations

from numba import njit

from telemetry.capture import columns as c
from telemetry.capture.columns import I16s, I32s, I64s, U8s, uint64

__all__ = ["DECODED_LINKS", "be16", "be32", "be64", "first_layer", "tcp_options"]

# What comes next in a packet.
STOP, ETHER, TYPE, IP4, IP6, L4, PPP, LLC, GUESS = range(9)

DECODED_LINKS = frozenset({0, 1, 9, 12, 14, 50, 51, 101, 104, 108, 109, 113, 228, 229, 276})
"""LINKTYPE_* values whose frames are decoded; of others times and lengths are kept."""


@njit(cache=True, nogil=True)
def be16(data: U8s, o: int) -> int:
    # unsigned indices: numba then leaves out the test for negative ones, and LLVM sees one load
    return (data[uint64(o)] << 8) | data[uint64(o + 1)]


@njit(cache=True, nogil=True)
def be32(data: U8s, o: int) -> int:
    return (data[uint64(o)] << 24) | (data[uint64(o + 1)] << 16) | (data[uint64(o + 2)] << 8) | data[uint64(o + 3)]


@njit(cache=True, nogil=True)
def be64(data: U8s, o: int) -> int:
    return (uint64(be32(data, o)) << uint64(32)) | uint64(be32(data, o + 4))


@njit(cache=True, nogil=True)
def tcp_options(data: U8s, o: int, stop: int, i: int, i64: I64s, i32: I32s, i16: I16s) -> int:
    """Write the options in ``data[o:stop]`` to row `i`; return what was dirtied."""
    dirty = 0
    while o < stop:
        kind = data[o]
        if kind == 0:
            break
        if kind == 1:
            o += 1
            continue
        if o + 2 > stop:
            break
        size = int(data[o + 1])
        if size < 2 or o + size > stop:
            break
        if kind == 8 and size == 10:
            i64[c.TS_VAL, i] = be32(data, o + 2)
            i64[c.TS_ECR, i] = be32(data, o + 6)
            dirty |= c.HAS_TS
        elif kind == 2 and size == 4:
            i32[c.MSS, i] = be16(data, o + 2)
            dirty |= c.HAS_SYN
        elif kind == 3 and size == 3:
            i16[c.WSCALE, i] = data[o + 2]
            dirty |= c.HAS_SYN
        elif kind == 5 and size >= 10 and (size - 2) % 8 == 0:
            i16[c.SACKS, i] = (size - 2) >> 3
            i64[c.SACK0_LO, i] = be32(data, o + 2)
            i64[c.SACK0_HI, i] = be32(data, o + 6)
            if size >= 18:
                i64[c.SACK1_LO, i] = be32(data, o + 10)
                i64[c.SACK1_HI, i] = be32(data, o + 14)
            dirty |= c.HAS_SACK
        o += size
    return dirty


@njit(cache=True, nogil=True)
def first_layer(data: U8s, link: int, o: int, end: int) -> tuple[int, int, int]:
    """Where decoding starts for a link type: (next step, offset, EtherType)."""
    if link == 113:  # Linux cooked
        if o + 16 <= end:
            return TYPE, o + 16, be16(data, o + 14)
    elif link == 276:  # Linux cooked v2
        if o + 20 <= end:
            return TYPE, o + 20, be16(data, o)
    elif link == 0 or link == 108:  # BSD loopback: address family in either byte order
        if o + 4 <= end:
            family = be32(data, o)
            if family > 0xFFFF:
                family = (family >> 24) | ((family >> 8) & 0xFF00)
            if family == 2:
                return IP4, o + 4, -1
            if family == 10 or family == 23 or family == 24 or family == 28 or family == 30:
                return IP6, o + 4, -1
    elif link == 101 or link == 12 or link == 14 or link == 228:  # raw IP
        return GUESS, o, -1
    elif link == 229:
        return IP6, o, -1
    elif link == 109:  # OpenBSD enc
        if o + 12 <= end:
            return GUESS, o + 12, -1
    elif link == 9 or link == 50:  # PPP
        return PPP, o, -1
    elif link == 104:  # Cisco HDLC
        if o + 4 <= end:
            return TYPE, o + 4, be16(data, o + 2)
    elif link == 197:  # ERF
        if o + 16 <= end:
            kind = data[uint64(o + 8)]
            o += 16
            more = kind & 0x80 != 0
            while more and o + 8 <= end:
                more = data[uint64(o)] & 0x80 != 0
                o += 8
            kind &= 0x7F
            if kind == 2 or kind == 11 or kind == 16 or kind == 20:
                return ETHER, o + 2, -1
            if kind == 22 or kind == 23:
                return GUESS, o, -1
    elif link == 51 and o + 6 <= end:  # PPPoE
        return TYPE, o, 0x8864
    return STOP, o, -1
