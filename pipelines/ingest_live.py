"""Captures that are still being written -> a store: part by part, each whole or not at all, going on where it stopped.

Every few seconds what has been found is committed together with the place in the capture up to which it tells
everything. A run that is killed leaves whole parts; the next reads on from there, and no packet is lost or counted
twice. Where a capture is at its end for now (`idle_s`), what is still open goes in as a part of its own, which is
replaced if the capture should grow after all. A pipe cannot be read again: its parts stay, and a new run is a new
capture.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from telemetry.bulk import BulkLoad, holds_part, loaded
from telemetry.wire.live import Live, Step

if TYPE_CHECKING:
    from telemetry.types import Nanos
    from telemetry.wire.tap import Detail

__all__ = ["follow_into"]

_TAIL: Final = "tail"
_POLL_S: Final = 0.05
_MOST_ROWS: Final = 5_000_000


def follow_into(
    captures: Mapping[str, str],
    store: str,
    *,
    name: str,
    host: str = "wire",
    detail: Detail = "windows",
    formats: Mapping[str, str] | None = None,
    line_rates: Mapping[str, int] | None = None,
    every_gap: bool = False,
    part_s: float = 5.0,
    idle_s: float | None = None,
    stop: Callable[[], bool] = lambda: False,
    live: Callable[[Live], None] = lambda _: None,
) -> Iterator[int]:
    """Load captures as they grow; yield after each commit how many events are in the store.

    Parameters
    ----------
    captures : mapping of tap name to a file, folder, glob or pipe
        See `telemetry.wire.live.Live`.
    name : str
        What is loaded: the same name goes on where it stopped.
    part_s : float
        How often to commit (s).
    idle_s : float, optional
        End when nothing has come for so long (s); otherwise when pipes are closed or `stop` says so.
    live : callable
        Is given the analysis, to look at its report.

    Raises
    ------
    InputError
        If there is nothing to read, or it is no capture.
    StoreError
        If the store cannot be written.
    """
    unit = f"{host}\0{name}\0{detail} followed"
    known: dict[str, Any] = json.loads(loaded(store, unit) or "{}")
    after: Nanos | None = None
    if "tail_ns" in known and not holds_part(store, unit, _TAIL):
        after = known["tail_ns"]  # joined with other rows since: it stays, and what comes must be later
    analysis = Live(
        captures, host=host, detail=detail, formats=formats, start=known.get("position"), after_ns=after,
        line_rates=line_rates, every_gap=every_gap,
    )  # fmt: skip
    live(analysis)
    parts = _Parts(store, unit, known)
    quiet, packets = 0.0, -1
    with parts:
        while not (stopped := stop()):
            for step in analysis.poll():
                parts.take(step)
                if parts.due(part_s):
                    yield parts.commit()
                if stop():
                    break
            if analysis.finished:
                break
            if parts.due(part_s):
                yield parts.commit()
            before, packets = packets, sum(s.packets for s in analysis.report.stats.values())
            quiet = 0.0 if packets != before else quiet + _POLL_S
            if idle_s is not None and quiet >= idle_s:
                break
            time.sleep(_POLL_S)
        yield parts.commit()
        if not stopped:
            parts.tail = True
            for step in analysis.finish():
                parts.take(step)
            yield parts.commit()
    analysis.close()


class _Parts:
    """The parts of one unit, one open at a time."""

    def __init__(self, store: str, unit: str, known: dict[str, Any]) -> None:
        self._store, self._unit = store, unit
        self._number: int = known.get("part", 0)
        self._position: dict[str, Any] = known.get("position", {})
        self._load: BulkLoad | None = None
        self._stack = ExitStack()
        self._since = time.monotonic()
        self._until: Nanos = 0
        self._next = self._position
        self.rows = 0
        self.tail = False
        """What comes now is what was still open at the end for now."""

    def __enter__(self) -> _Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def take(self, step: Step) -> None:
        """Take in a step; it counts when it is committed."""
        for events in step.events:
            if self._load is None:
                part = _TAIL if self.tail else f"{self._number:06d}"
                self._load = self._stack.enter_context(BulkLoad(self._store, self._unit, "", part))
                self._since = time.monotonic()
            self._load.append(events)
            self.rows += len(events)
        self._next, self._until = step.position, step.until_ns

    def due(self, part_s: float) -> bool:
        """Whether what is open is old or large enough."""
        load = self._load
        return load is not None and (time.monotonic() - self._since >= part_s or load.rows >= _MOST_ROWS)

    def commit(self) -> int:
        """Make what was taken part of the store, and the position with it."""
        load, self._load = self._load, None
        if load is None:
            return self.rows
        content: dict[str, Any]
        if self.tail:
            content = {"part": self._number, "position": self._position, "tail_ns": self._until}
        else:
            self._number += 1
            self._position = self._next
            content = {"part": self._number, "position": self._position}
        load.commit(json.dumps(content, separators=(",", ":")), replace=_TAIL)
        self._stack.pop_all().close()
        return self.rows
