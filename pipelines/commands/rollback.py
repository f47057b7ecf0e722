"""``tailwatch rollback``."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command()
@click.argument("detector")
@click.option("--why", default="rollback", show_default=True, help="Recorded.")
@click.pass_obj
def command(path: str | None, detector: str, why: str) -> None:
    """Make the champion before the present one of DETECTOR the champion again.

    \b
    Example:
      tailwatch rollback interrupt_storm --why "false alarms since Tuesday"
    """
    import getpass
    import json
    import time

    from pipelines.config import load
    from pipelines.state import Champion, StateDB
    from telemetry.errors import ConfigError

    config = load(path)
    with StateDB(config.state, create=False) as state:
        past = state.promotions(detector)
        now = next((c for c in state.champions() if c.detector == detector), None)
        if now is None or len(past) < 2:
            raise ConfigError(f"rollback: {detector} has no champion before the present one")
        earlier = [p for p in past if p["version"] != now.version]
        if not earlier:
            raise ConfigError(f"rollback: {detector} has had no other champion than v{now.version}")
        back = earlier[-1]
        champion = Champion(
            detector, back["version"], json.loads(back["spec"]), back["path"], back["digest"], time.time_ns()
        )
        state.promote(champion, who=getpass.getuser(), why=why, verdict="rollback")
    try:
        from pipelines.registry import Registry

        Registry(config.tracking, config.artifacts).alias(detector, "champion", back["version"])
    except Exception as error:
        click.echo(f"live jobs go back at their next run; the alias in MLflow could not be moved: {error}", err=True)
    click.echo(f"{detector}: v{now.version} -> v{back['version']}")
