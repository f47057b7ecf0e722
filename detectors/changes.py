"""What would mend it: the catalogue's templates filled in with this host's device, cpu and current value.

Nothing here runs anything. Where the current value is not known, the command first saves it in a shell variable,
so that the way back is always there.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from detectors.settings import cpu_list, cpu_text
from detectors.signature import ChangeTemplate, Signature
from telemetry.types import Change

__all__ = ["PLACEHOLDERS", "fill", "fill_all", "fill_text"]

PLACEHOLDERS = frozenset(
    {
        "host",
        "device",
        "cpu",
        "irq",
        "queue",
        "process",
        "thread",
        "port",
        "socket",
        "netns",
        "flow",
        "hop",
        "feed",
        "channel",
        "group",
        "disk",
        "peer",
        "current",
        "mask",
        "others",
        "othersmask",
        "reads",
    }
)
"""Names that a template may use in braces: labels of the place, and what follows from them."""

_HOLE = re.compile(r"\{([a-z]+)\}")
_MISSING = {
    "device": "DEVICE", "cpu": "CPU", "irq": "IRQ", "queue": "QUEUE", "process": "PROCESS", "thread": "TID",
    "port": "PORT", "group": "GROUP", "peer": "PEER", "disk": "DISK", "others": "OTHER_CPUS",
    "othersmask": "OTHER_CPUS_MASK", "mask": "MASK",
}  # fmt: skip


def fill(template: ChangeTemplate, place: Mapping[str, str], facts: Mapping[str, str]) -> Change:
    """Fill in one change.

    Parameters
    ----------
    template : ChangeTemplate
    place : mapping of label to value
        Where the incident is.
    facts : mapping of name to value
        What is known of the host: settings under their series (``sysctl{name="net.core.rmem_max"}`` -> ``212992``)
        or under the text of the ``reads`` command, ``device``, ``online`` cpus (a list; or
        ``cpus``, their number) and ``isolated`` ones.
    """
    holes = {k: v for k, v in facts.items() if k in PLACEHOLDERS} | dict(place)
    if "device" not in place and "irq" in place:
        holes["device"] = _device(place, facts) or holes.get("device", "")
    holes |= _cpus(holes.get("cpu", ""), facts)
    reads = _put(template.reads, holes)
    setting = _HOLE.sub(lambda m: holes.get(m.group(1), ""), template.setting)
    current = (facts.get(setting, "") if setting else "") or (facts.get(reads, "") if reads else "")
    command, undo = template.command, template.undo
    if reads and not current and "{current}" in command + undo:
        command = f"OLD=$({reads}); {command}"
        current = "$OLD"
    holes |= {"current": current or "its old value", "reads": reads}
    texts = [_put(t, holes) for t in (template.what, command, undo, template.risk, template.proof)]
    return Change(*texts)


def fill_all(signature: Signature, place: Mapping[str, str], facts: Mapping[str, str]) -> tuple[Change, ...]:
    """All changes of a signature, filled in."""
    return tuple(fill(t, place, facts) for t in signature.changes)


def fill_text(text: str, place: Mapping[str, str]) -> str:
    """Fill a title's placeholders for people (no quoting); what is not known is left out.

    Examples
    --------
    >>> fill_text("interrupt {irq} of cpu {cpu} storms", {"cpu": "3"})
    'interrupt of cpu 3 storms'
    """
    return " ".join(_HOLE.sub(lambda m: place.get(m.group(1), ""), text).split())


def _put(text: str, holes: Mapping[str, str]) -> str:
    def value(m: re.Match[str]) -> str:
        name = m.group(1)
        if holes.get(name):
            # a label value may come from anywhere: it never becomes more than one word of a command
            known = holes[name]
            return known if name in ("current", "reads") else shlex.quote(known)
        return _MISSING.get(name, name.upper())

    return _HOLE.sub(value, text)


def _device(place: Mapping[str, str], facts: Mapping[str, str]) -> str:
    """The device that an interrupt belongs to: as the kernel says, or by its name (``eth0-rx-3``)."""
    irq = place.get("irq", "")
    told = facts.get(f'irq_device{{irq="{irq}"}}', "")
    names = {k.split('device="')[1].rstrip('"}') for k in facts if k.startswith("config_nic_") and 'device="' in k}
    named = [d for d in names if re.match(rf"{re.escape(d)}\b", place.get("name", ""))]
    return told or (named[0] if len(named) == 1 else "")


def _cpus(cpu: str, facts: Mapping[str, str]) -> dict[str, str]:
    """The mask of a cpu list, and the other cpus (without the isolated ones, where any are left)."""
    names = [int(c) for c in re.split(r"[|,]", cpu) if c.isdigit()]
    out = {"mask": f"{sum(1 << c for c in names):x}"} if names else {}
    count, kept = facts.get("cpus", ""), cpu_list(facts.get("isolated", ""))
    online = cpu_list(facts.get("online", "")) or (list(range(int(count))) if count.isdigit() else [])
    others = [c for c in online if c not in names]
    others = [c for c in others if c not in kept] or others
    if others and (names or kept):
        mask = sum(1 << c for c in others)
        out |= {"others": cpu_text(mask), "othersmask": f"{mask:x}"}
    return out
