"""``tailwatch train``."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command()
@click.argument("detectors", nargs=-1, required=True)
@click.option("--store", "store_path", type=click.Path(), help="The store to learn from (default: configuration).")
@click.option("--from", "from_time", help="Start of the training range (ISO 8601 UTC or ns).")
@click.option("--to", "to_time", help="End of the training range, exclusive.")
@click.option("--incidents", type=click.Path(), help="Labelled incidents to mask [default: the state database's].")
@click.option("--folds", type=click.IntRange(0, 100), default=0, help="Judge on N folds in time order first.")
@click.option("--sweep", "sweep_file", type=click.Path(dir_okay=False), help="Parameters to try (TOML).")
@click.option("--grid", multiple=True, metavar="NAME=V,V...", help="Values of a parameter to try, e.g. model.alpha.")
@click.option("--trials", type=click.IntRange(1), help="Draw so many combinations of the grid.")
@click.option("--seed", type=int, help="Of the draw [default: 0].")
@click.option("--by", help="The figure that the best trial is chosen by [default: event_f1].")
@click.option(
    "--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes: folds, trials, series."
)
@click.option("--cluster", metavar="tcp://HOST:PORT", help="Run them on a Dask cluster instead.")
@click.option("--alias", default="challenger", show_default=True, help="Alias for the new version ('' for none).")
@click.option("--anew", is_flag=True, help="Train again what was trained on the same data by the same code.")
@click.option("--json", "as_json", is_flag=True, help="Print the versions as JSON.")
@click.pass_obj
def command(
    path: str | None,
    detectors: tuple[str, ...],
    store_path: str | None,
    from_time: str | None,
    to_time: str | None,
    incidents: str | None,
    folds: int,
    sweep_file: str | None,
    grid: tuple[str, ...],
    trials: int | None,
    seed: int | None,
    by: str | None,
    jobs: int,
    cluster: str | None,
    alias: str,
    anew: bool,
    as_json: bool,
) -> None:
    """Fit DETECTORS (spec files or catalogue names) on history and register the versions in MLflow.

    A fold learns from all that came before it and is judged on what comes next. A sweep tries parameters that way; the
    best are fitted on the whole range, series in parallel (joint, subspace, sklearn and river models in one process).
    Folds and trials are nested runs. A training that was killed goes on where it was when it is started again.

    \b
    Examples:
      tailwatch train interrupt_storm --store S
      tailwatch train my_detector.toml --from 2026-11-16 --to 2026-11-21 --incidents incidents.csv --folds 4
      tailwatch train my_detector.toml --grid model.alpha=0.02,0.05 --grid policy.per_day=1,5 --jobs 8
      tailwatch train my_detector.toml --sweep sweep.toml --trials 20 --seed 7
    """
    import json
    from dataclasses import asdict, replace
    from pathlib import Path

    from models.spread import ONE_PIECE
    from pipelines.cluster import executor
    from pipelines.config import load
    from pipelines.experiment import store_labels
    from pipelines.ranges import time_range
    from pipelines.resolve import resolve
    from pipelines.retrain import retrain
    from pipelines.search import Sweep
    from pipelines.tracking import Tracker
    from pipelines.ui import counter
    from telemetry.store import Store

    config = load(path)
    lo, hi = time_range(from_time, to_time)
    labels, _ = store_labels(config, incidents)
    sweep = Sweep.from_file(sweep_file) if sweep_file else Sweep()
    chosen = {"trials": trials, "seed": seed, "by": by}
    sweep = replace(
        sweep,
        grid={**sweep.grid, **Sweep.from_options(grid)},
        **{name: value for name, value in chosen.items() if value is not None},  # type: ignore[arg-type]
    )
    tracker = Tracker(config, lambda text: click.echo(text, err=True))
    registry = tracker.registry if any("@" in d for d in detectors) else None
    candidates = [c for text in detectors for c in resolve(text, registry)]
    where = str(Path(store_path or config.store).absolute())
    with Store(where, create=False):
        pass  # a wrong store is told before anything else
    done = []
    with executor(cluster, jobs) as pool:
        for candidate in candidates:
            kind = candidate.spec.model.kind
            if (jobs > 1 or cluster) and kind in ONE_PIECE:
                click.echo(
                    f"{candidate.spec.name}: model {kind!r} is fitted in one process: {ONE_PIECE[kind]}", err=True
                )
            done.append(
                retrain(
                    candidate.spec, where, lo, hi, labels, tracker, pool, Path(config.checkpoints) / "training",
                    folds=folds, sweep=sweep, alias=alias, anew=anew, progress=counter,
                )
            )  # fmt: skip
            d = done[-1]
            if as_json:
                continue
            version = f"v{d.version}" if d.version else f"kept as {d.run_id}"
            what = f"{d.detector} {version} ({alias or 'no alias'}): {d.series} series, {d.events} events"
            if d.trials > 1:
                what += f", best of {d.trials} by {sweep.by}: {', '.join(f'{k}={v}' for k, v in d.params.items())}"
            if "labels" in d.figures:
                f = d.figures
                what += f"; over folds: found {f['found']:.0f} of {f['labels']:.0f}, {f['false']:.0f} false alarms"
            click.echo(what + (" (done before; --anew trains again)" if d.again else ""))
            for note in d.notes[:5]:
                click.echo(f"  simpler baseline: {note}")
            if len(d.notes) > 5:
                click.echo(f"  and of {len(d.notes) - 5} more channels")
    if as_json:
        click.echo(json.dumps([{**asdict(d), "alias": alias} for d in done]))
