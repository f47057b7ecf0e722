"""``tailwatch detect``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

__all__ = ["command"]


@click.command()
@click.argument("inputs", metavar="FILE|DIR|-...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the results.")
@click.option("--time", "time_column", help="Time column. Default: timestamp, else the first that parses.")
@click.option(
    "--value",
    "values",
    multiple=True,
    help="Value column (repeat for more). Default: all of numbers, but labels and row numbers.",
)
@click.option("--joint", is_flag=True, help="One surprise over all columns, with the top contributors.")
@click.option(
    "--for",
    "purpose",
    type=click.Choice(["events", "shifts", "all"]),
    default="all",
    show_default=True,
    help="What to report: anomalous events, lasting shifts of the level, or events with shifts as a note.",
)
@click.option(
    "--budget",
    default="1/1000rows",
    show_default=True,
    help="False alerts you accept: N/1000rows, N/hour, N/day or N/week (shifts: no budget).",
)
@click.option(
    "--history",
    type=click.Path(path_type=Path),
    help="Learn from these rows first: a file, or a folder with a file of the same name for each.",
)
@click.option("--quiet", is_flag=True, help="No line per file.")
def command(
    inputs: tuple[Path, ...],
    out: Path,
    time_column: str | None,
    values: tuple[str, ...],
    joint: bool,
    purpose: Literal["events", "shifts", "all"],
    budget: str,
    history: Path | None,
    quiet: bool,
) -> None:
    """Find anomalies in anyone's series (CSV of any delimiter, or Parquet), strictly causal.

    Every input row gives one output row, in input order: timestamp, the value, surprise (-log10 of a tail
    probability, empty while warming up or missing), anomaly_score (0 to 1, told once per event; 0.5 is the alert's
    threshold) and alert (1 on the row that opens an event). Several value columns give surprise:NAME and so on.
    Exit codes: 0 done, 2 a file or cell could not be read (after all good files are written), 3 nothing to read.

    \b
    Examples:
      tailwatch detect latency.csv --out scored
      tailwatch detect data/ --out scored --budget 1/day
      tailwatch detect host.csv --out scored --joint --history last-month.csv
      tailwatch detect rtt.csv --out scored --value rtt --for shifts
    """
    from pipelines.detect import detect_files, parse_budget

    if joint and purpose == "shifts":
        raise click.UsageError("--for shifts looks at columns one by one: it cannot go with --joint")
    tell = (lambda _: None) if quiet else click.echo
    written, bad = detect_files(
        inputs,
        out,
        time=time_column,
        values=values,
        joint=joint,
        purpose=purpose,
        budget=parse_budget(budget),
        history=history,
        tell=tell,
        warn=lambda line: click.echo(f"tailwatch: {line}", err=True),
    )
    if bad:
        click.echo(f"tailwatch: error: {bad} of {bad + written} files could not be read", err=True)
        raise click.exceptions.Exit(2)
