from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from telemetry.errors import InputError
from telemetry.host.bypass import RING_LOSSES, DpdkPorts, OnloadStacks, parse_stackdump, recognise
from telemetry.host.ethtool import DriverStats, series_of
from telemetry.host.qdisc import qdiscs


@pytest.mark.parametrize(
    ("name", "series"),
    [
        ("rx_queue_3_packets", 'nic_queue_rx_packets_total{host="h",device="e",queue="3"}'),
        ("tx0_bytes", 'nic_queue_tx_bytes_total{host="h",device="e",queue="0"}'),
        ("rx-7.drops", 'nic_queue_rx_drops_total{host="h",device="e",queue="7"}'),
        ("[5]: rx_ucast_packets", 'ethtool_5_rx_ucast_packets_total{host="h",device="e"}'),
        ("queue_2_tx_cnt", 'nic_queue_tx_cnt_total{host="h",device="e",queue="2"}'),
        ("port.rx_dropped", 'ethtool_port_rx_dropped_total{host="h",device="e"}'),
        ("rx_out_of_buffer", 'ethtool_rx_out_of_buffer_total{host="h",device="e"}'),
        ('ÿ"}{', 'ethtool_unnamed_total{host="h",device="e"}'),
    ],
)
def test_names_of_drivers(name: str, series: str) -> None:
    assert str(series_of("h", "e", name)) == series


def test_ring_losses_are_known_by_name() -> None:
    for name in ("rx_nodesc_drop_cnt", "rx_out_of_buffer", "rx_discards", "port_rx_no_dma_resources", "imissed"):
        assert RING_LOSSES.search(name)
    assert not RING_LOSSES.search("rx_packets")


@pytest.mark.root
def test_counters_of_a_real_driver() -> None:
    made = subprocess.run(["ip", "link", "add", "twt0", "type", "veth", "peer", "name", "twt1"], capture_output=True)
    if made.returncode:
        pytest.skip("cannot make a veth pair")
    try:
        stats = DriverStats("twt0", "h")
        keys = stats.discover()
        assert len(keys) > 0
        assert len(set(keys)) == len(keys)
        out = np.full(len(keys), -1, np.int64)
        assert stats.read(out)
        assert (out >= 0).all()
        shown = subprocess.run(["ethtool", "-S", "twt0"], capture_output=True, text=True, check=True).stdout
        assert len(shown.strip().split("\n")) - 1 == len(keys)
        stats.close()
        with pytest.raises(OSError, match="No such device"):
            DriverStats("no-such-nic", "h").discover()
    finally:
        subprocess.run(["ip", "link", "del", "twt0"])


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_bypass_is_recognised(tmp_path: Path) -> None:
    maps = "7f00-7f01 r-xp 00000000 08:01 1 {}\n"
    write(tmp_path, "proc/10/comm", "strat\n")
    write(tmp_path, "proc/10/maps", maps.format("/usr/lib64/libonload.so") + maps.format("/usr/lib64/libibverbs.so.1"))
    write(tmp_path, "proc/11/comm", "feed\n")
    write(tmp_path, "proc/11/maps", maps.format("/usr/lib/librte_eal.so.23"))
    write(tmp_path, "proc/12/comm", "bash\n")
    write(tmp_path, "proc/12/maps", maps.format("/usr/lib/libc.so.6"))
    write(tmp_path, "sys/bus/pci/drivers/vfio-pci/0000:3b:00.1/class", "0x020000\n")
    write(tmp_path, "sys/bus/pci/drivers/vfio-pci/0000:00:1f.0/class", "0x010000\n")
    found = {(b.kind, b.where) for b in recognise(tmp_path)}
    assert found == {
        ("onload", "process strat (10)"), ("dpdk", "process feed (11)"), ("dpdk", "device 0000:3b:00.1"),
    }  # fmt: skip
    onload = next(b for b in recognise(tmp_path) if b.kind == "onload")
    assert "udp_socket_*" in onload.blind
    assert "nodesc_drop" in onload.instead
    assert recognise(tmp_path, pids=[12]) == [b for b in recognise(tmp_path) if b.where.startswith("device")]


def test_stackdump() -> None:
    text = (
        "UDP 0:7 lcl=239.1.1.1:5000 rmt=0.0.0.0:0\n  rcv: oflow_drop=12(3%) mem_drop=0 eagain=4 pktinfo=0\n"
        "UDP 0:8 lcl=239.1.1.2:5001\n  rcv: oflow_drop=5(1%) mem_drop=2\nmemory_pressure_enter: 1\n"
    )
    assert parse_stackdump(text) == {"oflow_drop": 17, "mem_drop": 2, "memory_pressure_enter": 1}
    assert parse_stackdump("") == {}


def test_accelerated_stacks_are_asked_now_and_then(tmp_path: Path) -> None:
    program = tmp_path / "onload_stackdump"
    program.write_text("#!/bin/sh\necho 'rcv: oflow_drop=12(3%) mem_drop=1'\n")
    program.chmod(0o755)
    assert OnloadStacks(tmp_path, "h", program=str(program)).poll() == []  # no card that Onload drives
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/onload").touch()
    stacks = OnloadStacks(tmp_path, "h", every_s=0.02, program=str(program))
    got: dict[str, int] = {}
    end = time.monotonic() + 10
    while not got and time.monotonic() < end:
        time.sleep(0.02)
        for b in stacks.poll():
            got |= dict(zip(map(str, b.keys), b.value.tolist(), strict=True))
    assert got == {'onload_oflow_drop_total{host="h"}': 12, 'onload_mem_drop_total{host="h"}': 1}
    assert stacks.trouble == ""
    failing = tmp_path / "failing"  # put in its place at once: a program that runs just now cannot be written to
    failing.write_text("#!/bin/sh\nexit 3\n")
    failing.chmod(0o755)
    failing.replace(program)
    while not stacks.trouble and time.monotonic() < end:
        time.sleep(0.02)
    assert stacks.trouble == "onload_stackdump: status 3"
    stacks.close()


@pytest.fixture
def dpdk(tmp_path: Path) -> Iterator[Path]:
    """A telemetry socket that speaks as DPDK does: a greeting, then JSON by command, a packet a message."""
    path = tmp_path / "dpdk_telemetry.v2"
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind(str(path))
    server.listen()
    missed = [0]

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            client.send(json.dumps({"version": "DPDK 23.11", "pid": 1, "max_output_len": 16384}).encode())
            while command := client.recv(1024).decode():
                missed[0] += 5
                answer = {
                    "/ethdev/list": [0, 1],
                    "/ethdev/stats": {"ipackets": 100, "imissed": missed[0], "rx_nombuf": 0, "q_ipackets": [1, 2]},
                }.get(command.split(",")[0])
                client.send(json.dumps({command.split(",")[0]: answer}).encode())

    threading.Thread(target=serve, daemon=True).start()
    yield path
    server.close()


def test_dpdk_ports(dpdk: Path) -> None:
    ports = DpdkPorts(dpdk, "h")
    keys = ports.discover()
    assert [str(k) for k in keys][:2] == [
        'dpdk_imissed_total{host="h",port="0"}',
        'dpdk_ipackets_total{host="h",port="0"}',
    ]
    assert len(keys) == 6
    out = np.zeros(6, np.int64)
    assert ports.read(out)
    first = out.copy()
    assert ports.read(out)
    assert out[0] > first[0]
    assert out[1] == 100
    ports.close()


def test_a_socket_that_is_no_dpdk(tmp_path: Path) -> None:
    path = tmp_path / "s"
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind(str(path))
    server.listen()

    def greet() -> None:
        server.accept()[0].send(b"hello")

    threading.Thread(target=greet, daemon=True).start()
    with pytest.raises(InputError, match="greeting"):
        DpdkPorts(path, "h").discover()
    server.close()
    with pytest.raises(OSError, match="refused"):
        DpdkPorts(path, "h").discover()


@pytest.mark.root
def test_qdiscs_of_a_real_device() -> None:
    made = subprocess.run(["ip", "link", "add", "twq0", "type", "veth", "peer", "name", "twq1"], capture_output=True)
    if made.returncode:
        pytest.skip("cannot make a device")
    try:
        subprocess.run(["ip", "link", "set", "twq0", "up"], check=True)
        source = qdiscs("h")
        source.discover()
        tbf = ["tc", "qdisc", "replace", "dev", "twq0", "root", "tbf", "rate", "8kbit", "burst", "2k", "limit", "4k"]
        if subprocess.run(tbf, capture_output=True).returncode:
            pytest.skip("no tbf here")
        keys = source.discover()
        mine = [i for i, k in enumerate(keys) if k.label("device") == "twq0" and k.label("kind") == "tbf"]
        assert {keys[i].metric for i in mine} >= {"qdisc_backlog_bytes", "qdisc_drops_total"}
        out = np.full(len(keys), -1, np.int64)
        assert source.read(out)
        assert (out >= 0).all()
        subprocess.run(["tc", "qdisc", "del", "dev", "twq0", "root"], check=True)
        assert not source.read(out)  # another set: look at the names anew
        source.close()
    finally:
        subprocess.run(["ip", "link", "del", "twq0"])
