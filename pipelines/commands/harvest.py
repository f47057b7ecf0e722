"""``tailwatch harvest``."""

from __future__ import annotations

from typing import Any

import click

from pipelines.ui import Number

__all__ = ["command"]


@click.command()
@click.option("--store", "store_path", type=click.Path(), help="Where to (default: configuration).")
@click.option("--hz", type=Number(0.01, 1000), help="Rate of the standard set.  [default: 10]")
@click.option(
    "--fast-hz",
    type=Number(0, 1000),
    help="Rate of softnet, pressure, UDP sockets and thread times; 0 reads them at --hz.  [default: 0]",
)
@click.option("--seconds", type=Number(min=0), help="Stop after so long (default: at SIGTERM or Ctrl-C).")
@click.option("--root", type=click.Path(), help="Where /proc and /sys are found.  [default: /]")
@click.option("--host", help="Name of this host in all series (default: its host name).")
@click.option(
    "--process",
    "processes",
    multiple=True,
    help="Watch the threads of processes of this name (regular expression), cgroup:PATH or pid:N. Repeatable.",
)
@click.option("--namespaces/--no-namespaces", default=None, help="Watch all network namespaces.  [default: yes]")
@click.option("--keep-days", type=Number(min=0), help="Remove what is older (0: nothing).  [default: 7]")
@click.option("--max-gb", type=Number(min=0), help="Remove the oldest beyond this size (0: nothing).  [default: 10]")
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
@click.option("--scrape", multiple=True, help="Also scrape this exporter (URL). Repeatable.")
@click.option("--scrape-s", type=Number(min=0.05), help="Seconds between scrapes.  [default: 1]")
@click.option(
    "--trigger",
    type=click.Path(dir_okay=False),
    help="While this file was touched less than --trigger-s ago, also read what is costly (sockets, slabs, maps).",
)
@click.option("--trigger-s", type=Number(min=1), help="Seconds that a touch lasts.  [default: 300]")
@click.option("--push", help="Also send everything to a collector that listens (URL; OTLP over HTTP).")
@click.option("--listen", help="Also take in what other hosts push (HOST:PORT; beyond loopback: token and TLS).")
@click.option("--token-file", type=click.Path(), help="Secret that --push and --prometheus send and --listen asks for.")
@click.option("--tls-cert", type=click.Path(), help="Certificate (chain) of --listen, PEM.")
@click.option("--tls-key", type=click.Path(), help="Its key, if not in the same file.")
@click.option(
    "--tls-ca", type=click.Path(), help="Certificates that push, scrape and prometheus trust, not the system's."
)
@click.option("--publish", help="Also copy the store each minute to this place (s3://..., gs://..., file:///...).")
@click.option(
    "--collect",
    multiple=True,
    metavar="PLACE",
    help="Also copy what is new in other hosts' stores (a store or a folder of them: path or URI). Repeatable.",
)
@click.option("--collect-s", type=Number(min=0.1), help="Seconds between looks at them.  [default: 60]")
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
@click.option("--kernel/--no-kernel", default=None, help="Sample this host's kernel.  [default: yes]")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_obj
def command(
    path: str | None,
    /,
    store_path: str | None,
    seconds: float | None,
    imports: tuple[str, ...],
    prometheus: str | None,
    query: str,
    metric: str,
    from_time: str | None,
    to_time: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Record what this host's kernel says into a store.

    What the kernel does not have, or does not show us, is listed once at the end, with the reason. What you always
    want goes into [harvest] of the configuration (`tailwatch config --reference`); an option goes before it.

    \b
    Examples:
      tailwatch harvest --store S --seconds 60
      tailwatch harvest --process 'strategy.*' --process cgroup:/trading --fast-hz 100
      tailwatch harvest --trigger /run/tailwatch/incident        # touch it when something is wrong
      tailwatch harvest --seconds 10 --json
      tailwatch harvest --no-kernel --collect s3://bucket/hosts --collect /mnt/hosts
      tailwatch harvest --prometheus http://prom:9090 --query '{job="node"}' --from 2026-11-23
      tailwatch harvest --push https://collector:4318 --token-file secret --tls-ca ca.pem
      tailwatch harvest --listen 0.0.0.0:4318 --token-file secret --tls-cert cert.pem --tls-key key.pem
    """
    import socket
    import sys
    from contextlib import ExitStack

    import msgspec

    from pipelines.config import load
    from pipelines.harvest import harvest, make_harvester, pin, stop_signals
    from pipelines.links import links
    from pipelines.ui import counter
    from telemetry.store import Store

    config = load(path)
    chosen = {name: list(v) if isinstance(v, tuple) else v for name, v in given.items() if v is not None and v != ()}
    settings = msgspec.structs.replace(config.harvest, **chosen)
    where = store_path or config.store
    name = settings.host or socket.gethostname()
    if imports or prometheus:
        from pipelines.importing import copy

        click.echo(copy(where, name, imports, prometheus, query, metric, settings, from_time, to_time, as_json))
        return
    cpus = pin(settings.root)
    with ExitStack() as stack:
        stop = stack.enter_context(stop_signals())
        store = stack.enter_context(Store(where, on_full="drop", background=True))
        harvester = make_harvester(settings, name, store.path)
        stack.callback(harvester.close)
        link = stack.enter_context(links(settings, store, name))
        with counter(f"harvesting {name} into {where}", "samples") as tell:
            summary = harvest(
                harvester,
                store,
                seconds=seconds,
                stop=stop,
                keep_ns=round(settings.keep_days * 86_400e9) or None,
                max_bytes=round(settings.max_gb * 1e9) or None,
                pinned_to=cpus,
                tell=tell,
                publish_to=settings.publish or None,
                link=link,
                warn=lambda text: print(f"tailwatch: {text}", file=sys.stderr),
            )
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(summary), indent=1).decode())
        return
    click.echo(
        f"{summary.samples} samples of {summary.series} series in {summary.seconds:.1f} s; "
        f"{summary.core_share:.2%} of a core, {summary.late_p99_us:.0f} us late at p99, "
        f"{summary.missed_ticks} of {summary.ticks + summary.missed_ticks} ticks missed"
    )
    if summary.removed_rows:
        click.echo(f"{summary.removed_rows} rows removed from the store by --keep-days and --max-gb", err=True)
    if summary.dropped_rows:
        click.echo(f"{summary.dropped_rows} rows lost: the disk is full", err=True)
    for source, why in sorted(summary.missing.items()) if settings.kernel else ():
        click.echo(f"not here: {source}: {why}", err=True)
