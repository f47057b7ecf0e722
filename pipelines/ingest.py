"""Captures and lab runs -> a store: unit by unit, in parallel, each whole or not at all, each once.

A *unit* (`pipelines.units`) is one capture, a set of captures of several taps that are matched with each other, or a
lab run.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from pipelines.units import PACKED, Unit
from telemetry.bulk import BulkLoad, loaded
from telemetry.errors import TailwatchError
from telemetry.labfolder import LabFolder
from telemetry.types import Events, SeriesKey
from telemetry.wire.hops import Hop, HopTable
from telemetry.wire.quality import MARKS

if TYPE_CHECKING:
    from telemetry.wire.report import WireReport

__all__ = ["Ingested", "ingest", "ingest_unit"]

Detail = Literal["auto", "packets", "windows"]

_LARGE: Final = 64 << 20
_SMALL_BLOCK: Final = 1 << 16
_BLOCKS: Final = 64
_BATCH: Final = 1 << 16  # packets, of all taps: large, for what a batch costs beside its packets


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of a unit.

    Parameters
    ----------
    state : {"loaded", "known", "failed"}
        `known`: it was in the store already.
    notes : tuple of str
        Damage and whatever lowers confidence; for `failed` the reason.
    hops : tuple of Hop
        Where the time goes between taps, the slowest stretch first (``detail="packets"``, two taps or more).
    """

    unit: str
    state: Literal["loaded", "known", "failed"]
    events: int = 0
    packets: int = 0
    damaged: int = 0
    detail: str = ""
    notes: tuple[str, ...] = field(default=())
    hops: tuple[Hop, ...] = ()


def ingest(
    units: Sequence[Unit],
    store: str,
    *,
    jobs: int = 1,
    detail: Detail = "auto",
    keep_packets: bool = False,
    formats: Mapping[str, str] | None = None,
    align: bool = False,
    line_rate: int = 0,
    every_gap: bool = False,
    cluster: str | None = None,
) -> Iterator[Ingested]:
    """Load units, as many at once as `jobs` (or as the Dask `cluster` has workers); yield each as it finishes.

    A unit that cannot be read is reported as failed and does not stop the others.
    """
    options: dict[str, Any] = {
        "detail": detail, "keep_packets": keep_packets, "formats": formats, "align": align, "line_rate": line_rate,
        "every_gap": every_gap,
    }  # fmt: skip
    if cluster is None and (jobs <= 1 or len(units) <= 1):
        for unit in units:
            yield _try(unit, store, options)
        return
    from pipelines.cluster import executor

    waiting = list(reversed(units))
    jobs = min(jobs, len(units))
    with executor(cluster, jobs) as pool:
        running: set[Future[Ingested]] = set()
        while waiting or running:
            while waiting and len(running) < (256 if cluster else 2 * jobs):
                running.add(pool.submit(_try, waiting.pop(), store, options))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


def _try(unit: Unit, store: str, options: Mapping[str, Any]) -> Ingested:
    try:
        return ingest_unit(unit, store, **options)
    except TailwatchError as error:
        return Ingested(unit.name, "failed", notes=(str(error),))
    except OSError as error:
        return Ingested(unit.name, "failed", notes=(f"{unit.name}: cannot be read: {error.strerror or error}",))


def ingest_unit(
    unit: Unit,
    store: str,
    *,
    detail: Detail = "auto",
    keep_packets: bool = False,
    formats: Mapping[str, str] | None = None,
    align: bool = False,
    line_rate: int = 0,
    every_gap: bool = False,
) -> Ingested:
    """Load one unit into a store; does nothing if its content is there already.

    Parameters
    ----------
    detail : {"auto", "packets", "windows"}
        One event for each measurement, or windows of a second and a millisecond
        (`telemetry.wire.taps.wire_events`). ``auto``: windows where the unit's files are larger than
        64 MB together; lab runs are always told packet by packet.
    keep_packets : bool
        Also write every packet to ``STORE/packets/``.
    align : bool
        Estimate how far the taps' clocks are apart (offset and drift) and take that off (reads captures twice).
    line_rate : int
        Of the links, bits a second: bursts are told against it (0: what a pcapng says of its interface).
    every_gap : bool
        Inter-arrival times of all flows, not only of feeds.

    Raises
    ------
    InputError
        If it is no capture, or cannot be read. A damaged capture is loaded and marked.
    StoreError
        If the store cannot be written.
    """
    chosen = _detail(unit, detail)
    name = f"{unit.host}\0{unit.lab or unit.name}\0{chosen}{' aligned' if align else ''}"
    name += f" at {line_rate}" * (line_rate > 0) + " gaps" * every_gap
    content = _content(unit.files)
    if loaded(store, name) == content:
        return Ingested(unit.name, "known", detail=chosen)
    with BulkLoad(store, name, content) as load:
        if unit.lab:
            folder = LabFolder(unit.lab)
            for batch in folder.source().read(-(2**63), 2**63 - 1):
                load.append(batch)
            notes = tuple(f"{unit.name}: {part} is not there" for part in folder.missing)
            packets = damaged = 0
            hops: tuple[Hop, ...] = ()
        else:
            packets, damaged, notes, hops = _captures(
                unit, store, load, chosen, keep_packets, formats, align, line_rate, every_gap
            )
        fresh = load.commit()
    return Ingested(unit.name, "loaded" if fresh else "known", load.rows, packets, damaged, chosen, notes, hops)


def _captures(
    unit: Unit,
    store: str,
    load: BulkLoad,
    detail: Literal["packets", "windows"],
    keep_packets: bool,
    formats: Mapping[str, str] | None,
    align: bool,
    line_rate: int,
    every_gap: bool,
) -> tuple[int, int, tuple[str, ...], tuple[Hop, ...]]:
    """Analyse captures into `load`; return (packets, places of damage, notes, hops)."""
    from contextlib import ExitStack

    from telemetry.wire.clock import Clock, estimate_clock
    from telemetry.wire.report import WireReport
    from telemetry.wire.taps import wire_events

    report = WireReport()
    table = HopTable()
    clocks: dict[str, Clock] = {}
    captures = {name: files[0] if len(files) == 1 else files for name, files in unit.taps}
    first, *others = captures if align else [""]
    for other in others:
        pair = {first: captures[first], other: captures[other]}
        found = estimate_clock(wire_events(pair, host=unit.host, formats=formats), first, other)
        if found is None:
            report.warnings.append(f"{other}: no TCP connection crosses it and {first}: its clock is taken as it is")
            continue
        clocks[other] = clock = found.clock
        ahead = f"{clock.offset_ns} ns ahead of {first}, drift {clock.drift_ppb:.0f} ppb"
        report.warnings.append(f"{other}: its clock is {ahead}: taken off")
    with ExitStack() as stack:
        tee = None
        if keep_packets:
            from pipelines.packets import PacketWriter

            folder = Path(store) / "packets"
            folder.mkdir(parents=True, exist_ok=True)
            stem = hashlib.blake2b(unit.name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
            writers = {tap: stack.enter_context(PacketWriter(folder / f"{tap}-{stem}.parquet")) for tap in captures}

            def tee(tap: str, packets: object) -> None:
                writers[tap].write(packets)  # type: ignore[arg-type]

        for batch in wire_events(
            captures, host=unit.host, formats=formats, clocks=clocks, detail=detail, report=report, tee=tee,
            batch_rows=_BATCH // len(captures), line_rates=dict.fromkeys(captures, line_rate), every_gap=every_gap,
        ):  # fmt: skip
            load.append(batch)
            if detail == "packets" and len(captures) > 1:
                table.push(batch)
    load.append(_marks(unit.host, report, load.last_seen_ns))
    stats = report.stats.values()
    return sum(s.packets for s in stats), sum(s.damage_count for s in stats), _notes(report), tuple(table.rows())


def _marks(host: str, report: WireReport, seen_ns: int) -> Events:
    """Zeros at the end of a capture: what would lower confidence in it was looked for, and there was none."""
    keys, times = [], []
    for tap, stats in report.stats.items():
        if stats.packets == 0 or stats.last_ns <= 0:
            continue
        counts = (stats.dropped, stats.damage_count, stats.snapped, stats.backwards, report.doubles.get(tap, 1))
        for metric, count in zip(MARKS, counts, strict=True):
            if not count:
                keys.append(SeriesKey.of(host, metric, tap=tap))
                times.append(stats.last_ns)
    series = np.arange(len(keys), dtype=np.int64)
    at = np.array(times, np.int64)
    return Events(tuple(keys), series, at, np.full(len(at), max([seen_ns, *times])), np.zeros(len(at), np.int64))


def _notes(report: WireReport) -> tuple[str, ...]:
    notes = list(report.warnings)
    for stats in report.stats.values():
        notes += [str(d) for d in stats.damages[:3]]
        if stats.damage_count > 3:
            notes.append(f"... and {stats.damage_count - 3} more damaged places")
    return tuple(notes)


def _detail(unit: Unit, detail: Detail) -> Literal["packets", "windows"]:
    if detail != "auto":
        return detail
    if unit.lab:
        return "packets"
    size = sum(os.path.getsize(f) * (4 if f.endswith(PACKED) else 1) for f in unit.files)
    return "windows" if size > _LARGE else "packets"


def _content(files: Iterable[str]) -> str:
    """Digest of the files' sizes and of blocks spread over them: changes when a capture grows or is another."""
    hasher = hashlib.blake2b(digest_size=16)
    for name in files:
        size = os.path.getsize(name)
        hasher.update(f"{Path(name).name}\0{size}\0".encode("utf-8", "surrogatepass"))
        with open(name, "rb") as file:
            step = max(_SMALL_BLOCK, (size - _SMALL_BLOCK) // _BLOCKS)
            for at in range(0, size, step):
                file.seek(at)
                hasher.update(file.read(_SMALL_BLOCK))
            file.seek(max(0, size - _SMALL_BLOCK))
            hasher.update(file.read(_SMALL_BLOCK))
    return hasher.hexdigest()
