"""``tailwatch state``."""

from __future__ import annotations

import click

from pipelines.ui import Number

__all__ = ["command"]


@click.group()
def command() -> None:
    """Look after the state database.

    \b
    Examples:
      tailwatch state backup state-2026-11-23.db
      tailwatch state dead
      tailwatch state resend
      tailwatch state trim --days 90
    """


def _open(path: str | None):  # type: ignore[no-untyped-def]
    from pipelines.config import load
    from pipelines.state import StateDB

    return StateDB(load(path).state, create=False)


@command.command()
@click.argument("target", type=click.Path())
@click.pass_obj
def backup(path: str | None, target: str) -> None:
    """Copy the database to TARGET while jobs go on (SQLite; for PostgreSQL use pg_dump)."""
    from pipelines.upkeep import backup as copy

    with _open(path) as state:
        copy(state, target)
    click.echo(f"copied to {target}")


@command.command()
@click.argument("source", type=click.Path(exists=True))
@click.pass_obj
def restore(path: str | None, source: str) -> None:
    """Put a backup in the database's place (jobs must not run)."""
    from pipelines.config import load
    from pipelines.upkeep import restore_backup

    where, before = restore_backup(load(path).state, source)
    click.echo(f"{where} is now {source}" + (f"; the one before is {before}" if before else ""))


@command.command()
@click.pass_obj
def dead(path: str | None) -> None:
    """Show dead letters: alerts that a sink never acknowledged."""
    with _open(path) as state:
        rows = state.outbox.dead()
    for row in rows:
        click.echo(f"{row.seq}\t{row.sink}\t{row.key}\t{row.attempts} attempts\t{row.error}")
    if not rows:
        click.echo("no dead letters")


@command.command()
@click.pass_obj
def resend(path: str | None) -> None:
    """Put dead letters back in the queue."""
    with _open(path) as state:
        n = state.outbox.resend()
    click.echo(f"{n} put back; the next 'tailwatch score' or 'watch' sends them")


@command.command()
@click.option("--days", type=Number(min=0), default=90.0, show_default=True, help="Keep this much.")
@click.pass_obj
def trim(path: str | None, days: float) -> None:
    """Remove alerts, resolved incidents and delivered messages older than --days (labels and promotions stay)."""
    import time

    from pipelines.upkeep import trim as drop

    with _open(path) as state:
        removed = drop(state, time.time_ns() - round(days * 86_400e9))
    click.echo(", ".join(f"{n} {what}" for what, n in removed.items()))
