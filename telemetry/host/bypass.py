"""Who goes round the kernel, and what the kernel then cannot count.

For such flows the loss waterfall reads: tap B, NIC, descriptor ring, application; the kernel's softnet, IP and UDP
counters never see the packets.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from telemetry.errors import InputError
from telemetry.host.fields import named
from telemetry.types import Events, Int64, SeriesKey

__all__ = ["RING_LOSSES", "Bypass", "DpdkPorts", "OnloadStacks", "parse_stackdump", "recognise"]

RING_LOSSES = re.compile(
    r"nodesc_drop|out_of_buffer|rx_discards|no_dma_resources|rx_no_buffer|imissed|rx_nombuf|rx_missed|hw_drop_overruns"
)
"""Counters of a NIC's descriptor ring: where packets are lost when the application is too slow."""

_LIBRARIES = {
    "onload": re.compile(r"/libonload\.so|/libciul\.so|/onloadfs"),
    "vma": re.compile(r"/libvma\.so|/libxlio\.so"),
    "dpdk": re.compile(r"/librte_eal\.so|/rtemap_\d+|dpdk"),
    "rdma": re.compile(r"/libibverbs\.so"),
    "af_xdp": re.compile(r"anon_inode:\[xdp\]|/libxdp\.so"),
}
_BLIND = {
    "onload": ("softnet_*", "netstat_Udp_*", "netstat_Ip_*", "udp_socket_*", "irq_total of its queues"),
    "vma": ("softnet_*", "netstat_Udp_*", "netstat_Ip_*", "udp_socket_*"),
    "dpdk": ("softnet_*", "netstat_*", "udp_socket_*", "nic_* of its ports", "irq_total of its ports"),
    "rdma": ("softnet_*", "netstat_*", "udp_socket_*"),
    "af_xdp": ("netstat_Udp_*", "netstat_Ip_*", "udp_socket_*"),
}
_INSTEAD = {
    "onload": "ethtool_*nodesc_drop* of the port, onload_stackdump's oflow_drop and mem_drop",
    "vma": "ethtool_rx_out_of_buffer of the port, vma_stats",
    "dpdk": "dpdk_imissed_total and dpdk_rx_nombuf_total of DPDK's telemetry socket",
    "rdma": "ethtool_rx_out_of_buffer and the port's hw_counters",
    "af_xdp": "ethtool_*xsk* or *xdp_drop* of the queue",
}
_DRIVERS = {"vfio-pci": "dpdk", "igb_uio": "dpdk", "uio_pci_generic": "dpdk"}


@dataclass(frozen=True, slots=True)
class Bypass:
    """One way round the kernel: `where` is a process or a device."""

    kind: str
    where: str
    evidence: str
    blind: tuple[str, ...]
    instead: str


def recognise(root: str | Path = "/", pids: Sequence[int] | None = None) -> list[Bypass]:
    """Look at what processes have mapped, at devices given to user space, and at DPDK's sockets.

    Parameters
    ----------
    pids : sequence of int, optional
        Only these processes; all by default (those of others need root to be seen).
    """
    root = Path(root)
    out = []
    for pid in pids if pids is not None else _pids(root):
        for kind, evidence in _mapped(root, pid):
            name = _text(root / "proc" / str(pid) / "comm").strip()
            out.append(_make(kind, f"process {name} ({pid})", evidence))
    for driver, kind in _DRIVERS.items():
        for device in sorted((root / "sys/bus/pci/drivers" / driver).glob("*:*")):
            if _text(device / "class").startswith("0x02"):  # a network controller
                out.append(_make(kind, f"device {device.name}", f"bound to {driver}"))
    for path in sorted((root / "var/run/dpdk").glob("*/dpdk_telemetry.v2")):
        out.append(_make("dpdk", f"process of {path.parent.name}", str(path)))
    for device in sorted((root / "sys/class/net").glob("*")):
        if (device / "device/driver/module").exists() or (device / "device").exists():
            driver = os.path.basename(os.path.realpath(device / "device/driver"))
            if driver == "sfc" and (root / "dev/onload").exists():
                out.append(_make("onload", f"device {device.name}", "driver sfc with /dev/onload"))
    return out


def parse_stackdump(text: str) -> dict[str, int]:
    """Losses and memory trouble from ``onload_stackdump lots``: the sum over its stacks and sockets, by name."""
    out: dict[str, int] = {}
    names = "oflow_drop|mem_drop|nodesc_drop|memory_pressure_enter|rx_evs_lost"
    for name, number in re.findall(rf"\b({names})\s*[=:]\s*(\d+)", text):
        out[name] = out.get(name, 0) + int(number)
    return out


class OnloadStacks:
    """What ``onload_stackdump`` tells of accelerated sockets, as counters; asked in a thread, now and then.

    A `telemetry.harvest.Follower`. Without the program, or a card that Onload drives, it costs a look at startup.
    """

    def __init__(self, root: str | Path, host: str, every_s: float = 10.0, program: str | None = None) -> None:
        self._host, self._every_s = host, every_s
        self._program = program or shutil.which("onload_stackdump")
        self._news: list[tuple[int, dict[str, int]]] = []
        self._why = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if self._program is not None and (Path(root) / "dev/onload").exists():
            self._thread = threading.Thread(target=self._run, name="onload", daemon=True)
            self._thread.start()

    @property
    def trouble(self) -> str:
        """Why the program did not answer the last time."""
        return self._why

    def poll(self) -> list[Events]:
        """What was told since the last call."""
        out, now = [], time.time_ns()
        while self._news:
            at, counts = self._news.pop(0)
            keys = tuple(SeriesKey.of(self._host, f"onload_{name}_total") for name in counts)
            n = len(keys)
            values = np.array(list(counts.values()), np.int64)
            out.append(Events(keys, np.arange(n), np.full(n, at), np.full(n, now), values))
        return out

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=6)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                told = subprocess.run([str(self._program), "lots"], capture_output=True, text=True, timeout=5)
                counts = parse_stackdump(told.stdout)
                self._why = "" if told.returncode == 0 else f"onload_stackdump: status {told.returncode}"
                if counts:
                    self._news.append((time.time_ns(), counts))
                    del self._news[:-100]
            except (OSError, subprocess.SubprocessError, UnicodeDecodeError) as error:
                self._why = f"onload_stackdump: {error}"
            self._stop.wait(self._every_s)


class DpdkPorts:
    """``/ethdev/stats`` of every port from DPDK's telemetry socket (v2, SOCK_SEQPACKET), as counters."""

    def __init__(self, path: str | Path, host: str) -> None:
        self.name = str(path)
        self._host = host
        self._socket: socket.socket | None = None
        self._limit = 16_384
        self._ports: list[int] = []
        self._fields: list[tuple[int, str]] = []

    def discover(self) -> Sequence[SeriesKey]:
        if self._socket is None:
            self._connect()
        self._ports = [int(p) for p in self._ask("/ethdev/list")]
        self._fields = [
            (port, field)
            for port in self._ports
            for field, value in sorted(self._ask(f"/ethdev/stats,{port}").items())
            if isinstance(value, int)
        ]
        return [SeriesKey.of(self._host, f"dpdk_{named(f)}_total", port=p) for p, f in self._fields]

    def read(self, out: Int64) -> bool:
        answers = {port: self._ask(f"/ethdev/stats,{port}") for port in self._ports}
        try:
            out[:] = np.array([answers[p][f] for p, f in self._fields], np.int64)
        except (KeyError, TypeError, ValueError, OverflowError):
            return False
        return True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(0.1)  # it answers in a millisecond; the sampler waits no longer
        self._socket.connect(self.name)
        try:
            hello = json.loads(self._socket.recv(16_384))
            self._limit = min(int(hello["max_output_len"]), 1 << 20)
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{self.name}: expected DPDK's telemetry greeting") from None

    def _ask(self, what: str) -> Any:
        if self._socket is None:
            raise InputError(f"{self.name}: not connected")
        self._socket.send(what.encode())
        try:
            answer = json.loads(self._socket.recv(self._limit))[what.split(",")[0]]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{self.name}: {what}: expected JSON with that key") from None
        return answer


def _make(kind: str, where: str, evidence: str) -> Bypass:
    return Bypass(kind, where, evidence, _BLIND[kind], _INSTEAD[kind])


def _pids(root: Path) -> list[int]:
    try:
        return sorted(int(p) for p in os.listdir(root / "proc") if p.isdigit())
    except OSError:
        return []


def _mapped(root: Path, pid: int) -> Iterator[tuple[str, str]]:
    maps = _text(root / "proc" / str(pid) / "maps")
    for kind, pattern in _LIBRARIES.items():
        m = pattern.search(maps)
        if m is not None:
            line = maps[maps.rfind("\n", 0, m.start()) + 1 : m.end()]
            yield kind, f"has {line.split()[-1]} mapped"
            if kind in ("onload", "vma"):
                return  # both bring verbs along


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
