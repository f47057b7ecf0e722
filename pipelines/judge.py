"""Outcomes of backtests: shown to people, logged to MLflow, compared with the version before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.backtest import Outcome, regressions
from pipelines.plots import costs_png, timeline_png
from pipelines.registry import Dossier, Registry
from telemetry.types import Label

__all__ = ["dossier", "log_outcome", "save_pictures", "show"]


def show(outcomes: Sequence[Outcome]) -> None:
    """Print a table, the misses and the false alarms first."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("detector", "found", "recall (95 %)", "precision", "F1", "false/day", "delay p50, p90 s", "CPU s")
    for o in outcomes:
        e = o.evaluation
        lo, hi = o.intervals.get("event_recall", (float("nan"), float("nan")))
        recall = f"{e.recall:.2f} ({lo:.2f}..{hi:.2f})"
        table.add_row(
            o.candidate.label, f"{e.found}/{len(e.matches)}", recall, f"{e.precision:.2f}",
            f"{e.f1:.2f}", f"{e.false_per_day:.2f}", f"{e.delay_s(0.5):.2f}, {e.delay_s(0.9):.2f}", f"{o.seconds:.1f}",
        )  # fmt: skip
    for o in outcomes:
        for m in o.evaluation.matches:
            if m.finding is None:
                console.print(
                    f"missed  {o.candidate.label}: {m.label.id} ({m.label.kind}) {m.label.scope}", style="red"
                )
        for f in o.evaluation.false[:20]:
            console.print(f"false   {o.candidate.label}: at {f.at_ns} {f.place}", style="yellow", highlight=False)
        if len(o.evaluation.false) > 20:
            console.print(f"        ... and {len(o.evaluation.false) - 20} more", style="yellow")
    console.print(table)


def rows_by_incident(outcome: Outcome) -> list[dict[str, Any]]:
    """One row a labelled incident: was it found, how late."""
    return [
        {
            "incident": m.label.id,
            "kind": m.label.kind,
            "scope": m.label.scope,
            "start_ns": m.label.start_ns,
            "found": m.finding is not None,
            "delay_s": None if m.delay_ns is None else m.delay_ns / 1e9,
        }
        for m in outcome.evaluation.matches
    ]


def pictures(outcome: Outcome, labels: Sequence[Label]) -> dict[str, bytes]:
    """PNG by file name."""
    name = outcome.candidate.label
    inside = [m.label for m in outcome.evaluation.matches]
    out = {"timeline.png": timeline_png(*outcome.timeline, outcome.alerts, inside, f"{name}: surprise")}
    if outcome.costs:
        out["costs.png"] = costs_png({name: outcome.costs}, "recall against false alarms")
    return out


def save_pictures(outcomes: Sequence[Outcome], labels: Sequence[Label], folder: Path) -> None:
    """Write each outcome's pictures into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for o in outcomes:
        for name, data in pictures(o, labels).items():
            (folder / f"{o.candidate.spec.name}-{o.candidate.version}-{name}").write_bytes(data)


def dossier(outcome: Outcome, labels: Sequence[Label], corpus: str) -> Dossier:
    """Everything about an outcome that goes into the registry."""
    import pandas as pd

    frame = pd.DataFrame([{"id": x.id, "kind": x.kind, "start_ns": x.start_ns, "end_ns": x.end_ns} for x in labels])
    return Dossier(
        metrics={corpus: outcome.figures()},
        pictures=pictures(outcome, labels),
        alerts=[a for a in outcome.alerts if a.grade == "alert"][:10_000],
        incidents=rows_by_incident(outcome),
        params={"backtest.from_ns": outcome.from_ns, "backtest.to_ns": outcome.to_ns},
        tags={"tailwatch.corpus": corpus},
        data=frame if len(frame) else None,
    )


def log_outcome(
    registry: Registry, outcome: Outcome, labels: Sequence[Label], corpus: str, *, register: bool
) -> list[str]:
    """Log to MLflow (as a new version with `register`, else as a run); returns lines for the user."""
    spec = outcome.candidate.spec
    now = {str(r["incident"]): bool(r["found"]) for r in rows_by_incident(outcome)}
    before = registry.last_incidents(spec.name, corpus)
    full = dossier(outcome, labels, corpus)
    lines = []
    if register:
        made = registry.register(spec, outcome.candidate.snapshot, full)
        lines.append(f"{spec.name} v{made.version} registered (run {made.run_id})")
    else:
        lines.append(f"{spec.name}: run {registry.log_run(spec, full)}")
    if before is not None:
        version, caught = before
        lines += [
            f"regression: {outcome.candidate.label} misses {i} that v{version} caught" for i in regressions(caught, now)
        ]
    return lines
