"""``tailwatch lab``: real faults in network namespaces, recorded and labelled."""

from __future__ import annotations

import click

from pipelines.ui import Number

__all__ = ["command"]


@click.group("lab")
def command() -> None:
    """Make real faults in network namespaces, record and label them (root, Linux).

    Exchange, switch, trader and a noise host are network namespaces joined by veth. A run records two
    taps with nanosecond stamps, /proc ten times a second and the application's own records, and writes
    one folder that `tailwatch ingest` and `tailwatch backtest --corpus` read. Every global setting is
    restored, even if the run is killed. A fire drill for your own detectors.

    \b
    Examples:
      tailwatch lab list
      sudo tailwatch lab run delay_step --out drills
      sudo tailwatch lab run --all --seeds 1,2,3 --clean 4 --out corpus
    """


@command.command("list")
def list_() -> None:
    """List the scenarios, and what is missing here to run them.

    \b
    Examples:
      tailwatch lab list
      tailwatch lab list | grep network_gap
    """
    from pipelines.lab.needs import missing
    from pipelines.lab.scenarios import SCENARIOS

    for s in SCENARIOS.values():
        lacking = missing(s)
        note = f"  [missing: {', '.join(lacking)}]" if lacking else ""
        note += "  [partly simulated]" if s.simulated else ""
        click.echo(f"{s.name:<16} {s.kind:<21} {s.about}{note}")


@command.command("run")
@click.argument("scenarios", nargs=-1, metavar="SCENARIO...")
@click.option("--out", type=click.Path(file_okay=False), required=True, help="Folder; one sub-folder a run.")
@click.option("--seeds", default="1", show_default=True, help="Comma list; strength, onset, length and load vary.")
@click.option("--seconds", default=60.0, show_default=True, type=Number(6, 3600), help="Length of a run.")
@click.option(
    "--clean", default=0, type=click.IntRange(0, 1000), help="Further runs without a fault, confusers among them."
)
@click.option("--rate", type=Number(10, 2000), help="Messages a second and line. Default: the seed draws it.")
@click.option("--all", "every", is_flag=True, help="All faults that can run here.")
def run(
    scenarios: tuple[str, ...], out: str, seeds: str, seconds: float, clean: int, rate: float | None, every: bool
) -> None:
    """Record SCENARIO... (see `lab list`), one folder <scenario>-s<seed> each.

    Folders that exist are left as they are and skipped, so a corpus grows. Needs root; the least
    capabilities are CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_NICE, CAP_KILL, CAP_DAC_OVERRIDE.

    \b
    Examples:
      sudo tailwatch lab run delay_step ctx_switch --out drills --seconds 40
      sudo tailwatch lab run --all --seeds 1,2,3 --clean 10 --out corpus
    """
    from pathlib import Path

    from pipelines.lab.journal import sweep
    from pipelines.lab.needs import check, missing
    from pipelines.lab.plan import plan
    from pipelines.lab.record import record
    from pipelines.lab.scenarios import SCENARIOS

    jobs = plan(scenarios, seeds, clean, every=every)
    if every:
        for s in SCENARIOS.values():
            if lacking := missing(s):
                click.echo(f"left out: {s.name} (missing: {', '.join(lacking)})", err=True)
    check([s for s, _ in jobs])
    restored, trouble = sweep()
    if restored:
        click.echo(f"restored {restored} run(s) that had been killed", err=True)
    for line in trouble:
        click.echo(f"warning: {line}", err=True)
    for scenario, seed in jobs:
        folder = Path(out) / f"{scenario.name}-s{seed}"
        if folder.exists():
            click.echo(f"{folder}: there already, skipped")
            continue
        label = record(scenario, seed, seconds, Path(out), rate)
        moved = label["moved"]
        what = (
            "clean" if scenario.clean else ("moved: " + ", ".join(moved["why"]) if moved["moved"] else "moved nothing")
        )
        click.echo(f"{folder}: {what}")


@command.command("restore")
def restore() -> None:
    """Put back what killed runs left behind (namespaces, settings, processes).

    \b
    Examples:
      sudo tailwatch lab restore
    """
    import os

    from pipelines.lab.journal import sweep
    from telemetry.errors import ConfigError

    if os.geteuid() != 0:
        raise ConfigError("lab restore: needs root; try: sudo tailwatch lab restore")
    count, trouble = sweep()
    click.echo(f"restored {count} run(s)")
    if trouble:
        raise ConfigError("lab restore: " + "; ".join(trouble))
