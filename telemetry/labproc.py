"""Column names of a lab's ``proc_10hz.csv.gz`` -> the series names that the harvester uses.

A recorded column is ``family.name[.dimension]`` (``softirq.NET_RX.cpu0``,
``trd.dev.eth0.rx_bytes``). The same quantity has the same `SeriesKey` here and in a live harvest,
so a detector trained on one scores the other.
"""

from __future__ import annotations

import re

from telemetry.types import SeriesKey

__all__ = ["LAB_HOST", "lab_series"]

LAB_HOST = "lab"

_STAT = {
    "intr": "interrupts_total",
    "ctxt": "context_switches_total",
    "processes": "forks_total",
    "procs_running": "procs_running",
    "procs_blocked": "procs_blocked",
}
_SOFTNET = {
    "processed": "softnet_processed_total",
    "dropped": "softnet_dropped_total",
    "time_squeeze": "softnet_squeezed_total",
    "received_rps": "softnet_rps_total",
    "flow_limit_count": "softnet_flow_limit_total",
    "backlog_total": "softnet_backlog",
    "input_qlen": "softnet_input_backlog",
    "process_qlen": "softnet_process_backlog",
}
_THREAD = {
    "run_ns": "thread_run_ns_total",
    "wait_ns": "thread_wait_ns_total",
    "timeslices": "thread_timeslices_total",
    "voluntary_ctxt_switches": "thread_voluntary_switches_total",
    "nonvoluntary_ctxt_switches": "thread_nonvoluntary_switches_total",
    "minflt": "thread_minor_faults_total",
    "majflt": "thread_major_faults_total",
    "state_T": "thread_state",
    "last_cpu": "thread_last_cpu",
}
_NIC = {
    "drop": "dropped",
    "errs": "errors",
    "mcast": "multicast",
    "fifo": "fifo_errors",
    "frame": "frame_errors",
    "colls": "collisions",
    "carrier": "carrier_errors",
}
_DISK = {
    "rd_ios": "reads",
    "rd_merges": "reads_merged",
    "rd_sectors": "read_sectors",
    "rd_ms": "read_ms",
    "wr_ios": "writes",
    "wr_merges": "writes_merged",
    "wr_sectors": "written_sectors",
    "wr_ms": "write_ms",
    "flush_ios": "flushes",
}
_SNMP_GAUGES = {"CurrEstab", "Forwarding", "DefaultTTL", "RtoAlgorithm", "RtoMin", "RtoMax", "MaxConn"}
_QDISC = {"backlog": "qdisc_backlog_bytes", "qlen": "qdisc_backlog_packets"}
_DISK_GAUGES = {"inflight"}
_VMSTAT_GAUGES = re.compile(r"nr_\w+|workingset_nodes|swap_ra_ready")
_VMSTAT_COUNTERS = re.compile(r"nr_(dirtied|written|vmscan_\w+|throttled_written|foll_pin_\w+|tlb_\w+)")
_ODD = re.compile(r"[^A-Za-z0-9_]+")


def lab_series(column: str) -> tuple[SeriesKey, int] | None:
    """Name the series of a column, and the factor that brings its values to the unit of that name.

    None for the sum over all CPUs, which the per-CPU columns tell already.

    Parameters
    ----------
    column : str
        ``family.name[.dimension]``; anything not known keeps its own name (a gauge unless it ends in
        ``_total``), so nothing recorded is lost.

    Examples
    --------
    >>> str(lab_series("softirq.NET_RX.cpu0")[0])
    'softirq_total{host="lab",cpu="0",type="NET_RX"}'
    >>> lab_series("meminfo.Dirty_kB")[1]
    1024
    """
    parts = column.split(".")
    if parts[:2] == ["stat", "cpu"]:
        return None
    named = _host_series(parts) or _netns_series(parts)
    if named is None:
        return SeriesKey.of(LAB_HOST, _ODD.sub("_", column)), 1
    metric, labels, factor = named
    return SeriesKey.of(LAB_HOST, metric, **labels), factor


def _host_series(parts: list[str]) -> tuple[str, dict[str, str], int] | None:
    match parts:
        case ["irq", *middle, cpu] if middle and cpu.startswith("cpu"):
            number, _, name = ".".join(middle).partition("_")
            return "irq_total", {"cpu": cpu[3:], "irq": number, "name": name}, 1
        case ["softirq", kind, cpu]:
            return "softirq_total", {"cpu": cpu[3:], "type": kind}, 1
        case ["stat", cpu, mode] if cpu.startswith("cpu"):
            return "cpu_ticks_total", {"cpu": cpu[3:], "mode": mode}, 1
        case ["stat", name] if name in _STAT:
            return _STAT[name], {}, 1
        case ["softnet", cpu, name]:
            return _SOFTNET.get(name, f"softnet_{name}_total"), {"cpu": cpu[3:]}, 1
        case ["schedstat", cpu, name]:
            return f"sched_{name}_total", {"cpu": cpu[3:]}, 1
        case ["vmstat", name]:
            gauge = _VMSTAT_GAUGES.fullmatch(name) and not _VMSTAT_COUNTERS.fullmatch(name)
            return f"vmstat_{name}" + ("" if gauge else "_total"), {}, 1
        case ["psi", resource, kind, "total_us"]:
            return "pressure_stall_us_total", {"resource": resource, "kind": kind}, 1
        case ["meminfo", name] if name.endswith("_kB"):
            return f"meminfo_{name[:-3]}_bytes", {}, 1024
        case ["disk", device, name]:
            named = _DISK.get(name, name)
            return f"disk_{named}" + ("" if named in _DISK_GAUGES else "_total"), {"device": device}, 1
        case ["irq_affinity", irq, "mask"]:
            return "irq_affinity_mask", {"irq": irq}, 1
        case ["proc", process, "state_D"]:
            return "thread_blocked", {"process": process}, 1
        case ["proc", process, name]:
            return _THREAD.get(name, f"thread_{name}_total"), {"process": process}, 1
        case ["sampler", name] if name.endswith("_us"):
            return f"sampler_{name[:-3]}_ns", {}, 1000
    return None


def _netns_series(parts: list[str]) -> tuple[str, dict[str, str], int] | None:
    match parts:
        case [netns, "snmp" | "netstat" | "snmp6", field] if ":" in field:
            proto, name = field.split(":", 1)
            metric = f"netstat_{proto}_{name}" + ("" if name in _SNMP_GAUGES else "_total")
            return metric, {"netns": netns}, 1
        case [netns, "dev", device, name]:
            way, _, field = name.partition("_")
            return f"nic_{way}_{_NIC.get(field, field)}_total", {"device": device, "netns": netns}, 1
        case [netns, "udp", port, "rx_queue"]:
            return "udp_socket_rx_queue_bytes", {"port": port, "netns": netns}, 1
        case [netns, "udp", port, "drops"]:
            return "udp_socket_drops_total", {"port": port, "netns": netns}, 1
        case [netns, "sockstat", proto, name]:
            return f"sockstat_{proto}_{name}", {"netns": netns}, 1
        case [netns, "conntrack", "count"]:
            return "conntrack_entries", {"netns": netns}, 1
        case [netns, "conntrack", "max"]:
            return "conntrack_limit", {"netns": netns}, 1
        case [netns, "qdisc", device, name]:
            return _QDISC.get(name, f"qdisc_{name}_total"), {"device": device, "netns": netns}, 1
        case [netns, "conntrack_stat", cpu, name]:
            return f"conntrack_{name}_total", {"cpu": cpu[3:], "netns": netns}, 1
        case [netns, "neigh", device, state]:
            return f"neigh_{state}", {"device": device, "netns": netns}, 1
        case [netns, "carrier", device, "changes"]:
            return "nic_carrier_changes_total", {"device": device, "netns": netns}, 1
    return None
