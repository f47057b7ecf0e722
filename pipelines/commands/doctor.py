"""``tailwatch doctor``."""

from __future__ import annotations

import click

from pipelines.ui import Number

__all__ = ["command"]


@click.command()
@click.option("--store", "store_path", type=click.Path(), help="Also look at this store (default: configuration).")
@click.option("--root", type=click.Path(exists=True), default="/", show_default=True, help="Where /proc and /sys are.")
@click.option("--seconds", type=Number(min=0), default=2.0, show_default=True, help="Sample so long, to tell its cost.")
@click.option("--strict", is_flag=True, help="Exit with 1 if there is a problem.")
@click.option("--json", "as_json", is_flag=True, help="Print findings as JSON.")
@click.pass_obj
def command(path: str | None, store_path: str | None, root: str, seconds: float, strict: bool, as_json: bool) -> None:
    """Say what this host can and cannot tell: kernel, rights, clock, CPUs, network, kernel bypass, cost.

    Reads only; remedies are suggestions.

    \b
    Examples:
      tailwatch doctor
      tailwatch doctor --seconds 10 --store S
      tailwatch doctor --json
    """
    import msgspec

    from pipelines.config import load
    from pipelines.doctor.examine import examine

    findings = examine(root, store=store_path or load(path).store, seconds=seconds)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(findings), indent=1).decode())
    else:
        mark = {"ok": click.style("ok     ", fg="green"), "note": click.style("note   ", fg="yellow")}
        mark["problem"] = click.style("PROBLEM", fg="red", bold=True)
        area = ""
        for f in findings:
            if f.area != area:
                area = f.area
                click.echo(click.style(f"\n{area}", bold=True))
            click.echo(f"  {mark[f.level]} {f.what}")
            if f.remedy:
                click.echo(f"          -> {f.remedy}")
        problems = sum(f.level == "problem" for f in findings)
        notes = sum(f.level == "note" for f in findings)
        click.echo(f"\n{problems} problems, {notes} notes.")
    if strict and any(f.level == "problem" for f in findings):
        raise click.exceptions.Exit(1)
