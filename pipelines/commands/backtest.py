"""``tailwatch backtest``."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command()
@click.argument("detectors", nargs=-1)
@click.option("--store", "store_path", type=click.Path(), help="The store to replay (default: configuration).")
@click.option("--incidents", type=click.Path(), help="Labelled incidents [default: those of the state database].")
@click.option("--from", "from_time", help="Start (seen time), ISO 8601 or ns.")
@click.option("--to", "to_time", help="End, exclusive.")
@click.option(
    "--corpus",
    type=click.Path(),
    help="Instead of a store: a folder of lab recordings, or of series with windows.json (NAB's layout). "
    "Without DETECTORS the shipped catalogue is judged as a whole.",
)
@click.option("--limit", type=click.IntRange(1), help="Only N cases of the corpus, evenly picked.")
@click.option("--json", "json_path", type=click.Path(), help="Write the figures here.")
@click.option("--out", type=click.Path(), help="Write a page here, with pictures of each miss, false alarm and find.")
@click.option("--register/--no-register", default=False, help="Register what was run as a version in MLflow.")
@click.option("--mlflow/--no-mlflow", "log", default=True, show_default=True, help="Log the run to MLflow.")
@click.option("--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes.")
@click.option("--by-host", is_flag=True, help="Hosts of the store apart, in parallel (no joint models over hosts).")
@click.option("--cluster", metavar="tcp://HOST:PORT", help="Run on a Dask cluster instead.")
@click.pass_obj
def command(
    path: str | None,
    detectors: tuple[str, ...],
    store_path: str | None,
    incidents: str | None,
    from_time: str | None,
    to_time: str | None,
    corpus: str | None,
    limit: int | None,
    json_path: str | None,
    out: str | None,
    register: bool,
    log: bool,
    jobs: int,
    by_host: bool,
    cluster: str | None,
) -> None:
    """Replay DETECTORS against labelled incidents: what was found, how late, and how often for nothing.

    A detector is a spec file, a catalogue name, NAME@alias, NAME@version, or 'catalogue' for all. In a corpus each
    detector starts afresh in each recording or file.

    \b
    Examples:
      tailwatch backtest interrupt_storm@champion --incidents incidents.csv --from 2026-11-16
      tailwatch backtest catalogue --store S --incidents incidents.csv --out backtest --jobs 8 --by-host
      tailwatch backtest benchmarks/experiments/lab/*.toml --corpus recordings --out backtest
      tailwatch backtest --corpus recordings --json figures.json
    """
    from pathlib import Path

    from telemetry.errors import ConfigError, NoDataError

    if corpus is not None and not detectors:
        from pipelines.corpus import main

        main(Path(corpus), Path(json_path) if json_path else None)
        return
    if not detectors:
        raise ConfigError("backtest: expected DETECTORS (or --corpus DIR alone); see --help")
    from pipelines.casebook import BacktestReport, plain_numbers
    from pipelines.cases import Case, corpus_cases
    from pipelines.cluster import executor
    from pipelines.config import load
    from pipelines.experiment import run_tasks, store_labels
    from pipelines.judge import log_outcome, show
    from pipelines.ranges import time_range
    from pipelines.resolve import resolve
    from pipelines.tracking import Tracker
    from pipelines.ui import counter
    from telemetry.labels import format_time
    from telemetry.selectors import of_host
    from telemetry.store import Store

    config = load(path)
    lo, hi = time_range(from_time, to_time)
    tracker = Tracker(config, lambda text: click.echo(text, err=True))
    registry = tracker.registry if any("@" in d for d in detectors) else None
    candidates = tuple(c for text in detectors for c in resolve(text, registry))
    if corpus is not None:
        cases, name = corpus_cases(corpus), Path(corpus).resolve().name
        cases = cases[:: max(len(cases) // limit, 1)][:limit] if limit else cases
        labels = [x for c in cases for x in c.labels]
    else:
        where = str(Path(store_path or config.store).absolute())
        with Store(where, create=False) as store:  # a wrong store is told before any work is handed out
            hosts = sorted(store.hosts()) if by_host else []
        labels, name = store_labels(config, incidents)
        whole = Case("", "store", where, tuple(labels), lo, hi)
        cases = [Case("", "store", where, tuple(labels), lo, hi, str(of_host(h))) for h in hosts] or [whole]
    with executor(cluster, jobs) as pool, counter("replaying", "pieces", None) as progress:
        outcomes, left_out = run_tasks(pool, candidates, cases, progress)
    for reason in left_out:
        click.echo(f"left out: {reason}", err=True)
    stateful = {c.label for c in candidates if c.snapshot is not None}
    for o in outcomes:
        if o.candidate.label in stateful and o.candidate.snapshot is None:
            click.echo(f"{o.candidate.label} was trained on this range: replayed from a cold start", err=True)
        labelled = sum(x.kind != "none" for x in labels)
        if away := labelled - len(o.evaluation.matches):
            span = f"{format_time(o.from_ns)} to {format_time(o.to_ns)}"
            click.echo(f"{o.candidate.label}: {away} of {labelled} labelled incidents are not in {span}", err=True)
    if not outcomes:
        raise NoDataError("backtest: no detector had anything to run on")
    show(outcomes)
    report = BacktestReport(outcomes, title=f"Backtest on {name}")
    if out is not None:
        click.echo(f"page: {report.save(Path(out))}")
    if json_path is not None:
        import json

        Path(json_path).write_text(json.dumps(plain_numbers(report.rows()), indent=1) + "\n")
    if log or register:
        for outcome in outcomes:
            for line in log_outcome(tracker, outcome, labels, name, register=register, report=report):
                click.echo(line)
