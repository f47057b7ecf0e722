"""Which number of which file is which series: one function a file, from its names alone.

Each takes the words of a file (`telemetry.host.scan.lines`) and returns its fields. Columns are found by their
names wherever the file has some, so that another kernel's columns are read right or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from telemetry.errors import InputError
from telemetry.host.scan import Field, Token

__all__ = ["Parser", "is_gauge_of_vmstat", "named", "of_labels", "single"]

Line = list[Token]
Parser = Callable[[Sequence[Line]], list[Field]]

_NAMED_IRQS = {"NMI", "LOC", "RES", "CAL", "TLB"}
_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
_SNMP_GAUGES = {"CurrEstab"}
_SNMP_SETTINGS = {"Forwarding", "DefaultTTL", "RtoAlgorithm", "RtoMin", "RtoMax", "MaxConn"}
_VMSTAT_COUNTERS = re.compile(
    r"nr_(dirtied|written|vmscan_\w+|throttled_written|foll_pin_\w+|tlb_\w+|memmap_\w+_alloc|inactive_\w+_reclaimed)$"
)
_VMSTAT_GAUGES = re.compile(r"nr_\w+|workingset_nodes|swap_ra_ready")
_NOT_METRIC = re.compile(r"[^A-Za-z0-9_]+")
_RX = ("bytes", "packets", "errors", "dropped", "fifo_errors", "frame_errors", "compressed", "multicast")
_TX = ("bytes", "packets", "errors", "dropped", "fifo_errors", "collisions", "carrier_errors", "compressed")
_DISK_FIELDS = """
reads reads_merged read_sectors read_ms writes writes_merged written_sectors write_ms inflight io_ms weighted_io_ms
discards discards_merged discarded_sectors discard_ms flushes flush_ms
"""
_DISK = tuple(_DISK_FIELDS.split())
_SOFTNET = {0: "processed", 1: "dropped", 2: "squeezed", 8: "collisions", 9: "rps", 10: "flow_limit"}


def of_labels(**labels: str) -> tuple[tuple[str, str], ...]:
    """Sorted labels, empty ones left out."""
    return tuple(sorted((k, v) for k, v in labels.items() if v != ""))


def named(text: str) -> str:
    """A part of a metric's name from any text (ethtool's names differ per driver)."""
    return _NOT_METRIC.sub("_", text).strip("_") or "unnamed"


def interrupts(rows: Sequence[Line]) -> list[Field]:
    """``/proc/interrupts``: the header names the online CPUs."""
    cpus = [t.text[3:] for t in rows[0]] if rows else []
    if not cpus or any(not t.text.startswith("CPU") for t in rows[0]):
        raise InputError("interrupts: expected a header of CPU names")
    out = []
    for row in rows[1:]:
        if not row or not row[0].text.endswith(":"):
            continue
        irq = row[0].text[:-1]
        counts = row[1 : 1 + len(cpus)]
        if not (irq.isdigit() or irq in _NAMED_IRQS) or len(counts) < len(cpus) or any(t.number < 0 for t in counts):
            continue  # ERR and MIS have one column for the whole host
        # chip, hardware number and trigger come before the action's name
        name = _action([t.text for t in row[1 + len(cpus) :]]) if irq.isdigit() else ""
        out += [
            Field("irq_total", of_labels(cpu=c, irq=irq, name=name), t.number)
            for c, t in zip(cpus, counts, strict=True)
        ]
    return out


def _action(words: list[str]) -> str:
    """Device action: what follows the trigger (``5-edge``, ``PCI-MSI-edge``, ``27 Level``)."""
    for i, word in enumerate(words):
        if re.fullmatch(r"(\S+-)?(edge|level|fasteoi|none)", word, re.IGNORECASE):
            return " ".join(words[i + 1 :])
    return " ".join(words[2:]) if len(words) > 2 else ""


def softirqs(rows: Sequence[Line]) -> list[Field]:
    """``/proc/softirqs``."""
    cpus = [t.text[3:] for t in rows[0]] if rows else []
    if not cpus or any(not t.text.startswith("CPU") for t in rows[0]):
        raise InputError("softirqs: expected a header of CPU names")
    return [
        Field("softirq_total", of_labels(cpu=c, type=row[0].text[:-1]), t.number)
        for row in rows[1:]
        if len(row) > len(cpus)
        for c, t in zip(cpus, row[1:], strict=False)
    ]


def stat(rows: Sequence[Line]) -> list[Field]:
    """``/proc/stat``: ticks per CPU (10 ms each), switches, interrupts, forks, running and blocked."""
    single = {
        "ctxt": "context_switches_total",
        "intr": "interrupts_total",
        "processes": "forks_total",
        "procs_running": "procs_running",
        "procs_blocked": "procs_blocked",
    }
    out = []
    for row in rows:
        head = row[0].text if row else ""
        if head.startswith("cpu") and head[3:].isdigit():
            out += [
                Field("cpu_ticks_total", of_labels(cpu=head[3:], mode=m), t.number)
                for m, t in zip(_MODES, row[1:], strict=False)
                if m != "guest_nice"
            ]
        elif head in single and len(row) > 1:
            out.append(Field(single[head], (), row[1].number))
    if not out:
        raise InputError("stat: expected lines of CPUs")
    return out


def schedstat(rows: Sequence[Line]) -> list[Field]:
    """``/proc/schedstat``, versions 14 to 17: of a CPU's nine numbers the last three are run ns, wait ns, slices."""
    if not rows or not rows[0] or rows[0][0].text != "version":
        raise InputError("schedstat: expected 'version N'")
    out = []
    for row in rows:
        head = row[0].text if row else ""
        if head.startswith("cpu") and head[3:].isdigit() and len(row) >= 10:
            cpu = of_labels(cpu=head[3:])
            out.append(Field("sched_run_ns_total", cpu, row[7].number))
            out.append(Field("sched_wait_ns_total", cpu, row[8].number))
    return out


def softnet(cpus: Sequence[str]) -> Parser:
    """``/proc/net/softnet_stat`` (hexadecimal). From 5.10 on column 13 is the CPU; before, rows are the online CPUs."""

    def parse(rows: Sequence[Line]) -> list[Field]:
        out = []
        for i, row in enumerate(r for r in rows if r):
            if len(row) < 9 or any(t.number < 0 for t in row):
                raise InputError(f"softnet_stat: expected 9 or more hexadecimal columns, got {len(row)}")
            if len(row) >= 13:
                cpu = str(int(row[12].text, 16))
            else:
                cpu = cpus[i] if i < len(cpus) else str(i)
            label = of_labels(cpu=cpu)
            out += [Field(f"softnet_{n}_total", label, row[j].number) for j, n in _SOFTNET.items() if j < len(row)]
            if len(row) >= 12:
                out.append(Field("softnet_backlog", label, row[11].number))
        return out

    return parse


def snmp(netns: str = "") -> Parser:
    """``net/snmp`` and ``net/netstat``: pairs of a line of names and a line of numbers."""

    def parse(rows: Sequence[Line]) -> list[Field]:
        out = []
        full = [r for r in rows if r]
        at = 0
        while at + 1 < len(full):
            names, numbers = full[at], full[at + 1]
            at += 2
            proto = names[0].text.rstrip(":")
            if names[0].text != numbers[0].text or len(names) != len(numbers):
                raise InputError(f"snmp: expected as many numbers as names for {proto!r}")
            for name, token in zip(names[1:], numbers[1:], strict=True):
                if token.number >= 0 and name.text not in _SNMP_SETTINGS:
                    end = "" if name.text in _SNMP_GAUGES else "_total"
                    out.append(
                        Field(f"netstat_{named(proto)}_{named(name.text)}{end}", of_labels(netns=netns), token.number)
                    )
        return out

    return parse


def snmp6(netns: str = "") -> Parser:
    """``net/snmp6``: ``Ip6InReceives 12``."""

    def parse(rows: Sequence[Line]) -> list[Field]:
        out = []
        for row in rows:
            m = re.match(r"(Ip6|Icmp6|UdpLite6|Udp6)(\w+)$", row[0].text) if len(row) == 2 else None
            if m is not None and row[1].number >= 0:
                out.append(Field(f"netstat_{m[1]}_{m[2]}_total", of_labels(netns=netns), row[1].number))
        return out

    return parse


def net_dev(netns: str = "") -> Parser:
    """``net/dev``. Its ``drop`` is rx_dropped + rx_missed."""

    def parse(rows: Sequence[Line]) -> list[Field]:
        out = []
        for row in rows[2:]:
            if not row:
                continue
            numbers = [t.number for t in row[1:]]
            if not row[0].text.endswith(":") or len(numbers) < 16 or min(numbers) < 0:
                raise InputError("net/dev: expected 'name:' and 16 numbers")
            label = of_labels(device=row[0].text[:-1], netns=netns)
            out += [Field(f"nic_rx_{n}_total", label, numbers[i]) for i, n in enumerate(_RX)]
            out += [Field(f"nic_tx_{n}_total", label, numbers[8 + i]) for i, n in enumerate(_TX)]
        return out

    return parse


def sockstat(netns: str = "") -> Parser:
    """``net/sockstat``: ``TCP: inuse 1 orphan 0 ...``; memory is in pages."""

    def parse(rows: Sequence[Line]) -> list[Field]:
        return [
            Field(f"sockstat_{named(row[0].text)}_{name.text}", of_labels(netns=netns), number.number)
            for row in rows
            if row
            for name, number in zip(row[1::2], row[2::2], strict=False)
            if number.number >= 0
        ]

    return parse


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


def conntrack_stat(rows: Sequence[Line]) -> list[Field]:
    """``net/stat/nf_conntrack`` (hexadecimal): rows are the possible CPUs."""
    if not rows or "drop" not in [t.text for t in rows[0]]:
        raise InputError("nf_conntrack: expected a header with 'drop'")
    where = {n: i for i, n in enumerate(t.text for t in rows[0])}
    return [
        Field(f"conntrack_{name}_total", of_labels(cpu=str(i)), row[where[name]].number)
        for i, row in enumerate(r for r in rows[1:] if r)
        for name in ("drop", "early_drop", "insert_failed")
        if name in where and where[name] < len(row)
    ]


def neighbours(cache: str) -> Parser:
    """``net/stat/arp_cache`` and ``ndisc_cache`` (hexadecimal): what could not be resolved, a row a CPU."""

    def parse(rows: Sequence[Line]) -> list[Field]:
        where = {t.text: i for i, t in enumerate(rows[0])} if rows else {}
        if "res_failed" not in where:
            raise InputError(f"{cache}_cache: expected a header with 'res_failed'")
        return [
            Field(f"neigh_{name}_total", of_labels(cache=cache, cpu=str(i)), row[where[name]].number)
            for i, row in enumerate(r for r in rows[1:] if r)
            for name in ("res_failed", "unresolved_discards", "table_fulls")
            if name in where and where[name] < len(row)
        ]

    return parse


def numastat(node: str) -> Parser:
    """``nodeN/numastat``."""

    def parse(rows: Sequence[Line]) -> list[Field]:
        return [
            Field(f"node_{named(row[0].text)}_total", of_labels(node=node), row[1].number)
            for row in rows
            if len(row) == 2 and row[1].number >= 0
        ]

    return parse


def cgroup_stat(cgroup: str, controller: str) -> Parser:
    """``cpu.stat`` and ``memory.events`` of a cgroup: lines of a name and a count."""

    def parse(rows: Sequence[Line]) -> list[Field]:
        return [
            Field(f"cgroup_{controller}_{named(row[0].text)}_total", of_labels(cgroup=cgroup), row[1].number)
            for row in rows
            if len(row) == 2 and row[1].number >= 0
        ]

    return parse


def single(metric: str, labels: Mapping[str, str] | None = None, *, scale: int = 1) -> Parser:
    """A file that holds one number."""

    def parse(rows: Sequence[Line]) -> list[Field]:
        if not rows or not rows[0] or rows[0][0].number < 0:
            raise InputError(f"{metric}: expected a number")
        return [Field(metric, of_labels(**(labels or {})), rows[0][0].number, scale)]

    return parse
