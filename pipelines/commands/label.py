"""``tailwatch label``."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command()
@click.argument("incident")
@click.option("--true/--false", "real", default=None, help="It was real, or a false alarm.")
@click.option("--kind", help="What it really was [default: what Tailwatch said].")
@click.option("--note", default="", help="Anything worth remembering.")
@click.option("--start", help="When it really began [default: its onset].")
@click.option("--end", help="When it really ended [default: when its evidence ended].")
@click.option("--scope", help="Where it really was, as matchers (host=tx07,cpu=3) [default: its place].")
@click.option("--catalogue", type=click.Path(dir_okay=False), help="Also write all labels here (CSV or Parquet).")
@click.pass_obj
def command(
    path: str | None,
    incident: str,
    real: bool | None,
    kind: str | None,
    note: str,
    start: str | None,
    end: str | None,
    scope: str | None,
    catalogue: str | None,
) -> None:
    """Say whether INCIDENT (an id or its beginning) was real, and what it was.

    The label goes to the incident catalogue that training and backtests read.

    \b
    Examples:
      tailwatch label 3f2a9c --true
      tailwatch label 3f2a9c --true --kind cpu_contention --note "backup on cpu 3"
      tailwatch label 81b0d4 --false --note "planned failover" --catalogue incidents.csv
    """
    import difflib
    import time

    from detectors.signature import KINDS
    from pipelines.config import load
    from pipelines.state import StateDB
    from telemetry.errors import ConfigError
    from telemetry.labels import parse_scope, parse_time, write_labels
    from telemetry.types import Label

    if real is None:
        raise click.UsageError("say --true or --false")
    if kind is not None and kind not in (*KINDS, "unknown"):
        near = difflib.get_close_matches(kind, [*KINDS, "unknown"], n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(KINDS)}"
        raise ConfigError(f"--kind: unknown kind {kind!r}; {hint}")
    with StateDB(load(path).state, create=False) as state:
        found = state.incident(incident)
        last = max((a.end_ns for a in found.alerts), default=found.updated_ns)
        start_ns = parse_time(start, "--start") if start else found.onset_ns
        end_ns = parse_time(end, "--end") if end else max(last, start_ns + 1)
        if end_ns <= start_ns:
            raise ConfigError(f"--end: expected after the start, got {end or end_ns}")
        place = found.place if scope is None else scope
        parse_scope(place, "--scope")
        label = Label(
            id=found.id,
            kind=kind or (found.kind if real else "none"),
            scope=place,
            start_ns=start_ns,
            end_ns=end_ns,
            known_ns=max(time.time_ns(), start_ns),
            source="label",
            note=note,
        )
        state.put_label(label, real=real)
        if catalogue is not None:
            write_labels(catalogue, state.labels())
    click.echo(f"{found.id}: {'true' if real else 'false alarm'}, {label.kind}" + (f" ({note})" if note else ""))
    if catalogue is not None:
        click.echo(f"labels: {catalogue}")
