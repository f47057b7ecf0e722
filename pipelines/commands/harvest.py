"""``tailwatch harvest``."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command()
@click.option("--store", "store_path", type=click.Path(), help="Where to (default: configuration).")
@click.option("--hz", type=click.FloatRange(0.01, 1000), help="Rate of the standard set.  [default: 10]")
@click.option(
    "--fast-hz",
    type=click.FloatRange(0, 1000),
    default=0.0,
    show_default=True,
    help="Rate of softnet, pressure, UDP sockets and thread times; 0 reads them at --hz.",
)
@click.option("--seconds", type=click.FloatRange(min=0), help="Stop after so long (default: at SIGTERM or Ctrl-C).")
@click.option("--root", type=click.Path(), help="Where /proc and /sys are found.  [default: /]")
@click.option("--host", help="Name of this host in all series (default: its host name).")
@click.option(
    "--process",
    "processes",
    multiple=True,
    help="Watch the threads of processes of this name (regular expression), cgroup:PATH or pid:N. Repeatable.",
)
@click.option("--namespaces/--no-namespaces", default=True, show_default=True, help="Watch all network namespaces.")
@click.option("--keep-days", type=click.FloatRange(min=0), help="Remove what is older.  [default: 7]")
@click.option("--max-gb", type=click.FloatRange(min=0), help="Remove the oldest beyond this size.  [default: 10]")
@click.option(
    "--log",
    "logs",
    multiple=True,
    type=click.Path(dir_okay=False),
    help="Also follow the log file that this TOML describes. Repeatable.",
)
@click.option(
    "--record",
    "records",
    multiple=True,
    type=click.Path(dir_okay=False),
    help="Also read the shared-memory or file record that this TOML describes. Repeatable.",
)
@click.option("--scrape", "scrapes", multiple=True, help="Also scrape this exporter once a second (URL). Repeatable.")
@click.option("--push", help="Also send everything to a collector that listens (URL; OTLP over HTTP).")
@click.option("--listen", help="Also take in what other hosts push (HOST:PORT; loopback unless you say otherwise).")
@click.option("--token-file", type=click.Path(exists=True), help="Secret that --push sends and --listen asks for.")
@click.option("--publish", help="Also copy the store each minute to this place (s3://..., gs://..., file:///...).")
@click.option(
    "--import",
    "imports",
    multiple=True,
    type=click.Path(dir_okay=False),
    help="Instead: copy samples from this file (OpenMetrics, CSV, Parquet) into the store, and end. Repeatable.",
)
@click.option("--prometheus", help="Instead: copy what this Prometheus server has (URL) into the store, and end.")
@click.option("--query", default='{__name__=~".+"}', show_default=True, help="Selector or expression of --prometheus.")
@click.option("--name", "metric", default="", help="Metric of an expression's results.")
@click.option("--from", "from_time", help="Start of --prometheus, ISO 8601 or ns (default: an hour ago).")
@click.option("--to", "to_time", help="End, exclusive (default: now).")
@click.option("--kernel/--no-kernel", default=True, show_default=True, help="Sample this host's kernel.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_obj
def command(
    path: str | None,
    store_path: str | None,
    hz: float | None,
    fast_hz: float,
    seconds: float | None,
    root: str | None,
    host: str | None,
    processes: tuple[str, ...],
    namespaces: bool,
    keep_days: float | None,
    max_gb: float | None,
    logs: tuple[str, ...],
    records: tuple[str, ...],
    scrapes: tuple[str, ...],
    push: str | None,
    listen: str | None,
    token_file: str | None,
    publish: str | None,
    imports: tuple[str, ...],
    prometheus: str | None,
    query: str,
    metric: str,
    from_time: str | None,
    to_time: str | None,
    kernel: bool,
    as_json: bool,
) -> None:
    """Record what this host's kernel says into a store.

    What the kernel does not have, or does not show us, is listed once at the end, with the reason.

    \b
    Examples:
      tailwatch harvest --store S --seconds 60
      tailwatch harvest --process 'strategy.*' --process cgroup:/trading --fast-hz 100
      tailwatch harvest --seconds 10 --json
      tailwatch harvest --prometheus http://prom:9090 --query '{job="node"}' --from 2026-11-23
      tailwatch harvest --push http://collector:4318 --token-file secret
      tailwatch harvest --listen 0.0.0.0:4318 --token-file secret
    """
    import socket
    from contextlib import ExitStack
    from pathlib import Path

    import msgspec

    from pipelines.config import load
    from pipelines.harvest import Pusher, address, copy, followers, harvest, known_boot, pin, stop_signals
    from pipelines.ui import counter
    from telemetry.harvest import Harvester
    from telemetry.remote_link import Receiver, Sender
    from telemetry.store import Store

    config = load(path)
    settings = config.harvest
    where = store_path or config.store
    name = host or settings.host or socket.gethostname()
    tree = root or settings.root
    days = settings.keep_days if keep_days is None else keep_days
    gb = settings.max_gb if max_gb is None else max_gb
    token = Path(token_file).read_text().strip() if token_file else ""
    if imports or prometheus:
        click.echo(copy(where, name, imports, prometheus, query, metric, token, from_time, to_time, as_json))
        return
    cpus = pin(tree)
    with ExitStack() as stack:
        stop = stack.enter_context(stop_signals())
        store = stack.enter_context(Store(where, on_full="drop", background=True))
        harvester = Harvester(
            tree if kernel else "/nonexistent",
            host=name,
            hz=hz or settings.hz,
            fast_hz=fast_hz,
            processes=processes or tuple(settings.processes),
            namespaces=namespaces,
            boot_id=known_boot(store.path, name),
            followers=followers(logs, records, name, scrapes),
        )
        stack.callback(harvester.close)
        if listen:
            stack.callback(Receiver(store, address(listen), token=token).close)
        if push:
            stack.callback(Pusher(Sender(where, push, name, token=token)).close)
        with counter(f"harvesting {name} into {where}", "samples") as tell:
            summary = harvest(
                harvester,
                store,
                seconds=seconds,
                stop=stop,
                keep_ns=round(days * 86_400e9) or None,
                max_bytes=round(gb * 1e9) or None,
                pinned_to=cpus,
                tell=tell,
                publish_to=publish,
            )
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(summary), indent=1).decode())
        return
    click.echo(
        f"{summary.samples} samples of {summary.series} series in {summary.seconds:.1f} s; "
        f"{summary.core_share:.2%} of a core, {summary.late_p99_us:.0f} us late at p99, "
        f"{summary.missed_ticks} of {summary.ticks + summary.missed_ticks} ticks missed"
    )
    if summary.dropped_rows:
        click.echo(f"{summary.dropped_rows} rows lost: the disk is full", err=True)
    for source, why in sorted(summary.missing.items()) if kernel else ():
        click.echo(f"not here: {source}: {why}", err=True)
