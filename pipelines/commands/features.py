"""``tailwatch features``."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command()
@click.argument("spec", type=click.Path(dir_okay=False))
@click.option("--store", "store_path", type=click.Path(), help="The store to read (default: from the configuration).")
@click.option("--out", "-o", required=True, type=click.Path(), help="The Parquet file to write (--split: the folder).")
@click.option("--sketches", type=click.Path(dir_okay=False), help="A Parquet file for the parts with keep_sketches.")
@click.option("--split", is_flag=True, help="A file for each host and day, written at once: OUT/host=.../day=.../")
@click.option("--jobs", type=click.IntRange(1, 256), help="With --split: processes at once (default: one a CPU).")
@click.option("--cluster", help="With --split: a Dask scheduler (tcp://...) instead of processes here.")
@click.option("--from", "start", help="First moment seen (UTC unless it says otherwise), e.g. 2026-03-02T09:00:00Z.")
@click.option("--to", "stop", help="First moment no longer read.")
@click.option("--calendar", help="Adds the clock's columns: a time zone or an exchange, e.g. XNYS.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one line of JSON.")
@click.pass_obj
def command(
    path: str | None,
    spec: str,
    store_path: str | None,
    out: str,
    sketches: str | None,
    split: bool,
    jobs: int | None,
    cluster: str | None,
    start: str | None,
    stop: str | None,
    calendar: str | None,
    as_json: bool,
) -> None:
    """Write the windowed features of SPEC as Parquet.

    SPEC is TOML with [[features]] tables (a detector's file will do). The file has a row per window and series, and a
    column per feature; missing is null. Late events are counted, never hidden. Sketches give any longer window or group
    of series later, without the events: features.rollup.Sketches.from_arrow(table).roll(...).quantiles(0.99).

    \b
    Examples:
      tailwatch features spec.toml --store S --out x.parquet
      tailwatch features spec.toml --store S -o x.parquet --from 2026-03-02 --to 2026-03-03
      tailwatch features spec.toml -o x.parquet --calendar XNYS --json
      tailwatch features spec.toml -o x.parquet --sketches q.parquet
      tailwatch features spec.toml -o folder --split --jobs 8
    """
    from pipelines.features import load_spec, write_features
    from pipelines.ranges import time_range
    from telemetry.store import Store

    if store_path is None:
        from pipelines.config import load

        store_path = load(path).store
    seen_from, seen_to = time_range(start, stop)
    if (jobs or cluster) and not split:
        raise click.UsageError("--jobs and --cluster need --split.")
    if sketches and split:
        raise click.UsageError("--sketches is for one file: leave out --split.")
    if split:
        _split(spec, store_path, out, seen_from, seen_to, calendar, jobs, cluster)
        return
    load_spec(spec, calendar)  # what is wrong with it is said before the store is asked for
    with Store(store_path, create=False) as store:
        done = write_features(
            spec, store, out, seen_from_ns=seen_from, seen_to_ns=seen_to, calendar=calendar, sketches=sketches
        )
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps(asdict(done)))
    else:
        click.echo(f"{done.events} events, {done.windows} windows, {done.series} series, {done.rows} rows -> {out}")
        if done.lost:
            click.echo(f"warning: {done.lost}", err=True)


def _split(
    spec: str, store_path: str, out: str, start: int, stop: int, calendar: str | None, jobs: int | None,
    cluster: str | None,
) -> None:  # fmt: skip
    """A file for each host and day."""
    import os

    from pipelines.cluster import executor
    from pipelines.features import load_spec
    from pipelines.partitioned import plan_days, write_days
    from pipelines.ui import counter
    from telemetry.store import Store

    load_spec(spec, calendar)  # what is wrong with it is said here, once
    with Store(store_path, create=False) as store:
        tasks = plan_days(os.path.abspath(spec), store, os.path.abspath(out), start, stop, calendar=calendar)
    many = min(jobs or os.cpu_count() or 1, len(tasks))
    with executor(cluster, many) as pool, counter("writing features", "days", len(tasks)) as tell:
        done = [d for d in write_days(tasks, pool, tell) if d is not None]
    rows, windows = sum(d.rows for d in done), sum(d.windows for d in done)
    click.echo(f"{len(done)} files of a host and day: {windows} windows, {rows} rows -> {out}")
    for lost in dict.fromkeys(d.lost for d in done if d.lost):
        click.echo(f"warning: {lost}", err=True)
