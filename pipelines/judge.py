"""Outcomes of backtests: shown to people, logged to MLflow, compared with the version before."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipelines.backtest import Outcome
from pipelines.casebook import SHOWN, BacktestReport, rows_by_incident, rows_by_kind
from pipelines.dossier import Dossier, Evaluated
from pipelines.plots import costs_png, timeline_png
from pipelines.tracking import Tracker
from telemetry.labels import format_time
from telemetry.types import Label

__all__ = ["dossier", "history", "log_outcome", "lost", "show"]


def show(outcomes: Sequence[Outcome]) -> None:
    """Print the misses and the false alarms first, then tables: figures with intervals, and by kind."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 40 + 24 * len(outcomes))

    def say(text: str, style: str) -> None:
        console.print(text, style=style, soft_wrap=True, highlight=False)

    for o in outcomes:
        name = o.candidate.label
        for m in o.evaluation.matches:
            if m.finding is None:
                say(f"missed  {name}: {m.label.id} ({m.label.kind}) {m.label.scope}", "red")
        for f in o.evaluation.false[:20]:
            say(f"false   {name}: at {format_time(f.at_ns)} {f.place}", "yellow")
        if len(o.evaluation.false) > 20:
            say(f"        ... and {len(o.evaluation.false) - 20} more", "yellow")
    table = Table("figure (95 % interval)", *(o.candidate.label for o in outcomes))
    table.add_row("found", *(f"{o.evaluation.found}/{len(o.evaluation.matches)}" for o in outcomes))
    whole = [o.figures() for o in outcomes]
    for name, title in SHOWN:
        table.add_row(title, *(_cell(figures, name) for figures in whole))
    table.add_row("CPU s", *(f"{o.seconds:.1f}" for o in outcomes))
    kinds = sorted({k for o in outcomes for k in o.by_kind})
    if len(kinds) > 1:
        by_kind = Table("kind", *(o.candidate.label for o in outcomes), title="found by kind (median delay)")
        rows = [{r["kind"]: r for r in rows_by_kind(o)} for o in outcomes]
        for kind in kinds:
            by_kind.add_row(kind, *(_kind_cell(r.get(kind)) for r in rows))
        console.print(by_kind)
    console.print(table)


def _cell(figures: Mapping[str, float], name: str) -> str:
    value, lo, hi = (figures.get(k, math.nan) for k in (name, f"{name}_lo", f"{name}_hi"))
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" if math.isnan(lo) else f"{value:.2f} ({lo:.2f}..{hi:.2f})"


def _kind_cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    late = "" if math.isnan(row["delay_p50_s"]) else f" ({row['delay_p50_s']:.1f} s)"
    return f"{row['found']}/{row['labels']}{late}"


def pictures(outcome: Outcome, report: BacktestReport) -> dict[str, bytes]:
    """PNG by file name: the whole, the costs of budgets, and each incident and false alarm."""
    name = outcome.candidate.label
    inside = [m.label for m in outcome.evaluation.matches]
    out = {}
    if len(outcome.tracks) == 1:
        out["timeline.png"] = timeline_png(*outcome.timeline, outcome.alerts, inside, f"{name}: surprise")
    if outcome.costs:
        out["costs.png"] = costs_png({name: outcome.costs}, "recall against false alarms")
    return out | report.pictures(outcome)


def dossier(outcome: Outcome, labels: Sequence[Label], corpus: str, report: BacktestReport | None = None) -> Dossier:
    """Everything about an outcome that goes into the registry (`report`: one that has drawn it already)."""
    report = report or BacktestReport([outcome])
    page = BacktestReport([outcome], f"{outcome.candidate.label} on {corpus}", report.most, report.drawn)
    import pandas as pd

    frame = pd.DataFrame([{"id": x.id, "kind": x.kind, "start_ns": x.start_ns, "end_ns": x.end_ns} for x in labels])
    return Dossier(
        metrics={corpus: outcome.figures()},
        pictures=pictures(outcome, report),
        pages={"report.html": page.html()},
        alerts=[a for a in outcome.alerts if a.grade == "alert"][:10_000],
        incidents=rows_by_incident(outcome),
        params={"backtest.from_ns": outcome.from_ns, "backtest.to_ns": outcome.to_ns},
        tags={"tailwatch.corpus": corpus},
        data=frame if len(frame) else None,
    )


def log_outcome(
    tracker: Tracker,
    outcome: Outcome,
    labels: Sequence[Label],
    corpus: str,
    *,
    register: bool,
    report: BacktestReport | None = None,
) -> list[str]:
    """Log to MLflow (as a new version with `register`, else as a run); returns lines for the user."""
    spec, version = outcome.candidate.spec, outcome.candidate.version
    now = {str(r["incident"]): bool(r["found"]) for r in rows_by_incident(outcome)}
    reader = tracker.reader
    past = [e for e in reader.evaluations(spec.name, corpus) if e.version != version] if reader else []
    full = dossier(outcome, labels, corpus, report)
    if outcome.candidate.registered:  # its history grows
        full = replace(full, tags={**full.tags, "tailwatch.version": version})
    made = tracker.log(spec, full, snapshot=outcome.candidate.snapshot, register=register)
    lines = [f"{spec.name} v{made.version} registered (run {made.run_id})" if made.version else
             f"{spec.name}: {'kept' if made.spooled else 'run'} {made.run_id}"]  # fmt: skip
    return lines + [f"regression: {outcome.candidate.label} misses {i} that v{v} caught" for i, v in lost(past, now)]


def lost(past: Sequence[Evaluated], now: Mapping[str, bool]) -> list[tuple[str, str]]:
    """Incidents missed now that an earlier version caught, and the latest that did."""
    caught = {i: e.version for e in past for i, found in e.caught.items() if found}
    return sorted((i, caught[i]) for i, found in now.items() if not found and i in caught)


def history(evaluations: Sequence[Evaluated]) -> tuple[list[str], list[list[str]], list[str]]:
    """Versions x incidents of one corpus: columns, rows of cells, and the regressions of the newest version."""
    versions = [e.version for e in evaluations]
    about: dict[str, str] = {}
    cells: dict[str, dict[str, str]] = {}
    for e in evaluations:
        for r in e.rows:
            name = str(r["incident"])
            about[name] = str(r["kind"])
            late = f"{r['delay_s']:.2f} s" if r.get("delay_s") is not None else "found"
            cause = "" if r.get("cause_right", True) else f", said {r.get('cause') or 'nothing'}"
            cells.setdefault(name, {})[e.version] = late + cause if r["found"] else "missed"
    rows = [[i, about[i], *(cells[i].get(v, "") for v in versions)] for i in sorted(cells)]
    told = []
    if evaluations:
        newest = evaluations[-1]
        told = [f"v{newest.version} misses {i} that v{v} caught" for i, v in lost(evaluations[:-1], newest.caught)]
    return ["incident", "kind", *(f"v{v}" for v in versions)], rows, told
