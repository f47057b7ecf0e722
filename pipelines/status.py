"""How the installation is: partitions, who works, lateness, incidents, outbox; what is wrong and what to do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.config import Config
from pipelines.state import Champion, StateDB
from telemetry.store import Store
from telemetry.types import Nanos

__all__ = ["report"]

LATE_S = 300.0
DAY_NS = 86_400_000_000_000
NEVER = "never checked; run 'tailwatch drift' once a day"


NOTES = {
    "series_limit": (
        "partition {part} lets no more series in (limit {limit}): {culprit}",
        "take that label off at its source, score fewer detectors there, or raise scoring.max_series",
    ),
    "checkpoint_refused": (
        "partition {part}: a checkpoint was damaged: {why}",
        "an older one or the store was read instead; check the disk",
    ),
    "state_refused": (
        "partition {part}: state of a detector on {host} was refused: {why}",
        "it started anew and warmed up on the last hour; nothing to do",
    ),
    "refresh_failed": ("{sink} could not be reminded of open incidents: {error}", "mend the receiver"),
}


@dataclass(frozen=True, slots=True)
class _Problem:
    what: str
    do: str


def _recent(state: StateDB, now_ns: Nanos) -> list[_Problem]:
    """What jobs noted in the last day, the latest of a kind."""
    out: dict[tuple[str, str], _Problem] = {}
    for note in state.notes():
        known = NOTES.get(note["what"])
        place = (note["part"], note["what"])
        if known is not None and place not in out and now_ns - note["at_ns"] < DAY_NS:
            body = {"part": note["part"], **json.loads(note["body"])}
            out[place] = _Problem(known[0].format_map(body), known[1])
    return list(out.values())


def _drift(state: StateDB, champions: Sequence[Champion]) -> list[dict[str, Any]]:
    """What the last drift check said of each champion's version; `at_ns` is None where there was none."""
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for note in state.notes(1000, what="drift") if champions else ():  # the latest first
        body = json.loads(note["body"])
        last.setdefault((body["detector"], body["version"]), {**body, "at_ns": note["at_ns"]})
    never = {"verdict": "", "at_ns": None}
    return [
        last.get((c.detector, c.version), {"detector": c.detector, "version": c.version, **never}) for c in champions
    ]


def _ago(now_ns: Nanos, then_ns: Nanos | None) -> str:
    return "never" if not then_ns else f"{max(0, now_ns - then_ns) / 1e9:.0f} s ago"


def report(config: Config, now_ns: Nanos) -> dict[str, Any]:
    """Lines for people, figures for scripts, problems with what to do."""
    lines: list[str] = []
    problems: list[dict[str, str]] = []
    figures: dict[str, Any] = {}

    def problem(what: str, do: str) -> None:
        problems.append({"what": what, "do": do})

    last = None
    if Path(config.store).exists():
        with Store(config.store, create=False) as store:
            last = store.last_seen_ns()
            hosts = list(store.hosts())
        figures["store"] = {"hosts": len(hosts), "last_seen_ns": last}
        age = "empty" if last is None else f"last event {(now_ns - last) / 1e9:.0f} s ago"
        lines.append(f"store {config.store}: {len(hosts)} hosts, {age}")
    else:
        problem(f"there is no store at {config.store}", "run 'tailwatch harvest' or 'tailwatch ingest', or set 'store'")
    with StateDB(config.state) as state:
        champions = state.champions()
        lines.append(
            f"champions: {', '.join(f'{c.detector} v{c.version}' for c in champions) or 'the catalogue as it ships'}"
        )
        figures["champions"] = {c.detector: c.version for c in champions}
        figures["drift"] = _drift(state, champions)
        for d in figures["drift"]:
            name = f"{d['detector']} v{d['version']}"
            said = f"{d['verdict'] or 'holds'}, checked {_ago(now_ns, d['at_ns'])}"
            lines.append(f"drift: {name}: {said if d['at_ns'] else NEVER}")
            if d["verdict"]:
                do = f"see 'tailwatch drift {d['detector']}'; then 'tailwatch train {d['detector']}' and promote it"
                problem(f"{name}: {d['verdict']}", do)
        figures["shadow"] = state.shadow_report(now_ns - DAY_NS, now_ns)
        for r in figures["shadow"]:
            counts = (
                f"{r['champion_alerts']} and {r['challenger_alerts']} alerts in a day, {r['both']} of them the same"
            )
            lines.append(f"shadow: {r['detector']} v{r['champion']} and challenger v{r['challenger']}: {counts}")
        parts = state.parts()
        for p in parts:
            behind = max(0, (last or p["watermark_ns"]) - p["watermark_ns"]) / 1e9
            runs = "idle" if not p["lease_owner"] else f"held by {p['lease_owner'].rpartition(':')[0]}"
            saved = "no checkpoint" if not p["checkpoint_path"] else f"last commit {_ago(now_ns, p['updated_ns'])}"
            lines.append(f"partition {p['name']}: {behind:.0f} s behind the store's last event; {runs}; {saved}")
            if p["checkpoint_path"] and not Path(p["checkpoint_path"]).exists():
                problem(
                    f"partition {p['name']}: its checkpoint {p['checkpoint_path']} is gone",
                    "the next run takes the one before it, or reads the store again; see that 'checkpoints' is kept",
                )
            if behind > LATE_S:
                problem(f"partition {p['name']} is {behind:.0f} s behind", "run 'tailwatch score', or check its timer")
            if p["lease_owner"] and (p["lease_until_ns"] or 0) < now_ns:
                problem(f"partition {p['name']}: a job of {p['lease_owner']} died", "the next run takes over by itself")
        figures["partitions"] = [
            {k: p[k] for k in ("name", "watermark_ns", "updated_ns", "lease_owner")} for p in parts
        ]
        for note in _recent(state, now_ns):
            problem(note.what, note.do)
        still = state.incidents(state="open", limit=1000)
        figures["open_incidents"] = [i.id for i in still]
        lines.append(f"open incidents: {len(still)}")
        lines += [f"  {i.id[:10]} {i.severity}: {i.title}" for i in still[:10]]
        waiting = state.outbox.waiting()
        figures["outbox"] = {f"{sink}.{what}": n for (sink, what), n in waiting.items()}
        for (sink, what), n in sorted(waiting.items()):
            if what == "dead":
                problem(
                    f"{n} messages to {sink} were given up", "see 'tailwatch state dead'; then 'tailwatch state resend'"
                )
            elif what == "due":
                lines.append(f"outbox {sink}: {n} waiting")
                stuck = [row for row in state.outbox.queue(sink) if row.attempts >= 3]
                if stuck:
                    problem(
                        f"{sink} does not take messages: {n} wait, {stuck[0].attempts} attempts: {stuck[0].error}",
                        "mend the receiver; they are sent by themselves then",
                    )
    return {"lines": lines, "problems": problems, **figures}
