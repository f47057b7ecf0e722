"""The decode kernel against plain Python, and layer by layer."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from telemetry.capture.packets import TUNNELS, Packets, read_packets
from tests.naive.capture import decode_ethernet
from tests.naive.capture_build import arp, eth, gre, ip4, ip6, pcap, tcp, udp, vlan, vxlan

T0 = 1_700_000_000_000_000_000


def one(frame: bytes, *, link: int = 1, wire: int = -1) -> Packets:
    (batch,) = [b.copy() for b in read_packets(io.BytesIO(pcap([(T0, frame, wire)], link=link)))]
    assert batch.n == 1
    return batch


def row(frame: bytes, *, wire: int = -1) -> dict[str, Any]:
    b = one(frame, wire=wire)
    out = {
        name: getattr(b, name)[0].item()
        for name in (
            "vlan", "vlan_inner", "ether_type", "ip_version", "protocol", "ttl", "ip_id", "frag", "src_port",
            "dst_port", "tcp_seq", "tcp_ack", "tcp_flags", "tcp_window", "ts_val", "ts_ecr", "mss", "wscale",
            "sack_count", "payload_len", "tunnel_id", "message_type",
        )
    }  # fmt: skip
    for side in ("src", "dst", "outer_src", "outer_dst"):
        out[side] = int(getattr(b, side + "_hi")[0]) << 64 | int(getattr(b, side + "_lo")[0])
    out["tunnel"] = TUNNELS[b.tunnel[0]]
    at, size = int(b.payload_off[0]), int(b.payload_cap[0])
    out["payload"] = None if at < 0 else bytes(b.data[at : at + size])
    return out


def test_udp_in_ipv4() -> None:
    b = one(eth(ip4(udp(b"hello"))))
    assert (b.ip_version[0], b.src_lo[0], b.dst_lo[0], b.protocol[0], b.ttl[0]) == (4, 0x0A000001, 0x0A000002, 17, 64)
    assert (b.src_port[0], b.dst_port[0], b.payload_len[0], b.payload_cap[0]) == (1111, 2222, 5, 5)
    assert bytes(b.data[b.payload_off[0] :][:5]) == b"hello"
    assert (b.tcp_seq[0], b.vlan[0], b.hw_device[0], b.tunnel[0]) == (-1, -1, -1, 0)
    assert b.time_ns[0] == T0


@pytest.mark.parametrize(("size", "kept"), [(0, 0), (19, 19), (20, 20), (21, 21), (400, 400), (400, 19), (400, 20)])
def test_the_head_of_a_udp_payload_is_told_where_all_of_it_was_captured(size: int, kept: int) -> None:
    payload = bytes(range(200, 256)) * 8
    for body, proto, tells in ((udp(payload[:size]), 17, kept >= 20), (tcp(payload[:size]), 6, False)):
        frame = eth(ip4(body, proto=proto))
        b = one(frame[: len(frame) - size + kept], wire=len(frame))
        head = struct.pack(">QQI", int(b.head0[0]), int(b.head1[0]), int(b.head2[0]))
        assert head == (payload[:20] if tells else bytes(20))


def test_tcp_options() -> None:
    options = bytes.fromhex("020405b4 0402 0101 080a0000000700000008 030307 050a00000009 0000000a".replace(" ", ""))
    r = row(eth(ip4(tcp(b"abc", options=options), proto=6)))
    assert (r["mss"], r["ts_val"], r["ts_ecr"], r["wscale"], r["sack_count"]) == (1460, 7, 8, 7, 1)
    assert (r["tcp_flags"], r["payload_len"], r["payload"]) == (0x18, 3, b"abc")


def test_length_zero_means_to_the_end_of_the_frame() -> None:
    assert row(eth(ip4(tcp(b"x" * 3000), proto=6, total=0)))["payload_len"] == 3000


def test_padding_is_not_payload() -> None:
    r = row(eth(ip4(udp(b"ab"))) + b"\0" * 16)
    assert (r["payload_len"], r["payload"]) == (2, b"ab")


def test_snapped_packets_tell_both_lengths() -> None:
    frame = eth(ip4(udp(b"0123456789")))
    b = one(frame[:-6], wire=len(frame))
    assert (b.cap_len[0], b.wire_len[0], b.payload_len[0], b.payload_cap[0]) == (len(frame) - 6, len(frame), 10, 4)


def test_tags() -> None:
    inner = vlan(vlan(ip4(udp(b"")), 30), 20, 0x8100)
    r = row(eth(vlan(inner, 0x6000 | 10, 0x8100), 0x88A8))
    assert (r["vlan"], r["vlan_inner"], r["dst_port"], r["ether_type"]) == (10, 20, 2222, 0x0800)


def test_fragments_after_the_first_have_no_ports() -> None:
    assert (row(eth(ip4(udp(b"x"), bits=0x2000)))["frag"], row(eth(ip4(udp(b"x"), bits=0x2000)))["src_port"]) == (
        2,
        1111,
    )
    r = row(eth(ip4(udp(b"x"), bits=3)))
    assert (r["frag"], r["src_port"], r["payload_len"]) == (1, -1, 9)


def test_ipv6_extension_headers() -> None:
    fragment = bytes([17, 0, 0, 1, 0, 0, 0, 9]) + udp(b"q")
    r = row(eth(ip6(bytes([44, 0]) + b"\0" * 6 + fragment, nexth=0, src=5 << 100, dst=6), 0x86DD))
    assert (r["protocol"], r["frag"], r["src"], r["dst"], r["dst_port"], r["payload_len"]) == (
        17,
        2,
        5 << 100,
        6,
        2222,
        1,
    )


def test_arp_keeps_its_addresses_without_an_ip_version() -> None:
    r = row(eth(arp(2, "10.0.0.9", "10.0.0.8"), 0x0806))
    assert (r["ip_version"], r["src"], r["dst"], r["message_type"]) == (0, 0x0A000009, 0x0A000008, 2)


INNER = ip4(udp(b"in"), src="1.1.1.1", dst="2.2.2.2")


@pytest.mark.parametrize(
    ("frame", "name", "ident"),
    [
        (eth(ip4(gre(INNER, key=77), proto=47)), "gre", 77),
        (eth(ip4(INNER, proto=4)), "ipip", -1),
        (eth(ip4(udp(vxlan(eth(INNER), 5000), dport=4789))), "vxlan", 5000),
        (
            eth(ip4(gre(b"\x10\x0a\x00\x63" + b"\0" * 4 + eth(INNER), 0x88BE, sequence=1), proto=47)),
            "erspan2",
            99,
        ),
    ],
)  # fmt: skip
def test_tunnels(frame: bytes, name: str, ident: int) -> None:
    r = row(frame)
    assert (r["tunnel"], r["tunnel_id"]) == (name, ident)
    assert (r["src"], r["dst"], r["payload"]) == (0x01010101, 0x02020202, b"in")
    assert (r["outer_src"], r["outer_dst"]) == (0x0A000001, 0x0A000002)


@pytest.mark.parametrize(
    ("link", "head"),
    [
        (101, b""), (228, b""), (12, b""), (0, b"\x02\0\0\0"), (108, b"\0\0\0\x02"), (113, b"\0" * 14 + b"\x08\x00"),
        (276, b"\x08\x00" + b"\0" * 18), (9, b"\x00\x21"), (9, b"\xff\x03\x00\x21"), (104, b"\x0f\0\x08\x00"),
    ],
)  # fmt: skip
def test_link_types(link: int, head: bytes) -> None:
    b = one(head + ip4(udp(b"abc")), link=link)
    assert (b.linktype[0], b.dst_port[0], b.payload_len[0]) == (link, 2222, 3)


def test_other_link_types_keep_time_and_lengths() -> None:
    b = one(b"\x08\0" + b"x" * 40, link=105, wire=90)
    assert (b.time_ns[0], b.cap_len[0], b.wire_len[0], b.ip_version[0], b.protocol[0]) == (T0, 42, 90, 0, -1)


def test_arista_time_after_the_macs() -> None:
    body = b"\x00\x01\x00\x10" + (1_700_000_000).to_bytes(4, "big") + (250).to_bytes(4, "big") + b"\x08\x00"
    b = one(eth(body + ip4(udp(b"z")), 0xD28B))
    assert (b.hw_time_ns[0], b.dst_port[0], b.ether_type[0]) == (T0 + 250, 2222, 0x0800)
    short = b"\x00\x01\x01\x20" + (1_700_000_000 & 0xFFFF).to_bytes(2, "big") + (7).to_bytes(4, "big") + b"\x08\x00"
    assert one(eth(short + ip4(udp(b"z")), 0xD28B)).hw_time_ns[0] == T0 + 7


@pytest.mark.parametrize(("ns", "late"), [(999_999_000, 2000), (999_999_000, 600_000_000), (500_000_000, 2000)])
def test_aristas_rollover_is_taken_back_where_it_can_have_happened(ns: int, late: int) -> None:
    """The low 34 bits are taken on the way in, the others on the way out: 4 s too many if they roll over between."""
    second = 1_700_000_003  # 3 of 4
    captured = second * 1_000_000_000 + ns + late
    for wrong in (0, 4):
        stamp = struct.pack(">HHII", 1, 0x0110, second + wrong, ns) + b"\x08\0"
        (b,) = read_packets(io.BytesIO(pcap([(captured, eth(stamp + ip4(udp(b"x")), 0xD28B), -1)])))
        far = wrong if ns == 500_000_000 else 0
        assert b.hw_time_ns[0] == (second + far) * 1_000_000_000 + ns


def test_nulls_of_one_batch_do_not_leak_into_the_next() -> None:
    full = eth(vlan(ip4(tcp(b"", options=bytes.fromhex("080a0000000100000002020405b4")), proto=6), 5), 0x8100)
    frames = [full, eth(ip4(udp(b""))), full, eth(b"", 0x1234)]
    got = [b.copy() for b in read_packets(io.BytesIO(pcap([(T0, f, -1) for f in frames])), batch_rows=1)]
    assert [int(b.vlan[0]) for b in got] == [5, -1, 5, -1]
    assert [int(b.ts_val[0]) for b in got] == [1, -1, 1, -1]
    assert [int(b.tcp_seq[0]) for b in got] == [5, -1, 5, -1]
    assert [int(b.ip_version[0]) for b in got] == [4, 4, 4, 0]


small = st.binary(max_size=24)
addresses = st.sampled_from(["10.1.2.3", "224.0.0.5", "192.168.0.1"])


def _layers() -> st.SearchStrategy[bytes]:
    transport = st.one_of(
        st.tuples(st.just(17), st.builds(udp, small, st.integers(0, 65535), st.sampled_from([53, 4789, 9000]))),
        st.tuples(st.just(6), st.builds(tcp, small, seq=st.integers(0, 2**32 - 1), options=st.binary(max_size=40))),
        st.tuples(st.sampled_from([1, 2, 58, 50]), small),
    )
    four = st.builds(
        lambda p, src, dst, bits, options: ip4(p[1], p[0], src, dst, bits=bits, options=options),
        transport, addresses, addresses, st.sampled_from([0, 0x4000, 0x2000, 5]), st.sampled_from([b"", b"\x01" * 4]),
    )  # fmt: skip
    six = st.builds(lambda p, n: ip6(p[1], p[0], src=n, dst=n + 1), transport, st.integers(0, 2**128 - 2))

    def wrap(inner: st.SearchStrategy[tuple[int, bytes]]) -> st.SearchStrategy[tuple[int, bytes]]:
        return st.one_of(
            inner.map(lambda k: (0x0800, ip4(k[1], 4 if k[0] == 0x0800 else 41))),
            st.tuples(inner, st.none() | st.integers(0, 2**32 - 1)).map(
                lambda k: (0x0800, ip4(gre(k[0][1], k[0][0], key=k[1]), 47))
            ),
            inner.map(lambda k: (0x0800, ip4(udp(vxlan(eth(k[1], k[0]), 70), dport=4789)))),
            inner.map(lambda k: (0x86DD, ip6(k[1], 4 if k[0] == 0x0800 else 41))),
        )

    l3 = st.recursive(st.one_of(four.map(lambda b: (0x0800, b)), six.map(lambda b: (0x86DD, b))), wrap, max_leaves=3)
    tagged = st.tuples(l3, st.lists(st.integers(0, 4095), max_size=3)).map(_tag)
    return tagged.map(lambda k: eth(k[1], k[0]))


def _tag(pair: tuple[tuple[int, bytes], list[int]]) -> tuple[int, bytes]:
    (kind, body), tags = pair
    for vid in tags:
        kind, body = 0x8100, vlan(body, vid, kind)
    return kind, body


@settings(max_examples=300, deadline=None)
@given(
    frame=_layers(),
    cut=st.integers(0, 200),
    extra=st.binary(max_size=8),
    flips=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=3),
)
@example(frame=eth(ip4(udp(b"", dport=4789))), cut=0, extra=b"", flips=[])
def test_equals_the_plain_twin(frame: bytes, cut: int, extra: bytes, flips: list[tuple[int, int]]) -> None:
    """Whole, cut off anywhere, with padding and with bytes changed: the same as plain slices say."""
    changed = bytearray(frame + extra)
    for at, value in flips:
        if at < len(changed):
            changed[at] = value
    whole = len(changed)
    data = bytes(changed[: max(len(changed) - cut, 0)] if cut < len(changed) else changed)
    try:
        want = decode_ethernet(data, whole)
    except NotImplementedError:
        return
    got = row(data, wire=whole)
    if {4790, 6081} & {want["src_port"], want["dst_port"]} or want["protocol"] in (97, 143, 136, 132, 137, 51):
        return  # tunnels the twin does not know
    if got["ether_type"] in (0x0806, 0x88E5, 0x883E, 0x8847, 0x8848, 0x8864, 0xD28B) or got["ether_type"] <= 1500:
        return  # layers the twin does not know
    for name, value in want.items():
        if name == "payload":
            # past the end of the capture both are empty
            assert (got[name] or b"") == (value or b""), name
        elif name == "message_type" and got["src_port"] >= 0:
            continue
        else:
            assert got[name] == value, name


def test_columns_of_a_batch_are_views_and_copy_is_not() -> None:
    blob = pcap([(T0 + i, eth(ip4(udp(bytes([i])))), -1) for i in range(4)])
    views, copies = [], []
    for b in read_packets(io.BytesIO(blob), batch_rows=2):
        views.append(b.time_ns)
        copies.append(b.copy().time_ns)
    assert np.shares_memory(views[0], views[1])
    assert np.concatenate(copies).tolist() == [T0, T0 + 1, T0 + 2, T0 + 3]
