"""``tailwatch compare``."""

from __future__ import annotations

import click

from pipelines.ui import Number

__all__ = ["command"]


@click.command()
@click.option("--before", required=True, metavar="FROM/TO|DIR", help="A period of the store, or a recorded run.")
@click.option("--after", required=True, metavar="FROM/TO|DIR", help="The same, after the change.")
@click.option("--series", "-s", multiple=True, help="Selector [default: latencies of wire and application].")
@click.option("--figures", default="p50,p99", show_default=True, help="mean, p50, p99, p999, ...")
@click.option("--block", default="1s", show_default=True, help="Length of the blocks that are resampled.")
@click.option(
    "--level",
    type=Number(0, 1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    help="Confidence of all intervals together.",
)
@click.option("--margin", type=Number(min=0), default=0.02, show_default=True, help="A smaller change does not matter.")
@click.option("--higher-is-better", is_flag=True, help="For throughput; otherwise less is better.")
@click.option("--store", "store_path", type=click.Path(), help="Where the series are (default: configuration).")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@click.pass_obj
def command(
    path: str | None,
    before: str,
    after: str,
    series: tuple[str, ...],
    figures: str,
    block: str,
    level: float,
    margin: float,
    higher_is_better: bool,
    store_path: str | None,
    as_json: bool,
) -> None:
    """Say whether a change made latency better or worse: improved, worse or undecided, with intervals.

    \b
    Examples:
      tailwatch compare --before 2026-11-16T09:00Z/2026-11-16T10:00Z --after 2026-11-17T09:00Z/2026-11-17T10:00Z
      tailwatch compare --before runs/baseline --after runs/delay_step -s wire_latency_ns
      tailwatch compare --before ... --after ... -s 'thread_wait_ns_total{process="strat"}' --figures mean
    """
    import json
    import math
    from pathlib import Path

    from detectors.sentence import quantity
    from detectors.spec import duration_ns
    from pipelines.codec import plain
    from pipelines.compare import compare, period_samples
    from pipelines.config import load
    from pipelines.ranges import time_range
    from telemetry.errors import ConfigError
    from telemetry.labfolder import LabFolder, is_lab_folder
    from telemetry.store import Store

    if not 0.5 <= level < 1.0:
        raise ConfigError(f"--level: expected at least 0.5 and below 1, got {level}")
    select = series or ('metric=~"wire_latency_ns|app_latency_ns|tcp_rtt_ns|tick_to_trade_ns|feed_delay_ns"',)
    names = [f.strip() for f in figures.split(",") if f.strip()]
    block_ns = duration_ns(block, "--block")
    if block_ns <= 0:
        raise ConfigError(f"--block: expected more than 0, got {block!r}")
    sides = []
    for option, text in (("--before", before), ("--after", after)):
        if is_lab_folder(text):
            sides.append(period_samples(LabFolder(text).source().read(0, 2**62), select, 0, 2**62))
            continue
        start, slash, stop = text.partition("/")
        if not slash or Path(text).exists():
            raise ConfigError(f"{option}: expected FROM/TO or the folder of a recorded run, got {text!r}")
        lo, hi = time_range(start, stop)
        if hi <= lo:
            raise ConfigError(f"{option}: expected TO after FROM, got {text!r}")
        with Store(store_path or load(path).store, create=False) as store:
            # what was measured late still belongs to its time
            read = store.read(lo, hi + 60_000_000_000, select=select, time_from_ns=lo, time_to_ns=hi)
            sides.append(period_samples(read, select, lo, hi))
    result = compare(
        sides[0], sides[1], figures=names, block_ns=block_ns, level=level, margin=margin,
        higher_is_better=higher_is_better,
    )  # fmt: skip
    if as_json:
        body = plain(result)
        for row, source in zip(body["rows"], result.rows, strict=True):
            row["series"] = str(source.series)
        click.echo(json.dumps(body, indent=1))
        return
    for row in result.rows:
        unit = row.series.metric
        interval = f"x{row.ratio:.3g} ({row.lo:.3g}..{row.hi:.3g})" if math.isfinite(row.ratio) else "from 0"
        change = f"{quantity(row.before, unit)} -> {quantity(row.after, unit)}"
        click.echo(f"{row.verdict:9s} {row.series} {row.figure}: {change}  {interval}")
    for note in result.notes:
        click.echo(f"note: {note}")
    click.echo(f"\n{result.verdict}: {len(result.rows)} figures at {level:.0%} together")
