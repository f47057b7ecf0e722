"""Text of /proc to columns ``family.name[.dimension]``: raw counters, gauges as they are. No I/O."""

from __future__ import annotations

import re

__all__ = ["affinity", "always", "host", "process", "space"]

Columns = dict[str, int]
_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest")
_NAMED_IRQ = ("LOC", "RES", "CAL", "TLB", "NMI", "IWI", "MCE", "TRM")
_SOFTNET = {
    0: "processed", 1: "dropped", 2: "time_squeeze", 9: "received_rps", 10: "flow_limit_count",
    11: "backlog_total", 13: "input_qlen", 14: "process_qlen",
}  # fmt: skip
_DISK = (
    "rd_ios", "rd_merges", "rd_sectors", "rd_ms", "wr_ios", "wr_merges", "wr_sectors", "wr_ms", "inflight", "io_ms",
    "weighted_ms", "discard_ios", "discard_merges", "discard_sectors", "discard_ms", "flush_ios", "flush_ms",
)  # fmt: skip
_DEV = (
    "rx_bytes", "rx_packets", "rx_errs", "rx_drop", "rx_fifo", "rx_frame", "rx_compressed", "rx_mcast",
    "tx_bytes", "tx_packets", "tx_errs", "tx_drop", "tx_fifo", "tx_colls", "tx_carrier", "tx_compressed",
)  # fmt: skip
_MEMINFO = ("MemFree", "MemAvailable", "Cached", "Dirty", "Writeback", "AnonPages", "AnonHugePages")
_ALWAYS = re.compile(
    r"softnet\.\w+\.(processed|dropped|time_squeeze)|vmstat\.(compact_stall|thp_fault_fallback|pgmajfault)|proc\."
    r"|trd\.(snmp\.(Udp:(InErrors|RcvbufErrors|NoPorts)|Tcp:RetransSegs|Ip:InDiscards)|dev\.eth0\.(rx|tx)_(drop|errs)"
    r"|netstat\.TcpExt:(TCPTimeouts|TCPOFOQueue|PruneCalled|RcvPruned|DelayedACKs|ListenOverflows|ListenDrops)"
    r"|udp\.3000[12]\.(rx_queue|drops)|carrier\.|neigh\.|conntrack\.)|exch\.(snmp\.Tcp:RetransSegs"
    r"|netstat\.TcpExt:(TCPTimeouts|ListenOverflows|ListenDrops))|stat\.cpu\d*\.steal|sampler\.|sw\.qdisc\.st\."
)


def always(column: str) -> bool:
    """Say whether a column is written even if it was 0 throughout: a quiet failure counter is evidence."""
    return _ALWAYS.match(column) is not None


def _interrupts(text: str) -> Columns:
    lines = text.splitlines()
    cpus = [c.lower() for c in lines[0].split()] if lines else []
    out: Columns = {}
    for row in lines[1:]:
        words = row.split()
        name = words[0].rstrip(":")
        if name.isdigit():
            name = f"{name}_{words[-1] if len(words) > len(cpus) + 1 else ''}"
        elif name not in _NAMED_IRQ:
            continue
        for cpu, value in zip(cpus, words[1 : 1 + len(cpus)], strict=False):
            out[f"irq.{name}.{cpu}"] = int(value)
    return out


def _softirqs(text: str) -> Columns:
    lines = text.splitlines()
    cpus = [c.lower() for c in lines[0].split()] if lines else []
    return {
        f"softirq.{words[0].rstrip(':')}.{cpu}": int(value)
        for words in (row.split() for row in lines[1:])
        for cpu, value in zip(cpus, words[1:], strict=False)
    }


def _stat(text: str) -> Columns:
    out: Columns = {}
    for row in text.splitlines():
        name, *values = row.split()
        if name.startswith("cpu"):
            out.update({f"stat.{name}.{m}": int(v) for m, v in zip(_MODES, values, strict=False)})
        elif name in ("intr", "ctxt", "processes", "procs_running", "procs_blocked"):
            out[f"stat.{name}"] = int(values[0])
    return out


def _schedstat(text: str) -> Columns:
    out: Columns = {}
    for row in text.splitlines():
        words = row.split()
        if words and words[0].startswith("cpu") and len(words) >= 10:
            for field, value in zip(("run_ns", "wait_ns", "timeslices"), words[7:10], strict=True):
                out[f"schedstat.{words[0]}.{field}"] = int(value)
    return out


def _softnet(text: str) -> Columns:
    out: Columns = {}
    for at, row in enumerate(text.splitlines()):
        words = [int(w, 16) for w in row.split()]
        cpu = words[12] if len(words) > 12 else at  # before Linux 5.10 the row is the cpu
        out.update({f"softnet.cpu{cpu}.{name}": words[i] for i, name in _SOFTNET.items() if i < len(words)})
    return out


def _disk(text: str) -> Columns:
    out: Columns = {}
    for row in text.splitlines():
        words = row.split()
        if len(words) > 3 and not words[2].startswith(("loop", "ram", "zram", "sr")):
            out.update({f"disk.{words[2]}.{n}": int(v) for n, v in zip(_DISK, words[3:], strict=False)})
    return out


def host(name: str, text: str) -> Columns:
    """Parse a file of the whole host."""
    if name == "irq":
        return _interrupts(text)
    if name == "softirq":
        return _softirqs(text)
    if name == "stat":
        return _stat(text)
    if name == "schedstat":
        return _schedstat(text)
    if name == "softnet":
        return _softnet(text)
    if name == "disk":
        return _disk(text)
    if name == "vmstat":
        return {f"vmstat.{k}": int(v) for k, v in (row.split() for row in text.splitlines())}
    if name == "meminfo":
        rows = (row.split() for row in text.splitlines())
        return {f"meminfo.{r[0][:-1]}_kB": int(r[1]) for r in rows if r[0][:-1] in _MEMINFO}
    # pressure: "some avg10=0.00 avg60=0.00 avg300=0.00 total=123"
    return {f"{name}.{w[0]}.total_us": int(w[-1].partition("=")[2]) for w in (r.split() for r in text.splitlines())}


def affinity(irq: str, text: str) -> Columns:
    """Parse ``effective_affinity``, a hexadecimal mask of CPUs."""
    mask = text.strip().replace(",", "")
    return {f"irq_affinity.{irq}.mask": int(mask, 16)} if mask else {}


def process(name: str, text: str) -> Columns:
    """Parse ``schedstat``, ``stat`` or ``status`` of a process (the lab's have one thread each)."""
    who, kind = name.rsplit(".", 1)
    if not text:
        return {}
    if kind == "schedstat":
        fields = zip(("run_ns", "wait_ns", "timeslices"), text.split(), strict=False)
        return {f"proc.{who}.{field}": int(v) for field, v in fields}
    if kind == "stat":
        words = text[text.rindex(")") + 2 :].split()
        return {
            f"proc.{who}.state_T": int(words[0] in "Tt"),
            f"proc.{who}.state_D": int(words[0] == "D"),
            f"proc.{who}.minflt": int(words[7]),
            f"proc.{who}.majflt": int(words[9]),
            f"proc.{who}.last_cpu": int(words[36]),
        }
    rows = (row.split() for row in text.splitlines() if "ctxt_switches" in row)
    return {f"proc.{who}.{r[0][:-1]}": int(r[1]) for r in rows}


def _pairs(where: str, text: str) -> Columns:
    """Parse the two-line blocks of snmp and netstat by the names in their first line."""
    out: Columns = {}
    lines = text.splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        group, *fields = names.split()
        out.update({f"{where}.{group}{f}": int(v) for f, v in zip(fields, values.split()[1:], strict=False)})
    return out


def space(where: str, kind: str, text: str) -> Columns:
    """Parse a file of one network namespace."""
    if kind in ("snmp", "netstat"):
        return _pairs(f"{where}.{kind}", text)
    if kind.startswith("carrier."):
        return {f"{where}.carrier.{kind[8:]}.changes": int(text)} if text.strip() else {}
    if kind == "ctmax":
        return {f"{where}.conntrack.max": int(text)} if text.strip() else {}
    out: Columns = {}
    lines = text.splitlines()
    if kind == "dev":
        for row in lines[2:]:
            device, _, rest = row.partition(":")
            if device.strip() != "lo":
                fields = zip(_DEV, rest.split(), strict=False)
                out.update({f"{where}.dev.{device.strip()}.{n}": int(v) for n, v in fields})
    elif kind == "udp":
        for row in lines[1:]:
            words = row.split()
            port = int(words[1].partition(":")[2], 16)
            for name, value in (("rx_queue", int(words[4].partition(":")[2], 16)), ("drops", int(words[-1]))):
                column = f"{where}.udp.{port}.{name}"
                out[column] = out.get(column, 0) + value
    elif kind == "sockstat":
        for row in lines:
            group, *words = row.split()
            for name, text_value in zip(words[::2], words[1::2], strict=False):
                out[f"{where}.sockstat.{group[:-1]}.{name}"] = int(text_value)
    elif kind == "conntrack_stat" and lines:
        names = lines[0].split()
        for cpu, row in enumerate(lines[1:]):
            for name, text_value in zip(names, row.split(), strict=False):
                if name == "entries":
                    out[f"{where}.conntrack.count"] = int(text_value, 16)
                else:
                    out[f"{where}.conntrack_stat.cpu{cpu}.{name}"] = int(text_value, 16)
    return out
