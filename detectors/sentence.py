"""An incident in one sentence that an engineer can act on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from math import isfinite

from detectors.evidence import Track
from detectors.signature import Evidence
from telemetry.types import Cause, Change, Nanos

__all__ = ["clock", "quantity", "say", "sentence"]


def quantity(value: float, metric: str) -> str:
    """A value of a series with the unit that its name carries.

    Examples
    --------
    >>> quantity(11_900_000.0, "wire_latency_ns"), quantity(5.8e8, "thread_wait_ns_total"), quantity(20459, "drops")
    ('11.9 ms', '580 ms/s', '20,459')
    """
    if not isfinite(value):
        return "?"
    rate = metric.endswith("_total")
    name = metric.removesuffix("_total")
    per = "/s" if rate else ""
    for unit, scale in (("_ns", 1e-9), ("_us", 1e-6), ("_ms", 1e-3)):
        if name.endswith(unit):
            return _time(value * scale) + per
    if name.endswith("_bytes"):
        for size, suffix in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
            if abs(value) >= size:
                return f"{_short(value / size)} {suffix}{per}"
        return f"{_short(value)} B{per}"
    return f"{_short(value)}{per}"


def _time(seconds: float) -> str:
    for size, suffix in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if abs(seconds) >= size:
            return f"{_short(seconds / size)} {suffix}"
    return f"{_short(seconds * 1e9)} ns" if seconds else "0"


def _short(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:.3g}"
    return text if "e" not in text else f"{value:.0f}"


def say(item: Evidence, seen: Sequence[Track]) -> str:
    """One piece of evidence: what it means, where it is strongest, from what to what."""
    best = max(seen, key=lambda t: (t.total, str(t.series)))
    alert = best.strongest
    where = " ".join(v for _, v in best.series.labels)
    more = f" and {len(seen) - 1} more" if len(seen) > 1 else ""
    if alert is None:
        return item.name
    metric = best.series.metric if alert.column in ("rate", "last", "mean", "value") or "p" in alert.column[:1] else ""
    metric = metric or best.series.metric
    change = f"{quantity(alert.expected, metric)} -> {quantity(alert.value, metric)}"
    if not isfinite(alert.expected):
        change = quantity(alert.value, metric)
    column = "" if alert.column in ("rate", "last", "mean", "value", "count", "sum") else f" {alert.column}"
    return f"{item.name} ({(where + ' ' if where else '')}{best.series.metric}{column} {change}{more})"


def clock(at_ns: Nanos) -> str:
    """UTC time of day with tenths of a second."""
    tenths = at_ns // 100_000_000
    return f"{datetime.fromtimestamp(tenths // 10, UTC):%H:%M:%S}.{tenths % 10}"


def sentence(onset_ns: Nanos, place: str, cause: Cause, title: str, impact: str, changes: Sequence[Change]) -> str:
    """Since when, where, what moved, what it did, the likely cause, how to mend and how to undo."""
    moved = [b for b in cause.because if not b.endswith(": quiet")][:2]
    parts = [f"since {clock(onset_ns)} UTC, {place or 'place unknown'}: {title}", *moved]
    if impact and impact not in moved:
        parts.append(impact)
    if cause.kind == "unknown":
        parts.append("cause unknown")
    else:
        parts.append(f"likely {cause.title} ({cause.confidence:.0%})")
    if changes:
        parts += [f"to mend: {changes[0].command}", f"to undo: {changes[0].undo}"]
    return "; ".join(parts)
