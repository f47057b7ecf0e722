"""Tunnels whose headers are more than a number: GRE and what it carries, VXLAN, GENEVE.

Sources: RFC 2784, 2890 and 1701 (GRE), 2637 (PPTP), 7348 (VXLAN), draft-ietf-nvo3-vxlan-gpe, 8926 (GENEVE),
draft-foschiano-erspan.
"""

from __future__ import annotations

from numba import njit

from telemetry.capture.columns import TUNNELS, U8s, int64, uint64
from telemetry.capture.layers import BRIDGED, ETHER, GUESS, MPLS, PPP, STOP, TYPE, be16, be32

__all__ = ["ETHERIP", "IN4_4", "IN4_6", "IN6_4", "IN6_6", "IN_MPLS", "gre", "udp_tunnel"]

(_GRE, IN4_4, IN4_6, _VXLAN, _ERSPAN1, _ERSPAN2, _ERSPAN3, IN6_4, IN6_6, _PPTP, _GENEVE, ETHERIP, IN_MPLS) = range(
    1, len(TUNNELS)
)


@njit(cache=True, nogil=True)
def udp_tunnel(data: U8s, o: int, sport: int, dport: int) -> tuple[int, int, int, int]:
    """Of a UDP header of 16 bytes or more at `o`: (tunnel or 0, its id, where the packet begins, EtherType)."""
    if sport == 4789 or dport == 4789:
        return _VXLAN, int64(be32(data, o + 12) >> 8), o + 16, BRIDGED
    if sport == 6081 or dport == 6081:
        size = (int64(data[uint64(o + 8)]) & 63) << 2
        return _GENEVE, int64(be32(data, o + 12) >> 8), o + 16 + size, be16(data, o + 10)
    if sport == 4790 or dport == 4790:
        follows = data[uint64(o + 11)]
        if data[uint64(o + 8)] & 4:
            kind = 0
            if follows == 1:
                kind = 0x0800
            elif follows == 2:
                kind = 0x86DD
            elif follows == 3:
                kind = BRIDGED
            elif follows == 4:
                kind = 0x894F
            elif follows == 5:
                kind = MPLS
            if kind:
                return _VXLAN, int64(be32(data, o + 12) >> 8), o + 16, kind
    return 0, int64(-1), o, 0


@njit(cache=True, nogil=True)
def gre(data: U8s, o: int, end: int) -> tuple[int, int, int, int, int]:
    """Read a GRE header: (what follows, where it begins, its EtherType, tunnel or 0 if it is none, id)."""
    none = (STOP, o, 0, 0, int64(-1))
    if o + 4 > end:
        return none
    bits = be16(data, o)
    kind = be16(data, o + 2)
    o += 4
    ident = int64(-1)
    version = bits & 7 == 1
    code = _PPTP if version else _GRE
    if bits & 0xC000:
        o += 4
    if bits & 0x2000:
        if o + 4 > end:
            return none
        ident = int64(be16(data, o + 2)) if version else int64(be32(data, o))  # PPTP: a length and the call
        o += 4
    if bits & 0x1000:
        o += 4
    if version and bits & 0x80:
        o += 4
    if bits & 0x4000:  # source routes, up to an empty one
        while True:
            if o + 4 > end:
                return none
            size = int64(data[uint64(o + 3)])
            last = be16(data, o) == 0 and size == 0
            o += 4 + size
            if last:
                break
    if kind == 0x880B:
        return PPP if not version or bits & 0x1000 else STOP, o, 0, code, ident
    if kind != 0x88BE and kind != 0x22EB:
        return TYPE, o, kind, code, ident
    if not bits & 0x1000 and kind == 0x88BE:
        return ETHER, o, 0, _ERSPAN1, ident
    if o + 12 > end:
        return none
    ident = int64(be16(data, o + 2) & 0x3FF)
    if data[uint64(o)] >> 4 != 2:
        return ETHER, o + 8, 0, _ERSPAN2, ident
    frame = (be16(data, o + 10) >> 10) & 31
    o += 20 if data[uint64(o + 11)] & 1 else 12
    return ETHER if frame == 0 else GUESS, o, 0, _ERSPAN3, ident
