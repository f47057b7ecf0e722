"""Read captures as batches of columns, in bounded memory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from telemetry.capture.columns import NULL, TUNNELS, Arena, Packets
from telemetry.capture.open import CaptureInput, open_stream
from telemetry.capture.reader import Reader
from telemetry.capture.stamps import Stamper
from telemetry.capture.stats import CaptureStats, Damage

__all__ = ["NULL", "TUNNELS", "CaptureInput", "CaptureStats", "Damage", "Packets", "first_time", "read_packets"]

_POLL_S: Final = 0.05


def read_packets(
    paths: CaptureInput | Sequence[CaptureInput],
    *,
    batch_rows: int = 8192,
    hardware: bool = True,
    stamps: str | None = None,
    in_time_order: bool = True,
    follow_s: float | None = None,
    start: Mapping[str, Any] | None = None,
    stats: CaptureStats | None = None,
) -> Iterator[Packets]:
    """Decode captures: pcap, pcapng, snoop, ERF, plain or compressed.

    Parameters
    ----------
    paths : path, "-", binary file object, or a sequence of them
        Read one after the other. A batch never spans two files.
    batch_rows : int
        The most packets in a batch. 8192 keeps a batch in the second-level cache.
    hardware : bool
        Look for hardware timestamps.
    stamps : str, optional
        A hardware stamp format to be read without proof (`telemetry.capture.stamps.CONFIGURED`).
    in_time_order : bool
        Read several regular files (a rotated set) in the order of their first packets; pipes keep their place.
    follow_s : float, optional
        At the end of the last file, which is still being written, wait for more until nothing has come for so long (s).
    start : mapping, optional
        A `CaptureStats.position` of an earlier reading of the same (single) file: go on at that byte.
    stats : CaptureStats, optional
        Filled in while reading.

    Yields
    ------
    Packets
        Its arrays are overwritten by the next batch.

    Raises
    ------
    InputError
        If a file cannot be opened, is empty or is no capture. A *damaged* capture does not raise: its good
        packets come out (``recovered`` after the damage) and `stats` tells what was wrong where.
    """
    if batch_rows < 1:
        raise ValueError(f"batch_rows: expected at least 1, got {batch_rows}")
    stats = CaptureStats() if stats is None else stats
    single = isinstance(paths, (str, os.PathLike)) or not isinstance(paths, Sequence)
    many: list[CaptureInput] = [paths] if single else list(paths)  # type: ignore[list-item, arg-type]
    if start and len(many) != 1:
        raise ValueError(f"start: expected one file to go on with, got {len(many)}")
    if in_time_order and len(many) > 1:
        many = _sorted(many)
    arena = Arena(batch_rows)
    for number, source in enumerate(many):
        stream = open_stream(source)
        try:
            stamper = Stamper(stamps) if hardware else None
            follow = follow_s is not None and number == len(many) - 1
            reader = Reader(stream, number, arena, stats, stamper, follow, start or None)
            waited = 0.0
            for batch in reader.batches():
                if batch.n:
                    waited = 0.0
                    yield batch
                elif follow_s is None or waited >= follow_s:
                    reader.stop_following()
                else:
                    time.sleep(_POLL_S)
                    waited += _POLL_S
        finally:
            stream.close()


def first_time(source: CaptureInput) -> int:
    """Time of a capture's first packet that has one (ns), or `NULL`; reads only the beginning."""
    stream = open_stream(source)
    try:
        for batch in Reader(stream, 0, Arena(64), CaptureStats()).batches():
            times = batch.time_ns[batch.time_ns != NULL]
            if len(times):
                return int(times[0])
        return NULL
    finally:
        stream.close()


def _sorted(sources: list[CaptureInput]) -> list[CaptureInput]:
    """Regular files by their first packets' times, in the places that regular files have."""
    regular = [s for s in sources if isinstance(s, (str, os.PathLike)) and Path(os.fspath(s)).is_file()]
    order = iter(sorted(regular, key=first_time))
    return [next(order) if s in regular else s for s in sources]
