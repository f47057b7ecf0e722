"""``tailwatch watch``."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command()
@click.option("--store", "store_path", type=click.Path(), help="Store to write and score (default: configuration).")
@click.option("--host", help="This host's name in the series (default: the host name).")
@click.option("--harvest/--no-harvest", default=True, show_default=True, help="Sample this host's kernel.")
@click.option("--process", "processes", multiple=True, help="Watch threads of processes whose name matches (regex).")
@click.option("--seconds", type=float, help="Stop by itself after so long.")
@click.option("--listen", help="Address of /healthz, /readyz and /metrics (default 127.0.0.1:9464; '' for none).")
@click.pass_obj
def command(
    path: str | None,
    store_path: str | None,
    host: str | None,
    harvest: bool,
    processes: tuple[str, ...],
    seconds: float | None,
    listen: str | None,
) -> None:
    """Stay up: sample this host, take in what others put into the store, score, alert.

    SIGTERM or Ctrl-C stops gracefully: the store is flushed and a checkpoint written.

    \b
    Examples:
      tailwatch watch
      tailwatch watch --process 'strat.*' --listen 127.0.0.1:9464
      tailwatch watch --no-harvest --store /srv/tailwatch/store
    """
    import signal
    import socket

    from msgspec import structs

    from pipelines.config import load
    from pipelines.engine import Step
    from pipelines.http import serve
    from pipelines.watch import Watcher
    from telemetry.labels import format_time

    config = load(path)
    if store_path:
        config = structs.replace(config, store=store_path)
    if processes:
        config = structs.replace(config, harvest=structs.replace(config.harvest, processes=list(processes)))
    if listen is not None:
        config = structs.replace(config, http=structs.replace(config.http, listen=listen))

    def tell(step: Step) -> None:
        for change in step.changes:
            if change.action != "updated":
                i = change.incident
                click.echo(f"{format_time(change.at_ns)[:23]}Z {change.action:>8} {i.id[:10]} {i.severity}: {i.title}")

    name = host or config.harvest.host or socket.gethostname()
    watcher = Watcher(config, host=name, harvest=harvest, on_step=tell)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: watcher.stop.set())
    server = serve(watcher, config.http) if config.http.listen else None
    pages = f"http://{config.http.listen}/metrics" if server else "no http"
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
