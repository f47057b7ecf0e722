"""What would mend it: the catalogue's templates filled in with this host's device, cpu and current value.

Nothing here runs anything. Where the current value is not known, the command first saves it in a shell variable,
so that the way back is always there.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

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
        "reads",
    }
)
"""Names that a template may use in braces: labels of the place, and what follows from them."""

_HOLE = re.compile(r"\{([a-z]+)\}")
_MISSING = {
    "device": "DEVICE", "cpu": "CPU", "irq": "IRQ", "queue": "QUEUE", "process": "PROCESS", "thread": "TID",
    "port": "PORT", "group": "GROUP", "peer": "PEER", "disk": "DISK", "others": "OTHER_CPUS", "mask": "MASK",
}  # fmt: skip


def fill(template: ChangeTemplate, place: Mapping[str, str], facts: Mapping[str, str]) -> Change:
    """Fill in one change.

    Parameters
    ----------
    template : ChangeTemplate
    place : mapping of label to value
        Where the incident is.
    facts : mapping of name to value
        What is known of the host: the answer to a ``reads`` command under that command's text
        (``sysctl -n net.core.rmem_max`` -> ``212992``), ``device``, ``cpus`` (their number).
    """
    holes = {k: v for k, v in facts.items() if k in PLACEHOLDERS} | dict(place)
    holes |= _cpus(holes.get("cpu", ""), facts.get("cpus", ""))
    reads = _put(template.reads, holes)
    current = facts.get(reads, "") if reads else ""
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


def _cpus(cpu: str, count: str) -> dict[str, str]:
    """The mask of a cpu list, and the other cpus."""
    names = [c for c in re.split(r"[|,]", cpu) if c.isdigit()]
    if not names:
        return {}
    out = {"mask": f"{sum(1 << int(c) for c in names):x}"}
    if count.isdigit():
        others = [str(c) for c in range(int(count)) if str(c) not in names]
        if others:
            out["others"] = ",".join(others)
    return out
