"""``tailwatch sync``."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print what changed as JSON.")
@click.pass_obj
def command(path: str | None, as_json: bool) -> None:
    """Take up aliases that were moved in MLflow by other means: the state database follows @champion.

    Live jobs read the state database only and never import MLflow; `tailwatch watch` runs this each minute.

    \b
    Example:
      tailwatch sync
    """
    import json
    import time
    from pathlib import Path

    from pipelines.config import load
    from pipelines.registry import Registry
    from pipelines.state import Champion, StateDB
    from telemetry.errors import TailwatchError

    config = load(path)
    registry = Registry(config.tracking, config.artifacts)
    moved = []
    with StateDB(config.state) as state:
        live = {c.detector: c.version for c in state.champions()}
        for name in registry.names():
            try:
                found = registry.load(name, alias="champion")
            except TailwatchError:
                continue  # has no champion
            if live.get(name) == found.version:
                continue
            saved = registry.export_state(found, Path(config.checkpoints) / "champions")
            champion = Champion(
                name, found.version, found.spec.to_dict(), saved and saved[0], saved and saved[1], time.time_ns()
            )
            before = state.promote(champion, who="sync", why="alias moved in MLflow")
            moved.append({"detector": name, "version": found.version, "before": before})
    click.echo(json.dumps(moved) if as_json else f"{len(moved)} champions changed")
