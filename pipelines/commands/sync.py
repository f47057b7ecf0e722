"""``tailwatch sync``."""

from __future__ import annotations

from typing import Literal

import click

__all__ = ["command"]

ROLES: tuple[Literal["champion", "challenger"], ...] = ("champion", "challenger")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print what changed as JSON.")
@click.pass_obj
def command(path: str | None, as_json: bool) -> None:
    """Send the runs that were kept while MLflow's server was away, and take up aliases that were moved in MLflow.

    @champion scores live; @challenger scores in its shadow: stored, never alerting (`tailwatch status` compares).

    Live jobs read the state database only and never import MLflow; `tailwatch watch` runs this each minute.

    \b
    Example:
      tailwatch sync
    """
    import json
    import time
    from pathlib import Path

    from pipelines.config import load
    from pipelines.state import Champion, StateDB
    from pipelines.tracking import Tracker

    config = load(path)
    tracker = Tracker(config)
    registry = tracker.registry
    sent = tracker.spool.send(registry)
    if sent:
        click.echo(f"{sent} kept run{'s' if sent > 1 else ''} sent to MLflow", err=as_json)
    moved = []
    with StateDB(config.state) as state:
        live = {(c.detector, role): c.version for role in ROLES for c in state.champions(role)}
        seen = state.seen_aliases()
        for name in registry.names():
            aliases = {a: v["version"] for v in registry.versions(name) for a in v["aliases"]}
            at, ours = aliases.get("champion"), live.get((name, "champion"))
            if ours is not None and at is not None and at != ours and at == seen.get(name):
                registry.alias(name, "champion", ours)  # it could not be moved by a promotion or a rollback
                aliases["champion"] = at = ours
            for role in ROLES:
                version = aliases.get(role)
                dark = role == "challenger"
                if (
                    version is None
                    or version == live.get((name, role))
                    or (dark and version == aliases.get("champion"))
                ):
                    continue
                found = registry.load(name, version=version)
                saved = registry.export_state(found, Path(config.checkpoints) / "champions")
                taken = Champion(
                    name, found.version, found.spec.to_dict(), saved and saved[0], saved and saved[1], time.time_ns()
                )
                if dark:
                    state.challenge(taken)
                else:
                    state.promote(taken, who="sync", why="alias moved in MLflow")
                moved.append({"detector": name, "role": role, "version": version, "before": live.get((name, role))})
            if at is not None and at != seen.get(name):
                state.saw_alias(name, at, time.time_ns())
    click.echo(json.dumps(moved) if as_json else f"{len(moved)} versions taken up")
