"""``tailwatch score``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pipelines.config import Config

__all__ = ["command"]


@click.command()
@click.option("--store", "store_path", type=click.Path(), help="The store to score (default: from the configuration).")
@click.option("--state", "state_url", help="State database: a path or a URL.")
@click.option(
    "--part", default="main", show_default=True, help="Name of the partition (one job a partition at a time)."
)
@click.option(
    "--parts", type=click.IntRange(1, 10_000), help="Split the hosts into so many partitions, scored at once."
)
@click.option("--jobs", type=click.IntRange(1, 256), help="With --parts: processes at once (default: one a CPU).")
@click.option("--cluster", help="With --parts: a Dask scheduler (tcp://...) instead of processes here.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for schedulers.")
@click.pass_obj
def command(
    path: str | None,
    store_path: str | None,
    state_url: str | None,
    part: str,
    parts: int | None,
    jobs: int | None,
    cluster: str | None,
    as_json: bool,
) -> None:
    """Score what is new since the last run: commit, deliver, exit.

    Exit codes: 0 scored (or nothing new), 1 some alerts could not be delivered yet, 2 input or store,
    3 no data, 4 configuration, 75 another job holds the partition.

    \b
    Examples:
      tailwatch score
      tailwatch score --store /var/lib/tailwatch/store --json
      tailwatch --config site.toml score --part hosts-a
      tailwatch --config site.toml score --parts 16 --cluster tcp://scheduler:8786
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
    if parts is not None:
        sys.exit(_split(config, part, parts, jobs, cluster, as_json))
    if jobs or cluster:
        raise click.UsageError("--jobs and --cluster split what --parts says: give it too.")
    result = score(config, part=part)
    if as_json:
        click.echo(json.encode(result).decode())
    else:
        click.echo(
            f"{result.events} events, {result.alerts} alerts, {result.incidents} new incidents, "
            f"{result.delivered} delivered, {result.undelivered} waiting, {result.seconds:.2f} s"
        )
    sys.exit(1 if result.undelivered else 0)


def _split(config: Config, part: str, parts: int, jobs: int | None, cluster: str | None, as_json: bool) -> int:
    """Score all parts, then deliver what they found; the exit code."""
    import json
    import time
    from dataclasses import asdict

    from msgspec import structs

    from pipelines.cluster import executor
    from pipelines.partitioned import score_parts
    from pipelines.score import send_due
    from pipelines.sinks import make_sinks
    from pipelines.state import StateDB

    whole = structs.replace(config, **{n: _absolute(getattr(config, n)) for n in ("store", "state", "checkpoints")})
    with StateDB(config.state) as state:  # made once, before all parts would
        with executor(cluster, jobs) as pool:
            results = score_parts(whole, pool, parts, part=part)
        sent = send_due(config, state, make_sinks(config), time.time_ns())
    done = [r for r in results if not isinstance(r, str)]
    failed = [r for r in results if isinstance(r, str)]
    total = {name: sum(getattr(r, name) for r in done) for name in ("events", "alerts", "incidents")}
    total |= {"delivered": sent.sent, "undelivered": sent.failed}
    if as_json:
        click.echo(json.dumps({**total, "parts": [asdict(r) for r in done], "failed": failed}))
    else:
        told = ", ".join(f"{n} {what}" for what, n in total.items())
        click.echo(f"{len(done)} of {parts} parts: {told}")
    for line in failed:
        click.echo(f"tailwatch: error: {line}", err=True)
    return 2 if failed else 1 if sent.failed else 0


def _absolute(path: str) -> str:
    """Workers may run in another folder."""
    import os

    return path if "://" in path else os.path.abspath(path)
