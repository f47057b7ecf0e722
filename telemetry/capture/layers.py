"""What the decode kernel is made of: big-endian reads, where a link type's packets begin, rare headers, TCP options.

Callers check bounds before `be16`, `be32` and `be64`; the others check their own.

Sources: RFC 3032 (MPLS), 8300 (NSH), IEEE 802.1ah, 802.1AE, 802.1CB and 802.1BR, IEC 62439-3 (HSR), the LINKTYPE_*
pages of tcpdump.org; EtherType 0xD28B after tcpdump's print-arista.c, its rollover after SolarCapture's notes.
"""

from __future__ import annotations

from numba import njit

from telemetry.capture import columns as c
from telemetry.capture.columns import NULL, I16s, I32s, I64s, U8s, U64s, int64, uint64

__all__ = [
    "BRIDGED", "DECODED_LINKS", "MPLS", "arista_time", "be16", "be32", "be64", "behind_labels", "behind_llc",
    "behind_ppp", "behind_tag", "first_layer", "outer", "tcp_options",
]  # fmt: skip

# What comes next in a packet.
STOP, ETHER, TYPE, IP4, IP6, L4, PPP, LLC, GUESS = range(9)

MPLS, BRIDGED = 0x8847, 0x6558
"""EtherTypes: labels follow; an Ethernet frame follows."""

_TAI_MINUS_UTC = 37_000_000_000  # since 2017
_SECOND = 1_000_000_000

DECODED_LINKS = frozenset({0, 1, 9, 12, 14, 50, 51, 101, 104, 108, 109, 113, 228, 229, 276})
"""LINKTYPE_* values whose frames are decoded; of others times and lengths are kept."""


@njit(cache=True, nogil=True)
def be16(data: U8s, o: int) -> int:
    # unsigned indices: numba then leaves out the test for negative ones, and LLVM sees one load
    return int64((data[uint64(o)] << 8) | data[uint64(o + 1)])


@njit(cache=True, nogil=True)
def be32(data: U8s, o: int) -> int:
    return int64(
        (data[uint64(o)] << 24) | (data[uint64(o + 1)] << 16) | (data[uint64(o + 2)] << 8) | data[uint64(o + 3)]
    )


@njit(cache=True, nogil=True)
def be64(data: U8s, o: int) -> int:
    return (uint64(be32(data, o)) << uint64(32)) | uint64(be32(data, o + 4))


@njit(cache=True, nogil=True)
def tcp_options(data: U8s, o: int, whole: int, end: int, i: int, i64: I64s, i32: I32s, i16: I16s) -> int:
    """Write the options in ``data[o:whole]``, of which ``data[o:end]`` was captured, to row `i`.

    Of options given twice the first counts. Returns what was dirtied.
    """
    dirty = 0
    stop = min(whole, end)
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
        if kind == 8 and size == 10 and o + 6 <= stop and o + 10 <= whole and not dirty & c.HAS_TS:
            i64[c.TS_VAL, i] = be32(data, o + 2)
            if o + 10 <= stop:
                i64[c.TS_ECR, i] = be32(data, o + 6)
            dirty |= c.HAS_TS
        if size < 2 or o + size > stop:
            break
        if kind == 2 and size == 4:
            if i32[c.MSS, i] < 0:
                i32[c.MSS, i] = be16(data, o + 2)
            dirty |= c.HAS_SYN
        elif kind == 3 and size == 3:
            if i16[c.WSCALE, i] < 0:
                i16[c.WSCALE, i] = data[o + 2]
            dirty |= c.HAS_SYN
        elif kind == 5 and size >= 10 and (size - 2) % 8 == 0 and not dirty & c.HAS_SACK:
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
def behind_tag(data: U8s, kind: int, o: int, end: int) -> tuple[int, int]:
    """Step over a rare header of EtherType `kind`: (EtherType of what follows or -1, where it begins)."""
    if kind == 0x88E7:  # 802.1ah: the service's frame follows
        return BRIDGED, o + 4
    if kind == 0x8870:  # LLC in a jumbo frame
        return 0, o
    size = -1
    if kind == 0x8926 or kind == 0xF1C1 or kind == 0x892F:  # 802.1BR (VN-Tag), 802.1CB (R-Tag), HSR
        size = 4
    elif kind == 0x88E5:  # MACsec, where it is not encrypted
        if o < end and not data[uint64(o)] & 0x0C:
            size = 14 if data[uint64(o)] & 0x20 else 6
    elif kind == 0x8909:  # Cisco metadata
        size = 6
    elif kind == 0x894F and o + 4 <= end:  # NSH
        inner = data[uint64(o + 3)]
        size = int64(data[uint64(o + 1)] & 63) << 2
        if size >= 8:
            if inner == 1:
                return 0x0800, o + size
            if inner == 2:
                return 0x86DD, o + size
            if inner == 3:
                return BRIDGED, o + size
            if inner == 5:
                return MPLS, o + size
        return -1, o
    if size < 0 or o + size + 2 > end:
        return -1, o
    return be16(data, o + size), o + size + 2


@njit(cache=True, nogil=True)
def behind_llc(data: U8s, o: int, end: int) -> tuple[int, int, int]:
    """Step over an IEEE 802.2 header: (what follows, where it begins, EtherType)."""
    if o + 8 <= end and data[uint64(o)] == 0xAA and data[uint64(o + 1)] == 0xAA and data[uint64(o + 2)] == 3:
        oui = (data[uint64(o + 3)] << 16) | (data[uint64(o + 4)] << 8) | data[uint64(o + 5)]
        kind = be16(data, o + 6)
        if (oui != 0 and oui != 0xF8) or kind <= 1500:
            return STOP, o, -1
        return TYPE, o + 8, kind
    if o + 3 <= end and data[uint64(o)] == 6 and data[uint64(o + 1)] == 6 and data[uint64(o + 2)] == 3:
        return IP4, o + 3, -1
    return STOP, o, -1


@njit(cache=True, nogil=True)
def behind_ppp(data: U8s, o: int, end: int) -> tuple[int, int, int]:
    """Step over a PPP header: (what follows, where it begins, EtherType)."""
    if o + 2 <= end and data[uint64(o)] == 0xFF and data[uint64(o + 1)] == 3:
        o += 2
    if o + 2 > end:
        return STOP, o, -1
    if data[uint64(o)] & 1:
        kind = int64(data[uint64(o)])
        o += 1
    else:
        kind = int64(be16(data, o))
        o += 2
    if kind == 0x21:
        return IP4, o, -1
    if kind == 0x57:
        return IP6, o, -1
    if kind == 0x281:
        return TYPE, o, MPLS
    return STOP, o, -1


@njit(cache=True, nogil=True)
def outer(i: int, version: int, src_hi: int, src_lo: int, dst_hi: int, dst_lo: int, u64: U64s, u8: U8s) -> None:
    """Write the addresses of a tunnel's own packet to row `i`."""
    u8[c.OVERSION, i] = version
    u64[c.OSRC_HI, i], u64[c.OSRC_LO, i] = src_hi, src_lo
    u64[c.ODST_HI, i], u64[c.ODST_LO, i] = dst_hi, dst_lo


@njit(cache=True, nogil=True)
def behind_labels(data: U8s, o: int, end: int) -> tuple[int, int]:
    """Step over MPLS labels: (what follows, where it begins)."""
    bottom = False
    while o + 4 <= end and not bottom:
        bottom = data[uint64(o + 2)] & 1 != 0
        o += 4
    if not bottom or o >= end:
        return STOP, o
    if data[uint64(o)] >> 4 == 0 and o + 18 <= end:  # a pseudowire's control word, then Ethernet
        kind = be16(data, o + 16)
        if kind == 0x0800 or kind == 0x86DD or kind == 0x8100 or kind == 0x88A8 or kind == 0x0806:
            return ETHER, o + 4
    return GUESS, o


@njit(cache=True, nogil=True)
def arista_time(data: U8s, o: int, end: int, at: int) -> tuple[int, int]:
    """Read the stamp behind EtherType 0xD28B of a packet captured at `at`: (offset behind it or -1, ns or `NULL`)."""
    if o + 14 > end or be16(data, o) != 1:
        return -1, NULL
    kind = be16(data, o + 2)
    base = kind & 0xF0
    if base == 0x10:
        sec = int64(be32(data, o + 4))
        ns = int64(be32(data, o + 8))
        o += 14
    elif base == 0x20:
        sec = int64(be16(data, o + 4))
        ns = int64(be32(data, o + 6))
        o += 12
        if at == NULL:
            return o, NULL  # nothing to merge with
        now = at // _SECOND
        sec += now - (now & 0xFFFF)
        if sec - now > 32_768:
            sec -= 65_536
        elif now - sec > 32_768:
            sec += 65_536
    else:
        return -1, NULL
    if ns >= _SECOND:
        return o, NULL
    stamp = sec * _SECOND + ns
    # clocks that say TAI often run on UTC: take what is nearer to the capture's time
    if kind & 0x100 == 0 and (at == NULL or abs(stamp - _TAI_MINUS_UTC - at) < abs(stamp - at)):
        stamp -= _TAI_MINUS_UTC
    # The low 34 bits (4 s) are taken as the packet comes in, the others as it leaves: 4 s too many if they roll over
    # in between. That shows just before the rollover only, and against the capture's time.
    if base == 0x10 and sec & 3 == 3 and ns >= 900_000_000 and at != NULL and abs(stamp - 4 * _SECOND - at) < _SECOND:
        stamp -= 4 * _SECOND
    return o, stamp


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
    elif link == 104 or link == 50 or link == 9:  # Cisco HDLC; PPP, which may be that too if it is HDLC
        if o + 4 <= end and (link == 104 or (link == 50 and be16(data, o) & 0x7FFF == 0x0F00)):
            return TYPE, o + 4, be16(data, o + 2)
        if link != 104:
            return PPP, o, -1
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
