"""Memory, disks and pressure, of the host and of its control groups.

Each function takes the words of a file (`telemetry.host.scan.lines`) and returns its fields. Columns are found by their
names wherever the file has some, so that another kernel's columns are read right or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from telemetry.errors import InputError
from telemetry.host.fields import Line, Parser, named, of_labels
from telemetry.host.scan import Field

__all__ = ["cgroup_stat", "diskstats", "is_gauge_of_vmstat", "meminfo", "numastat", "pressure", "vmstat"]

_VMSTAT_COUNTERS = re.compile(
    r"nr_(dirtied|written|vmscan_\w+|throttled_written|foll_pin_\w+|tlb_\w+|memmap_\w+_alloc|inactive_\w+_reclaimed)$"
)
_VMSTAT_GAUGES = re.compile(r"nr_\w+|workingset_nodes|swap_ra_ready")
_DISK = (
    "reads", "reads_merged", "read_sectors", "read_ms", "writes", "writes_merged", "written_sectors", "write_ms",
    "inflight", "io_ms", "weighted_io_ms", "discards", "discards_merged", "discarded_sectors", "discard_ms", "flushes",
    "flush_ms",
)  # fmt: skip


def is_gauge_of_vmstat(name: str) -> bool:
    """Whether a line of ``/proc/vmstat`` is a level and not a count of what happened."""
    return _VMSTAT_GAUGES.fullmatch(name) is not None and _VMSTAT_COUNTERS.match(name) is None


def vmstat(rows: Sequence[Line]) -> list[Field]:
    """``/proc/vmstat``: ``nr_*`` are gauges but for a few."""
    out = []
    for row in rows:
        if len(row) == 2 and row[1].number >= 0:
            name = row[0].text
            end = "" if is_gauge_of_vmstat(name) else "_total"
            out.append(Field(f"vmstat_{named(name)}{end}", (), row[1].number))
    if not out:
        raise InputError("vmstat: expected lines of a name and a number")
    return out


def meminfo(rows: Sequence[Line]) -> list[Field]:
    """``/proc/meminfo``, in bytes where it says kB."""
    out = []
    for row in rows:
        if len(row) >= 2 and row[1].number >= 0 and row[0].text.endswith(":"):
            kb = len(row) > 2 and row[2].text == "kB"
            name = f"meminfo_{named(row[0].text[:-1])}"
            out.append(Field(name + "_bytes" if kb else name, (), row[1].number, 1024 if kb else 1))
    if not out:
        raise InputError("meminfo: expected lines of a name and a number")
    return out


def pressure(resource: str, **labels: str) -> Parser:
    """``/proc/pressure/*`` and a cgroup's: the total, in microseconds."""

    def parse(rows: Sequence[Line]) -> list[Field]:
        out = []
        for row in rows:
            words = [t.text for t in row]
            if "total" in words:
                token = row[words.index("total") + 1]
                label = of_labels(resource=resource, kind=words[0], **labels)
                out.append(Field("pressure_stall_us_total", label, token.number))
        if not out:
            raise InputError(f"pressure/{resource}: expected 'some ... total=N'")
        return out

    return parse


def diskstats(rows: Sequence[Line]) -> list[Field]:
    """``/proc/diskstats``: 11 numbers up to 4.17, 15 from 4.18, 17 from 5.5."""
    out = []
    for row in rows:
        if len(row) < 14 or re.match(r"(loop|ram|sr|fd)\d", row[2].text):
            continue
        label = of_labels(device=row[2].text)
        for name, token in zip(_DISK, row[3:], strict=False):
            out.append(Field("disk_inflight" if name == "inflight" else f"disk_{name}_total", label, token.number))
    return out


def numastat(node: str) -> Parser:
    """``nodeN/numastat``."""
    return _counts("node", of_labels(node=node))


def cgroup_stat(cgroup: str, controller: str) -> Parser:
    """``cpu.stat`` and ``memory.events`` of a cgroup: lines of a name and a count."""
    return _counts(f"cgroup_{controller}", of_labels(cgroup=cgroup))


def _counts(metric: str, labels: tuple[tuple[str, str], ...]) -> Parser:
    """Lines of a name and a count, below one metric's name."""

    def parse(rows: Sequence[Line]) -> list[Field]:
        return [
            Field(f"{metric}_{named(row[0].text)}_total", labels, row[1].number)
            for row in rows
            if len(row) == 2 and row[1].number >= 0
        ]

    return parse
