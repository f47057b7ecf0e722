"""How the shared types show themselves in a notebook: small HTML tables, built from text only."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from telemetry.labels import format_time

if TYPE_CHECKING:
    from telemetry.types import Events, Float64, Incident, Panel, Scores

__all__ = ["events_html", "incident_html", "panel_html", "scores_html", "table_html"]

ROWS = 12


def table_html(title: str, head: Sequence[str], rows: Iterable[Sequence[object]], more: int = 0) -> str:
    """A table with a heading; `more` says how many rows are not shown."""
    top = "".join(f"<th>{html.escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>" for row in rows)
    rest = f"<p>... and {more} more</p>" if more > 0 else ""
    return (
        f"<div><b>{html.escape(title)}</b><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>{rest}</div>"
    )


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"


def _spread(values: Float64) -> list[str]:
    some = values[np.isfinite(values)]
    if not len(some):
        return ["0", "", "", ""]
    return [str(len(some)), *(_number(float(x)) for x in (some.min(), np.median(some), some.max()))]


def _times(times: Sequence[int] | np.ndarray) -> str:
    return f"{format_time(int(times[0]))} .. {format_time(int(times[-1]))}" if len(times) else "nothing"


def events_html(events: Events) -> str:
    """Samples by series: how many, and their least, middle and largest value."""
    counts = np.bincount(events.series, minlength=len(events.keys)) if len(events) else np.zeros(len(events.keys), int)
    order = np.argsort(-counts, kind="stable")[:ROWS]
    rows = [(events.keys[i], *_spread(np.asarray(events.value[events.series == i], np.float64))) for i in order]
    title = f"{len(events)} events of {len(events.keys)} series, {_times(events.time_ns)}"
    return table_html(title, ("series", "events", "least", "median", "largest"), rows, len(events.keys) - len(rows))


def panel_html(panel: Panel) -> str:
    """Windows by series and column."""
    cells = [(s, c) for s in range(len(panel.keys)) for c in range(len(panel.columns))]
    rows = [(panel.keys[s], panel.columns[c], *_spread(panel.values[:, s, c])) for s, c in cells[:ROWS]]
    title = (
        f"{len(panel.end_ns)} windows of {panel.window_ns / 1e9:g} s, {len(panel.keys)} series, {_times(panel.end_ns)}"
    )
    head = ("series", "column", "windows", "least", "median", "largest")
    return table_html(title, head, rows, len(cells) - len(rows))


def scores_html(scores: Scores) -> str:
    """The most surprising windows."""
    flat = np.where(np.isnan(scores.surprise), -np.inf, scores.surprise).ravel()
    best = np.argsort(-flat, kind="stable")[:ROWS]
    rows = []
    for i in best[np.isfinite(flat[best])].tolist():
        w, s, c = (int(x) for x in np.unravel_index(i, scores.surprise.shape))
        side = {1: "above", -1: "below"}.get(int(scores.side[w, s, c]), "")
        rows.append((format_time(int(scores.end_ns[w])), scores.keys[s], scores.columns[c], f"{flat[i]:.2f}", side))
    title = f"surprise of {len(scores.end_ns)} windows, {len(scores.keys)} series, {_times(scores.end_ns)}"
    return table_html(title, ("window end", "series", "column", "surprise", "side"), rows)


def incident_html(incident: Incident) -> str:
    """What, where, since when, why, and what would mend it."""
    until = "" if incident.resolved_ns is None else format_time(incident.resolved_ns)
    facts = [
        ("kind", incident.kind), ("severity", incident.severity), ("place", incident.place),
        ("onset", format_time(incident.onset_ns)), ("opened", format_time(incident.opened_ns)), ("resolved", until),
        ("alerts", len(incident.alerts)),
    ]  # fmt: skip
    facts += [("cause", f"{c.title} ({c.confidence:.0%}) {'; '.join(c.because)}") for c in incident.causes[:3]]
    facts += [("change", f"{c.what}: {c.command}") for c in incident.changes[:3]]
    return table_html(incident.title, ("", ""), facts)
