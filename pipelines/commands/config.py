"""``tailwatch config``."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command()
@click.option("--reference", "as_reference", is_flag=True, help="Every key with its default and meaning.")
@click.option("--schema", is_flag=True, help="The JSON Schema (for editors).")
@click.pass_obj
def command(path: str | None, as_reference: bool, schema: bool) -> None:
    """Show the configuration in force (and so check the file), or its reference.

    \b
    Examples:
      tailwatch config
      tailwatch --config site.toml config
      tailwatch config --reference > tailwatch.toml
    """
    import msgspec

    from pipelines.config import Config, load, reference

    if as_reference:
        click.echo(reference())
    elif schema:
        click.echo(msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Config)), indent=2).decode())
    else:
        click.echo(msgspec.json.format(msgspec.json.encode(load(path)), indent=2).decode())
