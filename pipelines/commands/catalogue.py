"""``tailwatch catalogue``."""

from __future__ import annotations

from typing import Any

import click

__all__ = ["command"]


@click.group()
def command() -> None:
    """Catalogues of labelled incidents: columns kind, scope, start, end and, if you like, id, known, source, note.

    \b
    Examples:
      tailwatch catalogue check incidents.csv
      tailwatch catalogue import combined_windows.json --form nab --out incidents.csv
    """


@command.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.pass_obj
def check(path: str | None, file: str) -> None:
    """Check FILE (CSV or Parquet): columns, kinds, times with their zone, overlaps.

    \b
    Example:
      tailwatch catalogue check incidents.csv
    """
    from collections import Counter

    from detectors.signature import KINDS
    from telemetry.labels import format_time, read_labels

    labels = read_labels(file, kinds=KINDS)
    kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(x.kind for x in labels).most_common())
    if not labels:
        click.echo(f"{file}: no incidents")
        return
    first, last = format_time(labels[0].start_ns), format_time(max(x.end_ns for x in labels))
    click.echo(f"{file}: {len(labels)} incidents from {first} to {last}: {kinds}")


@command.command("import")
@click.argument("file", type=click.Path(allow_dash=True))
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="The catalogue to write (CSV or Parquet).")
@click.option(
    "--form",
    required=True,
    type=click.Choice(["nab", "flags", "alertmanager", "catalogue"]),
    help="NAB's JSON of windows; a table with a column of 0 and 1; Alertmanager's alerts (JSON); a catalogue.",
)
@click.option("--column", help="flags: the column of 0 and 1 [default: label, is_anomaly, anomaly, flag, ...].")
@click.option("--start", help="flags: time of the first row, where the table has no times.")
@click.option("--step", default="1m", show_default=True, help="flags: from row to row, where it has no times.")
@click.option("--kind", default="unknown", show_default=True, help="Kind of the incidents (nab, flags).")
@click.option("--scope", default="", help="Where, as matchers such as host=tx07 (flags).")
@click.option("--append", is_flag=True, help="Add to what the catalogue holds; ids that it knows are left as they are.")
@click.pass_obj
def import_(
    path: str | None,
    file: str,
    out: str,
    form: str,
    column: str | None,
    start: str | None,
    step: str,
    kind: str,
    scope: str,
    append: bool,
) -> None:
    """Bring labelled incidents from FILE ("-": standard input, for JSON) into a catalogue.

    \b
    Examples:
      tailwatch catalogue import combined_windows.json --form nab --out incidents.csv
      tailwatch catalogue import machine.csv --form flags --column anomaly --scope host=tx07 --out incidents.csv
      curl -s http://alertmanager:9093/api/v2/alerts | tailwatch catalogue import - --form alertmanager --out i.csv
    """
    from pathlib import Path

    from detectors.signature import KINDS
    from detectors.spec import duration_ns
    from telemetry.errors import InputError
    from telemetry.labels import (
        check_labels,
        labels_from_alertmanager,
        labels_from_nab,
        parse_scope,
        read_labels,
        write_labels,
    )

    if form == "nab":
        found = labels_from_nab(_json(file), kind)
    elif form == "alertmanager":
        raw = _json(file)
        alerts = raw.get("alerts", raw) if isinstance(raw, dict) else raw
        if not isinstance(alerts, list):
            raise InputError(f"{file}: expected a list of alerts, or an object with 'alerts'")
        found = labels_from_alertmanager(alerts, file)
    elif form == "flags":
        parse_scope(scope, "--scope")
        found = _flags(file, column, start, duration_ns(step, "--step"), scope, kind)
    else:
        found = read_labels(file)
    known = read_labels(out) if append and Path(out).exists() else []
    ids = {x.id for x in known}
    fresh = [x for x in found if x.id not in ids]
    check_labels([*known, *fresh], KINDS, out)
    write_labels(out, [*known, *fresh])
    click.echo(f"{out}: {len(fresh)} incidents brought in, {len(known)} were there")


def _json(file: str) -> Any:
    import json
    import sys
    from pathlib import Path

    from telemetry.errors import InputError

    try:
        return json.loads(sys.stdin.read() if file == "-" else Path(file).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: expected JSON: {error}") from None


def _flags(file: str, column: str | None, start: str | None, step: int, scope: str, kind: str) -> list[Any]:
    from pathlib import Path

    import numpy as np

    from pipelines.series_files import FLAGS, read_table
    from telemetry.errors import InputError
    from telemetry.labels import labels_from_flags, parse_time

    table = read_table(Path(file))
    name = column or next((n for n in table.names if n.lower() in FLAGS), None)
    if name is None and len(table.names) == 1:
        name = table.names[0]
    if name is None or name not in table.names:
        raise InputError(
            f"{file}: expected a column {column or ' or '.join(sorted(FLAGS))}; found {', '.join(table.names)}"
        )
    flags = table.values[:, table.names.index(name)]
    times = table.time_ns
    if start is not None:
        times = parse_time(start, "--start") + np.arange(len(flags), dtype=np.int64) * step
    elif len(times) and times[0] < 946_684_800 * 10**9:
        raise InputError(f"{file}: no times found; say --start and --step")
    if not np.isin(flags, (0.0, 1.0)).all():
        raise InputError(f"{file}: column {name}: expected only 0 and 1")
    return labels_from_flags(times, flags.astype(np.int64), scope, kind)
