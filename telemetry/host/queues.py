"""NIC queues by generic netlink's ``netdev`` family (from 6.8 on): what each counted, and which IRQ serves it.

Names are the same whatever the driver; the numbers are those of the kernel's ``netdev.yaml``.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from pathlib import Path

from telemetry.errors import InputError
from telemetry.host.netlink import (
    DUMP,
    GENERIC,
    NETLINK_GENERIC,
    Dump,
    Layout,
    attribute,
    attributes,
    family,
    generic,
    messages,
)
from telemetry.types import SeriesKey

__all__ = ["QueueMap", "map_by_name", "queue_layout", "queue_map", "queue_stats"]

_QUEUE_GET, _NAPI_GET, _QSTATS_GET = 10, 11, 12
_IFINDEX, _SIDE, _QUEUE, _SCOPE = 1, 2, 3, 4
_BY_QUEUE = 1
_SIDES = ("rx", "tx")
_ACTION = re.compile(r"(tx-?rx|comp|rx|tx|input|output|fp)[-_.]?(\d+)", re.IGNORECASE)
_SIDES_OF = {"rx": ("rx",), "input": ("rx",), "tx": ("tx",), "output": ("tx",)}
_NAMES = {
    8: "packets", 9: "bytes", 10: "packets", 11: "bytes", 12: "alloc_fail", 13: "hw_drops", 14: "hw_drop_overruns",
    15: "csum_complete", 16: "csum_unnecessary", 17: "csum_none", 18: "csum_bad", 19: "hw_gro_packets",
    20: "hw_gro_bytes", 21: "hw_gro_wire_packets", 22: "hw_gro_wire_bytes", 23: "hw_drop_ratelimits",
    24: "hw_drops", 25: "hw_drop_errors", 26: "csum_none", 27: "needs_csum", 28: "hw_gso_packets", 29: "hw_gso_bytes",
    30: "hw_gso_wire_packets", 31: "hw_gso_wire_bytes", 32: "hw_drop_ratelimits", 33: "stop", 34: "wake",
}  # fmt: skip


def queue_stats(host: str) -> Dump:
    """``qstats-get`` by queue: ``nic_queue_rx_packets_total{device,queue}`` and the like."""

    def ask(asking: socket.socket) -> bytes:
        scope = attribute(_SCOPE, struct.pack("=I", _BY_QUEUE))
        return generic(family(asking, "netdev"), DUMP, _QSTATS_GET, scope)

    return Dump("netlink:netdev", NETLINK_GENERIC, ask, lambda data: queue_layout(data, host))


def queue_layout(data: bytes, host: str) -> Layout:
    """Where the numbers of a dump of queue statistics are; they take 4 bytes each, or 8 once they are larger."""
    names = dict(socket.if_nameindex())
    out = Layout()
    for kind, start, end in messages(data):
        if kind < HEADER_TYPES:
            continue
        found = {what: (lo, hi) for what, lo, hi in attributes(data, start + GENERIC, end)}
        if not {_IFINDEX, _SIDE, _QUEUE} <= found.keys():
            continue
        index, side, queue = (struct.unpack_from("=I", data, found[a][0])[0] for a in (_IFINDEX, _SIDE, _QUEUE))
        if side >= len(_SIDES):
            continue
        label = {"device": names.get(index, str(index)), "queue": str(queue)}
        for what, (lo, hi) in found.items():
            if what in _NAMES and hi - lo in (4, 8):
                key = SeriesKey.of(host, f"nic_queue_{_SIDES[side]}_{_NAMES[what]}_total", **label)
                out.fields.append((key, lo, hi - lo))
    return out


HEADER_TYPES = 16
"""Message types below are netlink's own (done, error)."""


class QueueMap:
    """Which IRQ serves a queue: ``nic_queue_irq{device,queue,side}``.

    The kernel's word (queue to NAPI instance to IRQ) goes before what the names of the interrupts say.
    """

    def __init__(self, root: Path, host: str) -> None:
        self._root, self._host = root, host
        self._dumps = [_listing(_QUEUE_GET), _listing(_NAPI_GET)] if root == Path("/") else []

    def look(self) -> dict[SeriesKey, int]:
        """The map now."""
        out = map_by_name(self._root, self._host)
        try:
            told = [d.listing() for d in self._dumps]
        except (OSError, InputError):  # before 6.8
            self.close()
            return out
        return out | queue_map(told[0], told[1], self._host) if told else out

    def close(self) -> None:
        for dump in self._dumps:
            dump.close()
        self._dumps = []


def map_by_name(root: Path, host: str) -> dict[SeriesKey, int]:
    """What the names of a device's interrupts say (``eth0-TxRx-3``, ``mlx5_comp3@pci:...``, ``virtio2-input.0``)."""
    out = {}
    for device in sorted((root / "sys/class/net").glob("*")):
        hardware = Path(os.path.realpath(device / "device"))
        if not (device / "device").exists():
            continue
        folder = next((f for f in (hardware / "msi_irqs", hardware.parent / "msi_irqs") if f.is_dir()), None)
        for irq in sorted(os.listdir(folder), key=len) if folder is not None else ():
            for name in _subfolders(root / "proc/irq" / irq):
                m = _ACTION.search(name)
                queue, kind = (m[2], m[1].lower()) if m else ("", "")
                if not m and (bare := re.fullmatch(rf"{re.escape(device.name)}-(\d+)", name)):
                    queue, kind = bare[1], "both"
                for side in _SIDES_OF.get(kind, _SIDES) if queue else ():
                    label = {"device": device.name, "queue": str(int(queue)), "side": side}
                    out[SeriesKey.of(host, "nic_queue_irq", **label)] = int(irq)
    return out


def _subfolders(path: Path) -> list[str]:
    try:
        return sorted(e.name for e in os.scandir(path) if e.is_dir())
    except OSError:
        return []


def queue_map(queues: bytes, napis: bytes, host: str) -> dict[SeriesKey, int]:
    """Join ``queue-get`` with ``napi-get``. Queues without NAPI (virtual devices, polled ones) have no IRQ."""
    names = dict(socket.if_nameindex())
    irqs = {n[2]: n[3] for n in _numbers(napis) if {2, 3} <= n.keys()}
    out = {}
    for q in _numbers(queues):
        if {1, 2, 3, 4} <= q.keys() and q[4] in irqs and q[3] < len(_SIDES):
            label = {"device": names.get(q[2], str(q[2])), "queue": str(q[1]), "side": _SIDES[q[3]]}
            out[SeriesKey.of(host, "nic_queue_irq", **label)] = irqs[q[4]]
    return out


def _listing(command: int) -> Dump:
    def ask(asking: socket.socket) -> bytes:
        return generic(family(asking, "netdev"), DUMP, command)

    return Dump(f"netlink:netdev:{command}", NETLINK_GENERIC, ask, lambda _: Layout())


def _numbers(data: bytes) -> list[dict[int, int]]:
    """The 4 byte attributes of each message."""
    return [
        {
            w: struct.unpack_from("=I", data, lo)[0]
            for w, lo, hi in attributes(data, start + GENERIC, end)
            if hi - lo == 4
        }
        for kind, start, end in messages(data)
        if kind >= HEADER_TYPES
    ]
