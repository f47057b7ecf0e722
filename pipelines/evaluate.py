"""Alerts and incidents against labelled incidents: what was found, how late, and how often for nothing.

The rules: a label is found by the first alert with ``end_ns`` in ``[start, end + grace)`` and overlapping scope; grace
is the larger of 5 s and three windows. Alerts in the recovery after a label (the larger of 30 s and a relearn time)
count neither way, nor do further alerts inside a label; all others are false, after joining those less than 60 s apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from telemetry.labels import matches_scope
from telemetry.types import Alert, Incident, Label, Nanos

__all__ = ["Evaluation", "Finding", "Match", "covered", "evaluate", "findings", "share", "wilson"]

SECOND = 1_000_000_000
JOIN_NS = 60 * SECOND


def wilson(k: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Interval of a share k / n (Wilson, 1927); (0, 1) when there is nothing to go by.

    Examples
    --------
    >>> [round(x, 3) for x in wilson(19, 20)]
    [0.764, 0.991]
    """
    if n <= 0:
        return 0.0, 1.0
    p, zz = k / n, z * z
    middle = (p + zz / (2 * n)) / (1 + zz / n)
    half = z / (1 + zz / n) * math.sqrt(p * (1 - p) / n + zz / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def share(k: int, n: int) -> str:
    """``19/20 = 95 % (76..99 %)``."""
    lo, hi = wilson(k, n)
    return f"{k}/{n} = {k / n:.0%} ({lo:.0%}..{hi:.0%})" if n else "0/0"


@dataclass(frozen=True, slots=True)
class Finding:
    """An alert or an incident, as far as matching is concerned."""

    at_ns: Nanos
    place: str
    window_ns: Nanos = 0
    kind: str = ""
    id: str = ""


def findings(items: Iterable[Alert | Incident]) -> list[Finding]:
    """Alerts count at the end of their window, incidents when they were opened; in time order."""
    out = []
    for x in items:
        if isinstance(x, Incident):
            window = max((a.window_ns for a in x.alerts), default=0)
            out.append(Finding(x.opened_ns, x.place, window, x.kind, x.id))
        elif x.grade == "alert":
            pairs = (("host", x.series.host), *x.series.labels)
            place = ",".join(f"{k}={v.replace(',', ';')}" for k, v in pairs if v)
            out.append(Finding(x.end_ns, place, x.window_ns, x.kind, x.id))
    return sorted(out, key=lambda f: (f.at_ns, f.id))


@dataclass(frozen=True, slots=True)
class Match:
    """A label and the first finding inside it; `more` counts further ones (0 when each fault gives one incident)."""

    label: Label
    finding: Finding | None
    more: int

    @property
    def delay_ns(self) -> Nanos | None:
        return None if self.finding is None else self.finding.at_ns - self.label.start_ns


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a user lives with.

    `false` are the findings outside of every label and recovery, the first of each group less than 60 s apart;
    `clean_ns` is the time in which a finding would have been false.
    """

    matches: tuple[Match, ...]
    false: tuple[Finding, ...]
    clean_ns: Nanos

    @property
    def found(self) -> int:
        return sum(m.finding is not None for m in self.matches)

    @property
    def recall(self) -> float:
        return self.found / len(self.matches) if self.matches else math.nan

    @property
    def precision(self) -> float:
        whole = self.found + len(self.false)
        return self.found / whole if whole else math.nan

    @property
    def f1(self) -> float:
        whole = len(self.matches) + self.found + len(self.false)
        return 2 * self.found / whole if whole else math.nan

    @property
    def false_per_day(self) -> float:
        return len(self.false) / (self.clean_ns / (86_400 * SECOND)) if self.clean_ns > 0 else math.nan

    def delay_s(self, quantile: float = 0.5) -> float:
        """Quantile of the delays of what was found, seconds (NaN when nothing was)."""
        delays = [m.delay_ns / SECOND for m in self.matches if m.delay_ns is not None]
        return float(np.quantile(delays, quantile)) if delays else math.nan

    def figures(self) -> dict[str, float]:
        """The figures by name, for a log."""
        lo, hi = wilson(self.found, len(self.matches))
        return {
            "event_precision": self.precision,
            "event_recall": self.recall,
            "event_recall_lo": lo,
            "event_recall_hi": hi,
            "event_f1": self.f1,
            "false_per_day": self.false_per_day,
            "false": float(len(self.false)),
            "labels": float(len(self.matches)),
            "found": float(self.found),
            "delay_p50_s": self.delay_s(0.5),
            "delay_p90_s": self.delay_s(0.9),
        }


def evaluate(
    found: Sequence[Finding] | Sequence[Alert] | Sequence[Incident],
    labels: Sequence[Label],
    from_ns: Nanos,
    to_ns: Nanos,
    *,
    relearn_ns: Nanos = 0,
) -> Evaluation:
    """Match findings to labels.

    Parameters
    ----------
    found : alerts, incidents or findings
        Alerts of grade ``evidence`` are left out.
    labels : sequence of Label
        Those of kind ``none`` say that nothing happened: they match nothing.
    from_ns, to_ns : int
        The time that was looked at.
    relearn_ns : int
        How long after a label a model may still be learning.
    """
    items = [f for f in found if isinstance(f, Finding)]
    items += findings([f for f in found if not isinstance(f, Finding)])
    items.sort(key=lambda f: (f.at_ns, f.id))
    real = sorted((x for x in labels if x.kind != "none"), key=lambda x: (x.start_ns, x.id))
    recovery = max(30 * SECOND, relearn_ns)
    first: list[Finding | None] = [None] * len(real)
    more = [0] * len(real)
    outside: list[Finding] = []
    for f in items:
        grace = max(5 * SECOND, 3 * f.window_ns)
        excused = False
        for i, x in enumerate(real):
            if not x.start_ns <= f.at_ns < x.end_ns + max(grace, recovery) or not matches_scope(x.scope, f.place):
                continue
            if f.at_ns < x.end_ns + grace:
                if first[i] is None:
                    first[i] = f
                    excused = True
                    break
                more[i] += 1
            excused = True
        if not excused:
            outside.append(f)
    false: list[Finding] = []
    last = -(2**62)
    for f in outside:
        if f.at_ns - last >= JOIN_NS:
            false.append(f)
        last = f.at_ns
    busy = covered([(x.start_ns, x.end_ns + recovery) for x in real], from_ns, to_ns)
    matches = tuple(Match(x, f, n) for x, f, n in zip(real, first, more, strict=True))
    return Evaluation(matches, tuple(false), max(0, to_ns - from_ns - busy))


def covered(spans: Sequence[tuple[Nanos, Nanos]], lo: Nanos, hi: Nanos) -> Nanos:
    """Length of the union of spans within [lo, hi)."""
    total, at = 0, lo
    for a, b in sorted(spans):
        a, b = max(a, at), min(b, hi)
        if b > a:
            total += b - a
            at = b
    return total
