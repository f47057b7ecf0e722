"""Public captures: counts as capinfos tells them, every field as tshark tells it, stamps, and no false hits."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from telemetry.capture.packets import NULL, CaptureStats, Packets, read_packets
from telemetry.errors import InputError
from tests.naive.capture_tshark import compare

DATA = Path(os.environ.get("TAILWATCH_DATA", "")) / "captures"
pytestmark = [
    pytest.mark.corpus,
    pytest.mark.skipif(
        not os.environ.get("TAILWATCH_DATA") or not DATA.is_dir(),
        reason="TAILWATCH_DATA does not name the public corpus",
    ),
]
TCPDUMP = "formats/the-tcpdump-group_tcpdump/tests/"
LIBPCAP = "formats/the-tcpdump-group_libpcap/tests/"

STAMPED = {
    "hft/metamako_trailer.pcap": (111, 1000),
    "hft/exablaze_trailer.pcap": (24, 1000),
    "hft/exa.mode.append.pcap": (3, 1000),
    "hft/exa.mode.fcs.pcap": (3, 1000),
    "hft/arista_ether.pcap": (16, 2_000_000),
    TCPDUMP + "arista_ether.pcap": (16, 2_000_000),
}
"""Files with hardware stamps: how many, and how far (ns) hardware minus capture time may spread."""

_ERF = "tshark numbers the ports of an ERF card in the order of their appearance; we keep the card's own numbers"
_BIG = "BIG TCP: an IPv6 payload length of 0 without a jumbo option is no payload to tshark 4.0, the frame's rest to us"
_LIAR = "made up to crash decoders: tshark gives up inside the TCP header's options or urgent data and tells no length"
_SUNATM = "tshark does not count the four bytes of the SunATM header as captured"
_FRACTION = "fractions of 1 s and more overflow tshark's 32 bits; we carry them into the seconds"
EXPLAINED: dict[str, tuple[set[str], str]] = {
    "hft/erf-ethernet-example.erf": ({"interface"}, _ERF),
    "formats/LibtraceTeam_libtrace/test/traces/100_packets.erf": ({"interface"}, _ERF),
    "formats/LibtraceTeam_libtrace/test/traces/5_packets.erf": ({"interface"}, _ERF),
    "formats/kbandla_dpkt/examples/data/nb6-http.pcap": ({"*"}, "L2TP is not decoded further"),
    LIBPCAP + "filter/AH-IPcomp-IPv4.pcap": ({"*"}, "IPComp: tshark inflates the packet inside"),
    LIBPCAP + "filter/AH-IPcomp-IPv6.pcap": ({"*"}, "IPComp: tshark inflates the packet inside"),
    "formats/gopacket_gopacket/layers/testdata/linux_sll_oversized_addr.pcapng": (
        {"payload_len"}, "one TCP header tells a length of 0: tshark counts the header itself as payload",
    ),
    TCPDUMP + "PIM_register_register-stop.pcap": (
        {"message_type", "message_code"}, "the packet inside a PIM register is not decoded further",
    ),
    TCPDUMP + "pim-packet-assortment.pcap": (
        {"src_port", "dst_port", "payload_len"}, "the packet inside a PIM register is not decoded further",
    ),
    TCPDUMP + "arista_ether.pcap": ({"vlan", "ip"}, "tshark 4.0 does not read on after 48-bit stamps and tags"),
    TCPDUMP + "atm-heapoverflow.pcap": ({"cap_len", "wire_len"}, _SUNATM),
    TCPDUMP + "atm-oam-heapoverflow.pcap": ({"cap_len", "wire_len"}, _SUNATM),
    TCPDUMP + "atm-oam-loopback-print-overrun.pcap": ({"cap_len", "wire_len", "time_ns"}, _SUNATM + "; " + _FRACTION),
    TCPDUMP + "bgp-bgp_capabilities_print-oobr-1.pcap": ({"payload_len"}, _LIAR),
    TCPDUMP + "bgp-bgp_capabilities_print-oobr-2.pcap": ({"payload_len"}, _LIAR),
    TCPDUMP + "bgp_pmsi_tunnel-oobr.pcap": ({"payload_len"}, _LIAR),
    TCPDUMP + "rpki-rtr-oobr.pcap": ({"payload_len"}, _LIAR),
    TCPDUMP + "bigtcp-ipv6-geneve-ipv4.pcap": ({"src_port", "dst_port"}, _BIG),
    TCPDUMP + "bigtcp-ipv6-geneve-ipv6.pcap": ({"src_port", "dst_port"}, _BIG),
    TCPDUMP + "bigtcp-ipv6-vxlan-ipv4.pcap": ({"src_port", "dst_port"}, _BIG),
    TCPDUMP + "bigtcp-ipv6-vxlan-ipv6.pcap": ({"src_port", "dst_port"}, _BIG),
    TCPDUMP + "bigtcp-ipv6.pcap": ({"*"}, _BIG),
    TCPDUMP + "icmpv6-length-zero.pcapng": ({"message_type", "message_code"}, _BIG),
    TCPDUMP + "nhrp-trace.pcap": ({"message_type", "message_code"}, "the packet quoted by NHRP is not decoded further"),
    TCPDUMP + "nsh.pcap": ({"*"}, "NSH is not decoded further"),
    TCPDUMP + "sflow_expanded.pcap": ({"*"}, "the packets sampled by sFlow are not decoded further"),
    TCPDUMP + "various_gre.pcap": ({"message_type", "message_code"}, "Cisco metadata in GRE is not decoded further"),
    TCPDUMP + "rx_serviceid_oobr.pcap": ({"time_ns"}, _FRACTION),
    TCPDUMP + "timestamp_invalid_micro.pcap": ({"time_ns"}, _FRACTION),
    TCPDUMP + "timestamp_invalid_nano.pcap": ({"time_ns"}, _FRACTION),
    "formats/wireshark_4.0.17_test_captures/wireguard-ping-tcp-dsb.pcapng": (
        {"*"}, "tshark decrypts WireGuard with the keys in the file",
    ),
}  # fmt: skip
"""Files in which we and tshark differ: in which fields, and why."""

ALSO_READ = {
    "formats/gopacket_gopacket/pcapgo/tests/be/test901.pcapng": "the blocks before a section of an unknown version",
    "formats/gopacket_gopacket/pcapgo/tests/le/test901.pcapng": "the blocks before a section of an unknown version",
    **{
        LIBPCAP + "filter/" + name: "a link type that Wireshark 4.0 does not know"
        for name in ("brcm-tag-stp.pcap", "brcm-tag.pcap", "dsa.pcap")
    },
    **{
        TCPDUMP + name: "a link type that Wireshark 4.0 does not know"
        for name in (
            "brcm-tag-prepend.pcap", "brcm-tag.pcap", "dsa-high-vid.pcap", "dsa.pcap", "edsa-high-vid.pcap",
            "edsa.pcap", "frf16_magic_ie-oobr.pcap", "hoobr_juniper3.pcap", "juniper_es_oobr.pcap",
            "juniper_monitor_invalid_cookie_length.pcap", "kday6.pcap", "vtp_asan-2.pcap", "vtp_asan-3.pcap",
            "vtp_asan.pcap",
        )
    },
    LIBPCAP + "linktype-reserved-field-not-zero.pcap": "bits set in the reserved part of the link type",
    LIBPCAP + "pcap-invalid-version-1.pcap": "an older minor version",
    LIBPCAP + "pcapng-invalid-vers-2.pcapng": "an unknown minor version",
}  # fmt: skip
"""Files that capinfos refuses whole and of which we tell times and lengths."""


def listed() -> list[tuple[str, int | None]]:
    with open(DATA / "packet_counts.csv", newline="") as file:
        return [(name, int(count) if count else None) for name, count in csv.reader(file) if name != "file"]


def test_counts_of_all_files_are_those_of_capinfos() -> None:
    wrong = []
    for name, want in listed():
        stats = CaptureStats()
        try:
            for _ in read_packets(DATA / name, stats=stats):
                pass
            got: int | None = stats.packets - stats.recovered
        except InputError:
            got = None
        if got != want and not (want is None and name in ALSO_READ):
            wrong.append((name, want, got))
    assert not wrong


def test_stamps_are_found_where_they_are_and_nowhere_else() -> None:
    found = {}
    for name, _ in listed():
        stats = CaptureStats()
        spread: list[np.ndarray] = []
        try:
            for b in read_packets(DATA / name, stats=stats):
                has = b.hw_time_ns != NULL
                spread.append((b.hw_time_ns - b.time_ns)[has])
        except InputError:
            continue
        if stats.hardware:
            found[name] = (stats.hardware, int(np.ptp(np.concatenate(spread))))
    assert {name: count for name, (count, _) in found.items()} == {name: count for name, (count, _) in STAMPED.items()}
    for name, (_, apart) in found.items():
        assert apart < STAMPED[name][1], name


def _read(name: str) -> list[Packets]:
    return [b.copy() for b in read_packets(DATA / name)]


def test_metamako_and_capture_time_agree() -> None:
    (b,) = _read("hft/metamako_trailer.pcap")
    assert ((b.hw_time_ns - b.time_ns >= 0) & (b.hw_time_ns - b.time_ns < 1000)).all()
    assert (b.hw_device == 165).all()
    assert (b.hw_port == 14).all()


def test_exablaze_and_capture_time_are_the_same() -> None:
    (b,) = _read("hft/exablaze_trailer.pcap")
    np.testing.assert_array_equal(b.hw_time_ns, b.time_ns)
    assert set(b.hw_port.tolist()) == {47, 48}


SAMPLE = (
    "feeds/Cme/Mdp3.Sbe.v1.9/MdIncrementalRefreshBook.pcap",
    "formats/wireshark_4.0.17_test_captures/many_interfaces.pcapng.1",
    TCPDUMP + "erspan-type-ii-3.pcap",
    TCPDUMP + "bigtcp-ipv6.pcap",
    "hft/metamako_trailer.pcap",
)


def _unexplained(name: str) -> list[object]:
    differences = compare(str(DATA / name))
    fields, _ = EXPLAINED.get(name, (set(), ""))
    return [d for d in differences or [] if d.field not in fields and "*" not in fields]


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_is_equal_to_tshark(name: str) -> None:
    assert _unexplained(name) == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_all_files_are_equal_to_tshark() -> None:
    wrong = {}
    for name, count in listed():
        if count is not None and (differences := _unexplained(name)):
            wrong[name] = differences[:5]
    assert not wrong
