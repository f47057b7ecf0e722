"""What the machine itself tells and what on it disturbs a quiet CPU: CPUs, sensors, tracers, memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipelines.doctor.finding import Finding, content
from pipelines.harvest import housekeeping_cpus
from telemetry.host.tracer import INSTANCE, TRACERS
from telemetry.procfs import cpu_list, online_cpus

__all__ = ["cpus", "hardware", "memory", "tracers"]


def cpus(root: Path) -> Iterator[Finding]:
    """What may run on the CPUs of the trading threads, and what lets them sleep or slow down."""
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
    governor = content(sys / "cpu0/cpufreq/scaling_governor")
    if governor and governor != "performance":
        text = f"the frequency governor is {governor}: the first packet after a lull is slow"
        yield Finding("cpus", "problem", text, "cpupower frequency-set -g performance")
    states = [content(s / "name") for s in sorted((sys / "cpu0/cpuidle").glob("state[0-9]*"))]
    deep = [s for s in states if s.startswith("C") and s not in ("C0", "C1", "C1E")]
    if deep:
        text = f"deep idle states are allowed ({', '.join(deep)}): waking up takes up to 200 us"
        yield Finding("cpus", "note", text, "hold /dev/cpu_dma_latency at 0, or intel_idle.max_cstate=1")
    if "hypervisor" in content(root / "proc/cpuinfo"):
        text = "a virtual machine: firmware interrupts, throttling and neighbours show only as steal or as lateness"
        yield Finding("cpus", "note", text)


def hardware(root: Path) -> Iterator[Finding]:
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


def tracers(root: Path) -> Iterator[Finding]:
    """Whether what no counter shows (firmware, what interrupts a quiet CPU) could be traced."""
    places = [root / p for p in ("sys/kernel/tracing", "sys/kernel/debug/tracing")]
    folder = next((p for p in places if (p / "available_tracers").exists()), None)
    if folder is None:
        text = "no tracing file system: firmware interrupts (SMIs) and what disturbs a quiet CPU cannot be traced"
        yield Finding("tracers", "note", text, "mount -t tracefs tracefs /sys/kernel/tracing")
        return
    known = [t for t in TRACERS if t in content(folder / "available_tracers").split()]
    running = content(folder / "instances" / INSTANCE / "current_tracer")
    if running in TRACERS:
        yield Finding("tracers", "ok", f"the {running} tracer runs in our instance: the harvester reads it")
    elif known:
        start = f"mkdir {folder}/instances/{INSTANCE}; echo {known[0]} > {folder}/instances/{INSTANCE}/current_tracer"
        text = f"tracers that this kernel has: {', '.join(known)}; none runs in our instance"
        yield Finding("tracers", "note", text, f"{start} (it takes CPU time: not while trading)")
    else:
        text = "no osnoise, timerlat or hwlat tracer: firmware interrupts show only as gaps that nothing explains"
        yield Finding("tracers", "note", text, "a kernel with CONFIG_OSNOISE_TRACER and CONFIG_HWLAT_TRACER")


def memory(root: Path) -> Iterator[Finding]:
    """What makes page faults slow."""
    huge = content(root / "sys/kernel/mm/transparent_hugepage/enabled")
    if "[always]" in huge:
        text = "transparent huge pages are always on: compaction may stall a page fault for milliseconds"
        remedy = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
        yield Finding("memory", "note", text, remedy)
    if (
        content(root / "proc/sys/kernel/numa_balancing") == "1"
        and len(list((root / "sys/devices/system/node").glob("node[0-9]*"))) > 1
    ):
        text = "automatic NUMA balancing unmaps pages to see who uses them: faults on the hot path"
        yield Finding("memory", "note", text, "sysctl kernel.numa_balancing=0")


def _cpus_of(path: Path) -> list[int]:
    text = content(path)
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
