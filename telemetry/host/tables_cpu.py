"""Processors in ``/proc``: interrupts, time, scheduling.

Each function takes the words of a file (`telemetry.host.scan.lines`) and returns its fields. Columns are found by their
names wherever the file has some, so that another kernel's columns are read right or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from telemetry.errors import InputError
from telemetry.host.fields import Line, of_labels
from telemetry.host.scan import Field

__all__ = ["interrupts", "schedstat", "softirqs", "stat"]

_NAMED_IRQS = {"NMI", "LOC", "RES", "CAL", "TLB"}
_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")


def _cpus(rows: Sequence[Line], file: str) -> list[str]:
    """The processors that a file's first line names."""
    cpus = [t.text[3:] for t in rows[0]] if rows else []
    if not cpus or any(not t.text.startswith("CPU") for t in rows[0]):
        raise InputError(f"{file}: expected a header of CPU names")
    return cpus


def interrupts(rows: Sequence[Line]) -> list[Field]:
    """``/proc/interrupts``: the header names the online CPUs."""
    cpus = _cpus(rows, "interrupts")
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
    cpus = _cpus(rows, "softirqs")
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
