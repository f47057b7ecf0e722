"""The command line: a thin table of commands, each imported only when it is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

from telemetry.errors import TailwatchError

__all__ = ["main"]

COMMANDS: dict[str, str] = {
    "harvest": "Record what this host's kernel says into a store.",
    "ingest": "Turn captures (or lab folders) into latency, loss and throughput series in a store.",
    "packets": "Decode captures into one Parquet file of packets.",
    "features": "Write the windowed features of a spec as Parquet.",
    "detect": "Find anomalies in anyone's series (CSV or Parquet).",
    "train": "Fit a detector on a store and register the version in MLflow.",
    "backtest": "Replay detectors against labelled incidents and report.",
    "promote": "Make a version the champion if it is not worse.",
    "rollback": "Go back to the champion before.",
    "history": "Every version against every labelled incident; regressions first.",
    "catalogue": "Check a catalogue of labelled incidents, or import one from common forms.",
    "drift": "How the champions hold since their training: calibration, inputs, challengers.",
    "sync": "Send runs kept while MLflow was away; take up aliases that moved there.",
    "score": "Score what is new since the last run (for schedulers).",
    "watch": "Stay up: harvest, score, alert.",
    "incidents": "List incidents, or show one.",
    "label": "Say whether an incident was real, and what it was.",
    "compare": "Say whether a change made latency better or worse.",
    "report": "Write a self-contained HTML page of incidents.",
    "status": "What runs, how late it is, what is wrong and what to do.",
    "state": "Migrate, back up, restore and trim the state database; see and resend dead letters.",
    "doctor": "What this host can and cannot tell.",
    "lab": "Make real faults in network namespaces, record and label them.",
    "demo": "The main job on real input, in two minutes.",
    "config": "Show the configuration in force, its reference, or check a file.",
}


class LazyGroup(click.Group):
    """Lists commands from the table without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"pipelines.commands.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Each command has examples in its own --help.",
)
@click.version_option(package_name="tailwatch", prog_name="tailwatch")
@click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False),
    envvar="TAILWATCH_CONFIG",
    help="Settings (TOML). Default: ./tailwatch.toml if it is there.",
)
@click.pass_context
def cli(ctx: click.Context, config_path: str | None) -> None:
    """Tailwatch: the eyes and ears of a low-latency trading platform."""
    ctx.obj = config_path


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake is one line and an exit code, never a traceback."""
    try:
        result = cli.main(args=argv, prog_name="tailwatch", standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)
    except TailwatchError as error:
        click.echo(f"tailwatch: error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("tailwatch: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)


if __name__ == "__main__":
    main()
