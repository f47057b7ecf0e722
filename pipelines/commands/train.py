"""``tailwatch train``."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command()
@click.argument("detectors", nargs=-1, required=True)
@click.option("--store", "store_path", type=click.Path(), help="The store to learn from (default: configuration).")
@click.option("--from", "from_time", help="Start of the training range (ISO 8601 UTC or ns).")
@click.option("--to", "to_time", help="End of the training range, exclusive.")
@click.option("--incidents", type=click.Path(), help="Labelled incidents to mask (CSV or Parquet).")
@click.option("--alias", default="challenger", show_default=True, help="Alias for the new version ('' for none).")
@click.option("--json", "as_json", is_flag=True, help="Print the versions as JSON.")
@click.pass_obj
def command(
    path: str | None,
    detectors: tuple[str, ...],
    store_path: str | None,
    from_time: str | None,
    to_time: str | None,
    incidents: str | None,
    alias: str,
    as_json: bool,
) -> None:
    """Fit DETECTORS (spec files or catalogue names) on history and register the versions in MLflow.

    \b
    Examples:
      tailwatch train interrupt_storm --store S
      tailwatch train my_detector.toml --from 2026-11-16 --to 2026-11-21 --incidents incidents.csv
    """
    import json

    from pipelines.config import load
    from pipelines.ranges import time_range
    from pipelines.registry import Dossier, Registry
    from pipelines.resolve import resolve
    from pipelines.train import train
    from pipelines.ui import counter
    from telemetry.labels import read_labels
    from telemetry.store import Store

    config = load(path)
    lo, hi = time_range(from_time, to_time)
    masked = read_labels(incidents) if incidents else ()
    registry = Registry(config.tracking, config.artifacts)
    done = []
    with Store(store_path or config.store, create=False) as store:
        for text in detectors:
            for candidate in resolve(text, registry):
                with counter(f"training {candidate.spec.name}", "events") as progress:
                    trained = train(candidate.spec, store, lo, hi, masked=masked, progress=progress)
                days = max((trained.to_ns - trained.from_ns) / 86_400e9, 1e-9)
                alerts = [a for a in trained.alerts if a.grade == "alert"]
                evaluation = Dossier(
                    metrics={"training": {"alerts_per_day": len(alerts) / days, "windows": trained.windows}},
                    params={
                        "train.from_ns": trained.from_ns,
                        "train.to_ns": trained.to_ns,
                        "train.events": trained.events,
                    },
                    tags={"tailwatch.trained": "yes"},
                    alerts=alerts[:10_000],
                    data_digest=trained.data_digest,
                )
                made = registry.register(candidate.spec, trained.detector.snapshot(), evaluation)
                if alias:
                    registry.alias(made.name, alias, made.version)
                done.append(
                    {
                        "detector": made.name,
                        "version": made.version,
                        "run_id": made.run_id,
                        "alias": alias,
                        "series": trained.series,
                        "events": trained.events,
                        "alerts_per_day": len(alerts) / days,
                    }
                )
    if as_json:
        click.echo(json.dumps(done))
        return
    for d in done:
        click.echo(
            f"{d['detector']} v{d['version']} ({d['alias'] or 'no alias'}): {d['series']} series, {d['events']} events"
        )
