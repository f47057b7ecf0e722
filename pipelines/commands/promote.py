"""``tailwatch promote``."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command()
@click.argument("detector")
@click.option("--store", "store_path", type=click.Path(), help="The store to compare on (default: configuration).")
@click.option("--incidents", type=click.Path(), help="Labelled incidents (default: those of the state database).")
@click.option("--from", "from_time", help="Start of the comparison, ISO 8601 or ns.")
@click.option("--to", "to_time", help="End, exclusive.")
@click.option("--why", default="", help="Promote even if it is worse or cannot be compared; recorded.")
@click.option("--who", default="", help="Recorded (default: the login name).")
@click.pass_obj
def command(
    path: str | None,
    detector: str,
    store_path: str | None,
    incidents: str | None,
    from_time: str | None,
    to_time: str | None,
    why: str,
    who: str,
) -> None:
    """Make DETECTOR[@challenger|@version] the champion if it is not worse than the one that is.

    Both are replayed on the same incidents and clean time: since their training, or, where no labelled incident came
    since, the whole range from a cold start. Refused (exit 1): fewer incidents found, or more false
    alarms or longer delays by more than chance; --why overrules. Live jobs take the new champion up at their next run.

    \b
    Examples:
      tailwatch promote interrupt_storm@challenger --incidents incidents.csv
      tailwatch promote interrupt_storm@4 --why "the new NIC has no LOC storms"
    """
    import getpass
    import sys
    import time
    from pathlib import Path

    from pipelines.backtest import backtest
    from pipelines.config import load
    from pipelines.promote import compare, fair
    from pipelines.ranges import time_range
    from pipelines.registry import Registry, parse_name
    from pipelines.resolve import Candidate
    from pipelines.state import Champion, StateDB
    from telemetry.errors import TailwatchError
    from telemetry.labels import read_labels
    from telemetry.store import Store

    config = load(path)
    registry = Registry(config.tracking, config.artifacts)
    name, alias, version = parse_name(detector)
    if alias is None and version is None:
        alias = "challenger"
    new = registry.load(name, alias=alias, version=version)
    lo, hi = time_range(from_time, to_time)
    with StateDB(config.state) as state:
        old = next((c for c in state.champions() if c.detector == name), None)
        verdict = "first champion"
        worse = False
        if old is not None and old.version == new.version:
            click.echo(f"{name} v{new.version} is the champion already")
            return
        if old is not None:
            try:
                labels = read_labels(incidents) if incidents else state.labels()
                before = registry.load(name, version=old.version)
                both = [Candidate(r.spec, r.version, r.snapshot) for r in (before, new)]
                with Store(store_path or config.store, create=False) as store:
                    both, start, how = fair(both, labels, lo, hi, store.last_seen_ns() or 0)
                    outcomes = [backtest(c, store, labels, start, hi, draws=0) for c in both]
                click.echo(f"v{before.version} and v{new.version} compared {how}")
                found = compare(outcomes[0], outcomes[1], labels)
                verdict, worse = found.text, found.answer == "worse"
                for figure, (delta, low, high) in found.differences.items():
                    click.echo(f"{figure:>14}  {delta:+.3f}  ({low:+.3f} .. {high:+.3f})")
            except TailwatchError as error:
                verdict, worse = f"could not be compared: {error}", True
        if worse and not why:
            click.echo(f"refused: {name} v{new.version} against v{old.version if old else '-'}: {verdict}", err=True)
            click.echo("say --why to promote it all the same", err=True)
            sys.exit(1)
        saved = registry.export_state(new, Path(config.checkpoints) / "champions")
        champion = Champion(
            name, new.version, new.spec.to_dict(), saved and saved[0], saved and saved[1], time.time_ns()
        )  # fmt: skip
        over = old.version if old is not None else None
        state.promote(champion, who=who or getpass.getuser(), why=why or verdict, verdict=verdict, over=over)
        registry.alias(name, "champion", new.version)
        state.saw_alias(name, new.version, time.time_ns())
    click.echo(f"{name} v{new.version} is the champion ({verdict})")
