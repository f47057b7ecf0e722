"""``tailwatch drift``."""

from __future__ import annotations

import click

from pipelines.ui import Number

__all__ = ["command"]


@click.command()
@click.argument("detectors", nargs=-1)
@click.option("--days", type=Number(0.001), default=7.0, show_default=True, help="Back from the last event.")
@click.option("--psi", type=Number(0), default=0.25, show_default=True, help="Bound of an input's drift.")
@click.option("--calibration", type=Number(1), default=3.0, show_default=True, help="Bound of surprises seen / due.")
@click.option("--textfile", type=click.Path(dir_okay=False), help="Also write gauges for node exporter's collector.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@click.pass_obj
def command(
    path: str | None,
    detectors: tuple[str, ...],
    days: float,
    psi: float,
    calibration: float,
    textfile: str | None,
    as_json: bool,
) -> None:
    """How the champions hold since their training: calibration by day, drift of inputs, and their challengers by day.

    Exit code 1 when a champion is out of its bounds; for a daily timer. Labelled incidents do not count. `tailwatch
    status` shows the last verdict of each champion.

    \b
    Examples:
      tailwatch drift
      tailwatch drift tail_latency_creep --days 1 --json
      tailwatch drift --days 1 --textfile /var/lib/node_exporter/tailwatch.prom
    """
    import json
    import sys
    import time
    from pathlib import Path

    from pipelines.config import load
    from pipelines.drift import exposition, remember, survey
    from pipelines.savefile import write_atomic

    config = load(path)
    found, shadow, silent = survey(config, detectors, days, calibration=calibration, psi=psi)
    if textfile is not None:
        write_atomic(Path(textfile), exposition(found).encode())
    remember(config, found, time.time_ns())
    bad = [d for d in found if d.verdict]
    if as_json:
        whole = {"champions": [d.plain() for d in found], "shadow": shadow, "silent": silent}
        click.echo(json.dumps(whole, indent=1))
    else:
        for d in found:
            for line in d.lines():
                click.echo(line)
        for line in silent:
            click.echo(f"silent      {line}")
        for r in shadow:
            click.echo(
                f"shadow      {r['day']} {r['detector']}: champion v{r['champion']} {r['champion_alerts']} alerts, "
                f"challenger v{r['challenger']} {r['challenger_alerts']}, {r['both']} the same"
            )
        for d in bad:
            click.echo(f"! {d.detector} v{d.version}: {d.verdict}\n  -> tailwatch train {d.detector}")
    sys.exit(1 if bad else 0)
