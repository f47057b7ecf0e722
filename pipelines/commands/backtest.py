"""``tailwatch backtest``."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command()
@click.argument("detectors", nargs=-1)
@click.option("--store", "store_path", type=click.Path(), help="The store to replay (default: configuration).")
@click.option("--incidents", type=click.Path(), help="Labelled incidents (CSV or Parquet).")
@click.option("--from", "from_time", help="Start (seen time), ISO 8601 or ns.")
@click.option("--to", "to_time", help="End, exclusive.")
@click.option(
    "--corpus", type=click.Path(), help="Instead: a folder of lab recordings; the shipped catalogue is judged."
)
@click.option("--json", "json_path", type=click.Path(), help="Write the figures here.")
@click.option("--out", type=click.Path(), help="Write pictures here.")
@click.option("--register/--no-register", default=False, help="Register what was run as a version in MLflow.")
@click.option("--mlflow/--no-mlflow", "log", default=True, show_default=True, help="Log the run to MLflow.")
@click.option("--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes, by detector.")
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
    json_path: str | None,
    out: str | None,
    register: bool,
    log: bool,
    jobs: int,
    cluster: str | None,
) -> None:
    """Replay DETECTORS against labelled incidents: what was found, how late, and how often for nothing.

    A detector is a spec file, a catalogue name, NAME@alias, NAME@version, or 'catalogue' for all.

    \b
    Examples:
      tailwatch backtest interrupt_storm@champion --incidents incidents.csv --from 2026-11-16
      tailwatch backtest catalogue --store S --incidents incidents.csv --json figures.json
      tailwatch backtest --corpus recordings --json figures.json
    """
    from pathlib import Path

    from telemetry.errors import ConfigError, NoDataError

    if corpus is not None:
        from pipelines.corpus import main

        main(Path(corpus), Path(json_path) if json_path else None)
        return
    if not detectors or not incidents:
        raise ConfigError("backtest: expected DETECTORS and --incidents FILE (or --corpus DIR); see --help")
    from pipelines.backtest import Outcome, Task, run_task
    from pipelines.cluster import executor, run_all
    from pipelines.config import load
    from pipelines.judge import log_outcome, save_pictures, show
    from pipelines.ranges import time_range
    from pipelines.resolve import resolve
    from pipelines.ui import counter
    from telemetry.labels import read_labels
    from telemetry.store import Store

    config = load(path)
    lo, hi = time_range(from_time, to_time)
    labels = read_labels(incidents)
    registry = None
    if log or register or any("@" in d for d in detectors):
        from pipelines.registry import Registry

        registry = Registry(config.tracking, config.artifacts)
    candidates = [c for text in detectors for c in resolve(text, registry)]
    where = str(Path(store_path or config.store).absolute())
    with Store(where, create=False):
        pass  # a wrong store is told before any work is handed out
    tasks = [Task(c, where, tuple(labels), lo, hi) for c in candidates]
    found: list[Outcome | str]
    if jobs == 1 and cluster is None:
        found = []
        for task in tasks:
            with counter(f"replaying {task.candidate.label}", "detectors", len(tasks)):
                found.append(run_task(task))
    else:
        with executor(cluster, jobs) as pool, counter("replaying", "detectors", len(tasks)) as progress:
            found = run_all(pool, run_task, tasks, progress)
    outcomes = [o for o in found if isinstance(o, Outcome)]
    for reason in (o for o in found if isinstance(o, str)):
        click.echo(f"left out: {reason}", err=True)
    if not outcomes:
        raise NoDataError("backtest: no detector had anything to run on")
    show(outcomes)
    if out is not None:
        save_pictures(outcomes, labels, Path(out))
    if json_path is not None:
        import json

        rows = [{"detector": o.candidate.label, **o.figures()} for o in outcomes]
        Path(json_path).write_text(json.dumps(rows, indent=1) + "\n")
    if registry is not None and log:
        for outcome in outcomes:
            for line in log_outcome(registry, outcome, labels, Path(incidents).stem, register=register):
                click.echo(line)
