"""The standard set: which files a host has, how each is read, and how often it pays.

Rates: *fast* (100 Hz) is what changes within a stall and is cheap; *base* (10 Hz) the rest of what moves; *slow*
(1 Hz) what hardly does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from telemetry.host import tables_cpu, tables_memory, tables_net
from telemetry.host.bypass import DpdkPorts
from telemetry.host.chrony import Chrony
from telemetry.host.clock import KernelClock
from telemetry.host.ethtool import DriverStats
from telemetry.host.fields import Parser, single
from telemetry.host.ptp import HardwareClock, Ptp4l
from telemetry.host.qdisc import qdiscs
from telemetry.host.queues import queue_stats
from telemetry.host.sources import HostSource, TextFile
from telemetry.host.udp import UdpSockets

__all__ = ["Devices", "Set", "cgroup_set", "cpu_list", "mask_of", "namespace_set", "online_cpus", "standard_set"]


class Set(NamedTuple):
    """Sources by rate. Of those in `fast`, a harvester without a fast tier reads all at the base rate."""

    fast: list[HostSource]
    base: list[HostSource]
    slow: list[HostSource]


def cpu_list(text: str) -> list[int]:
    """Read ``0-3,8``; an empty text is no CPU."""
    out: list[int] = []
    for span in text.strip().split(","):
        if span.strip():
            lo, _, hi = span.strip().partition("-")
            out.extend(range(int(lo), int(hi or lo) + 1))
    return out


def mask_of(cpus: list[int]) -> int:
    """CPUs as bits; those above 62 do not fit an int64 and are folded in (a change is still a change)."""
    mask = 0
    for cpu in cpus:
        mask ^= 1 << (cpu % 63)
    return mask


def online_cpus(root: Path) -> list[str]:
    """Names of the online CPUs, or none if the kernel does not say."""
    try:
        return [str(c) for c in cpu_list((root / "sys/devices/system/cpu/online").read_text())]
    except (OSError, ValueError):
        return []


def standard_set(root: str | Path, host: str) -> Set:
    """All sources of the inventory that do not belong to one process or network namespace.

    Parameters
    ----------
    root : path
        ``/`` live, a fixture tree in tests.
    """
    root = Path(root)
    proc, sys = root / "proc", root / "sys"

    def table(path: Path, parser: Parser, *, hexa: bool = False) -> TextFile:
        return TextFile(path, host, parser, hexa=hexa)

    fast: list[HostSource] = [
        table(proc / "net/softnet_stat", tables_net.softnet(online_cpus(root)), hexa=True),
        *(table(proc / "pressure" / r, tables_memory.pressure(r)) for r in ("cpu", "memory", "io", "irq")),
    ]
    base: list[HostSource] = [
        table(proc / "interrupts", tables_cpu.interrupts),
        table(proc / "softirqs", tables_cpu.softirqs),
        table(proc / "stat", tables_cpu.stat),
        table(proc / "schedstat", tables_cpu.schedstat),
        table(proc / "vmstat", tables_memory.vmstat),
        table(proc / "meminfo", tables_memory.meminfo),
        table(proc / "diskstats", tables_memory.diskstats),
        table(proc / "net/stat/nf_conntrack", tables_net.conntrack_stat, hexa=True),
        table(proc / "sys/net/netfilter/nf_conntrack_count", single("conntrack_entries")),
    ]
    slow: list[HostSource] = [
        table(proc / "sys/net/netfilter/nf_conntrack_max", single("conntrack_limit")),
    ]
    for path in sorted((proc / "net/stat").glob("*_cache")):
        if path.name in ("arp_cache", "ndisc_cache"):
            slow.append(table(path, tables_net.neighbours(path.name.removesuffix("_cache")), hexa=True))
    for node in sorted((sys / "devices/system/node").glob("node[0-9]*")):
        slow.append(table(node / "numastat", tables_memory.numastat(node.name[4:])))
    for cpu in sorted((sys / "devices/system/cpu").glob("cpu[0-9]*")):
        name = cpu.name[3:]
        if (cpu / "cpufreq/scaling_cur_freq").exists():
            path = cpu / "cpufreq/scaling_cur_freq"
            slow.append(table(path, single("cpu_frequency_hz", {"cpu": name}, scale=1000)))
        for kind in ("core", "package"):
            path = cpu / f"thermal_throttle/{kind}_throttle_count"
            if path.exists():
                slow.append(table(path, single(f"thermal_{kind}_throttle_total", {"cpu": name})))
        for state in sorted((cpu / "cpuidle").glob("state[0-9]*")):
            label = {"cpu": name, "state": _word(state / "name") or state.name}
            slow.append(table(state / "time", single("cpuidle_time_us_total", label)))
            slow.append(table(state / "usage", single("cpuidle_usage_total", label)))
    for memory in sorted((sys / "devices/system/edac/mc").glob("mc[0-9]*")):
        for kind in ("ce", "ue"):
            slow.append(table(memory / f"{kind}_count", single(f"edac_{kind}_errors_total", {"mc": memory.name[2:]})))
    for zone in sorted((sys / "class/thermal").glob("thermal_zone[0-9]*")):
        label = {"zone": zone.name[12:], "type": _word(zone / "type")}
        slow.append(table(zone / "temp", single("thermal_millicelsius", label)))
    if root == Path("/"):  # what has no file: the kernel that runs us
        base.append(qdiscs(host))
        slow += [KernelClock(host), Chrony(host), Ptp4l(host)]
    return Set(fast, base, slow)


class Devices:
    """What may be plugged in while we run: NICs, hardware clocks, programs that speak DPDK."""

    def __init__(self, root: str | Path, host: str) -> None:
        self._root, self._host = Path(root), host
        self._live = self._root == Path("/")
        self._queues = queue_stats(host)
        self._found: dict[Path, Set] = {}
        self._looked = False

    def look(self) -> tuple[Set, Set]:
        """Return the sources that came and that went since the last look."""
        came, gone = Set([], [], []), Set([], [], [])
        if self._live and not self._looked:
            came.base.append(self._queues)
        self._looked = True
        now = set(self._places())
        for path in sorted(now - self._found.keys()):
            self._found[path] = self._sources(path)
            for mine, other in zip(came, self._found[path], strict=True):
                mine.extend(other)
        for path in sorted(self._found.keys() - now):
            for mine, other in zip(gone, self._found.pop(path), strict=True):
                mine.extend(other)
        return came, gone

    def _places(self) -> Iterator[Path]:
        for device in (self._root / "sys/class/net").glob("*"):
            if device.name != "lo" and (device / "statistics").is_dir():
                yield device
        yield from (self._root / "sys/class/ptp").glob("ptp[0-9]*")
        yield from (self._root / "var/run/dpdk").glob("*/dpdk_telemetry.v2")

    def _sources(self, path: Path) -> Set:
        if path.parent.name == "ptp":
            return Set([], [], [HardwareClock(self._root, self._host, path.name, KernelClock(self._host).tai_s)])
        if path.name == "dpdk_telemetry.v2":
            return Set([], [], [DpdkPorts(path, self._host)])
        out = Set([], [], [])
        label = {"device": path.name}
        hardware = (path / "device").exists()  # of the others these never move
        for name in ("rx_missed_errors", "rx_crc_errors", "rx_over_errors", "rx_nohandler") if hardware else ():
            metric = "nic_rx_missed_total" if name == "rx_missed_errors" else f"nic_{name}_total"
            out.base.append(TextFile(path / "statistics" / name, self._host, single(metric, label)))
        changes = single("nic_carrier_changes_total", label)
        out.slow.append(TextFile(path / "carrier_changes", self._host, changes))
        if hardware and self._live:
            out.slow.append(DriverStats(path.name, self._host, lambda: self._queues.keys))
        return out


def cgroup_set(root: str | Path, host: str, path: str) -> Set:
    """Pressure, throttling and memory events of one cgroup (version 2); label ``cgroup``."""
    folder = Path(root) / "sys/fs/cgroup" / path.strip("/")
    name = "/" + path.strip("/")
    base: list[HostSource] = [
        TextFile(folder / f"{r}.pressure", host, tables_memory.pressure(r, cgroup=name))
        for r in ("cpu", "memory", "io")
    ]
    for file in ("cpu.stat", "memory.events"):
        base.append(TextFile(folder / file, host, tables_memory.cgroup_stat(name, file.partition(".")[0])))
    return Set([], base, [])


def namespace_set(root: str | Path, host: str, net: str, netns: str = "") -> Set:
    """Tables of one network namespace. What /sys says of devices it says of our own only: see `Devices`.

    Parameters
    ----------
    net : str
        Folder of its tables within `root` (``proc/net`` or ``proc/PID/net``).
    netns : str
        The label; empty for the host's own.
    """
    root = Path(root)
    folder = root / net
    base: list[HostSource] = [
        TextFile(folder / "snmp", host, tables_net.snmp(netns)),
        TextFile(folder / "netstat", host, tables_net.snmp(netns)),
        TextFile(folder / "snmp6", host, tables_net.snmp6(netns)),
        TextFile(folder / "dev", host, tables_net.net_dev(netns)),
        TextFile(folder / "sockstat", host, tables_net.sockstat(netns)),
    ]
    fast: list[HostSource] = [UdpSockets(folder / "udp", host, netns)]
    return Set(fast, base, [])


def _word(path: Path) -> str:
    try:
        return re.sub(r"\s+", " ", path.read_text(errors="replace")).strip()
    except OSError:
        return ""
