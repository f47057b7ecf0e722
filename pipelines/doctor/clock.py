"""How far this host's time stamps can be trusted: clock source, discipline, hardware clocks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipelines.doctor.finding import Finding, ask, content

__all__ = ["clock"]


def clock(root: Path) -> Iterator[Finding]:
    """The clock source, who disciplines it, and the hardware clocks of the NICs."""
    source = content(root / "sys/devices/system/clocksource/clocksource0/current_clocksource")
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

    kernel = ask(KernelClock(""))
    if isinstance(kernel, str):
        yield Finding("clock", "note", f"the kernel does not tell its clock's offset: {kernel}")
    elif kernel["clock_unsynchronized"]:
        text = "nothing disciplines this clock: its stamps cannot be compared with another host's"
        yield Finding("clock", "problem", text, "run chronyd or ptp4l with phc2sys")
    else:
        text = f"the clock is disciplined; offset {_ns(kernel['clock_offset_ns'])}, error at most "
        yield Finding("clock", "ok", text + _ns(kernel["clock_max_error_ns"]))
    chrony = ask(Chrony(""))
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
    ptp4l = ask(Ptp4l(""))
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
        told = ask(HardwareClock(root, "", name, tai_s))
        if isinstance(told, str):
            yield Finding("clock", "note", f"/dev/{name} cannot be compared with the system's clock: {told}")
            continue
        text = f"{name} is {_ns(told['phc_offset_ns'])} ahead of the system's clock (read within "
        text += f"{_ns(told['phc_offset_error_ns'])})"
        near = abs(told["phc_offset_ns"]) < 100_000
        remedy = "" if near else "phc2sys keeps them together; until then hardware stamps are of another time"
        yield Finding("clock", "ok" if near else "problem", text, remedy)


def _ns(value: int) -> str:
    """A time in its unit."""
    for unit, scale in (("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1000)):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value} ns"
