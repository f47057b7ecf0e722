"""``tailwatch status``."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@click.pass_obj
def command(path: str | None, as_json: bool) -> None:
    """What runs, how late it is, what is wrong and what to do. Exit code 1 if something is wrong.

    \b
    Examples:
      tailwatch status
      tailwatch status --json
    """
    import json
    import sys
    import time

    from pipelines.config import load
    from pipelines.status import report

    found = report(load(path), time.time_ns())
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        for line in found["lines"]:
            click.echo(line)
        for problem in found["problems"]:
            click.echo(f"! {problem['what']}\n  -> {problem['do']}")
    sys.exit(1 if found["problems"] else 0)
