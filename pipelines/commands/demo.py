"""``tailwatch demo``."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command()
@click.option(
    "--out", type=click.Path(file_okay=False), default="tailwatch-demo", show_default=True, help="Folder to fill."
)
@click.pass_context
def command(ctx: click.Context, out: str) -> None:
    """Run the main job on real input, in two minutes, without root or servers.

    Harvests this machine's /proc at 10 Hz, learns, causes a harmless storm of context switches itself and finds it
    online; scores a recorded two-tap capture with a tail-latency fault; backtests both, registers the detectors in
    MLflow and writes an HTML report.

    \b
    Example:
      tailwatch demo --out /tmp/demo
    """
    import time
    from pathlib import Path

    from pipelines.ui import counter

    start = time.monotonic()
    folder = Path(out)

    def tell(text: str) -> None:
        click.echo(f"[{time.monotonic() - start:5.1f} s] {text}")

    tell("warming up (compiled kernels are cached after the first run)")
    from pipelines.demo import LEARN_S, STORM_S, prepare, run_host, run_wire, write_up
    from pipelines.warm import warm

    config = prepare(folder)
    warm()
    tell(f"host: this machine's /proc at 10 Hz; learning for {LEARN_S:.0f} s, then a storm of {STORM_S:.0f} s")
    with counter("host", "tenths of a second", total=int(10 * (LEARN_S + STORM_S + 6))) as progress:
        host = run_host(config, tell, progress)
    tell("wire: two taps of a recorded platform, nanoseconds")
    wire = run_wire(config, tell)
    tell("backtest of both against their labels, versions into MLflow, report")
    report = write_up(config, {"host": host, "wire": wire}, folder, tell)
    tell("done")
    click.echo("")
    for which, found in (("host", host), ("wire", wire)):
        if found.best is not None:
            click.echo(f"{which}: {found.best.title}\n")
    click.echo(f"incidents: tailwatch --config {folder / 'tailwatch.toml'} incidents")
    click.echo(f"report:    {report}")
    click.echo(f"MLflow:    mlflow ui --backend-store-uri {config.tracking}")
    click.echo(host.line("host"))
    click.echo(wire.line("wire"))
    ctx.exit(0 if host.best is not None and wire.best is not None else 1)
