"""How the installation is: partitions, lateness, incidents, outbox; what is wrong and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.config import Config
from pipelines.state import StateDB
from telemetry.store import Store
from telemetry.types import Nanos

__all__ = ["report"]

LATE_S = 300.0
DAY_NS = 86_400_000_000_000


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
        figures["shadow"] = state.shadow_report(now_ns - DAY_NS, now_ns)
        for r in figures["shadow"]:
            counts = (
                f"{r['champion_alerts']} and {r['challenger_alerts']} alerts in a day, {r['both']} of them the same"
            )
            lines.append(f"shadow: {r['detector']} v{r['champion']} and challenger v{r['challenger']}: {counts}")
        parts = state.parts()
        for p in parts:
            behind = max(0, (last or p["watermark_ns"]) - p["watermark_ns"]) / 1e9
            lines.append(f"partition {p['name']}: scored to {behind:.0f} s behind the store's last event")
            if behind > LATE_S:
                problem(f"partition {p['name']} is {behind:.0f} s behind", "run 'tailwatch score', or check its timer")
            if p["lease_owner"] and (p["lease_until_ns"] or 0) < now_ns:
                problem(f"partition {p['name']}: a job of {p['lease_owner']} died", "the next run takes over by itself")
        figures["partitions"] = [
            {k: p[k] for k in ("name", "watermark_ns", "updated_ns", "lease_owner")} for p in parts
        ]
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
    return {"lines": lines, "problems": problems, **figures}
