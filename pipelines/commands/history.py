"""``tailwatch history``."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command()
@click.argument("detectors", nargs=-1)
@click.option("--corpus", help="Only this set of incidents (the name of its file or folder).")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@click.pass_obj
def command(path: str | None, detectors: tuple[str, ...], corpus: str | None, as_json: bool) -> None:
    """Every version of DETECTORS against every labelled incident: the delay, a wrong cause, or missed.

    What the newest version misses that an earlier one caught is told first.

    \b
    Examples:
      tailwatch history tail_latency_creep
      tailwatch history --corpus incidents --json
    """
    import json
    from dataclasses import asdict
    from itertools import groupby

    from rich.console import Console
    from rich.table import Table

    from pipelines.config import load
    from pipelines.judge import history
    from pipelines.tracking import open_registry

    registry = open_registry(load(path))
    console = Console()
    out = []
    names = detectors or tuple(registry.names())
    if not names and not as_json:
        click.echo("no version was registered yet")
    for name in names:
        found = registry.evaluations(name, corpus)
        out += [{"detector": name, **asdict(e)} for e in found]
        if as_json:
            continue
        if not found:
            click.echo(f"{name}: no version was backtested yet")
        for where, some in groupby(found, key=lambda e: e.corpus):
            columns, rows, told = history(list(some))
            for line in told:
                click.echo(f"regression: {name} {line}")
            table = Table(*columns, title=f"{name} on {where}")
            for row in rows:
                table.add_row(*row)
            console.print(table)
    if as_json:
        click.echo(json.dumps(out, indent=1))
