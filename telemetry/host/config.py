"""Configuration as events: a setting that changes is a data point.

Numbers become ``sysctl{name}`` and ``irq_affinity_mask{irq}``; texts become ``config_info{name,value}``, 1 for what is
in force and 0 for what no longer is.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from telemetry.host.batch import Digests
from telemetry.host.ethtool import settings
from telemetry.host.queues import QueueMap
from telemetry.procfs import cpu_list, mask_of
from telemetry.types import Events, SeriesKey

__all__ = ["SYSCTLS", "ConfigWatch"]

SYSCTLS = (
    "kernel/numa_balancing",
    "kernel/sched_rt_runtime_us",
    "kernel/timer_migration",
    "kernel/nmi_watchdog",
    "net/core/busy_poll",
    "net/core/busy_read",
    "net/core/default_qdisc",
    "net/core/dev_weight",
    "net/core/netdev_budget",
    "net/core/netdev_budget_usecs",
    "net/core/netdev_max_backlog",
    "net/core/rmem_default",
    "net/core/rmem_max",
    "net/core/rps_sock_flow_entries",
    "net/core/somaxconn",
    "net/core/wmem_max",
    "net/ipv4/conf/all/force_igmp_version",
    "net/ipv4/tcp_autocorking",
    "net/ipv4/tcp_congestion_control",
    "net/ipv4/tcp_mem",
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_wmem",
    "net/ipv4/udp_mem",
    "net/netfilter/nf_conntrack_max",
    "vm/compaction_proactiveness",
    "vm/dirty_background_bytes",
    "vm/dirty_background_ratio",
    "vm/dirty_bytes",
    "vm/dirty_ratio",
    "vm/stat_interval",
    "vm/swappiness",
    "vm/zone_reclaim_mode",
)
_TEXTS = {
    "cmdline": "proc/cmdline",
    "kernel": "proc/sys/kernel/osrelease",
    "transparent_hugepage": "sys/kernel/mm/transparent_hugepage/enabled",
    "transparent_hugepage_defrag": "sys/kernel/mm/transparent_hugepage/defrag",
    "clocksource": "sys/devices/system/clocksource/clocksource0/current_clocksource",
    "isolated_cpus": "sys/devices/system/cpu/isolated",
    "nohz_full": "sys/devices/system/cpu/nohz_full",
    "online_cpus": "sys/devices/system/cpu/online",
    "smt": "sys/devices/system/cpu/smt/control",
    "governor": "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
    "workqueue_cpumask": "sys/devices/virtual/workqueue/cpumask",
}
_PER_DEVICE = ("mtu", "operstate", "speed", "duplex", "tx_queue_len", "gro_flush_timeout", "napi_defer_hard_irqs")
_LONGEST = 200
_SELDOM = 5


class ConfigWatch:
    """Looks at the settings; `look` returns what changed (at first: everything).

    Parameters
    ----------
    boot_id : str
        The one last seen; if the running one is another, ``boot_id_changed`` is 1 once.
    """

    def __init__(self, root: Path, host: str, boot_id: str = "") -> None:
        self._root, self._host = root, host
        self._fds: dict[str, int] = {}
        self._last: dict[str, bytes] = {}
        self._irqs: dict[str, tuple[int, int]] = {}
        self._looks = 0
        self._often: list[str] = []
        self._seldom: list[str] = []
        self._often_digests = self._seldom_digests = Digests([])
        self._queues = QueueMap(root, host)
        self._told: dict[SeriesKey, int] = {}
        self._expected_boot = boot_id
        self.boot_id = self._text("proc/sys/kernel/random/boot_id") or ""

    def look(self) -> Events:
        """Changes since the last look, as events of now."""
        found: list[tuple[SeriesKey, int]] = []
        if self._looks % 10 == 0:
            self._list()
            told = self._no_files()
            found += [(k, v) for k, v in told.items() if self._told.get(k) != v]
            self._told = told
        self._looks += 1
        boot = self._text("proc/sys/kernel/random/boot_id") or ""
        if boot:
            self.boot_id = boot
            if self._expected_boot and boot != self._expected_boot:
                found.append((SeriesKey.of(self._host, "boot_id_changed"), 1))
            self._expected_boot = boot
        last, gone = self._last, []
        changed = [self._often[i] for i in self._often_digests.changed()]
        if self._looks % _SELDOM == 1:
            changed += [self._seldom[i] for i in self._seldom_digests.changed()]
        for path in changed:
            try:
                raw = os.pread(self._fds[path], 4096, 0)
            except OSError:
                gone.append(path)
                continue
            old = last.get(path)
            if raw != old:
                last[path] = raw
                found += self._changed(path, None if old is None else _decoded(old), _decoded(raw))
        for path in gone:
            os.close(self._fds.pop(path))
            last.pop(path, None)
        if gone:
            self._watch_opened()
        now = time.time_ns()
        stamp = np.full(len(found), now, np.int64)
        values = np.array([v for _, v in found], np.int64)
        return Events(tuple(k for k, _ in found), np.arange(len(found)), stamp, stamp, values)

    def close(self) -> None:
        self._queues.close()
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}

    def _no_files(self) -> dict[SeriesKey, int]:
        """Settings that no file tells: IRQs of queues; rings, coalescing, channels and offloads of NICs."""
        out = self._queues.look()
        if self._root == Path("/"):
            for device in self._names("sys/class/net"):
                if (self._root / "sys/class/net" / device / "device").exists():
                    for name, value in settings(device).items():
                        out[SeriesKey.of(self._host, f"config_nic_{name}", device=device)] = value
        return out

    def _list(self) -> None:
        """Open what is there by now and was not before."""
        wanted = [f"proc/sys/{s}" for s in SYSCTLS] + list(_TEXTS.values())
        for irq in self._names("proc/irq"):
            if irq.isdigit():
                wanted += [f"proc/irq/{irq}/smp_affinity_list", f"proc/irq/{irq}/effective_affinity_list"]
        for device in self._names("sys/class/net"):
            if device == "lo":
                continue
            wanted += [f"sys/class/net/{device}/{n}" for n in _PER_DEVICE]
        for path in wanted:
            if path not in self._fds:
                try:
                    self._fds[path] = os.open(self._root / path, os.O_RDONLY | os.O_CLOEXEC)
                except OSError:
                    continue  # not of this kernel, or not for us: the doctor says which
        if len(self._fds) != len(self._often) + len(self._seldom):
            self._watch_opened()

    def _watch_opened(self) -> None:
        """Affinities are moved by daemons: each look. The rest people set, or costs drivers a lock: each fifth."""
        self._often = [p for p in self._fds if p.startswith("proc/irq/")]
        self._seldom = [p for p in self._fds if not p.startswith("proc/irq/")]
        self._often_digests = Digests([self._fds[p] for p in self._often])
        self._seldom_digests = Digests([self._fds[p] for p in self._seldom])

    def _changed(self, path: str, old: str | None, text: str) -> list[tuple[SeriesKey, int]]:
        parts = path.split("/")
        if parts[1] == "irq":
            metric = "irq_affinity_mask" if parts[3] == "smp_affinity_list" else "irq_effective_affinity_mask"
            return [(SeriesKey.of(self._host, metric, irq=parts[2]), mask_of(cpu_list(text)))]
        if parts[1] == "sys":
            name, words = ".".join(parts[2:]), text.split()
            if words and all(w.lstrip("-").isdigit() for w in words):
                if len(words) == 1:
                    return [(SeriesKey.of(self._host, "sysctl", name=name), _fit(words[0]))]
                return [(SeriesKey.of(self._host, "sysctl", name=name, index=i), _fit(w)) for i, w in enumerate(words)]
        elif parts[1] == "class":
            name = f"{parts[3]}/{parts[4]}"
            if text.lstrip("-").isdigit():
                return [(SeriesKey.of(self._host, f"config_nic_{parts[4]}", device=parts[3]), _fit(text))]
        else:
            name = next(n for n, p in _TEXTS.items() if p == path)
        out = [(SeriesKey.of(self._host, "config_info", name=name, value=text[:_LONGEST] or "none"), 1)]
        if old is not None:
            out.insert(0, (SeriesKey.of(self._host, "config_info", name=name, value=old[:_LONGEST] or "none"), 0))
        return out

    def _text(self, path: str) -> str | None:
        try:
            return (self._root / path).read_text(errors="replace").strip()
        except OSError:
            return None

    def _names(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(self._root / folder))
        except OSError:
            return []


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "replace").strip()


def _fit(text: str) -> int:
    """A number of a setting; those beyond int64 (unlimited) are the largest."""
    return max(-(2**63), min(int(text), 2**63 - 1))
