"""``tailwatch packets``."""

from __future__ import annotations

import click

from pipelines.ui import Number

__all__ = ["command"]


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(allow_dash=True))
@click.option("--out", "-o", required=True, type=click.Path(dir_okay=False), help="The Parquet file to write.")
@click.option(
    "--threads",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    help="So many threads encode while another decodes; 1: none beside it.",
)
@click.option("--hw/--no-hw", "hardware", default=True, help="Look for hardware timestamps (default: yes).")
@click.option("--stamps", help="A stamp format that cannot be recognised by itself: cpacket, vss or vss2.")
@click.option(
    "--follow",
    type=Number(min=0),
    metavar="SECONDS",
    help="Wait for files still being written to grow, until idle for so long.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one line of JSON.")
def command(
    files: tuple[str, ...],
    out: str,
    threads: int,
    hardware: bool,
    stamps: str | None,
    follow: float | None,
    as_json: bool,
) -> None:
    """Decode captures into one Parquet file of packets.

    FILES are pcap, pcapng, snoop or ERF, plain or compressed (gzip, zstd, lz4, xz, bzip2); "-" is standard
    input, a folder or a quoted glob a rotated set. Several are read in the order of their first packets. Times are
    int64 nanoseconds UTC; what is missing is null. The good packets of a damaged file are kept; those past the damage
    are marked `recovered`.

    Exit codes: 0 all well, 1 some input was damaged, 2 no capture, or not readable or writable.

    \b
    Examples:
      tailwatch packets tap.pcap --out tap.parquet
      tailwatch packets ring.pcap0 ring.pcap1 ring.pcap2.gz -o day.parquet --json
      tcpdump -i eth0 -w - --time-stamp-precision=nano | tailwatch packets - -o live.parquet
    """
    import os
    import sys

    from pipelines.packets import convert
    from pipelines.ui import counter

    regular = [name for name in files if os.path.isfile(name)]
    total = sum(map(os.path.getsize, regular)) if len(regular) == len(files) and follow is None else None
    with counter("decoding", "bytes", total) as tell:
        stats = convert(
            files,
            out,
            threads=threads,
            hardware=hardware,
            stamps=stamps,
            follow_s=follow,
            tell=lambda s: tell(s.read_bytes),
        )
    for damage in stats.damages[:5]:
        click.echo(f"tailwatch: warning: {damage}", err=True)
    if stats.damage_count > 5:
        click.echo(f"tailwatch: warning: {stats.damage_count - 5} more damaged places", err=True)
    if as_json:
        import json

        click.echo(json.dumps(stats.summary()))
    else:
        click.echo(
            f"{stats.packets:,} packets of {stats.files} files, {stats.recovered:,} past damage, "
            f"{stats.snapped:,} snapped, {stats.backwards:,} steps back in time, {stats.hardware:,} hardware stamps, "
            f"{stats.dropped:,} dropped by the capture -> {out}"
        )
    sys.exit(1 if stats.damage_count else 0)
