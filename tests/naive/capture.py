"""Plain-Python twins of the capture kernels: one packet at a time, slices instead of offsets."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

__all__ = ["EMPTY", "decode_ethernet", "read_pcap"]

EMPTY: dict[str, Any] = {
    "vlan": -1, "vlan_inner": -1, "ether_type": -1, "ip_version": 0, "src": 0, "dst": 0, "protocol": -1, "ttl": -1,
    "ip_id": -1, "frag": 0, "src_port": -1, "dst_port": -1, "tcp_seq": -1, "tcp_ack": -1, "tcp_flags": -1,
    "tcp_window": -1, "ts_val": -1, "ts_ecr": -1, "mss": -1, "wscale": -1, "sack_count": -1, "payload": None,
    "payload_len": -1, "tunnel": "", "tunnel_id": -1, "outer_src": 0, "outer_dst": 0, "message_type": -1,
}  # fmt: skip


def read_pcap(blob: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(time in ns, wire length, captured bytes) of each whole record of a pcap file."""
    order = "<" if blob[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1", b"\x34\xcd\xb2\xa1") else ">"
    magic = struct.unpack(order + "I", blob[:4])[0]
    unit = 1 if magic == 0xA1B23C4D else 1000
    extra = 8 if magic == 0xA1B2CD34 else 0
    at = 24
    while at + 16 + extra <= len(blob):
        sec, frac, cap, wire = struct.unpack(order + "IIII", blob[at : at + 16])
        at += 16 + extra
        if cap > 262_144 or at + cap > len(blob):
            return
        yield sec * 1_000_000_000 + frac * unit, wire, blob[at : at + cap]
        at += cap


def decode_ethernet(frame: bytes, wire: int) -> dict[str, Any]:
    """Decode an Ethernet frame of `wire` bytes of which `frame` was captured."""
    out = dict(EMPTY)
    _ethernet(frame, max(wire, len(frame)), out, 0)
    if out["tunnel"] and out["ip_version"] and not out["outer_src"] and not out["outer_dst"]:
        out["outer_src"], out["outer_dst"] = out["src"], out["dst"]
    return out


def _ethernet(b: bytes, room: int, out: dict[str, Any], depth: int) -> None:
    if len(b) < 14:
        return
    kind = struct.unpack(">H", b[12:14])[0]
    b, room = b[14:], room - 14
    tags = []
    while kind in (0x8100, 0x88A8, 0x9100, 0x9200):
        if depth == 0:
            out["ether_type"] = kind
        if len(b) < 4:
            tags += [int.from_bytes(b[:2], "big") & 0xFFF] if len(b) >= 2 else []
            break
        tag, kind = struct.unpack(">HH", b[:4])
        tags.append(tag & 0xFFF)
        b, room = b[4:], room - 4
    if kind in (0x6558, 0x8870, 0x88E5, 0x88E7, 0x8909, 0x8926, 0x892F, 0x894F, 0xF1C1):
        raise NotImplementedError("headers the twin does not know")
    if depth == 0:
        out["ether_type"] = kind
        if tags:
            out["vlan"] = tags[0]
        if len(tags) > 1:
            out["vlan_inner"] = tags[1]
    if kind == 0x0800:
        _ip4(b, room, out, depth)
    elif kind == 0x86DD:
        _ip6(b, room, out, depth)


def _enter(out: dict[str, Any], depth: int) -> None:
    if depth == 1:
        out["outer_src"], out["outer_dst"] = out["src"], out["dst"]
    out["src_port"] = out["dst_port"] = out["ip_id"] = -1


def _ip4(b: bytes, room: int, out: dict[str, Any], depth: int) -> None:
    if b and b[0] >> 4 == 6:
        _ip6(b, room, out, depth)
        return
    if len(b) < 20 or b[0] >> 4 != 4:
        return
    size, total = (b[0] & 15) * 4, struct.unpack(">H", b[2:4])[0]
    if size < 20 or 0 < total < size:
        return
    _enter(out, depth)
    bits = struct.unpack(">H", b[6:8])[0]
    out.update(
        ip_version=4, src=int.from_bytes(b[12:16], "big"), dst=int.from_bytes(b[16:20], "big"), ttl=b[8], protocol=b[9],
        ip_id=struct.unpack(">H", b[4:6])[0], frag=1 if bits & 0x1FFF else 2 if bits & 0x2000 else 0,
    )  # fmt: skip
    if total:
        b, room = b[:total], min(room, total)
    b, room = b[size:], room - size
    out.update(payload=b[: max(room, 0)], payload_len=max(room, 0))
    if not bits & 0x1FFF:
        _transport(b, room, out["protocol"], out, depth + 1, 4)


def _ip6(b: bytes, room: int, out: dict[str, Any], depth: int) -> None:
    if len(b) < 40 or b[0] >> 4 != 6:
        return
    _enter(out, depth)
    total, nexth = struct.unpack(">H", b[4:6])[0], b[6]
    out.update(
        ip_version=6, src=int.from_bytes(b[8:24], "big"), dst=int.from_bytes(b[24:40], "big"), ttl=b[7], protocol=nexth,
        frag=0,
    )  # fmt: skip
    if total:
        b, room = b[: 40 + total], min(room, 40 + total)
    b, room = b[40:], room - 40
    whole = True
    while nexth in (0, 43, 60, 44, 51):
        if len(b) < 8 or room < 8:
            whole = False
            break
        if nexth == 44:
            bits = struct.unpack(">H", b[2:4])[0]
            nexth, b, room = b[0], b[8:], room - 8
            out["frag"] = 1 if bits & 0xFFF8 else 2 if bits & 1 else 0
            if out["frag"] == 1:
                whole = False
                break
        else:
            size = (b[1] + 2) * 4 if nexth == 51 else (b[1] + 1) * 8
            nexth, b, room = b[0], b[size:], room - size
    out.update(protocol=nexth, payload=b[: max(room, 0)], payload_len=max(room, 0))
    if whole:
        _transport(b, room, nexth, out, depth + 1, 6)


def _tunnel(out: dict[str, Any], name: str, ident: int = -1) -> None:
    if not out["tunnel"]:
        out["tunnel"], out["tunnel_id"] = name, ident


def _transport(b: bytes, room: int, proto: int, out: dict[str, Any], depth: int, version: int) -> None:
    if proto in (17, 6) and len(b) >= 4:
        out["src_port"], out["dst_port"] = struct.unpack(">HH", b[:4])
    if proto == 17 and len(b) >= 4:
        size = struct.unpack(">H", b[4:6])[0] if len(b) >= 6 else 0
        length = size - 8 if size >= 8 else max(room - 8, 0)
        out.update(payload=b[8 : max(min(8 + length, room), 8)], payload_len=length)
        if 4789 in (out["src_port"], out["dst_port"]) and len(b) >= 16 and size >= 16:
            _tunnel(out, "vxlan", int.from_bytes(b[12:15], "big"))
            _ethernet(b[16:], min(room, size) - 16, out, depth)
    elif proto == 6:
        _tcp(b, room, out)
    elif (proto in (1, 58) and b and room >= 4) or (proto == 2 and b):
        out["message_type"] = b[0]
    elif proto == 4:
        _tunnel(out, "ipip" if version == 4 else "4in6")
        _ip4(b, room, out, depth)
    elif proto == 41:
        _tunnel(out, "6in4" if version == 4 else "6in6")
        _ip6(b, room, out, depth)
    elif proto == 47 and len(b) >= 4:
        _gre(b, room, out, depth)


def _tcp(b: bytes, room: int, out: dict[str, Any]) -> None:
    out.update(payload=None, payload_len=-1)
    if len(b) < 16:
        return
    out["tcp_seq"], out["tcp_ack"], bits, window = struct.unpack(">IIHH", b[4:16])
    size = (bits >> 12) * 4
    if size <= room and not out["frag"]:
        out["payload_len"] = room - size
    if size < 20:
        out["tcp_ack"] = -1
        return
    out.update(tcp_flags=bits & 0xFFF, tcp_window=window)
    if size <= room and not out["frag"]:
        out["payload"] = b[size:room]
    options = b[20:size]
    captured = len(options)
    while options:
        used = captured - len(options)
        kind = options[0]
        if kind == 0:
            break
        if kind == 1:
            options = options[1:]
            continue
        if options[:2] == b"\x08\x0a" and 6 <= len(options) < 10 <= size - 20 - used and out["ts_val"] < 0:
            out["ts_val"] = int.from_bytes(options[2:6], "big")  # its echo was cut off
        if len(options) < 2 or options[1] < 2 or options[1] > len(options):
            break
        value, options = options[2 : options[1]], options[options[1] :]
        if kind == 8 and len(value) == 8 and out["ts_val"] < 0:
            out["ts_val"], out["ts_ecr"] = struct.unpack(">II", value)
        elif kind == 2 and len(value) == 2 and out["mss"] < 0:
            out["mss"] = int.from_bytes(value, "big")
        elif kind == 3 and len(value) == 1 and out["wscale"] < 0:
            out["wscale"] = value[0]
        elif kind == 5 and len(value) >= 8 and len(value) % 8 == 0 and out["sack_count"] < 0:
            out["sack_count"] = len(value) // 8


def _gre(b: bytes, room: int, out: dict[str, Any], depth: int) -> None:
    bits, kind = struct.unpack(">HH", b[:4])
    if bits & 0x4000 or bits & 7 == 1 or kind not in (0x0800, 0x86DD, 0x6558, 0x88BE):
        raise NotImplementedError("the twin knows plain GRE only")
    at = 4 + (4 if bits & 0xC000 else 0)
    ident = -1
    if bits & 0x2000:
        if len(b) < at + 4:
            return
        ident = int.from_bytes(b[at : at + 4], "big")
        at += 4
    if bits & 0x1000:
        at += 4
    name = "gre"
    if kind == 0x88BE:
        name = "erspan1"
        if bits & 0x1000:
            name = "erspan2"
            if len(b) < at + 12:
                return
            if b[at] >> 4 == 2:
                raise NotImplementedError("the twin knows type I and II only")
            ident = int.from_bytes(b[at + 2 : at + 4], "big") & 0x3FF
            at += 8
    _tunnel(out, name, ident)
    inner, room = b[at:], room - at
    if kind == 0x0800:
        _ip4(inner, room, out, depth)
    elif kind == 0x86DD:
        _ip6(inner, room, out, depth)
    else:
        _ethernet(inner, room, out, depth)
