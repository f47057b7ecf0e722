"""``tailwatch watch``."""

from __future__ import annotations

import click

from pipelines.ui import Number

__all__ = ["command"]


@click.command()
@click.option("--store", "store_path", type=click.Path(), help="Store to write and score (default: configuration).")
@click.option("--host", help="This host's name in the series (default: the host name).")
@click.option("--harvest/--no-harvest", default=True, show_default=True, help="Sample this host's kernel.")
@click.option("--process", "processes", multiple=True, help="Watch threads of processes whose name matches (regex).")
@click.option(
    "--capture",
    "captures",
    multiple=True,
    metavar="[TAP=]PATH",
    help="Follow a capture: a growing file, a folder or glob of a rotated set, a named pipe, or - for standard input.",
)
@click.option("--capture-host", help="Host label of what captures tell (default: wire).")
@click.option("--part", default="main", show_default=True, help="Name of the partition (one job a partition).")
@click.option("--seconds", type=Number(min=0), help="Stop by itself after so long.")
@click.option("--listen", help="Address of /healthz, /readyz and /metrics (default 127.0.0.1:9464; '' for none).")
@click.pass_obj
def command(
    path: str | None,
    store_path: str | None,
    host: str | None,
    harvest: bool,
    processes: tuple[str, ...],
    captures: tuple[str, ...],
    capture_host: str | None,
    part: str,
    seconds: float | None,
    listen: str | None,
) -> None:
    """Stay up: sample this host, follow captures, take in what others put into the store, score, alert.

    SIGTERM or Ctrl-C stops gracefully: the store is flushed and a checkpoint written. SIGHUP reads the configuration
    again. With --no-harvest and a pipe, the end of the pipe is the end.

    \b
    Examples:
      tailwatch watch
      tailwatch watch --process 'strat.*' --listen 127.0.0.1:9464
      tailwatch watch --no-harvest --store /srv/tailwatch/store
      tailwatch watch --capture core=/captures/core/ --capture edge=/captures/edge/
      tcpdump -i eth0 -s 160 -U -w - | tailwatch watch --capture -
    """
    import os
    import signal
    import socket

    from msgspec import structs

    from pipelines.config import Config, load
    from pipelines.engine import Step
    from pipelines.http import serve
    from pipelines.intake import taps_of
    from pipelines.logs import setup
    from pipelines.watch import Watcher
    from telemetry.labels import format_time

    def configuration() -> Config:
        config = load(path)
        if store_path:
            config = structs.replace(config, store=store_path)
        if processes:
            config = structs.replace(config, harvest=structs.replace(config.harvest, processes=list(processes)))
        if captures:
            config = structs.replace(config, captures=structs.replace(config.captures, taps=taps_of(captures)))
        if capture_host:
            config = structs.replace(config, captures=structs.replace(config.captures, host=capture_host))
        if listen is not None:
            config = structs.replace(config, http=structs.replace(config.http, listen=listen))
        return config

    if path:
        os.environ["TAILWATCH_CONFIG"] = path  # for what this job starts by itself (`sync`)
    config = configuration()
    setup(config.log.format, config.log.level)

    def tell(step: Step) -> None:
        for change in step.changes:
            if change.action != "updated":
                i = change.incident
                click.echo(f"{format_time(change.at_ns)[:23]}Z {change.action:>8} {i.id[:10]} {i.severity}: {i.title}")

    name = host or config.harvest.host or socket.gethostname()
    watcher = Watcher(config, host=name, harvest=harvest, on_step=tell, part=part, reread=configuration)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: watcher.stop.set())
    signal.signal(signal.SIGHUP, lambda *_: watcher.reload.set())
    server = serve(watcher, config.http) if config.http.listen else None
    scheme = "https" if config.http.tls_cert else "http"
    pages = f"{scheme}://{config.http.listen}/metrics" if server else "no http"
    click.echo(f"watching {name}; store {config.store}; {pages}")
    try:
        watcher.run(seconds)
    finally:
        watcher.close()
        if server is not None:
            server.shutdown()
            server.server_close()
    c = watcher.counters
    click.echo(f"stopped: {c.events} events, {c.alerts} alerts, {c.incidents} incidents, {c.errors} errors")
