"""/proc text to columns; the columns mean to the reader of lab folders what they should."""

from __future__ import annotations

import csv
import gzip
import itertools
import os
import socket
import struct
from pathlib import Path

import pytest

from pipelines.lab.workers import netlink, parse
from telemetry.labproc import lab_series

INTERRUPTS = """           CPU0       CPU1
 24:          1          0  IO-APIC   5-edge      ACPI:Ged
 36:          0      75674 PCI-MSIX-0000:00:02.0   1-edge      virtio1-req.0
LOC:      29189      29545   Local timer interrupts
SPU:          0          0   Spurious interrupts
ERR:          0
"""
SOFTNET = (
    "0000a1b2 00000007 00000003 00000000 00000000 00000000 00000000 00000000 00000000 0000000f 00000000 00000002"
    " 00000001 00000004 00000005\n"
)


def test_interrupts_keep_number_action_and_cpu() -> None:
    assert parse.host("irq", INTERRUPTS) == {
        "irq.24_ACPI:Ged.cpu0": 1,
        "irq.24_ACPI:Ged.cpu1": 0,
        "irq.36_virtio1-req.0.cpu0": 0,
        "irq.36_virtio1-req.0.cpu1": 75674,
        "irq.LOC.cpu0": 29189,
        "irq.LOC.cpu1": 29545,
    }


def test_softnet_is_hexadecimal_and_names_its_cpu() -> None:
    assert parse.host("softnet", SOFTNET) == {
        "softnet.cpu1.processed": 0xA1B2,
        "softnet.cpu1.dropped": 7,
        "softnet.cpu1.time_squeeze": 3,
        "softnet.cpu1.received_rps": 15,
        "softnet.cpu1.flow_limit_count": 0,
        "softnet.cpu1.backlog_total": 2,
        "softnet.cpu1.input_qlen": 4,
        "softnet.cpu1.process_qlen": 5,
    }


def test_an_old_softnet_counts_rows() -> None:
    old = "\n".join(" ".join(["00000001"] * 11) for _ in range(2))
    assert set(parse.host("softnet", old)) >= {"softnet.cpu0.processed", "softnet.cpu1.processed"}


def test_snmp_goes_by_the_names_in_its_header() -> None:
    text = "Udp: InDatagrams NoPorts RcvbufErrors\nUdp: 10 0 1488\nTcp: RtoMax RetransSegs\nTcp: 120000 3\n"
    assert parse.space("trd", "snmp", text) == {
        "trd.snmp.Udp:InDatagrams": 10,
        "trd.snmp.Udp:NoPorts": 0,
        "trd.snmp.Udp:RcvbufErrors": 1488,
        "trd.snmp.Tcp:RtoMax": 120000,
        "trd.snmp.Tcp:RetransSegs": 3,
    }


def test_sockets_of_one_port_are_summed() -> None:
    row = "  1: 0100007F:7531 00000000:0000 07 00000000:{q} 00:00000000 00000000 0 0 1 2 0 {d}\n"
    text = "  sl  local_address\n" + row.format(q="00000300", d=2) + row.format(q="00000001", d=5)
    assert parse.space("trd", "udp", text) == {"trd.udp.30001.rx_queue": 0x301, "trd.udp.30001.drops": 7}


def test_the_name_of_a_process_may_hold_anything() -> None:
    rest = "T 1 1 1 0 -1 4194304 350 0 7 0 5 6 0 0 20 0 1 0 100 1 2 " + " ".join(["0"] * 14) + " 1 0 0"
    assert parse.process("strat.stat", f"12 (a) b (c) {rest}\n") == {
        "proc.strat.state_T": 1,
        "proc.strat.state_D": 0,
        "proc.strat.minflt": 350,
        "proc.strat.majflt": 7,
        "proc.strat.last_cpu": 1,
    }


def test_a_process_that_is_gone_has_no_columns() -> None:
    assert parse.process("strat.stat", "") == {}


@pytest.mark.skipif(not os.path.exists("/proc/softirqs"), reason="needs Linux's /proc")
def test_this_machine_is_readable() -> None:
    for name, path in {
        "irq": "interrupts", "softirq": "softirqs", "stat": "stat", "softnet": "net/softnet_stat", "vmstat": "vmstat",
        "disk": "diskstats", "meminfo": "meminfo",
    }.items():  # fmt: skip
        columns = parse.host(name, Path("/proc", path).read_text())
        assert columns, name
        assert all(isinstance(v, int) and v >= 0 for v in columns.values())
    own = parse.process("me.status", Path("/proc/self/status").read_text())
    assert own["proc.me.voluntary_ctxt_switches"] >= 0


@pytest.mark.parametrize(
    ("column", "series"),
    [
        ("softnet.cpu1.dropped", 'softnet_dropped_total{host="lab",cpu="1"}'),
        ("irq_affinity.36.mask", 'irq_affinity_mask{host="lab",irq="36"}'),
        ("trd.conntrack_stat.cpu0.drop", 'conntrack_drop_total{host="lab",cpu="0",netns="trd"}'),
        ("trd.conntrack.max", 'conntrack_limit{host="lab",netns="trd"}'),
        ("trd.neigh.eth0.failed", 'neigh_failed{host="lab",device="eth0",netns="trd"}'),
        ("sw.qdisc.st.backlog", 'qdisc_backlog_bytes{host="lab",device="st",netns="sw"}'),
        ("trd.carrier.eth0.changes", 'nic_carrier_changes_total{host="lab",device="eth0",netns="trd"}'),
        ("trd.udp.30001.drops", 'udp_socket_drops_total{host="lab",netns="trd",port="30001"}'),
        ("proc.strat.state_T", 'thread_state{host="lab",process="strat"}'),
    ],
)
def test_columns_have_the_harvesters_names(column: str, series: str) -> None:
    named = lab_series(column)
    assert named is not None
    assert str(named[0]) == series


def test_failure_counters_are_written_even_if_quiet() -> None:
    for column in (
        "softnet.cpu0.dropped", "trd.snmp.Udp:RcvbufErrors", "trd.udp.30001.drops", "proc.strat.wait_ns",
        "exch.netstat.TcpExt:ListenOverflows", "trd.carrier.eth0.changes", "sw.qdisc.st.drops",
    ):  # fmt: skip
        assert parse.always(column)
    assert not parse.always("vmstat.nr_free_pages")
    assert not parse.always("noise.snmp.Ip:DefaultTTL")


def attribute(kind: int, body: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(body), kind) + body + bytes(-len(body) % 4)


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 0) + body


def test_netlink_answers_become_sums_and_counts() -> None:
    queue = attribute(3, struct.pack("=5I", 4, 4096, 2, 1, 9))
    qdisc = struct.pack("=BxxxiIII", 0, 7, 0, 0, 0) + attribute(1, b"tbf\0") + attribute(7, queue)
    twice = message(36, qdisc) + message(36, qdisc) + message(3, b"\0\0\0\0")
    assert netlink.qdiscs(twice, {7: "st"}) == {
        "st.qlen": 8, "st.backlog": 8192, "st.drops": 4, "st.requeues": 2, "st.overlimits": 18,
    }  # fmt: skip
    neighbour = struct.pack("=BxxxiHBB", socket.AF_INET, 7, 0x20, 0, 1)
    assert netlink.neighbours(message(28, neighbour) + message(3, b""), {7: "eth0"}) == {"eth0.failed": 1}


@pytest.mark.parametrize("junk", [b"", b"\0" * 15, b"\xff" * 64, message(36, b"\0" * 20)])
def test_netlink_junk_is_nothing(junk: bytes) -> None:
    assert netlink.qdiscs(junk, {0: "x"}) == {}
    assert netlink.neighbours(junk, {0: "x"}) == {}


def test_the_demo_recording_has_the_columns_that_this_code_writes() -> None:
    folder = Path(__file__).parents[3] / "pipelines" / "demo_data" / "tail_latency"
    with gzip.open(folder / "proc_10hz.csv.gz", "rt", newline="") as f:
        rows = list(csv.reader(f))
    head = rows[0]
    assert head[0] == "t"
    assert len(set(head)) == len(head)
    assert all(len(row) == len(head) for row in rows)
    times = [float(row[0]) for row in rows[1:]]
    assert all(b > a for a, b in itertools.pairwise(times))
    named = [str(s[0]) for c in head[1:] if (s := lab_series(c)) is not None]
    assert len(set(named)) == len(named)
