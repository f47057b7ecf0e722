"""Captures of one or more taps -> events, in time order, in bounded memory (`telemetry.wire.run` does the work)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from telemetry.capture.packets import CaptureInput, CaptureStats, read_packets
from telemetry.errors import InputError
from telemetry.types import Events, Nanos
from telemetry.wire.clock import Clock
from telemetry.wire.fingerprint import HASH_BYTES
from telemetry.wire.pairing import MAX_TAPS
from telemetry.wire.report import WireReport
from telemetry.wire.run import Run
from telemetry.wire.tap import Detail
from telemetry.wire.windows import SECOND

if TYPE_CHECKING:
    from telemetry.capture.columns import Packets

__all__ = ["wire_events"]


def wire_events(
    captures: Mapping[str, CaptureInput | Sequence[CaptureInput]],
    *,
    host: str = "wire",
    window_ns: Nanos = 100_000_000,
    timeout_ns: Nanos = 1_000_000_000,
    hash_bytes: int = HASH_BYTES,
    formats: Mapping[str, str] | None = None,
    clocks: Mapping[str, Clock] | None = None,
    detail: Detail = "packets",
    batch_rows: int = 8192,
    report: WireReport | None = None,
    tee: Callable[[str, Packets], None] | None = None,
    line_rates: Mapping[str, int] | None = None,
    every_gap: bool = False,
) -> Iterator[Events]:
    """Yield what the captures say, as events in time order.

    Parameters
    ----------
    captures : mapping of tap name to capture (or to the files of a rotated set, in order)
        At most 8 taps.
    host : str
        Host label of the series.
    window_ns : int
        Window of throughput and peaks; also how often counts of rare things say zero (with
        ``detail="windows"`` it is one second).
    timeout_ns : int
        How long a packet may take from tap to tap before it is lost.
    hash_bytes : int
        Payload bytes that tell packets apart; less than what the shortest snap length keeps.
    formats : mapping of "address:port" to feed format
        Feeds that need no recognition.
    clocks : mapping of tap name to Clock
        Corrections of the taps' clocks (see `telemetry.wire.clock`).
    detail : {"packets", "windows"}
        One event for each latency, round trip, skew and delay; or count, mean, p50, p99 and maximum per series
        and second (labels ``stat`` and ``window="1s"``) and count and maximum per tap and millisecond. What is
        rare (losses, gaps, resets, retransmissions) is always told one by one.
    report : WireReport, optional
        Filled in while reading.
    tee : function of (tap, packets), optional
        Is shown each batch; its arrays are overwritten by the next.
    line_rates : mapping of tap name to bits a second
        Bursts are told against it; without, against what the capture says of its interface (pcapng), if it does.
    every_gap : bool
        Inter-arrival times of all flows (per second: count, mean and maximum), not only of feeds.

    Yields
    ------
    Events
        int64 values, ordered by time; ``seen_ns == time_ns`` (later only for what took longer than
        `timeout_ns` to find).
    """
    if not 1 <= len(captures) <= MAX_TAPS:
        raise InputError(f"captures: expected 1 to {MAX_TAPS} taps, got {len(captures)}")
    if detail == "windows":
        window_ns = SECOND
    report = WireReport() if report is None else report
    packets: dict[str, Iterator[Packets | None]] = {
        tap: read_packets(files, batch_rows=batch_rows, stats=report.stats.setdefault(tap, CaptureStats()))
        for tap, files in captures.items()
    }
    run = Run(
        packets,
        host,
        window_ns,
        timeout_ns,
        hash_bytes,
        formats,
        clocks or {},
        detail,
        report,
        tee,
        line_rates,
        every_gap,
    )
    yield from (events for events in run.events() if events is not None)
