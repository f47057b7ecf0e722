"""``tailwatch report``."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command()
@click.argument("incidents", nargs=-1)
@click.option("--out", type=click.Path(dir_okay=False), default="tailwatch-report.html", show_default=True)
@click.option("--from", "from_time", help="Incidents from here (onset), ISO 8601 or ns.")
@click.option("--to", "to_time", help="... to here, exclusive.")
@click.option("--store", "store_path", type=click.Path(), help="Where the series are (default: configuration).")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many incidents.")
@click.pass_obj
def command(
    path: str | None,
    incidents: tuple[str, ...],
    out: str,
    from_time: str | None,
    to_time: str | None,
    store_path: str | None,
    limit: int,
) -> None:
    """Write one self-contained HTML page of INCIDENTS (ids), or of a period.

    \b
    Examples:
      tailwatch report
      tailwatch report 3f2a9c --out incident.html
      tailwatch report --from 2026-11-17T09:00:00Z --to 2026-11-17T17:00:00Z
    """
    from pathlib import Path

    from pipelines.config import load
    from pipelines.ranges import time_range
    from pipelines.report.page import render
    from pipelines.savefile import write_atomic
    from pipelines.state import StateDB
    from telemetry.store import Store

    config = load(path)
    where = store_path or config.store
    with StateDB(config.state, create=False) as state:
        lo, hi = time_range(from_time, to_time)
        chosen = [state.incident(i) for i in incidents] or state.incidents(lo, hi, limit=limit)
    store = Store(where, create=False) if Path(where).exists() else None
    if store is None:
        click.echo(f"tailwatch: there is no store at {where}: a page without series", err=True)
    try:
        page = render(chosen, store)
    finally:
        if store is not None:
            store.close()
    write_atomic(Path(out), page.encode())
    click.echo(f"{len(chosen)} incidents: {out}")
