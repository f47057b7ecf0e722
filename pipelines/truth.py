"""What is right for a recorded fault: its kinds, by its name, and whether a place names where it was."""

from __future__ import annotations

import re
from collections.abc import Mapping

from detectors.signature import KINDS
from telemetry.labels import parse_scope

__all__ = ["FAULTS", "judged_kinds", "place_agrees"]

FAULTS: dict[str, tuple[str, ...]] = {
    "baseline": ("none",),
    "delay_step": ("tail_latency_creep",),
    "jitter": ("tail_latency_creep",),
    "softirq_flood": ("softirq_squeeze",),
    "rt_contention": ("cpu_contention",),
    "gc_pause": ("process_pause",),
    "timer_storm": ("interrupt_storm",),
    "ctx_switch": ("context_switch_storm",),
    "loss": ("network_gap", "tcp_loss"),
    "nft_loss": ("host_gap",),
    "tbf_bloat": ("bufferbloat",),
    # names of this lab alone
    "delay_ramp": ("tail_latency_creep",),
    "reorder": ("tail_latency_creep",),
    "irq_affinity": ("irq_on_isolated_core",),
}
"""What is right for a fault whose name is not a kind's.

A run's own label has no say where a fault is named here, or as a kind is: the figures of corpora compare."""


def judged_kinds(fault: str, told: str = "", clean: bool = False) -> tuple[str, ...]:
    """The kinds that are right for a fault, the likeliest first; ``none`` for a run without one.

    By the fault's name: as `FAULTS` says, or the kind of that name, or the one kind that has all its words
    (``conntrack``, ``igmp``). Only a name that says nothing is taken for what the label tells.

    Examples
    --------
    >>> judged_kinds("loss"), judged_kinds("conntrack"), judged_kinds("a_deploy", clean=True)
    (('network_gap', 'tcp_loss'), ('conntrack_full',), ('none',))
    """
    if clean:
        return ("none",)
    if fault in FAULTS:
        return FAULTS[fault]
    if fault in KINDS:
        return (fault,)
    words = set(fault.split("_"))
    near = [k for k in KINDS if words <= set(k.split("_"))]
    return (near[0],) if len(near) == 1 else (told or fault,)


def place_agrees(found: str, recorded: Mapping[str, object]) -> bool | None:
    """Whether a place names where the fault was and nowhere else; None where the recording does not say.

    A hop agrees in either direction. What the recording knows and the place does not name is no contradiction, as
    long as one of the labels agrees, or the place is the host for a fault of the host as a whole.
    """
    where = parse_scope(found)
    names = ("hop", "netns", "process", "cpu", "device", "port", "irq", "peer")
    wanted = {k: str(v) for k, v in recorded.items() if k in names and str(v) not in ("firewall", "disk")}
    layer = str(recorded.get("layer", ""))
    if not wanted and not layer:
        return None
    agreed = False
    for name in wanted.keys() & where.keys():
        have, want = set(where[name].split("|")), {wanted[name]}
        if name == "hop":
            ends = {frozenset(re.split("[->]+", h)) for h in have}
            good = frozenset(re.split("[->]+", wanted[name])) in ends
        elif name == "netns" and "hop" in where:
            continue
        else:
            good = bool(have & want)
        if not good:
            return False
        agreed = True
    if layer == "network":
        return agreed
    return agreed or "hop" not in where
