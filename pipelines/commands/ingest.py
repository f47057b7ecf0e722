"""``tailwatch ingest``."""

from __future__ import annotations

from typing import Any

import click

from pipelines.ui import Number

__all__ = ["command"]


def _pairs(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[tuple[str, str]]:
    pairs = []
    for text in value:
        name, equals, rest = text.partition("=")
        if not equals or not name or not rest:
            raise click.BadParameter(f"expected {param.metavar}, got {text!r}")
        pairs.append((name, rest))
    return pairs


def _rate(ctx: click.Context, param: click.Parameter, value: str | None) -> int:
    if not value:
        return 0
    number, factor = value, 1
    if value[-1] in "kKMGT":
        number, factor = value[:-1], 10 ** (3 * (1 + "KMGT".index(value[-1].upper())))
    try:
        rate = round(float(number) * factor)
    except (ValueError, OverflowError):
        rate = 0
    if not 1000 <= rate <= 10**15:
        raise click.BadParameter(f"expected bits a second, such as 10G, got {value!r}")
    return rate


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
@click.option(
    "--follow",
    type=Number(min=0),
    metavar="SECONDS",
    help="The input is still being written: read on, until nothing has come for so long (0: until SIGTERM or Ctrl-C).",
)
@click.option(
    "--line-rate",
    metavar="RATE",
    callback=_rate,
    help="Of the link (10G, 1G, bits a second): tells bursts (default: what a pcapng says of its interface).",
)
@click.option(
    "--interarrival",
    type=click.Choice(["feeds", "all"]),
    default="feeds",
    show_default=True,
    help="Flows whose gaps between packets are told, per second.",
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
    follow: float | None,
    line_rate: int,
    interarrival: str,
    align: bool,
    jobs: int | None,
    cluster: str | None,
    as_json: bool,
) -> None:
    """Turn captures (or lab runs) into latency, loss and throughput series in a store.

    Each input goes in whole or not at all, and once: one that is in the store already is passed over, so an
    interrupted run is simply started again. A damaged capture goes in with its good packets and is marked. A folder
    of captures, or a quoted glob, is a rotated set: one capture, in the order of the files' first packets.

    What is still being written ("-" or a named pipe, or with --follow a file, folder or glob) goes in part by part
    while it grows; an interrupted run goes on where it stopped, without a packet lost or counted twice. A pipe cannot
    be read again: what was committed stays.

    Exit codes: 0 all well, 1 some input was damaged, 2 some input was no capture or not readable.

    \b
    Examples:
      tailwatch ingest day.pcap.gz --store data/store
      tailwatch ingest --tap core=core.pcap --tap edge=edge.pcap --host tx07
      tailwatch ingest drills/ --store data/lab --jobs 2
      tcpdump -i eth0 -w - --time-stamp-precision=nano | tailwatch ingest - --line-rate 10G
      tailwatch ingest /captures/ring/ --follow 0 --host tx07
    """
    import os
    import sys
    from typing import cast

    from pipelines.ingest import ingest
    from pipelines.ui import counter
    from pipelines.units import plan, tap_name

    if not inputs and not taps:
        raise click.UsageError("Nothing to read: give captures, lab runs or --tap NAME=FILE.")
    if store_path is None:
        from pipelines.config import load

        store_path = load(config_path).store
    if feeds:
        from telemetry.errors import ConfigError
        from telemetry.wire.formats import FORMATS, SOUP

        for _, name in feeds:
            if name not in (*FORMATS, SOUP):
                raise ConfigError(f"--feed: expected one of {', '.join((*FORMATS, SOUP))}, got {name!r}")
    if follow is not None or any(_is_pipe(name) for name in (*inputs, *(file for _, file in taps))):
        if cluster or keep_packets or align or (len(inputs) != 1 if not taps else inputs):
            raise click.UsageError(
                "What is still written goes in alone (one input, or taps), without --cluster, --keep-packets, --align."
            )
        captures = dict(taps) if taps else {tap_name(inputs[0]): inputs[0]}
        if len(captures) != len(taps) and taps:
            raise click.UsageError("A tap that is followed has one input: a file, folder, glob or pipe.")
        chosen = "packets" if detail == "packets" else "windows"
        sys.exit(_follow(captures, store_path, host, chosen, dict(feeds), line_rate, interarrival, follow, as_json))
    if cluster:
        inputs, taps = tuple(map(os.path.abspath, inputs)), [(n, os.path.abspath(f)) for n, f in taps]
    units = plan(inputs, taps, host)
    jobs = jobs or len(os.sched_getaffinity(0))
    if cluster:
        store_path = os.path.abspath(store_path)
    options: dict[str, Any] = {"cluster": cluster, "keep_packets": keep_packets, "formats": dict(feeds), "align": align}
    options |= {"line_rate": line_rate, "every_gap": interarrival == "all"}
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


def _is_pipe(name: str) -> bool:
    import stat
    from pathlib import Path

    return name == "-" or (Path(name).exists() and stat.S_ISFIFO(Path(name).stat().st_mode))


def _follow(
    captures: dict[str, str],
    store: str,
    host: str,
    detail: Any,
    formats: dict[str, str],
    line_rate: int,
    interarrival: str,
    idle_s: float | None,
    as_json: bool,
) -> int:
    """Load what is still being written; return the exit code."""
    import json
    import os
    import time

    from pipelines.harvest import stop_signals
    from pipelines.ingest_live import follow_into
    from pipelines.ui import counter
    from telemetry.wire.live import Live

    piped = any(_is_pipe(source) for source in captures.values())
    name = " ".join(
        f"{tap}={source if _is_pipe(source) else os.path.abspath(source)}" for tap, source in captures.items()
    )
    seen: list[Live] = []
    events = 0
    with stop_signals() as stop, counter("reading", "packets", None) as tell:
        for stored in follow_into(
            captures, store, name=f"{name} {time.time_ns()}" if piped else name, host=host, detail=detail,
            formats=formats, line_rates=dict.fromkeys(captures, line_rate), every_gap=interarrival == "all",
            idle_s=idle_s or None, stop=stop.is_set, live=seen.append,
        ):  # fmt: skip
            events = stored
            tell(sum(s.packets for s in seen[0].report.stats.values()))
    report = seen[0].report
    packets = sum(s.packets for s in report.stats.values())
    damaged = sum(s.damage_count for s in report.stats.values())
    if as_json:
        told = {
            "unit": name,
            "state": "loaded",
            "packets": packets,
            "events": events,
            "damaged": damaged,
            "detail": detail,
        }
        click.echo(json.dumps(told))
    else:
        click.echo(f"{name}: {packets:,} packets, {events:,} events ({detail})")
    notes = [*report.warnings, *(str(d) for s in report.stats.values() for d in s.damages[:3])]
    for note in notes:
        click.echo(f"tailwatch: warning: {note}", err=True)
    return 1 if damaged else 0
