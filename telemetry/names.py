"""node_exporter's names and ours: the same series under one name, whoever collected it.

What has no place in the table keeps its name; seconds of a counter become nanoseconds, because counters are
integers here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from telemetry.host.fields import named
from telemetry.host.tables_memory import is_gauge_of_vmstat
from telemetry.types import SeriesKey

__all__ = ["Translated", "translate"]


class Translated(NamedTuple):
    """Our series, the factor of its values, and whether they are integers."""

    key: SeriesKey
    scale: float
    integer: bool


_PLAIN = {
    "node_context_switches_total": ("context_switches_total", 1),
    "node_intr_total": ("interrupts_total", 1),
    "node_forks_total": ("forks_total", 1),
    "node_procs_running": ("procs_running", 1),
    "node_procs_blocked": ("procs_blocked", 1),
    "node_softirqs_functions_total": ("softirq_total", 1),
    "node_softnet_processed_total": ("softnet_processed_total", 1),
    "node_softnet_dropped_total": ("softnet_dropped_total", 1),
    "node_softnet_times_squeezed_total": ("softnet_squeezed_total", 1),
    "node_softnet_received_rps_total": ("softnet_rps_total", 1),
    "node_softnet_flow_limit_count_total": ("softnet_flow_limit_total", 1),
    "node_softnet_backlog_len": ("softnet_backlog", 1),
    "node_cpu_seconds_total": ("cpu_ticks_total", 100),
    "node_schedstat_running_seconds_total": ("sched_run_ns_total", 1e9),
    "node_schedstat_waiting_seconds_total": ("sched_wait_ns_total", 1e9),
    "node_nf_conntrack_entries": ("conntrack_entries", 1),
    "node_nf_conntrack_entries_limit": ("conntrack_limit", 1),
    "node_network_carrier_changes_total": ("nic_carrier_changes_total", 1),
    "node_disk_reads_completed_total": ("disk_reads_total", 1),
    "node_disk_reads_merged_total": ("disk_reads_merged_total", 1),
    "node_disk_read_bytes_total": ("disk_read_sectors_total", 1 / 512),
    "node_disk_read_time_seconds_total": ("disk_read_ms_total", 1000),
    "node_disk_writes_completed_total": ("disk_writes_total", 1),
    "node_disk_writes_merged_total": ("disk_writes_merged_total", 1),
    "node_disk_written_bytes_total": ("disk_written_sectors_total", 1 / 512),
    "node_disk_write_time_seconds_total": ("disk_write_ms_total", 1000),
    "node_disk_io_time_seconds_total": ("disk_io_ms_total", 1000),
    "node_disk_io_time_weighted_seconds_total": ("disk_weighted_io_ms_total", 1000),
    "node_disk_io_now": ("disk_inflight", 1),
    "node_disk_flush_requests_total": ("disk_flushes_total", 1),
    "node_disk_flush_requests_time_seconds_total": ("disk_flush_ms_total", 1000),
    "node_cpu_scaling_frequency_hertz": ("cpu_frequency_hz", 1),
    "node_network_mtu_bytes": ("config_nic_mtu", 1),
    "node_qdisc_backlog": ("qdisc_backlog_bytes", 1),
    "node_qdisc_drops_total": ("qdisc_drops_total", 1),
}
_CLOCK: dict[str, tuple[str, float]] = {
    "node_timex_offset_seconds": ("clock_offset_ns", 1e9),
    "node_timex_maxerror_seconds": ("clock_max_error_ns", 1e9),
    "node_timex_tai_offset_seconds": ("clock_tai_offset_s", 1),
}
_EDAC = {
    "node_edac_correctable_errors_total": "edac_ce_errors_total",
    "node_edac_uncorrectable_errors_total": "edac_ue_errors_total",
}
_PRESSURE = {
    "cpu_waiting": ("cpu", "some"),
    "memory_waiting": ("memory", "some"),
    "memory_stalled": ("memory", "full"),
    "io_waiting": ("io", "some"),
    "io_stalled": ("io", "full"),
    "irq_stalled": ("irq", "full"),
}
_NIC = {"errs": "errors", "drop": "dropped", "fifo": "fifo_errors", "frame": "frame_errors", "colls": "collisions"}
_NIC |= {"carrier": "carrier_errors"}
_DROPPED_LABELS = {"job", "instance"}


@lru_cache(maxsize=65_536)
def translate(name: str, labels: tuple[tuple[str, str], ...], host: str, counter: bool) -> Translated:
    """Name a sample.

    Parameters
    ----------
    name, labels : as exposed; ``job`` and ``instance`` are left out
    host : str
    counter : bool
        Exposed as one.
    """
    kept = {k: v for k, v in labels if k not in _DROPPED_LABELS and v != ""}
    metric, scale = _ours(name, kept)
    if metric is None:
        metric, scale = name, 1.0
        if (counter or name.endswith("_total")) and not name.endswith("_total"):
            metric = name + "_total"
        if metric.endswith("_seconds_total"):
            metric, scale = metric.removesuffix("_seconds_total") + "_ns_total", 1e9
    pairs = tuple(sorted((k, v) for k, v in kept.items() if k not in ("host", "metric")))
    integer = metric.endswith("_total") or metric.startswith(("softnet_", "conntrack_", "procs_"))
    return Translated(SeriesKey(host, metric, pairs), scale, integer)


def _ours(name: str, labels: dict[str, str]) -> tuple[str | None, float]:
    """Our metric and its factor; may rename labels."""
    plain = _PLAIN.get(name)
    if plain is not None:
        return plain
    if name == "node_interrupts_total":
        irq, devices = labels.pop("type", ""), labels.pop("devices", "")
        labels.pop("info", None)
        labels |= {"irq": irq} | ({"name": devices} if irq.isdigit() and devices else {})
        return "irq_total", 1
    if name in _CLOCK:
        labels["source"] = "kernel"
        return _CLOCK[name]
    if name in _EDAC:
        labels["mc"] = labels.pop("controller", "")
        return _EDAC[name], 1
    if name == "node_buddyinfo_blocks":
        labels["order"] = labels.pop("size", "")
        return "buddy_free_blocks", 1
    if m := re.fullmatch(r"node_pressure_(\w+)_seconds_total", name):
        if m[1] in _PRESSURE:
            labels["resource"], labels["kind"] = _PRESSURE[m[1]]
            return "pressure_stall_us_total", 1e6
    elif m := re.fullmatch(r"node_netstat_(\w+)", name):
        return f"netstat_{m[1]}" + ("" if m[1].endswith("CurrEstab") else "_total"), 1
    elif m := re.fullmatch(r"node_network_(receive|transmit)_(\w+)_total", name):
        return f"nic_{'rx' if m[1] == 'receive' else 'tx'}_{_NIC.get(m[2], m[2])}_total", 1
    elif m := re.fullmatch(r"node_vmstat_(\w+)", name):
        return f"vmstat_{m[1]}" + ("" if is_gauge_of_vmstat(m[1]) else "_total"), 1
    elif m := re.fullmatch(r"node_memory_(\w+)", name):
        return f"meminfo_{m[1]}", 1
    elif m := re.fullmatch(r"node_sockstat_(\w+)", name):
        return f"sockstat_{m[1]}", 1
    elif (m := re.fullmatch(r"node_ethtool_(\w+)", name)) and "device" in labels and m[1] != "info":
        return f"ethtool_{named(m[1]).removesuffix('_total')}_total", 1
    return None, 1


def host_of(labels: Mapping[str, str], fallback: str) -> str:
    """The host that a sample is of: its ``host``, else ``instance`` without the port, else `fallback`."""
    if labels.get("host"):
        return labels["host"]
    instance = labels.get("instance", "")
    return re.sub(r":\d+$", "", instance) or fallback
