"""Captures that are still being written -> events, step by step, going on after a restart where it stopped.

How to use it::

    live = Live({"core": "/captures/core/", "edge": "edge.pcap"}, host="tx07", start=saved)
    while not stopped:
        for step in live.poll():              # what can be told now; never waits
            for events in step.events:
                store.append(events)
            saved = step.position             # JSON types: keep it with the events, in one step
        time.sleep(0.1)
    for step in live.finish():                # only when the capture is over: tells what is still open
        ...

A step holds all events between two instants of capture time, `Step.until_ns` is where it ends, and the next begins
there. So what may be lost or come twice after a kill is told by the clock alone: the reading is taken up some seconds
before (`run_up_ns`, so that flows, feeds and windows are known again) and what happened before the end of the last
step that was kept is not told again. Where steps and positions cannot be kept together, keep the position behind the
events and give `after_ns`, one more than the last event's time that the store holds, when starting again.

State that reaches back further than the run-up starts anew after a restart: round trips of older segments, and the
numbers by which several channels of one destination are told apart.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from telemetry.capture.columns import NULL
from telemetry.capture.follow import Follow
from telemetry.errors import InputError
from telemetry.types import Events, Nanos
from telemetry.wire.clock import Clock
from telemetry.wire.fingerprint import HASH_BYTES
from telemetry.wire.pairing import MAX_TAPS
from telemetry.wire.report import WireReport
from telemetry.wire.run import Run
from telemetry.wire.windows import SECOND

if TYPE_CHECKING:
    from telemetry.capture.columns import Packets
    from telemetry.wire.tap import Detail

__all__ = ["Live", "Step"]

_RUN_UP: Final = 10 * SECOND


@dataclass(frozen=True, slots=True)
class Step:
    """All events before `until_ns` that were not told yet; `position` is to be kept with them."""

    events: tuple[Events, ...]
    until_ns: Nanos
    position: dict[str, Any]


class Live:
    """The analysis of captures that grow.

    Parameters
    ----------
    captures : mapping of tap name to source
        See `telemetry.capture.follow.Follow`. At most 8; taps are matched with each other, so all of them wait for
        the one that is behind (those that have nothing to do with each other are better followed apart).
    host, window_ns, timeout_ns, hash_bytes, formats, clocks, detail, line_rates, every_gap
        See `telemetry.wire.taps.wire_events`.
    start : mapping, optional
        The `Step.position` of an earlier run.
    after_ns : int, optional
        Tell nothing that happened before.
    newest : bool
        Without `start`: begin with the newest file of a set.
    run_up_ns : int
        How long before what is to be told reading begins again.

    Attributes
    ----------
    report : WireReport
    finished : bool
        All captures are at their end (pipes that were closed, or `finish` was called).
    """

    def __init__(
        self,
        captures: Mapping[str, str | os.PathLike[str]],
        *,
        host: str = "wire",
        window_ns: Nanos = SECOND,
        timeout_ns: Nanos = SECOND,
        hash_bytes: int = HASH_BYTES,
        formats: Mapping[str, str] | None = None,
        clocks: Mapping[str, Clock] | None = None,
        detail: Detail = "windows",
        start: Mapping[str, Any] | None = None,
        after_ns: Nanos | None = None,
        newest: bool = False,
        run_up_ns: Nanos = _RUN_UP,
        line_rates: Mapping[str, int] | None = None,
        every_gap: bool = False,
    ) -> None:
        if not 1 <= len(captures) <= MAX_TAPS:
            raise InputError(f"captures: expected 1 to {MAX_TAPS} taps, got {len(captures)}")
        self.report = WireReport()
        self._at: dict[str, Any] = dict((start or {}).get("taps", {}))
        self._follows = {}
        for tap, source in captures.items():
            follow = Follow(source, start=self._at.get(tap), newest=newest)
            self._follows[tap] = follow
            self.report.stats[tap] = follow.stats
        self._until: Nanos = max((start or {}).get("until_ns", NULL), NULL if after_ns is None else after_ns)
        self._given = self._until
        self._run_up = max(run_up_ns, window_ns + timeout_ns)
        self._marks: deque[tuple[Nanos, dict[str, Any]]] = (
            deque()
        )  # (capture time, positions) from before the run-up on
        self._closing = False
        self.finished = False
        if detail == "windows":
            window_ns = SECOND
        packets = {tap: self._packets(follow) for tap, follow in self._follows.items()}
        self._run = Run(
            packets, host, window_ns, timeout_ns, hash_bytes, formats, clocks or {}, detail, self.report, None,
            line_rates, every_gap,
        )  # fmt: skip
        self._events = self._run.events()

    def poll(self) -> Iterator[Step]:
        """Yield what can be told by now; return where more is to be waited for. Never blocks."""
        held: list[Events] = []
        settled = self._run.settled_ns
        while not self.finished:
            events = next(self._events, self)
            if isinstance(events, Live):
                self.finished = True
                yield Step(tuple(held), self._given, self._position())
            elif events is not None:
                fresh = events if self._until == NULL else events[events.time_ns >= self._until]
                if len(fresh):
                    held.append(fresh)
                    self._given = max(self._given, int(fresh.time_ns[-1]) + 1)
            elif self._run.settled_ns == settled:
                return
            else:
                settled = self._run.settled_ns
                self._given = max(self._given, settled)
                if settled > self._until:
                    yield Step(tuple(held), self._given, self._position())
                held = []

    def finish(self) -> Iterator[Step]:
        """Take what is there for all there will be, and tell what is still open."""
        self._closing = True
        yield from self.poll()

    def close(self) -> None:
        """Close what is open."""
        for follow in self._follows.values():
            follow.close()

    def _packets(self, follow: Follow) -> Iterator[Packets | None]:
        """All batches; None where nothing more has come."""
        while not follow.finished and not self._closing:
            yield from follow.poll()
            if not follow.finished and not self._closing:
                yield None
        yield from follow.finish()

    def _position(self) -> dict[str, Any]:
        """The latest place from which everything that is not told yet can be found again."""
        self._marks.append((self._run.read_ns, {tap: f.position() for tap, f in self._follows.items()}))
        while self._marks and self._marks[0][0] <= self._given - self._run_up:
            self._at = self._marks.popleft()[1]
        return {"until_ns": self._given, "taps": self._at}
