"""Live and backtest are the same loop: push in seen order, close at the watermark that the data gives."""

from __future__ import annotations

from collections.abc import Iterator

from detectors.detector import Detector
from telemetry.source import Source
from telemetry.types import Alert, Nanos

__all__ = ["replay"]


def replay(detector: Detector, source: Source, seen_from_ns: Nanos, seen_to_ns: Nanos) -> Iterator[Alert]:
    """Yield the alerts of all events first seen in ``[seen_from_ns, seen_to_ns)``, in (end_ns, id) order."""
    for events in source.read(seen_from_ns, seen_to_ns):
        detector.push(events)
        yield from detector.close(detector.watermark_ns)
