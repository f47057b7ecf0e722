"""The same packets as tshark tells them: an independent witness, field by field."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from telemetry.capture.decode import DECODED_LINKS
from telemetry.capture.packets import NULL, TUNNELS, CaptureStats, read_packets

__all__ = ["Difference", "compare", "tshark"]

FIELDS = (
    "frame.time_epoch", "frame.cap_len", "frame.len", "frame.interface_id", "frame.protocols", "frame.encap_type",
    "vlan.id", "ieee8021ad.id",
    "ip.src", "ip.dst", "ip.ttl", "ip.proto", "ip.id", "ipv6.src", "ipv6.dst", "ipv6.hlim",
    "udp.srcport", "udp.dstport", "udp.length", "tcp.srcport", "tcp.dstport", "tcp.seq_raw", "tcp.ack_raw",
    "tcp.flags", "tcp.window_size_value", "tcp.len", "tcp.options.timestamp.tsval", "tcp.options.timestamp.tsecr",
    "tcp.options.mss_val", "tcp.options.wscale.shift", "tcp.options.sack_le", "tcp.options.sack_re",
    "vxlan.vni", "gre.key", "erspan.spanid", "icmp.type", "icmp.code", "icmpv6.type", "icmpv6.code", "igmp.type",
    "arp.opcode", "ip.frag_offset", "ipv6.fraghdr.offset",
)  # fmt: skip

PREFERENCES = (
    "ip.defragment:FALSE",
    "ipv6.defragment:FALSE",
    "tcp.desegment_tcp_streams:FALSE",
    "tcp.relative_sequence_numbers:FALSE",
    "frame.generate_epoch_time:TRUE",
)

_IDS = {"vxlan": "vxlan.vni", "gre": "gre.key", "erspan2": "erspan.spanid", "erspan3": "erspan.spanid"}


@dataclass(frozen=True, slots=True)
class Difference:
    packet: int
    field: str
    tshark: str
    ours: str


def tshark(path: str) -> list[dict[str, list[str]]] | None:
    """All packets' fields (every occurrence), or None where tshark refuses the file."""
    command = ["tshark", "-n", "-r", path, "-T", "fields", "-E", "separator=/t", "-E", "occurrence=a"]
    command += ["-E", "aggregator=,"]
    for preference in PREFERENCES:
        command += ["-o", preference]
    for name in FIELDS:
        command += ["-e", name]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env={**os.environ, "TZ": "UTC"})
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    if not rows and done.returncode:
        return None
    return [{name: [v for v in cell.split(",") if v] for name, cell in zip(FIELDS, row, strict=False)} for row in rows]


def _epoch(text: str) -> int:
    sign = -1 if text.startswith("-") else 1
    whole, _, part = text.lstrip("-").partition(".")
    return sign * (int(whole) * 1_000_000_000 + int(part))  # a fraction of 1 s and more has ten digits


def _tags(values: list[str]) -> list[int]:
    return [int(v) for v in values]


def _address(version: int, hi: int, lo: int) -> str:
    if version == 4:
        return socket.inet_ntop(socket.AF_INET, lo.to_bytes(4, "big"))
    return socket.inet_ntop(socket.AF_INET6, ((hi << 64) | lo).to_bytes(16, "big"))


def ours(path: str) -> Iterator[dict[str, Any]]:
    """Our packets (those not recovered) as plain dicts."""
    skip = {"n", "source", "file", "has", "data"}
    for batch in read_packets(path, stats=CaptureStats()):
        names = [name for name in batch.__dataclass_fields__ if name not in skip]
        columns = [getattr(batch, name).tolist() for name in names]
        for values in zip(*columns, strict=True):
            row = dict(zip(names, values, strict=True))
            if not row["recovered"]:
                yield row


def _differences(number: int, t: dict[str, list[str]], o: dict[str, Any]) -> Iterator[Difference]:
    def check(field: str, theirs: list[str], mine: int, base: int = 0, null: int = -1) -> Iterator[Difference]:
        want = int(theirs[0], base) if theirs else null
        if want != mine:
            yield Difference(number, field, ",".join(theirs), str(mine))

    time = t["frame.time_epoch"]
    want = _epoch(time[0]) if time else NULL
    if want != o["time_ns"]:
        yield Difference(number, "time_ns", time[0] if time else "", str(o["time_ns"]))
    yield from check("cap_len", t["frame.cap_len"], o["cap_len"])
    yield from check("wire_len", t["frame.len"], o["wire_len"])
    if t["frame.interface_id"]:
        yield from check("interface", t["frame.interface_id"], o["interface"])

    if not o["tunnel"]:  # those inside a tunnel are told along with those outside
        vlans = [*_tags(t["ieee8021ad.id"]), *_tags(t["vlan.id"])]
        for field, want in zip(("vlan", "vlan_inner"), [*vlans, -1, -1], strict=False):
            if want != o[field]:
                yield Difference(number, field, str(vlans), str(o[field]))
    if o["linktype"] not in DECODED_LINKS:
        return

    # IP headers in the order of their layers: tshark tells each version's apart
    four = list(zip(t["ip.src"], t["ip.dst"], t["ip.ttl"], t["ip.proto"], t["ip.id"], strict=False))
    six = list(zip(t["ipv6.src"], t["ipv6.dst"], t["ipv6.hlim"], strict=False))
    layers = ":".join(t["frame.protocols"]).split(":")
    version = o["ip_version"]
    if version == 0:
        if four or six:
            yield Difference(number, "ip_version", str((four or six)[0]), "0")
    else:
        mine: tuple[Any, ...] = (
            _address(version, o["src_hi"], o["src_lo"]), _address(version, o["dst_hi"], o["dst_lo"]), str(o["ttl"]),
        )  # fmt: skip
        if version == 4:
            mine = (*mine, str(o["protocol"]), f"0x{o['ip_id']:04x}")
        headers: list[Any] = four if version == 4 else six
        if not o["tunnel"]:
            first = next((layer for layer in layers if layer in ("ip", "ipv6")), "")
            if first == "ip" and not four:
                first = "ipv6"  # IPv6 behind IPv4's number
            headers = headers[:1] if first == ("ip" if version == 4 else "ipv6") else []
        if mine not in headers:
            yield Difference(number, "ip", str(four + six), str(mine))
        if o["tunnel"] and o["outer_version"]:
            v = o["outer_version"]
            outer = (
                _address(v, o["outer_src_hi"], o["outer_src_lo"]), _address(v, o["outer_dst_hi"], o["outer_dst_lo"])
            )  # fmt: skip
            seen = four if v == 4 else six
            if not seen or outer != seen[0][:2]:
                yield Difference(number, "outer", str(seen), str(outer))
    if o["tunnel"]:
        name = TUNNELS[o["tunnel"]]
        field = {"vxlan": "vxlan.vni", "gre": "gre.key", "erspan2": "erspan.spanid", "erspan3": "erspan.spanid"}.get(
            name
        )
        if field:
            yield from check("tunnel_id", t[field], o["tunnel_id"])
    quoted = "icmp" in layers or "icmpv6" in layers  # an ICMP error quotes another packet's headers
    if quoted and o["src_port"] < 0:
        yield from check("message_type", t["icmp.type"] or t["icmpv6.type"], o["message_type"])
        yield from check("message_code", t["icmp.code"] or t["icmpv6.code"], o["message_code"])
        return
    last = -1 if o["tunnel"] else 0  # innermost, where several were decoded
    if t["tcp.srcport"] or (o["protocol"] == 6 and o["src_port"] >= 0):
        for field, name in (
            ("tcp.srcport", "src_port"), ("tcp.dstport", "dst_port"), ("tcp.seq_raw", "tcp_seq"),
            ("tcp.ack_raw", "tcp_ack"), ("tcp.flags", "tcp_flags"), ("tcp.window_size_value", "tcp_window"),
            ("tcp.len", "payload_len"), ("tcp.options.timestamp.tsval", "ts_val"),
            ("tcp.options.timestamp.tsecr", "ts_ecr"), ("tcp.options.mss_val", "mss"),
            ("tcp.options.wscale.shift", "wscale"), ("tcp.options.sack_le", "sack0_lo"),
            ("tcp.options.sack_re", "sack0_hi"),
        ):  # fmt: skip
            values = t[field][last:] if last else t[field]
            yield from check(name, values, o[name])
    elif t["udp.srcport"] or (o["protocol"] == 17 and o["src_port"] >= 0):
        for field, name in (("udp.srcport", "src_port"), ("udp.dstport", "dst_port")):
            values = t[field][last:] if last else t[field]
            yield from check(name, values, o[name])
        if t["udp.length"]:
            length = int(t["udp.length"][last])
            if length >= 8 and length - 8 != o["payload_len"]:
                yield Difference(number, "payload_len", str(length - 8), str(o["payload_len"]))
    if t["igmp.type"]:
        yield from check("message_type", t["igmp.type"], o["message_type"])
    if t["arp.opcode"] and o["message_type"] >= 0:
        yield from check("message_type", t["arp.opcode"], o["message_type"])


def compare(path: str) -> list[Difference] | None:
    """Where we and tshark differ; None where tshark refuses the file."""
    theirs = tshark(path)
    if theirs is None:
        return None
    theirs = [t for t in theirs if t["frame.encap_type"]]  # the others are blocks, not packets
    mine = list(ours(path))
    out = []
    if len(theirs) != len(mine):
        out.append(Difference(0, "packets", str(len(theirs)), str(len(mine))))
    for number, (t, o) in enumerate(zip(theirs, mine, strict=False), 1):
        out.extend(_differences(number, t, o))
    return out
