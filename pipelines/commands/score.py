"""``tailwatch score``."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command()
@click.option("--store", "store_path", type=click.Path(), help="The store to score (default: from the configuration).")
@click.option("--state", "state_url", help="State database: a path or a URL.")
@click.option(
    "--part", default="main", show_default=True, help="Name of the partition (one job a partition at a time)."
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for schedulers.")
@click.pass_obj
def command(path: str | None, store_path: str | None, state_url: str | None, part: str, as_json: bool) -> None:
    """Score what is new since the last run: commit, deliver, exit.

    Exit codes: 0 scored (or nothing new), 1 some alerts could not be delivered yet, 2 input or store,
    3 no data, 4 configuration, 75 another job holds the partition.

    \b
    Examples:
      tailwatch score
      tailwatch score --store /var/lib/tailwatch/store --json
      tailwatch --config site.toml score --part hosts-a
    """
    import sys

    from msgspec import json, structs

    from pipelines.config import load
    from pipelines.logs import setup
    from pipelines.score import score

    config = load(path)
    if store_path:
        config = structs.replace(config, store=store_path)
    if state_url:
        config = structs.replace(config, state=state_url)
    setup(config.log.format, config.log.level)
    result = score(config, part=part)
    if as_json:
        click.echo(json.encode(result).decode())
    else:
        click.echo(
            f"{result.events} events, {result.alerts} alerts, {result.incidents} new incidents, "
            f"{result.delivered} delivered, {result.undelivered} waiting, {result.seconds:.2f} s"
        )
    sys.exit(1 if result.undelivered else 0)
