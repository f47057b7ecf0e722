"""What this host can and cannot tell, what would blur it, and what that costs; read only, in plain words."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from pipelines.doctor.clock import clock
from pipelines.doctor.finding import Finding, Level, content
from pipelines.doctor.machine import cpus, hardware, memory, tracers
from pipelines.doctor.network import bypass, network
from pipelines.harvest import pin
from telemetry.errors import StoreError
from telemetry.harvest import Harvester

__all__ = ["examine", "sampler_cost"]


def examine(root: str | Path = "/", *, store: str | Path | None = None, seconds: float = 2.0) -> list[Finding]:
    """Look at everything that decides what can be seen here.

    Parameters
    ----------
    root : path
        ``/``, or a tree (then what needs the live kernel is left out).
    store : path, optional
        Where samples would go.
    seconds : float
        How long to sample, to tell what that costs here; 0 does not.
    """
    tree = Path(root)
    live = tree == Path("/")
    found: list[Finding] = []
    for part in (_sources, clock, cpus, hardware, tracers, memory, network, bypass):
        found += part(tree)
    if live:
        found += _rights()
        found += _tools()
    if store is not None:
        found += _store(Path(store))
    if live and seconds > 0:
        found.append(sampler_cost(seconds))
    return found


def sampler_cost(seconds: float) -> Finding:
    """Sample the standard set at 10 Hz for a while and say what it took."""
    before = os.sched_getaffinity(0)
    pin()
    try:
        harvester = Harvester("/", host="doctor")
        harvester.sample()
        late, ticks = 0.0, round(seconds * 10)
        start, cpu = time.monotonic(), time.process_time()
        for i in range(ticks):
            time.sleep(max(0.0, start + i / 10 - time.monotonic()))
            late = max(late, time.monotonic() - start - i / 10)
            harvester.sample()
        share = (time.process_time() - cpu) / max(time.monotonic() - start, 1e-9)
        series = len(harvester.keys)
        harvester.close()
    finally:
        os.sched_setaffinity(0, before)
    level: Level = "ok" if share < 0.02 and late < 0.05 else "note"
    remedy = "" if level == "ok" else "sample at a lower --hz, watch fewer namespaces, or give it a quieter CPU"
    what = f"sampling {series} series at 10 Hz takes {share:.2%} of a core here; at worst {late * 1e3:.1f} ms late"
    return Finding("cost", level, what, remedy)


def _sources(root: Path) -> Iterator[Finding]:
    proc = root / "proc"
    if not (proc / "stat").exists():
        yield Finding(
            "kernel", "problem", f"{proc} shows no kernel: nothing can be harvested", "run on Linux, mount /proc"
        )
        return
    yield Finding("kernel", "ok", f"Linux {content(proc / 'sys/kernel/osrelease') or 'of unknown version'}")
    table = (
        ("interrupts", "which interrupt hits which CPU", ""),
        ("softirqs", "softirq work per CPU", ""),
        ("net/softnet_stat", "drops and squeezes before the IP layer, per CPU", ""),
        ("net/snmp", "drops in IP, UDP and TCP", ""),
        ("vmstat", "reclaim, compaction and NUMA faults", ""),
        ("pressure/cpu", "pressure stalls in microseconds", "a kernel with CONFIG_PSI, booted with psi=1"),
        ("schedstat", "run and wait time per CPU (threads' own are still read)", "a kernel with CONFIG_SCHEDSTATS"),
        ("pressure/irq", "time stolen by interrupts", "CONFIG_IRQ_TIME_ACCOUNTING and Linux 6.1"),
    )
    for name, meaning, remedy in table:
        why = _unreadable(proc / name)
        if not why:
            yield Finding("kernel", "ok", f"/proc/{name}: {meaning}")
        else:
            yield Finding("kernel", "note", f"/proc/{name} is {why}: blind to {meaning}", remedy or "run as root")
    first = content(proc / "net/softnet_stat").split("\n")[0].split()
    if first and len(first) < 13:
        yield Finding(
            "kernel", "note", "softnet_stat does not name its CPUs (before 5.10): rows are taken as the online CPUs"
        )
    steal = [line.split() for line in content(proc / "stat").split("\n") if line.startswith("cpu0")]
    if steal and len(steal[0]) > 6 and int(steal[0][6]) == 0:
        yield Finding(
            "kernel", "note", "interrupt time is not accounted (irq ticks stay 0): counts of interrupts are used"
        )


def _rights() -> Iterator[Finding]:
    if os.geteuid() != 0:
        text = "not root: threads, namespaces and maps of other users' processes are out of sight"
        yield Finding("rights", "note", text, "run the harvester as root, or with CAP_SYS_PTRACE and CAP_NET_ADMIN")
    else:
        yield Finding("rights", "ok", "root: everything that this kernel shows can be read")


def _tools() -> Iterator[Finding]:
    for tool, use in (("tcpdump", "captures"), ("ethtool", "NIC settings"), ("tshark", "checking decoders")):
        if shutil.which(tool) is None:
            yield Finding("tools", "note", f"{tool} is not installed; it is used for {use}", f"apt install {tool}")


def _store(path: Path) -> Iterator[Finding]:
    from telemetry.store import Store

    place = path
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    level: Level = "ok" if free > 1 else "problem"
    remedy = "" if level == "ok" else "free some, or set harvest.max_gb"
    yield Finding("store", level, f"{path}: {free:.1f} GB free", remedy)
    if not os.access(place, os.W_OK):
        yield Finding(
            "store", "problem", f"{place} cannot be written by us", "choose another --store, or mend its rights"
        )
    if path.exists():
        try:
            store = Store(path, create=False)
        except StoreError as error:
            yield Finding("store", "problem", str(error), "choose another --store")
            return
        last = store.last_seen_ns()
        if last is None:
            yield Finding("store", "note", f"{path} is empty", "tailwatch harvest, or tailwatch ingest")
        else:
            age = (time.time_ns() - last) / 1e9
            yield Finding("store", "ok", f"{path}: hosts {', '.join(store.hosts())}; last seen {age:.0f} s ago")


def _unreadable(path: Path) -> str:
    """Why a file cannot be read; "" if it can. Some are there and yet refuse (pressure without psi=1)."""
    try:
        with path.open("rb") as file:
            file.read(1)
    except FileNotFoundError:
        return "not there"
    except OSError as error:
        return f"not readable for us ({(error.strerror or str(error)).lower()})"
    return ""
