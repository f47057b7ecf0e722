"""``tailwatch ingest``."""

from __future__ import annotations

import click

__all__ = ["command"]


def _pairs(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[tuple[str, str]]:
    pairs = []
    for text in value:
        name, equals, rest = text.partition("=")
        if not equals or not name or not rest:
            raise click.BadParameter(f"expected {param.metavar}, got {text!r}")
        pairs.append((name, rest))
    return pairs


@click.command()
@click.argument("inputs", nargs=-1, type=click.Path(), metavar="[CAPTURE|LABDIR]...")
@click.option("--store", "store_path", type=click.Path(file_okay=False), help="Where to (default: configuration).")
@click.option(
    "--tap",
    "taps",
    multiple=True,
    metavar="NAME=FILE",
    callback=_pairs,
    help="A capture at a named tap. All taps given are matched with each other; a name given again is its next file.",
)
@click.option("--host", default="wire", show_default=True, help="Name of the host in all series (lab runs: lab).")
@click.option(
    "--detail",
    type=click.Choice(["auto", "packets", "windows"]),
    default="auto",
    show_default=True,
    help="Every measurement, or windows of 1 s and 1 ms; auto takes windows above 64 MB.",
)
@click.option("--keep-packets", is_flag=True, help="Also keep every packet, as Parquet in STORE/packets.")
@click.option(
    "--feed",
    "feeds",
    multiple=True,
    metavar="ADDRESS:PORT=FORMAT",
    callback=_pairs,
    help="The sequence header of a feed, if it is not recognised. Repeatable.",
)
@click.option("--align", is_flag=True, help="Estimate how far the taps' clocks are apart, and take that off.")
@click.option("--jobs", type=click.IntRange(1, 256), help="Inputs read at once (default: one a CPU).")
@click.option(
    "--cluster", help="A Dask scheduler (tcp://...) instead of processes here; its workers see the same paths."
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each input.")
@click.pass_obj
def command(
    config_path: str | None,
    inputs: tuple[str, ...],
    store_path: str | None,
    taps: list[tuple[str, str]],
    host: str,
    detail: str,
    keep_packets: bool,
    feeds: list[tuple[str, str]],
    align: bool,
    jobs: int | None,
    cluster: str | None,
    as_json: bool,
) -> None:
    """Turn captures (or lab runs) into latency, loss and throughput series in a store.

    Each input goes in whole or not at all, and once: one that is in the store already is passed over, so an
    interrupted run is simply started again. A damaged capture goes in with its good packets and is marked.

    Exit codes: 0 all well, 1 some input was damaged, 2 some input was no capture or not readable.

    \b
    Examples:
      tailwatch ingest day.pcap.gz --store data/store
      tailwatch ingest --tap core=core.pcap --tap edge=edge.pcap --host tx07
      tailwatch ingest drills/ --store data/lab --jobs 2
    """
    import os
    import sys
    from typing import Any, cast

    from pipelines.ingest import ingest, plan
    from pipelines.ui import counter

    if not inputs and not taps:
        raise click.UsageError("Nothing to read: give captures, lab runs or --tap NAME=FILE.")
    if store_path is None:
        from pipelines.config import load

        store_path = load(config_path).store
    if feeds:
        from telemetry.errors import ConfigError
        from telemetry.wire.formats import FORMATS

        for _, name in feeds:
            if name not in FORMATS:
                raise ConfigError(f"--feed: expected one of {', '.join(FORMATS)}, got {name!r}")
    if cluster:
        inputs, taps = tuple(map(os.path.abspath, inputs)), [(n, os.path.abspath(f)) for n, f in taps]
    units = plan(inputs, taps, host)
    jobs = jobs or len(os.sched_getaffinity(0))
    if cluster:
        store_path = os.path.abspath(store_path)
    options: dict[str, Any] = {"cluster": cluster, "keep_packets": keep_packets, "formats": dict(feeds), "align": align}
    failed = damaged = 0
    with counter("reading", "inputs", len(units)) as tell:
        results = ingest(units, store_path, jobs=jobs, detail=cast(Any, detail), **options)
        for done, result in enumerate(results, start=1):
            tell(done)
            failed += result.state == "failed"
            damaged += result.damaged > 0
            if as_json:
                import json
                from dataclasses import asdict

                click.echo(json.dumps(asdict(result)))
                continue
            if result.state == "known":
                click.echo(f"{result.unit}: in the store already")
            elif result.state == "loaded":
                packets = f"{result.packets:,} packets, " if result.packets else ""
                click.echo(f"{result.unit}: {packets}{result.events:,} events ({result.detail})")
            for h in result.hops:
                took = f"p50 {h.p50_ns / 1000:,.1f} us, p99 {h.p99_ns / 1000:,.1f} us, max {h.max_ns / 1000:,.1f} us"
                click.echo(
                    f"  {h.tap_from} -> {h.tap_to}: {h.packets:,} packets, {took}, {h.lost:,} lost ({h.share:.0%})"
                )
            kind = "error" if result.state == "failed" else "warning"
            for note in result.notes:
                click.echo(f"tailwatch: {kind}: {note}", err=True)
    sys.exit(2 if failed else 1 if damaged else 0)
