"""Faults of the machine around the strategy: who else runs, interrupts, memory, disk."""

from __future__ import annotations

from pathlib import Path

from pipelines.lab.run import Run
from pipelines.lab.scenarios.base import Scenario
from telemetry.errors import ConfigError

__all__ = ["LOAD"]

CPU = {"layer": "host", "cpu": "strategy", "process": "strat"}


def rt_contention(run: Run) -> None:
    with run.load("burn", cpu=run.cpu, rt=20, duty=run.draw("duty", 0.35, 0.8), period=run.draw("period", 0.01, 0.2)):
        run.until_end()


def ctx_switch(run: Run) -> None:
    with run.load("pingpong", cpu=run.cpu, rate=run.draw("turns_per_s", 20_000, 80_000)):
        run.until_end()


def timer_storm(run: Run) -> None:
    hz = int(run.draw("timer_hz", 8000, 40_000))
    argv = ["stress-ng", "--timer", "1", "--timer-freq", str(hz), "--taskset", str(run.cpu), "--quiet"]
    with run.command(argv, name="stress-ng"):
        run.until_end()


def housekeeping(run: Run) -> None:
    """A kworker-like burst once a second, above the strategy."""
    length = run.draw("burst_ms", 8, 60) / 1000
    with run.load("burn", cpu=run.cpu, rt=30, duty=length, period=1.0):
        run.until_end()


def _steerable() -> tuple[str, str, str]:
    """Return number and name of a device interrupt that may be moved, and what to read to raise it.

    Interrupts of multi-queue disks are often managed by the kernel (EPERM); the hardware random
    number generator of a virtual machine is not.
    """
    found: list[tuple[int, str, str, str]] = []
    for path in Path("/proc/irq").glob("*/"):
        for name in (p.name for p in path.iterdir() if p.is_dir()):
            if name.endswith("-req.0") or name.startswith(("nvme", "ahci")):
                found.append((0, path.name, name, "disk"))
            elif name.endswith("-input") and Path("/dev/hwrng").exists():  # virtio-rng
                found.append((1, path.name, name, "/dev/hwrng"))
    for _, irq, name, source in sorted(found):
        setting = Path("/proc/irq", irq, "smp_affinity_list")
        try:
            setting.write_text(setting.read_text())
        except OSError:
            continue
        return irq, name, source
    raise ConfigError("lab: irq_affinity needs a device interrupt that may be moved (a disk's or virtio-rng's)")


def _steady_reads(run: Run) -> None:
    irq, name, source = _steerable()
    run.params["irq"], run.params["irq_name"] = irq, name
    run.journal.setting(f"/proc/irq/{irq}/smp_affinity_list", str(run.house))
    rate = run.draw("reads_per_s", 200, 700)
    if source == "disk":
        data = run.scratch / "blocks"
        data.write_bytes(bytes(64 << 20))
        source = str(data)
    run.background("read", path=source, rate=rate)


def irq_affinity(run: Run) -> None:
    irq = run.params["irq"]
    with run.setting(f"/proc/irq/{irq}/smp_affinity_list", str(run.cpu)):
        run.until_end()


def compaction(run: Run) -> None:
    with run.load("huge", rate=run.draw("per_s", 2, 8)):
        run.until_end()


def neighbour_writes(run: Run) -> None:
    """Forced writes of a neighbour, and the strategy's own log line forced to the same disk."""
    run.tell("strategy", f"fsync {run.scratch / 'orders.log'}")
    try:
        path = run.scratch / "bulk"
        with run.load("write", path=path, rate=run.draw("mb_per_s", 20, 120), sync=True):
            run.until_end()
    finally:
        run.tell("strategy", "fsync off")


LOAD = (
    Scenario("rt_contention", "cpu_contention", "a real-time process shares the strategy's CPU", rt_contention,
             place=CPU, counter=r"proc\.strat\.wait_ns", alone=True),
    Scenario("ctx_switch", "context_switch_storm", "two processes on the strategy's CPU hand a byte to and fro",
             ctx_switch, place={"layer": "host", "cpu": "strategy"}, counter=r"stat\.ctxt", alone=True),
    Scenario("timer_storm", "interrupt_storm", "timers interrupt the strategy's CPU thousands of times a second",
             timer_storm, place={"layer": "host", "cpu": "strategy", "irq": "LOC"},
             counter=r"irq\.LOC\.cpu\d+", needs=("stress-ng",), alone=True),
    Scenario("irq_affinity", "irq_on_isolated_core", "a device's interrupt moves to the strategy's CPU", irq_affinity,
             prepare=_steady_reads, place={"layer": "host", "cpu": "strategy", "irq": "device"}, alone=True),
    Scenario("compaction", "compaction", "memory is compacted again and again while huge pages are faulted", compaction,
             place={"layer": "host"}, counter=r"vmstat\.(compact_\w+|thp_fault_alloc)", shape="burst", alone=True),
    Scenario("writeback", "writeback", "the order log is forced to a disk that a neighbour keeps busy",
             neighbour_writes, place={"layer": "host", "process": "strat", "device": "disk"},
             counter=r"disk\.\w+\.(flush_ios|wr_ios)", alone=True),
    Scenario("housekeeping", "housekeeping_jitter", "a short burst above the strategy, once a second", housekeeping,
             place=CPU, counter=r"proc\.strat\.wait_ns", shape="periodic", alone=True,
             simulated="the burst is a real-time process, not a kworker"),
)  # fmt: skip
