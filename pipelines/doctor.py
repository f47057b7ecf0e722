"""What this host can and cannot tell, what would blur it, and what that costs; read only, in plain words."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from pipelines.harvest import housekeeping_cpus, pin
from telemetry.errors import InputError, StoreError
from telemetry.harvest import Harvester
from telemetry.host.bypass import recognise
from telemetry.host.sources import HostSource
from telemetry.host.tracer import INSTANCE, TRACERS
from telemetry.procfs import cpu_list, online_cpus

__all__ = ["Finding", "examine", "sampler_cost"]

Level = Literal["ok", "note", "problem"]


class Finding(msgspec.Struct, frozen=True):
    """One sentence about this host. `remedy` is a suggestion; nothing is ever applied."""

    area: str
    level: Level
    what: str
    remedy: str = ""


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
    for part in (_sources, _clock, _cpus, _hardware, _tracers, _memory, _network, _bypass):
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
    yield Finding("kernel", "ok", f"Linux {_text(proc / 'sys/kernel/osrelease') or 'of unknown version'}")
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
    first = _text(proc / "net/softnet_stat").split("\n")[0].split()
    if first and len(first) < 13:
        yield Finding(
            "kernel", "note", "softnet_stat does not name its CPUs (before 5.10): rows are taken as the online CPUs"
        )
    steal = [line.split() for line in _text(proc / "stat").split("\n") if line.startswith("cpu0")]
    if steal and len(steal[0]) > 6 and int(steal[0][6]) == 0:
        yield Finding(
            "kernel", "note", "interrupt time is not accounted (irq ticks stay 0): counts of interrupts are used"
        )


def _clock(root: Path) -> Iterator[Finding]:
    source = _text(root / "sys/devices/system/clocksource/clocksource0/current_clocksource")
    if source in ("hpet", "acpi_pm", "jiffies", "refined-jiffies"):
        remedy = "find out why the kernel left the TSC (dmesg | grep -i tsc); boot with tsc=reliable if it is"
        yield Finding(
            "clock", "problem", f"the clock source is {source}: each time stamp costs about a microsecond", remedy
        )
    elif source:
        yield Finding("clock", "ok", f"the clock source is {source}")
    if root == Path("/"):
        yield from _discipline()
    clocks = sorted(p.name for p in (root / "sys/class/ptp").glob("ptp*"))
    if clocks:
        yield Finding("clock", "ok", f"PTP hardware clocks: {', '.join(clocks)}")
        yield from _hardware_clocks(root, clocks)
    else:
        text = "no PTP hardware clock: one-way latencies between hosts are only as good as NTP, tens of microseconds"
        yield Finding("clock", "note", text, "a NIC with a PTP clock, ptp4l and phc2sys")


def _discipline() -> Iterator[Finding]:
    """What the kernel and the daemons say of the offset."""
    from telemetry.host.chrony import Chrony
    from telemetry.host.clock import KernelClock
    from telemetry.host.ptp import Ptp4l

    kernel = _ask(KernelClock(""))
    if isinstance(kernel, str):
        yield Finding("clock", "note", f"the kernel does not tell its clock's offset: {kernel}")
    elif kernel["clock_unsynchronized"]:
        text = "nothing disciplines this clock: its stamps cannot be compared with another host's"
        yield Finding("clock", "problem", text, "run chronyd or ptp4l with phc2sys")
    else:
        text = f"the clock is disciplined; offset {_ns(kernel['clock_offset_ns'])}, error at most "
        yield Finding("clock", "ok", text + _ns(kernel["clock_max_error_ns"]))
    chrony = _ask(Chrony(""))
    if isinstance(chrony, str):
        text = f"chronyd does not answer ({chrony}): the offset is only what the kernel believes"
        remedy = "run chronyd; its Unix socket needs root, its UDP port 323 on loopback nothing (cmdport)"
        yield Finding("clock", "note", text, remedy)
    elif chrony["clock_unsynchronized"]:
        yield Finding("clock", "problem", "chronyd runs but has no source to follow", "chronyc sources -v")
    else:
        text = f"chronyd: stratum {chrony['clock_stratum']}, offset {_ns(chrony['clock_offset_ns'])}, error at most "
        bound = chrony["clock_max_error_ns"]
        remedy = "" if bound < 1_000_000 else "nearer sources, or PTP: one-way latencies are no better than this"
        yield Finding("clock", "ok" if bound < 1_000_000 else "note", text + _ns(bound), remedy)
    ptp4l = _ask(Ptp4l(""))
    if not isinstance(ptp4l, str):
        text = f"ptp4l: {ptp4l['clock_steps_removed']} steps from the grandmaster, offset "
        text += f"{_ns(ptp4l['clock_offset_ns'])}, path delay {_ns(ptp4l['clock_path_delay_ns'])}"
        yield Finding("clock", "ok", text)
        if ptp4l["clock_unsynchronized"]:
            yield Finding("clock", "problem", "ptp4l follows no grandmaster", "pmc -u -b 0 'GET PORT_DATA_SET'")
    elif ptp4l != "no such file or directory":
        yield Finding("clock", "note", f"ptp4l's socket is there but does not answer: {ptp4l}", "run as root")


def _hardware_clocks(root: Path, names: list[str]) -> Iterator[Finding]:
    from telemetry.host.clock import KernelClock
    from telemetry.host.ptp import HardwareClock

    tai_s = KernelClock("").tai_s
    if not tai_s:
        text = "the kernel does not know TAI - UTC (0): hardware clocks are taken to be 37 s ahead"
        yield Finding("clock", "note", text, "leapsectz right/UTC in chrony.conf, or phc2sys, sets it")
    for name in names:
        told = _ask(HardwareClock(root, "", name, tai_s))
        if isinstance(told, str):
            yield Finding("clock", "note", f"/dev/{name} cannot be compared with the system's clock: {told}")
            continue
        text = f"{name} is {_ns(told['phc_offset_ns'])} ahead of the system's clock (read within "
        text += f"{_ns(told['phc_offset_error_ns'])})"
        near = abs(told["phc_offset_ns"]) < 100_000
        remedy = "" if near else "phc2sys keeps them together; until then hardware stamps are of another time"
        yield Finding("clock", "ok" if near else "problem", text, remedy)


def _ask(source: HostSource) -> dict[str, int] | str:
    """A source's numbers by metric, or why there are none."""
    import numpy as np

    try:
        keys = source.discover()
        out = np.zeros(len(keys), np.int64)
        source.read(out)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    except InputError as error:
        return str(error)
    finally:
        source.close()
    return {k.metric: int(v) for k, v in zip(keys, out, strict=True)}


def _ns(value: int) -> str:
    """A time in its unit."""
    for unit, scale in (("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1000)):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value} ns"


def _cpus(root: Path) -> Iterator[Finding]:
    sys = root / "sys/devices/system/cpu"
    online = online_cpus(root)
    isolated = _cpus_of(sys / "isolated")
    if not isolated:
        text = f"{len(online)} CPUs, none isolated: any task may run where the trading threads do"
        yield Finding("cpus", "note", text, "isolcpus=, nohz_full= and rcu_nocbs= on the boot line, or cpusets")
    else:
        text = f"CPUs {_ranges(isolated)} are isolated; the harvester stays on {_ranges(housekeeping_cpus(root))}"
        yield Finding("cpus", "ok", text)
        strays = [
            path.parent.name
            for path in sorted((root / "proc/irq").glob("[0-9]*/smp_affinity_list"))
            if set(_cpus_of(path)) & set(isolated)
        ]
        if strays:
            text = f"{len(strays)} interrupts may hit isolated CPUs (first: IRQ {strays[0]})"
            keep = _ranges(housekeeping_cpus(root))
            remedy = f"echo {keep} > /proc/irq/{strays[0]}/smp_affinity_list; stop irqbalance; irqaffinity={keep}"
            yield Finding("cpus", "problem", text, remedy)
    governor = _text(sys / "cpu0/cpufreq/scaling_governor")
    if governor and governor != "performance":
        text = f"the frequency governor is {governor}: the first packet after a lull is slow"
        yield Finding("cpus", "problem", text, "cpupower frequency-set -g performance")
    states = [_text(s / "name") for s in sorted((sys / "cpu0/cpuidle").glob("state[0-9]*"))]
    deep = [s for s in states if s.startswith("C") and s not in ("C0", "C1", "C1E")]
    if deep:
        text = f"deep idle states are allowed ({', '.join(deep)}): waking up takes up to 200 us"
        yield Finding("cpus", "note", text, "hold /dev/cpu_dma_latency at 0, or intel_idle.max_cstate=1")
    if "hypervisor" in _text(root / "proc/cpuinfo"):
        text = "a virtual machine: firmware interrupts, throttling and neighbours show only as steal or as lateness"
        yield Finding("cpus", "note", text)


def _hardware(root: Path) -> Iterator[Finding]:
    """What of the machine itself can be seen."""
    sys = root / "sys"
    cpu = sys / "devices/system/cpu/cpu0"
    table = (
        ("idle states (cpuidle)", cpu / "cpuidle", "state[0-9]*", "wake-up delays from deep sleep"),
        ("frequencies (cpufreq)", cpu / "cpufreq", "scaling_cur_freq", "a core that runs slower"),
        ("throttling (thermal_throttle)", cpu / "thermal_throttle", "*_throttle_count", "a core slowed down by heat"),
        ("memory errors (edac)", sys / "devices/system/edac/mc", "mc[0-9]*", "corrected errors, which stall a channel"),
        ("sensors (hwmon)", sys / "class/hwmon", "hwmon[0-9]*", "heat and fans"),
        ("thermal zones", sys / "class/thermal", "thermal_zone[0-9]*", "heat"),
    )
    seen = [name for name, folder, pattern, _ in table if any(folder.glob(pattern))]
    blind = [(name, meaning) for name, _, _, meaning in table if name not in seen]
    if seen:
        yield Finding("hardware", "ok", f"to be seen: {', '.join(seen)}")
    if blind:
        text = f"not there: {', '.join(n for n, _ in blind)}; blind to {'; '.join(dict(blind).values())}"
        remedy = "a virtual machine hides these: look at its hypervisor; else load the drivers"
        yield Finding("hardware", "note", text, remedy)


def _tracers(root: Path) -> Iterator[Finding]:
    """Whether what no counter shows (firmware, what interrupts a quiet CPU) could be traced."""
    places = [root / p for p in ("sys/kernel/tracing", "sys/kernel/debug/tracing")]
    folder = next((p for p in places if (p / "available_tracers").exists()), None)
    if folder is None:
        text = "no tracing file system: firmware interrupts (SMIs) and what disturbs a quiet CPU cannot be traced"
        yield Finding("tracers", "note", text, "mount -t tracefs tracefs /sys/kernel/tracing")
        return
    known = [t for t in TRACERS if t in _text(folder / "available_tracers").split()]
    running = _text(folder / "instances" / INSTANCE / "current_tracer")
    if running in TRACERS:
        yield Finding("tracers", "ok", f"the {running} tracer runs in our instance: the harvester reads it")
    elif known:
        start = f"mkdir {folder}/instances/{INSTANCE}; echo {known[0]} > {folder}/instances/{INSTANCE}/current_tracer"
        text = f"tracers that this kernel has: {', '.join(known)}; none runs in our instance"
        yield Finding("tracers", "note", text, f"{start} (it takes CPU time: not while trading)")
    else:
        text = "no osnoise, timerlat or hwlat tracer: firmware interrupts show only as gaps that nothing explains"
        yield Finding("tracers", "note", text, "a kernel with CONFIG_OSNOISE_TRACER and CONFIG_HWLAT_TRACER")


def _memory(root: Path) -> Iterator[Finding]:
    huge = _text(root / "sys/kernel/mm/transparent_hugepage/enabled")
    if "[always]" in huge:
        text = "transparent huge pages are always on: compaction may stall a page fault for milliseconds"
        remedy = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
        yield Finding("memory", "note", text, remedy)
    if (
        _text(root / "proc/sys/kernel/numa_balancing") == "1"
        and len(list((root / "sys/devices/system/node").glob("node[0-9]*"))) > 1
    ):
        text = "automatic NUMA balancing unmaps pages to see who uses them: faults on the hot path"
        yield Finding("memory", "note", text, "sysctl kernel.numa_balancing=0")


def _network(root: Path) -> Iterator[Finding]:
    devices = [d for d in sorted((root / "sys/class/net").glob("*")) if (d / "device").exists()]
    if not devices:
        yield Finding("network", "note", "no hardware NIC in this namespace: ring and driver counters are out of sight")
    for device in devices:
        driver = (
            os.path.basename(os.path.realpath(device / "device/driver")) if (device / "device/driver").exists() else "?"
        )
        yield Finding("network", "ok", f"{device.name}: driver {driver}, counters of its driver are read once a second")
    if devices and root == Path("/"):
        yield _queues([d.name for d in devices])
    if (root / "proc/sys/net/netfilter/nf_conntrack_count").exists():
        now = _text(root / "proc/sys/net/netfilter/nf_conntrack_count")
        most = _text(root / "proc/sys/net/netfilter/nf_conntrack_max")
        if now.isdigit() and most.isdigit() and int(most) and int(now) > 0.8 * int(most):
            text = f"connection tracking is nearly full: {now} of {most}"
            yield Finding("network", "problem", text, "notrack for market data; raise net.netfilter.nf_conntrack_max")
    room = _text(root / "proc/sys/net/core/rmem_max")
    if room.isdigit() and int(room) <= 212_992:
        text = f"net.core.rmem_max is {room} (the default): about {int(room) // 2304} datagrams overflow a socket"
        yield Finding("network", "note", text, "sysctl net.core.rmem_max=26214400 and SO_RCVBUF in the application")


def _queues(devices: list[str]) -> Finding:
    from telemetry.host.queues import queue_stats

    told = _ask(source := queue_stats(""))
    if isinstance(told, str):
        text = f"no queue statistics from the kernel ({told}): queues are told apart only where the driver does"
        return Finding("network", "note", text, "Linux 6.8 or later with a driver that fills them in")
    queues = {(k.label("device"), k.label("queue")) for k in source.keys}
    silent = sorted(set(devices) - {d for d, _ in queues})
    text = f"{len(queues)} queues are told by the kernel, at the rate of the standard set"
    if silent:
        return Finding("network", "note", f"{text}; not those of {', '.join(silent)}", "a newer driver")
    return Finding("network", "ok", text)


def _bypass(root: Path) -> Iterator[Finding]:
    found = [b for b in recognise(root) if b.kind != "rdma"]
    for b in found:
        text = f"{b.where} goes round the kernel ({b.kind}: {b.evidence}); blind for it: {', '.join(b.blind)}"
        yield Finding("bypass", "note", text, f"read instead: {b.instead}; name its series in scoring.bypass")
    if not found and (root / "proc/stat").exists():
        yield Finding("bypass", "ok", "nothing that we may look at goes round the kernel: its counters see all packets")


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


def _cpus_of(path: Path) -> list[int]:
    text = _text(path)
    try:
        return cpu_list(text)
    except ValueError:
        return []


def _ranges(cpus: list[int]) -> str:
    out: list[list[int]] = []
    for cpu in sorted(cpus):
        if out and cpu == out[-1][1] + 1:
            out[-1][1] = cpu
        else:
            out.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in out)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
