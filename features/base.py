"""What a feature builder is: events in, closed windows out, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from telemetry.types import Events, Nanos, Panel, SeriesKey, State

__all__ = ["FeatureBuilder"]


@runtime_checkable
class FeatureBuilder(Protocol):
    """Turns events into panels, windows ``[end - window, end)`` in event time.

    Held by three laws (``detectors/checks.py``): how events are split over pushes and how often windows
    are closed does not matter; later data never changes a closed window; restoring continues exactly.
    """

    @property
    def watermark_ns(self) -> Nanos:
        """Event time up to which nothing more is awaited, from the data alone (see ``watermark.py``)."""
        ...

    @property
    def series(self) -> tuple[SeriesKey, ...]:
        """Series taken up so far, in the order of panels."""
        ...

    def expect(self, keys: Sequence[SeriesKey]) -> None:
        """Take up series before their first event, in this order; those known already stay where they are."""
        ...

    def push(self, events: Events) -> None:
        """Take in events; late ones (time below the watermark of the events seen before) are counted and dropped."""
        ...

    def close(self, watermark_ns: Nanos) -> tuple[Panel, ...]:
        """Return the windows that end by `watermark_ns`, oldest first, one panel per window length."""
        ...

    def snapshot(self) -> State: ...
    def restore(self, state: State) -> None: ...
