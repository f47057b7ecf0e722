"""The decode kernel: records in a buffer -> columns.

One loop over packets, one small state machine per packet. Whatever the bytes, nothing outside
``data[frame_off:frame_off + cap_len]`` is read: each read is preceded by a check against the end of the
captured frame. Every turn of the inner loop consumes bytes, so it ends.

Sources: RFC 791, 8200, 9293, 768, 2516 (PPPoE), the LINKTYPE_* pages of tcpdump.org; what is rarer is in `layers`
and `tunnels`.
"""

from __future__ import annotations

from numba import njit

from telemetry.capture import columns as c
from telemetry.capture.columns import NULL, I16s, I32s, I64s, U8s, U64s, int64, uint64
from telemetry.capture.layers import (
    BRIDGED,
    DECODED_LINKS,
    ETHER,
    GUESS,
    IP4,
    IP6,
    L4,
    LLC,
    MPLS,
    PPP,
    STOP,
    TYPE,
    arista_time,
    be16,
    be32,
    be64,
    behind_labels,
    behind_llc,
    behind_ppp,
    behind_tag,
    first_layer,
    outer,
    tcp_options,
)
from telemetry.capture.tunnels import ETHERIP, IN4_4, IN4_6, IN6_4, IN6_6, IN_MPLS, gre, udp_tunnel

__all__ = ["DECODED_LINKS", "be16", "be32", "be64", "decode"]


@njit(cache=True, nogil=True)
def decode(data: U8s, start: int, stop: int, i64: I64s, u64: U64s, i32: I32s, i16: I16s, u8: U8s) -> int:
    """Decode rows ``[start, stop)`` whose frame offsets, lengths, link types and times are filled in.

    Returns the set of sparse column groups that were written (``HAS_*``).
    """
    dirty = 0
    for number in range(start, stop):
        i = uint64(number)
        off = i64[c.FRAME, i]
        cap = int64(i32[c.CAP, i])
        end = off + cap
        limit = off + max(cap, int64(i32[c.WIRE, i]))  # where the packet ends by the lengths told so far
        link = i32[c.LINK, i]
        o = off
        et = -1
        etype = -1
        version = 0
        src_hi = uint64(0)
        src_lo = uint64(0)
        dst_hi = uint64(0)
        dst_lo = uint64(0)
        proto = -1
        nexth = -1
        ttl = -1
        ip_id = -1
        frag = 0
        sport = -1
        dport = -1
        pay = int64(-1)
        plen = int64(-1)
        l3_end = int64(-1)
        depth = 0
        tags = 0
        tunnel = 0
        tunnel_id = int64(-1)
        if link == 1:
            step = ETHER
        else:
            step, o, et = first_layer(data, link, o, end)
            etype = et
        while step != STOP:
            if step == ETHER:
                if o + 14 > end:
                    break
                et = be16(data, o + 12)
                o += 14
                step = TYPE
                if depth == 0:
                    etype = et
            if step == TYPE:
                if et == 0x0800:
                    step = IP4
                elif et == 0x86DD:
                    step = IP6
                elif et == 0x8100 or et == 0x88A8 or et == 0x9100 or et == 0x9200:
                    if o + 2 > end:
                        break
                    if depth == 0 and tags < 2:
                        i32[uint64(c.VLAN + tags), i] = be16(data, o) & 0xFFF
                        dirty |= c.HAS_VLAN
                        tags += 1
                    if o + 4 > end:
                        break
                    et = be16(data, o + 2)
                    o += 4
                    if depth == 0:
                        etype = et
                    continue
                elif et <= 1500 and et >= 0:
                    step = LLC
                elif et == 0x0806:
                    if depth == 0 and o + 28 <= end and be32(data, o) == 0x00010800 and be16(data, o + 4) == 0x0604:
                        i16[c.MTYPE, i] = be16(data, o + 6)
                        dirty |= c.HAS_MESSAGE
                        src_lo = uint64(be32(data, o + 14))
                        dst_lo = uint64(be32(data, o + 24))
                        l3_end = o + 28
                    break
                elif et == MPLS or et == 0x8848:
                    step, o = behind_labels(data, o, end)
                    if step == STOP or step == ETHER:  # noqa: SIM109 (numba: no tuple)
                        continue
                elif et == BRIDGED:
                    step = ETHER
                    continue
                elif et == 0x8864:
                    if o + 6 > end:
                        break
                    limit = min(limit, o + 6 + be16(data, o + 4))
                    o += 6
                    step = PPP
                elif et == 0x883E:  # WCCP redirection
                    if o >= end:
                        break
                    if data[uint64(o)] >> 4 != 4:
                        o += 4
                    step = IP4
                elif et == 0xD28B:
                    o, stamp = arista_time(data, o, end, i64[c.TIME, i])
                    if o < 0:
                        break
                    if stamp != NULL and depth == 0:
                        i64[c.HW_TIME, i] = stamp
                        dirty |= c.HAS_HW
                    et = be16(data, o - 2)
                    if depth == 0:
                        etype = et
                    continue
                else:
                    et, o = behind_tag(data, et, o, end)
                    if et < 0:
                        break
                    if depth == 0 and et > 1500:
                        etype = et
                    continue
            if step == LLC:
                step, o, et = behind_llc(data, o, end)
                if step == TYPE and depth == 0:
                    etype = et
                if step != IP4:
                    continue
            if step == PPP:
                step, o, et = behind_ppp(data, o, end)
                if step == TYPE or step == STOP:  # noqa: SIM109 (numba: no tuple)
                    continue
            if step == GUESS:
                if o >= end:
                    break
                kind = int64(data[uint64(o)] >> 4)
                if kind == 4:
                    step = IP4
                elif kind == 6:
                    step = IP6
                else:
                    break
            if step == IP4 and o < end and data[uint64(o)] >> 4 == 6:
                step = IP6  # IPv6 behind IPv4's EtherType
            if step == IP4:
                if o + 20 > end or data[uint64(o)] >> 4 != 4:
                    break
                size = (data[uint64(o)] & 15) << 2
                total = be16(data, o + 2)
                if size < 20 or (total != 0 and total < size):
                    break
                if depth == 1:
                    outer(i, version, src_hi, src_lo, dst_hi, dst_lo, u64, u8)
                version = 4
                src_hi = uint64(0)
                dst_hi = uint64(0)
                src_lo = uint64(be32(data, o + 12))
                dst_lo = uint64(be32(data, o + 16))
                ttl = int64(data[uint64(o + 8)])
                proto = int64(data[uint64(o + 9)])
                nexth = proto
                ip_id = be16(data, o + 4)
                bits = be16(data, o + 6)
                sport = -1
                dport = -1
                if total != 0:
                    limit = min(limit, o + total)
                    end = min(end, limit)  # what lies behind belongs to no layer inside
                    if depth == 0:
                        l3_end = o + total
                o += size
                pay = o
                plen = max(limit - o, 0)
                depth += 1
                if bits & 0x1FFF:
                    frag = 1
                    break
                frag = 2 if bits & 0x2000 else 0
                step = L4
            elif step == IP6:
                if o + 40 > end or data[uint64(o)] >> 4 != 6:
                    break
                if depth == 1:
                    outer(i, version, src_hi, src_lo, dst_hi, dst_lo, u64, u8)
                version = 6
                src_hi = be64(data, o + 8)
                src_lo = be64(data, o + 16)
                dst_hi = be64(data, o + 24)
                dst_lo = be64(data, o + 32)
                total = be16(data, o + 4)
                nexth = int64(data[uint64(o + 6)])
                ttl = int64(data[uint64(o + 7)])
                ip_id = -1
                sport = -1
                dport = -1
                frag = 0
                if total != 0:
                    limit = min(limit, o + 40 + total)
                    end = min(end, limit)
                    if depth == 0:
                        l3_end = o + 40 + total
                o += 40
                depth += 1
                step = L4
                while nexth == 0 or nexth == 43 or nexth == 60 or nexth == 44 or nexth == 51:
                    if o + 8 > end or o + 8 > limit:
                        step = STOP
                        break
                    if nexth == 44:
                        bits = be16(data, o + 2)
                        nexth = int64(data[uint64(o)])
                        o += 8
                        if bits & 0xFFF8:
                            frag = 1
                            step = STOP
                            break
                        frag = 2 if bits & 1 else 0
                    else:
                        size = (
                            (int64(data[uint64(o + 1)]) + 2) << 2
                            if nexth == 51
                            else (int64(data[uint64(o + 1)]) + 1) << 3
                        )
                        nexth = int64(data[uint64(o)])
                        o += size
                proto = nexth
                pay = o
                plen = max(limit - o, 0)
                if step == STOP:
                    break
            if step == L4:
                step = STOP
                if nexth == 17 or nexth == 136:
                    if o + 4 > end:
                        break
                    sport = be16(data, o)
                    dport = be16(data, o + 2)
                    pay = o + 8
                    plen = max(limit - pay, 0)
                    if o + 6 > end:
                        break
                    size = be16(data, o + 4)
                    if nexth == 17 and size >= 8:
                        plen = int64(size - 8)
                        # one comparison a port for all tunnels' ports: 4789 to 6081
                        if (
                            (uint64(int64(dport) - 4789) <= 1292 or uint64(int64(sport) - 4789) <= 1292)
                            and o + 16 <= end
                            and size >= 16
                        ):
                            code, ident, inner, et = udp_tunnel(data, o, sport, dport)
                            if code:
                                limit = min(limit, o + size)
                                if tunnel == 0:
                                    tunnel = code
                                    tunnel_id = ident
                                o = inner
                                step = TYPE
                elif nexth == 6:
                    pay = -1
                    plen = -1
                    if o + 4 > end:
                        break
                    sport = be16(data, o)
                    dport = be16(data, o + 2)
                    if o + 16 <= end:
                        size = int64((data[uint64(o + 12)] >> 4) << 2)
                        i64[c.SEQ, i] = be32(data, o + 4)
                        dirty |= c.HAS_TCP
                        if frag == 0 and o + size <= limit:
                            plen = limit - o - size
                        if size < 20:
                            break
                        i64[c.ACK, i] = be32(data, o + 8)
                        i16[c.FLAGS, i] = be16(data, o + 12) & 0xFFF
                        i32[c.WINDOW, i] = be16(data, o + 14)
                        if o + size <= limit:
                            pay = o + size
                        if size > 20 and o + 20 < end:
                            if size == 32 and o + 32 <= end and be32(data, o + 20) == 0x0101080A:
                                i64[c.TS_VAL, i] = be32(data, o + 24)
                                i64[c.TS_ECR, i] = be32(data, o + 28)
                                dirty |= c.HAS_TS
                            else:
                                dirty |= tcp_options(data, o + 20, o + size, end, i, i64, i32, i16)
                elif nexth == 1 or nexth == 58:
                    if o < end and o + 4 <= limit:
                        i16[c.MTYPE, i] = data[uint64(o)]
                        if o + 2 <= end:
                            i16[c.MCODE, i] = data[uint64(o + 1)]
                        dirty |= c.HAS_MESSAGE
                elif nexth == 2:
                    if o + 1 <= end:
                        i16[c.MTYPE, i] = data[uint64(o)]
                        dirty |= c.HAS_MESSAGE
                elif nexth == 132:
                    if o + 4 <= end:
                        sport = be16(data, o)
                        dport = be16(data, o + 2)
                elif nexth == 4:
                    if tunnel == 0:
                        tunnel = IN4_4 if version == 4 else IN6_4
                    step = IP4
                elif nexth == 41:
                    if tunnel == 0:
                        tunnel = IN4_6 if version == 4 else IN6_6
                    step = IP6
                elif nexth == 51:
                    if o + 8 <= end:
                        nexth = int64(data[uint64(o)])
                        o += (int64(data[uint64(o + 1)]) + 2) << 2
                        step = L4
                        if nexth == 51:
                            break
                        pay = o
                        plen = max(limit - o, 0)
                elif nexth == 143 or nexth == 97:  # Ethernet (RFC 8986), EtherIP (RFC 3378)
                    if tunnel == 0:
                        tunnel = ETHERIP
                    if nexth == 97:
                        o += 2
                    step = ETHER
                elif nexth == 137:  # RFC 4023
                    if tunnel == 0:
                        tunnel = IN_MPLS
                    et = MPLS
                    step = TYPE
                elif nexth == 47:
                    step, o, et, code, ident = gre(data, o, end)
                    if tunnel == 0 and code:
                        tunnel = code
                        tunnel_id = ident
        if tunnel:
            u8[c.TUNNEL, i] = tunnel
            i64[c.TUNNEL_ID, i] = tunnel_id
            if depth == 1:  # nothing decoded inside: the tunnel's own addresses are both
                outer(i, version, src_hi, src_lo, dst_hi, dst_lo, u64, u8)
            dirty |= c.HAS_TUNNEL
        elif depth > 1:
            dirty |= c.HAS_TUNNEL
        i32[c.ETYPE, i] = etype
        u8[c.VERSION, i] = version
        u8[c.FRAG, i] = frag
        u64[c.SRC_LO, i] = src_lo
        u64[c.DST_LO, i] = dst_lo
        if version == 6:
            u64[c.SRC_HI, i] = src_hi
            u64[c.DST_HI, i] = dst_hi
            dirty |= c.HAS_IP6
        i16[c.PROTO, i] = proto
        i16[c.TTL, i] = ttl
        i32[c.IPID, i] = ip_id
        i32[c.SPORT, i] = sport
        i32[c.DPORT, i] = dport
        if pay > end:
            pay = end
        i64[c.PAYLOAD, i] = pay
        i32[c.PLEN, i] = plen
        size = max(min(plen, end - pay, limit - pay), 0) if pay >= 0 else int64(-1)
        i32[c.PCAP, i] = size
        told = proto == 17 and size >= 20
        u64[c.HEAD0, i] = be64(data, pay) if told else uint64(0)
        u64[c.HEAD1, i] = be64(data, pay + 8) if told else uint64(0)
        u64[c.HEAD2, i] = uint64(be32(data, pay + 16)) if told else uint64(0)
        i64[c.L3_END, i] = l3_end
        if 0 <= l3_end <= off + cap - 15:
            dirty |= c.HAS_TRAILER
        if proto == 253 or etype == 0x88B5:
            dirty |= c.HAS_KEYFRAME
    return dirty
