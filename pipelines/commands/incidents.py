"""``tailwatch incidents``."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command()
@click.argument("incident", required=False)
@click.option("--from", "from_time", help="Incidents from here (onset), ISO 8601 or ns.")
@click.option("--to", "to_time", help="... to here, exclusive.")
@click.option("--open", "only_open", is_flag=True, help="Only those that are open.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many, the newest.")
@click.option("--json", "as_json", is_flag=True, help="For scripts: everything, one object an incident.")
@click.pass_obj
def command(
    path: str | None,
    incident: str | None,
    from_time: str | None,
    to_time: str | None,
    only_open: bool,
    limit: int,
    as_json: bool,
) -> None:
    """List incidents, or show one: its life, evidence, causes and changes. INCIDENT is an id or its beginning.

    \b
    Examples:
      tailwatch incidents --open
      tailwatch incidents 3f2a9c
      tailwatch incidents --from 2026-11-17T09:00:00Z --json
    """
    import json

    from pipelines.codec import plain
    from pipelines.config import load
    from pipelines.ranges import time_range
    from pipelines.show import incident_lines, list_lines
    from pipelines.state import StateDB

    with StateDB(load(path).state, create=False) as state:
        if incident is not None:
            found = state.incident(incident)
            history = state.history(found.id)
            verdicts = [x for x in state.labels() + state.labels(real=False) if x.id == found.id]
            if as_json:
                click.echo(json.dumps(plain(found), indent=1))
                return
            for line in incident_lines(found, history, verdicts):
                click.echo(line)
            return
        lo, hi = time_range(from_time, to_time)
        rows = state.incidents(lo, hi, state="open" if only_open else None, limit=limit)
    if as_json:
        click.echo(json.dumps([plain(x) for x in rows], indent=1))
        return
    for line in list_lines(rows):
        click.echo(line)
