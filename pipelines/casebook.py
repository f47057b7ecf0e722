"""A backtest as a page: figures with intervals, then the misses and the false alarms, then what was found, with
pictures of each (score and alert), by kind, and what other budgets would have cost."""

from __future__ import annotations

import base64
import csv
import html
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.backtest import Outcome
from pipelines.evaluate import Match
from pipelines.intervals import Track
from pipelines.plots import costs_png, moment_png
from telemetry.labels import format_time
from telemetry.types import Nanos

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BacktestReport", "rows_by_incident", "rows_by_kind"]

SHOWN = (
    ("event_recall", "recall"), ("event_precision", "precision"), ("event_f1", "F1"), ("false_per_day", "false/day"),
    ("delay_p50_s", "delay p50 s"), ("delay_p90_s", "delay p90 s"), ("vus_pr", "VUS-PR"), ("auc_pr", "AUC-PR"),
    ("range_f1", "range F1"), ("nab_standard", "NAB"), ("nab_best_standard", "NAB best"),
)  # fmt: skip
"""Figures of the table, in the order of what a user lives with."""

STYLE = (
    "<style>.tw{font:14px/1.4 system-ui,sans-serif;color:#222}.tw table{border-collapse:collapse;margin:.5em 0}"
    ".tw td,.tw th{border:1px solid #ccc;padding:.2em .5em;text-align:right;white-space:nowrap}"
    ".tw td:first-child,.tw th:first-child{text-align:left}.tw small{color:#666;display:block}"
    ".tw img{max-width:100%;display:block}.tw .miss{color:#b00020}.tw .false{color:#a05a00}.tw .hit{color:#1a7f37}"
    "</style>"
)


def rows_by_incident(outcome: Outcome) -> list[dict[str, Any]]:
    """One row a labelled incident: was it found, how late, was the kind right."""
    return [
        {
            "incident": m.label.id,
            "kind": m.label.kind,
            "scope": m.label.scope,
            "start_ns": m.label.start_ns,
            "found": m.finding is not None,
            "delay_s": None if m.delay_ns is None else m.delay_ns / 1e9,
            "cause": "" if m.finding is None else m.finding.kind,
            "cause_right": m.finding is not None and m.finding.kind == m.label.kind,
        }
        for m in outcome.evaluation.matches
    ]


def rows_by_kind(outcome: Outcome) -> list[dict[str, Any]]:
    """One row a kind of incident: found of how many, the interval of the share, the median delay."""
    from pipelines.evaluate import Evaluation, wilson

    out = []
    for kind, (found, n) in sorted(outcome.by_kind.items()):
        some = Evaluation(tuple(m for m in outcome.evaluation.matches if m.label.kind == kind), (), 0)
        lo, hi = wilson(found, n)
        row = {"kind": kind, "found": found, "labels": n, "recall": found / n, "recall_lo": lo, "recall_hi": hi}
        out.append({**row, "delay_p50_s": some.delay_s(0.5)})
    return out


@dataclass(frozen=True, slots=True)
class Moment:
    """Something to look at: a miss, a false alarm or a find, in its case."""

    what: str
    title: str
    track: Track
    from_ns: Nanos
    to_ns: Nanos


@dataclass(frozen=True, slots=True)
class BacktestReport:
    """Outcomes of one corpus side by side; shows itself in a notebook.

    Parameters
    ----------
    outcomes : sequence of Outcome
    title : str
    most : int
        Pictures at most of each sort (missed, false, found) and detector; what was left out is said.
    """

    outcomes: Sequence[Outcome]
    title: str = "Backtest"
    most: int = 30
    drawn: dict[int, dict[str, bytes]] = field(default_factory=dict, repr=False, compare=False)

    def rows(self) -> list[dict[str, Any]]:
        """One row a detector: every figure by name."""
        return [{"detector": o.candidate.label, **o.figures(), "cpu_s": o.seconds} for o in self.outcomes]

    def frame(self) -> pd.DataFrame:
        """All figures, a row each detector."""
        import pandas as pd

        return pd.DataFrame(self.rows()).set_index("detector")

    def by_kind(self) -> pd.DataFrame:
        """A row each detector and kind of incident."""
        import pandas as pd

        rows = [{"detector": o.candidate.label, **r} for o in self.outcomes for r in rows_by_kind(o)]
        return pd.DataFrame(rows)

    def incidents(self) -> pd.DataFrame:
        """A row each detector and incident, the misses first."""
        import pandas as pd

        rows = [{"detector": o.candidate.label, **r} for o in self.outcomes for r in rows_by_incident(o)]
        return pd.DataFrame(rows).sort_values("found", kind="stable", ignore_index=True) if rows else pd.DataFrame()

    def plot(self) -> bytes:
        """Recall against false alarms over budgets, a line each detector, as PNG."""
        return costs_png({o.candidate.label: o.costs for o in self.outcomes if o.costs}, "recall against false alarms")

    def moments(self, outcome: Outcome) -> Iterator[Moment]:
        """Misses, then false alarms, then what was found."""
        of = {x.id: t for t in outcome.tracks for x in t.labels}
        matches = outcome.evaluation.matches
        for m in (m for m in matches if m.finding is None):
            yield self._label(m, of[m.label.id], "missed")
        for f in outcome.evaluation.false:
            track = next((t for t in outcome.tracks if t.start_ns[0] <= f.at_ns <= t.end_ns[-1]), outcome.tracks[0])
            if len(outcome.tracks) > 1:
                track = next((t for t in outcome.tracks if f"file={t.name}" in f.place.split(",")), track)
            where = " ".join(x for x in (track.name, f.place) if x)
            yield Moment("false", f"{format_time(f.at_ns)} {where}", track, f.at_ns, f.at_ns)
        for m in (m for m in matches if m.finding is not None):
            yield self._label(m, of[m.label.id], "found")

    def _label(self, m: Match, track: Track, what: str) -> Moment:
        late = "" if m.delay_ns is None else f" after {m.delay_ns / 1e9:.2f} s"
        scope = "" if m.label.scope in ("", f"file={track.name}") else f" {m.label.scope}"
        title = f"{m.label.id} ({m.label.kind}){scope}{late}"
        return Moment(what, title, track, m.label.start_ns, m.label.end_ns)

    def pictures(self, outcome: Outcome) -> dict[str, bytes]:
        """PNG by file name of what there is to see, the worst first."""
        if id(outcome) in self.drawn:
            return self.drawn[id(outcome)]
        out = self.drawn[id(outcome)] = {}
        seen: dict[str, int] = {}
        for i, moment in enumerate(self.moments(outcome)):
            seen[moment.what] = seen.get(moment.what, 0) + 1
            if seen[moment.what] > self.most:
                continue
            name = "".join(c if c.isalnum() or c in "-_." else "_" for c in moment.title)[:80]
            title = f"{moment.what}: {moment.title}"
            out[f"{i:03d}-{moment.what}-{name}.png"] = moment_png(moment.track, moment.from_ns, moment.to_ns, title)
        return out

    def _table(self) -> str:
        head = "".join(f"<th>{html.escape(text)}</th>" for _, text in SHOWN)
        body = []
        for o in self.outcomes:
            figures = o.figures()
            e = o.evaluation
            cells = [f"<td>{html.escape(o.candidate.label)}</td><td>{e.found}/{len(e.matches)}</td>"]
            for name, _ in SHOWN:
                cells.append(f"<td>{_number(figures.get(name))}{_interval(figures, name)}</td>")
            body.append(f"<tr>{''.join(cells)}<td>{o.seconds:.1f}</td></tr>")
        return f"<table><tr><th>detector</th><th>found</th>{head}<th>CPU s</th></tr>{''.join(body)}</table>"

    def _kinds(self) -> str:
        kinds = sorted({k for o in self.outcomes for k in o.by_kind})
        if not kinds:
            return ""
        rows = []
        for o in self.outcomes:
            of = {r["kind"]: r for r in rows_by_kind(o)}
            cells = "".join(
                f"<td>{of[k]['found']}/{of[k]['labels']}<small>{_number(of[k]['delay_p50_s'])} s</small></td>"
                if k in of
                else "<td></td>"
                for k in kinds
            )
            rows.append(f"<tr><td>{html.escape(o.candidate.label)}</td>{cells}</tr>")
        head = "".join(f"<th>{html.escape(k)}</th>" for k in kinds)
        return f"<h3>By kind (found, median delay)</h3><table><tr><th></th>{head}</tr>{''.join(rows)}</table>"

    def _repr_html_(self) -> str:
        parts = [STYLE, f'<div class="tw"><h2>{html.escape(self.title)}</h2>', self._table(), self._kinds()]
        for o in self.outcomes:
            lines = [
                f'<li class="{"miss" if m.what == "missed" else m.what}">{m.what}: {html.escape(m.title)}</li>'
                for m in self.moments(o)
                if m.what != "found"
            ]
            more = f"<li>... and {len(lines) - self.most} more</li>" if len(lines) > self.most else ""
            if lines:
                parts.append(f"<h3>{html.escape(o.candidate.label)}</h3><ul>{''.join(lines[: self.most])}{more}</ul>")
        return "".join(parts) + "</div>"

    def html(self) -> str:
        """A self-contained page with pictures."""
        parts = ['<!doctype html><html lang="en"><meta charset="utf-8">', f"<title>{html.escape(self.title)}</title>"]
        parts += [STYLE, f'<body class="tw"><h1>{html.escape(self.title)}</h1>', self._table()]
        parts.append("<p>Small: 95 % intervals (block bootstrap; recall and precision at least as wide as Wilson's). "
                     "NAB and range F1 are at the detector's own threshold; NAB best at the corpus's.</p>")  # fmt: skip
        parts.append(self._kinds())
        if any(o.costs for o in self.outcomes):
            parts.append(f"<h3>What budgets cost</h3>{_image(self.plot())}")
        for o in self.outcomes:
            parts.append(f"<h2>{html.escape(o.candidate.label)}</h2>")
            pictures = self.pictures(o)
            parts += [_image(data, name) for name, data in pictures.items()]
            left = sum(1 for _ in self.moments(o)) - len(pictures)
            if left > 0:
                parts.append(f"<p>{left} more are not drawn.</p>")
        return "\n".join(parts) + "</body></html>\n"

    def save(self, folder: Path) -> Path:
        """Write ``report.html``, ``figures.json``, ``incidents.csv`` and the pictures; returns the page's path."""
        folder.mkdir(parents=True, exist_ok=True)
        for o in self.outcomes:
            here = folder / f"{o.candidate.spec.name}-{o.candidate.version}"
            here.mkdir(exist_ok=True)
            for name, data in self.pictures(o).items():
                (here / name).write_bytes(data)
        rows = [{"detector": o.candidate.label, **r} for o in self.outcomes for r in rows_by_incident(o)]
        if rows:
            with (folder / "incidents.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        (folder / "figures.json").write_text(json.dumps(plain_numbers(self.rows()), indent=1) + "\n")
        page = folder / "report.html"
        page.write_text(self.html())
        return page


def plain_numbers(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows for JSON: NaN is null."""
    return [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in r.items()} for r in rows]


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.2f}" if abs(value) < 1000 else f"{value:.0f}"


def _interval(figures: Mapping[str, float], name: str) -> str:
    lo, hi = figures.get(f"{name}_lo"), figures.get(f"{name}_hi")
    value = figures.get(name, math.nan)
    return "" if lo is None or hi is None or math.isnan(value) else f"<small>{_number(lo)} .. {_number(hi)}</small>"


def _image(data: bytes, name: str = "") -> str:
    return f'<img alt="{html.escape(name)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
