"""What costs too much to be read always: the sources of the tier that is open while an incident is.

Maps of a process take tens of milliseconds (and its ``mmap_lock``, page by page), the table of sockets of another
namespace a few: these are read in a thread of their own, and every twenty seconds only.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from telemetry.errors import InputError
from telemetry.host.fields import Parser, named, of_labels, single
from telemetry.host.scan import Field, Token
from telemetry.host.sockets import TcpDiag, TcpTable, connections, neighbours
from telemetry.host.sources import HostSource, TextFile
from telemetry.types import Int64, SeriesKey

__all__ = ["buddyinfo", "heavy_set", "numa_maps", "slabinfo", "slow_set", "smaps", "zoneinfo"]


_SENSORS = {
    "temp[0-9]*_input": "hwmon_millicelsius", "fan[0-9]*_input": "hwmon_fan_rpm",
    "power[0-9]*_input": "hwmon_microwatts", "power[0-9]*_average": "hwmon_average_microwatts",
}  # fmt: skip


def heavy_set(root: Path, host: str) -> list[HostSource]:
    """Memory by zone and cache, sensors; sockets and neighbours of our own network namespace."""
    proc = root / "proc"
    out: list[HostSource] = [
        TextFile(proc / "buddyinfo", host, buddyinfo),
        TextFile(proc / "zoneinfo", host, zoneinfo),
        TextFile(proc / "slabinfo", host, slabinfo),
    ]
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon[0-9]*")):
        out += _sensors(chip, host)
    if root == Path("/"):
        out += [source(host, f) for source in (TcpDiag, connections) for f in (socket.AF_INET, socket.AF_INET6)]
        out.append(neighbours(host))
    else:
        out += [TcpTable(proc / "net" / name, host) for name in ("tcp", "tcp6")]
    return out


def _sensors(chip: Path, host: str) -> list[HostSource]:
    """Temperatures, fans and power of a chip. Reading some interrupts a CPU or waits for a bus: not always, so."""
    out: list[HostSource] = []
    name = _word(chip / "name") or chip.name
    for pattern, metric in _SENSORS.items():
        for path in sorted(chip.glob(pattern)):
            sensor = path.name.rpartition("_")[0]
            label = {"chip": name, "sensor": _word(chip / f"{sensor}_label") or sensor, "hwmon": chip.name[5:]}
            out.append(TextFile(path, host, single(metric, label)))
    return out


def _word(path: Path) -> str:
    try:
        return " ".join(path.read_text(errors="replace").split())
    except OSError:
        return ""


def slow_set(root: Path, host: str, nets: Mapping[str, str], processes: Mapping[int, str]) -> list[HostSource]:
    """What takes milliseconds: sockets of other namespaces; memory of each watched process, by kind and NUMA node.

    Parameters
    ----------
    nets : mapping of str to str
        The name of each network namespace to the folder of its tables within `root`; "" is our own.
    """
    others = [(n, f) for n, f in nets.items() if n]
    out: list[HostSource] = [TcpTable(root / f / name, host, n) for n, f in others for name in ("tcp", "tcp6")]
    for pid, process in processes.items():
        folder = root / "proc" / str(pid)
        out.append(TextFile(folder / "smaps_rollup", host, smaps(process, pid)))
        out.append(NumaMaps(folder / "numa_maps", host, process, pid))
    return out


def buddyinfo(rows: Sequence[list[Token]]) -> list[Field]:
    """``/proc/buddyinfo``: free blocks of 2^order pages: ``Node 0, zone Normal 1 2 3 ...``."""
    out = []
    for row in rows:
        if len(row) < 5 or row[0].text != "Node" or row[2].text != "zone":
            continue
        node = row[1].text.rstrip(",")
        out += [
            Field("buddy_free_blocks", of_labels(node=node, zone=row[3].text, order=str(order)), token.number)
            for order, token in enumerate(row[4:])
            if token.number >= 0
        ]
    if not out:
        raise InputError("buddyinfo: expected 'Node 0, zone NAME' and counts")
    return out


def zoneinfo(rows: Sequence[list[Token]]) -> list[Field]:
    """``/proc/zoneinfo``: free pages of each zone and its watermarks."""
    out: list[Field] = []
    node = zone = ""
    for row in rows:
        words = [t.text for t in row]
        if len(row) >= 4 and words[0] == "Node" and words[2] == "zone":
            node, zone = words[1].rstrip(","), words[3]
        elif zone and words[:2] == ["pages", "free"] and len(row) == 3:
            out.append(Field("zone_pages", of_labels(node=node, zone=zone, kind="free"), row[2].number))
        elif zone and len(row) == 2 and words[0] in ("min", "low", "high") and row[1].number >= 0:
            out.append(Field("zone_pages", of_labels(node=node, zone=zone, kind=words[0]), row[1].number))
    if not out:
        raise InputError("zoneinfo: expected 'Node 0, zone NAME' and 'pages free N'")
    return out


def slabinfo(rows: Sequence[list[Token]]) -> list[Field]:
    """``/proc/slabinfo`` 2.x: active and all objects of each cache."""
    if not rows or not rows[0] or rows[0][0].text != "slabinfo":
        raise InputError("slabinfo: expected 'slabinfo - version: N'")
    out = []
    for row in rows[2:]:
        if len(row) >= 3 and row[1].number >= 0 and row[2].number >= 0:
            label = of_labels(cache=row[0].text)
            out += [Field("slab_active_objects", label, row[1].number), Field("slab_objects", label, row[2].number)]
    return out


def smaps(process: str, pid: int) -> Parser:
    """``smaps_rollup``: ``Rss: 1234 kB`` and the like, in bytes."""

    def parse(rows: Sequence[list[Token]]) -> list[Field]:
        label = of_labels(process=process, pid=str(pid))
        return [
            Field(f"process_{named(row[0].text[:-1])}_bytes", label, row[1].number, 1024)
            for row in rows
            if len(row) == 3 and row[0].text.endswith(":") and row[2].text == "kB" and row[1].number >= 0
        ]

    return parse


_NODE = re.compile(rb" N(\d+)=(\d+)")


def numa_maps(text: bytes) -> dict[str, int]:
    """Pages by node."""
    out: dict[str, int] = {}
    for node, pages in _NODE.findall(text):
        name = node.decode()
        out[name] = out.get(name, 0) + int(pages)
    return dict(sorted(out.items()))


class NumaMaps:
    """``numa_maps`` of a process: its pages on each node."""

    def __init__(self, path: Path, host: str, process: str, pid: int) -> None:
        self.name = str(path)
        self._host, self._label = host, {"process": process, "pid": str(pid)}
        self._nodes: list[str] = []

    def discover(self) -> Sequence[SeriesKey]:
        self._nodes = list(numa_maps(Path(self.name).read_bytes()))
        return [SeriesKey.of(self._host, "process_numa_pages", node=n, **self._label) for n in self._nodes]

    def read(self, out: Int64) -> bool:
        found = numa_maps(Path(self.name).read_bytes())
        if list(found) != self._nodes:
            return False
        out[:] = list(found.values())
        return True

    def close(self) -> None:
        return
