"""Incidents as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from detectors.sentence import quantity
from telemetry.labels import format_time
from telemetry.types import Incident, Label, Nanos

__all__ = ["incident_lines", "list_lines"]

ID = 10


def list_lines(incidents: Sequence[Incident]) -> Iterator[str]:
    """One line an incident, newest first."""
    if not incidents:
        yield "no incidents"
    for x in incidents:
        confidence = f" {x.causes[0].confidence:.0%}" if x.causes else ""
        what = f"{x.state:8s} {x.severity:8s} {x.kind}{confidence}"
        yield f"{x.id[:ID]}  {_second(x.onset_ns)}  {what}  {_plain(x.place)}"


def incident_lines(
    x: Incident, history: Sequence[tuple[Nanos, str, Incident]], labels: Sequence[Label]
) -> Iterator[str]:
    """Everything about one incident."""
    yield _plain(x.title)
    yield ""
    yield f"id        {x.id}"
    yield f"state     {x.state}, {x.severity}"
    yield f"onset     {format_time(x.onset_ns)}"
    yield f"opened    {format_time(x.opened_ns)} ({(x.opened_ns - x.onset_ns) / 1e9:.1f} s after its onset)"
    if x.resolved_ns is not None:
        yield f"resolved  {format_time(x.resolved_ns)}"
    yield f"place     {_plain(x.place)}"
    for label in labels:
        yield f"labelled  {label.kind} {_plain(label.note)}".rstrip()
    yield ""
    for cause in x.causes:
        yield f"{cause.confidence:4.0%}  {cause.kind}: {cause.title}" + ("" if cause.proven else " (unproven)")
        yield from (f"      + {_plain(text)}" for text in cause.because)
        yield from (f"      - {_plain(text)}" for text in cause.against)
    for change in x.changes:
        yield ""
        yield f"change    {change.what}"
        yield f"  run     {_plain(change.command)}"
        yield f"  undo    {_plain(change.undo)}"
        yield f"  risk    {change.risk}"
        yield f"  proof   {change.proof}"
    yield ""
    yield f"evidence  {len(x.alerts)} deviations"
    for a in x.alerts:
        unit = a.series.metric
        yield (
            f"  {_second(a.end_ns)} {a.grade:8s} {_plain(str(a.series))} {a.column} "
            f"{quantity(a.expected, unit)} -> {quantity(a.value, unit)}"
        )
    if history:
        yield ""
        yield "life"
        for at, action, then in history:
            yield f"  {_second(at)} {action:8s} {then.kind} {then.severity} {_plain(then.place)}"


def _second(at_ns: Nanos) -> str:
    return format_time(at_ns)[:21] + "Z"


def _plain(text: str) -> str:
    """Label values come from anywhere: no control characters on a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
