from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import numpy as np
import pytest

from telemetry.errors import InputError
from telemetry.host.ethtool import DriverStats, series_of, settings
from telemetry.host.netlink import DONE, Dump, Layout, attribute, attributes, generic, messages, request
from telemetry.host.qdisc import layout as qdisc_layout
from telemetry.host.qdisc import qdiscs
from telemetry.host.queues import map_by_name, queue_layout, queue_map, queue_stats
from telemetry.types import SeriesKey

FAMILY = 20
# qstats-get by queue as Linux 6.18 answered for a virtio NIC: one receive and one transmit queue (but for the index,
# 4242, and the bytes sent, which here need 8 bytes).
QSTATS = bytes.fromhex(
    "3c000000140002000100000000000000 0c020000 08000100 92100000 08000200 00000000 08000300 00000000"
    "08000800 3ab60000 08000900 2d5f6c6c"
    "50000000140002000100000000000000 0c020000 08000100 92100000 08000200 01000000 08000300 00000000"
    "08000a00 805b0000 0c000b00 604d2a0001000000 08002100 03000000 08002200 02000000".replace(" ", "")
)


def numbers(layout: Layout, data: bytes) -> dict[str, int]:
    return {str(k): int.from_bytes(data[at : at + width], "little") for k, at, width in layout.fields}


def message(*pairs: tuple[int, int]) -> bytes:
    return generic(FAMILY, 2, 12, b"".join(attribute(k, struct.pack("=I", v)) for k, v in pairs))


def test_queue_statistics() -> None:
    """Numbers of 4 and of 8 bytes, by the kernel's names."""
    got = numbers(queue_layout(QSTATS, "h"), QSTATS)
    queue = '{host="h",device="4242",queue="0"}'
    assert got == {
        f"nic_queue_rx_packets_total{queue}": 0xB63A,
        f"nic_queue_rx_bytes_total{queue}": 0x6C6C5F2D,
        f"nic_queue_tx_packets_total{queue}": 0x5B80,
        f"nic_queue_tx_bytes_total{queue}": 0x1002A4D60,
        f"nic_queue_tx_stop_total{queue}": 3,
        f"nic_queue_tx_wake_total{queue}": 2,
    }
    for cut in range(len(QSTATS)):
        queue_layout(QSTATS[:cut], "h")  # torn: less, never an error


def test_a_device_without_queues_of_its_own_is_left_out() -> None:
    assert queue_layout(message((1, 7), (8, 100)), "h").fields == []
    assert queue_layout(message((1, 7), (2, 9), (3, 0), (8, 100)), "h").fields == []  # a side that is none


def test_irq_of_a_queue() -> None:
    queues = message((1, 0), (2, 4242), (3, 0), (4, 257)) + message((1, 0), (2, 4242), (3, 1), (4, 258))
    queues += message((1, 1), (2, 4242), (3, 1))  # not served
    napis = message((1, 4242), (2, 257), (3, 131)) + message((1, 4242), (2, 258))  # the second tells no IRQ
    found = queue_map(queues, napis, "h")
    assert {str(k): v for k, v in found.items()} == {
        'nic_queue_irq{host="h",device="4242",queue="0",side="rx"}': 131
    }  # fmt: skip


def test_irq_of_a_queue_by_name(tmp_path: Path) -> None:
    def interrupt(device: str, irq: int, name: str) -> None:
        (tmp_path / f"sys/class/net/{device}/device/msi_irqs").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"sys/class/net/{device}/device/msi_irqs/{irq}").write_text("msix\n")
        (tmp_path / f"proc/irq/{irq}/{name}").mkdir(parents=True)

    interrupt("eth0", 40, "eth0-TxRx-3")
    interrupt("eth0", 41, "eth0")  # its management interrupt
    interrupt("ens1", 50, "mlx5_comp12@pci:0000:3b:00.0")
    interrupt("ens1", 51, "mlx5_async@pci:0000:3b:00.0")
    interrupt("sfc0", 60, "sfc0-2")
    (tmp_path / "sys/class/net/veth1").mkdir()
    got = {(k.label("device"), k.label("queue"), k.label("side")): v for k, v in map_by_name(tmp_path, "h").items()}
    wanted = {("eth0", "3"): 40, ("ens1", "12"): 50, ("sfc0", "2"): 60}
    assert got == {(*queue, side): irq for queue, irq in wanted.items() for side in ("rx", "tx")}


def qdisc(index: int, kind: bytes, stats: bytes) -> bytes:
    head = struct.pack("=BxxxiIII", 0, index, 0x80010000, 0xFFFFFFFF, 1)
    return request(36, 2, head + attribute(1, kind + b"\0") + attribute(7, stats))


def test_queueing_disciplines() -> None:
    stats = attribute(1, struct.pack("=QI", 2**40, 77)) + attribute(3, struct.pack("=IIIII", 5, 6000, 7, 8, 9))
    data = qdisc(4242, b"tbf", stats) + qdisc(4243, b"clsact", b"")  # the second counts nothing
    got = numbers(qdisc_layout(data, "h"), data)
    assert {k.split("{")[0]: v for k, v in got.items()} == {
        "qdisc_bytes_total": 2**40, "qdisc_packets_total": 77, "qdisc_backlog_packets": 5, "qdisc_backlog_bytes": 6000,
        "qdisc_drops_total": 7, "qdisc_requeues_total": 8, "qdisc_overlimits_total": 9,
    }  # fmt: skip
    assert all(k.endswith('{host="h",device="4242",handle="8001:",kind="tbf"}') for k in got)
    for cut in range(len(data)):
        qdisc_layout(data[:cut], "h")


class Loopback(Dump):
    """A dump whose kernel is a socket pair; `first` is what it says whenever it is opened."""

    def __init__(self, *first: bytes) -> None:
        super().__init__("test", 0, lambda _: b"?", lambda data: queue_layout(data, "h"))
        self.first, self.opened = first, 0

    def _open(self) -> None:
        if self._socket is None:
            self.opened += 1
            self._socket, self.kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 50_000))
            self._ask = np.frombuffer(b"?", np.uint8)
            self.say(*self.first)

    def say(self, *parts: bytes) -> None:
        for part in parts:
            self.kernel.send(part)


END = request(DONE, 2, bytes(4))


def test_numbers_that_move_are_read_and_another_shape_is_told() -> None:
    dump = Loopback(QSTATS, END)  # in two parts, as the kernel sends it
    keys = dump.discover()
    out = np.zeros(len(keys), np.int64)
    dump.say(QSTATS.replace(bytes.fromhex("3ab60000"), bytes.fromhex("3bb60000")) + END)
    assert dump.read(out)
    assert out[0] == 0xB63B
    assert out[3] == 0x1002A4D60
    dump.say(QSTATS[:60] + END)  # a queue less
    assert not dump.read(out)
    dump.say(QSTATS.replace(bytes.fromhex("92100000"), bytes.fromhex("93100000")) + END)  # another device
    assert not dump.read(out)
    dump.say(request(2, 0, struct.pack("=i", -1)))
    with pytest.raises(OSError, match="not permitted"):
        dump.read(out)
    with pytest.raises(InputError, match="not open"):
        dump.read(out)


def test_a_dump_larger_than_the_room() -> None:
    parts = [QSTATS.replace(bytes.fromhex("92100000"), struct.pack("=I", 5000 + i)) * 100 for i in range(3)]
    dump = Loopback(*parts, END)
    dump._room = np.empty(34_000, np.uint8)
    assert len(dump.discover()) == 3 * 100 * 6
    assert dump.opened == 2  # asked again, with more room
    dump.say(*parts, END)
    assert dump.read(np.zeros(1800, np.int64))


def test_a_kernel_that_says_nothing_or_nonsense() -> None:
    dump = Loopback()
    with pytest.raises(InputError, match="no answer"):
        dump.discover()
    dump.first = (b"\0" * 64,)
    with pytest.raises(InputError, match="no answer"):
        dump.discover()


@pytest.mark.skipif(not Path("/proc/net/dev").exists(), reason="needs Linux")
def test_live_queues_count_what_the_device_counts() -> None:
    source = queue_stats("h")
    try:
        keys = source.discover()
    except (OSError, InputError) as error:
        pytest.skip(f"no queue statistics here: {error}")
    out = np.zeros(len(keys), np.int64)
    assert source.read(out)
    received = [i for i, k in enumerate(keys) if k.metric == "nic_queue_rx_packets_total"]
    if not received:
        pytest.skip("no NIC here tells its queues")
    device = keys[received[0]].label("device")
    mine = sum(int(out[i]) for i in received if keys[i].label("device") == device)
    line = next(r for r in Path("/proc/net/dev").read_text().split("\n") if r.strip().startswith(f"{device}:"))
    assert abs(int(line.split(":")[1].split()[1]) - mine) <= 1000 + mine // 100
    stats = DriverStats(device, "h", lambda: source.keys)
    assert not set(stats.discover()) & set(source.keys)
    stats.close()
    source.close()


@pytest.mark.skipif(not Path("/proc/net/dev").exists(), reason="needs Linux")
def test_live_disciplines_are_read_again_and_again() -> None:
    source = qdiscs("h")
    keys = source.discover()
    out = np.full(len(keys), -1, np.int64)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        assert source.read(out)
    assert (out >= 0).all()
    assert len(os.listdir("/proc/self/fd")) == before
    source.close()


def test_driver_counters_that_another_source_gives_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["rx_queue_0_packets", "rx_queue_0_drops"]
    stats = DriverStats("eth0", "h", lambda: [series_of("h", "eth0", names[0])])
    monkeypatch.setattr(stats, "_strings", lambda: names)
    monkeypatch.setattr(stats, "_ioctl", lambda buffer: struct.pack_into("=IQQ", buffer, 4, 2, 5, 7))
    assert stats.discover() == [SeriesKey.of("h", "nic_queue_rx_drops_total", device="eth0", queue="0")]
    out = np.zeros(1, np.int64)
    assert stats.read(out)
    assert out.tolist() == [7]


def test_settings_of_no_device() -> None:
    assert settings("no-such-nic") == {}


def test_walks_end_at_torn_input() -> None:
    assert list(messages(b"\x08\0\0\0" + bytes(20))) == []
    assert list(attributes(b"\x03\0\0\0", 0, 4)) == []
    assert list(attributes(attribute(5, b"abc"), 0, 8)) == [(5, 4, 7)]
