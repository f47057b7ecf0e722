"""What reaches `watch` from outside of the store: captures in its own loop, a Kafka topic and deliveries in threads.

A capture is read no faster than it is scored: a file lags, a pipe fills and its writer waits; nothing is queued here.
Of files the place is part of each checkpoint, so a restart reads on exactly there. A pipe cannot be read again: what
the store holds of it is replayed, and the gap is an event of its own.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.config import Captures, Config
from pipelines.sinks import Sink, deliver, refresh
from pipelines.state import StateDB
from telemetry.errors import ConfigError, InputError, TailwatchError
from telemetry.store import Store
from telemetry.types import Events, Nanos, SeriesKey

if TYPE_CHECKING:
    from telemetry.wire.live import Live

__all__ = ["CaptureIntake", "Delivery", "KafkaThread", "Taken", "taps_of"]

SECOND = 1_000_000_000
PIPE_BYTES = 1 << 20
AGAIN_S = 5.0

Trouble = Callable[[str, Exception], None]


@dataclass(frozen=True, slots=True)
class Taken:
    """What a capture told in one step, and where reading stands then (JSON types; empty for a pipe)."""

    events: tuple[Events, ...]
    position: dict[str, Any]


class CaptureIntake:
    """Captures that are still being written, as events in the store and for the engine.

    Parameters
    ----------
    settings : Captures
    store : path of the store
    trouble : callable of (where, error)
        Told what went wrong and was survived.
    """

    def __init__(self, settings: Captures, store: str, trouble: Trouble) -> None:
        self.host = settings.host
        self.durable = not any(map(is_pipe, settings.taps.values()))
        """The captures can be read again (no pipe is among them)."""
        self.newest_ns: Nanos = 0
        self.finished = False
        self.failed: TailwatchError | None = None
        """Why a pipe was given up."""
        self._settings, self._trouble = settings, trouble
        self._store = Store(store, background=True, on_full="drop")  # of its own: order of arrival is the capture's
        self._stored_ns = self._store.last_seen_ns(self.host)
        self._gap_from = None if self.durable else self._stored_ns
        self._position: Mapping[str, Any] = {}
        self._live: Live | None = None
        self._again = 0.0
        for path in settings.taps.values():
            _widen(path)

    def start(self, position: Mapping[str, Any]) -> None:
        """Go on from a position of an earlier `Taken`.

        Raises
        ------
        InputError
            There is nothing at a path, or it is no capture.
        """
        from telemetry.wire.live import Live

        self._position = position
        after = None if self.durable or self._stored_ns is None else self._stored_ns + 1
        self._live = Live(
            self._settings.taps, host=self.host, detail=self._settings.detail, start=position or None, after_ns=after
        )

    @property
    def stats(self) -> Mapping[str, Any]:
        """Packets, damages and drops so far, by tap."""
        return {} if self._live is None else self._live.report.stats

    @property
    def dropped(self) -> int:
        """Rows that could not be stored."""
        return self._store.dropped

    def poll(self, *, last: bool = False) -> Iterator[Taken]:
        """Yield what can be told by now, stored already; with `last`, also what is still open. Never waits."""
        if self.finished or time.monotonic() < self._again:
            return
        try:
            if self._live is None:
                self.start(self._position)
            assert self._live is not None
            for step in self._live.finish() if last else self._live.poll():
                events = tuple(self._told(e) for e in step.events)
                if self._gap_from is not None and events:
                    events = (self._gap(events[0]), *events)
                for batch in events:
                    self._keep(batch)
                self._position = {} if not self.durable else step.position
                yield Taken(events, dict(self._position))
            self.finished = self._live.finished
        except TailwatchError as error:
            self._trouble("capture", error)
            self._again = time.monotonic() + AGAIN_S
            self.failed = None if self.durable else error
            self._restart()

    def _restart(self) -> None:
        if self._live is not None:
            self._live.close()
            self._live = None
        self.finished = not self.durable

    def _told(self, events: Events) -> Events:
        self.newest_ns = max(self.newest_ns, int(events.time_ns[-1]))
        return events

    def _gap(self, first: Events) -> Events:
        """What was missed of a pipe while nobody read it, as an event."""
        at = int(first.seen_ns[0])
        assert self._gap_from is not None
        missed, self._gap_from = max(0, at - self._gap_from), None
        key = SeriesKey.of(self.host, "input_gap_ns", source="+".join(self._settings.taps))
        one = np.array([at])
        return Events((key,), np.zeros(1, np.int64), one, one, np.array([missed]))

    def _keep(self, events: Events) -> None:
        """Store what is not stored; rows of the last instant that is stored are known again as written twice."""
        if self._stored_ns is not None:
            events = events[int(np.searchsorted(events.seen_ns, self._stored_ns)) :]
        try:
            self._store.append(events)
        except TailwatchError as error:
            self._store.dropped += len(events)
            self._trouble("store", error)

    def flush(self) -> None:
        """Hand what was stored to the kernel."""
        self._store.flush()

    def close(self) -> None:
        if self._live is not None:
            self._live.close()
        self._store.close()


def taps_of(options: Sequence[str]) -> dict[str, str]:
    """``[TAP=]PATH`` options by tap; without a name, a tap is called by its file, or ``pipe``.

    Raises
    ------
    ConfigError
        A tap is named twice.
    """
    taps: dict[str, str] = {}
    for option in options:
        name, equals, path = option.partition("=")
        if not equals or "/" in name:
            name, path = ("pipe" if option == "-" else Path(option).name.split(".")[0].strip("*?[]-_") or "tap"), option
        if name in taps:
            raise ConfigError(f"--capture: tap {name!r} is named twice; say TAP=PATH")
        taps[name] = path
    return taps


def is_pipe(source: str) -> bool:
    """Whether a capture cannot be read again."""
    try:
        return source == "-" or stat.S_ISFIFO(os.stat(source).st_mode)
    except OSError:
        return False


def _widen(source: str) -> None:
    """Let the kernel hold as much of a pipe as it allows: what is written while a step is scored."""
    import contextlib
    import fcntl

    if source == "-":
        with contextlib.suppress(OSError):
            fcntl.fcntl(0, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


class Delivery(threading.Thread):
    """Sends what the outbox holds, with a database connection of its own, until `over` is set and once more then."""

    def __init__(
        self, config: Config, sinks: Sequence[Sink], over: threading.Event, trouble: Trouble,
        clock: Callable[[], Nanos],
    ) -> None:  # fmt: skip
        super().__init__(name="delivery", daemon=True)
        self.sinks = sinks
        self.sent = 0
        self._config, self._over, self._trouble, self._clock = config, over, trouble, clock

    def configure(self, config: Config, sinks: Sequence[Sink]) -> None:
        """Go on with other sinks."""
        self._config, self.sinks = config, sinks

    def run(self) -> None:
        refreshed: Nanos | None = None
        last = False
        while not last:
            last = self._over.wait(1.0)
            try:
                with StateDB(self._config.state) as state:  # anew each time: the database may have been away
                    now = self._clock()
                    per_minute = self._config.sinks.max_per_minute
                    self.sent += deliver(state, self.sinks, now, per_minute=per_minute).sent
                    if refreshed is None or abs(now - refreshed) > 60 * SECOND:
                        refresh(state, self.sinks, now)
                        refreshed = now
            except Exception as error:  # the outbox keeps what could not be sent
                self._trouble("delivery", error)


class KafkaThread(threading.Thread):
    """Puts a topic's messages into the store, whole and once; the loop finds them there."""

    def __init__(self, config: Config, stop: threading.Event, trouble: Trouble) -> None:
        super().__init__(name="kafka", daemon=True)
        self._config, self._stopping, self._trouble = config, stop, trouble

    def run(self) -> None:
        settings = self._config.kafka
        if settings is None:
            return
        from telemetry.kafka import KafkaIntake

        real = {k: os.environ.get(v[4:], "") if v.startswith("env:") else v for k, v in settings.settings.items()}
        try:
            intake = KafkaIntake(str(Path(self._config.store)), settings.topic, real)
        except TailwatchError as error:
            self._trouble("kafka", error)
            return
        while not self._stopping.is_set():
            try:
                taken = intake.poll(1.0)
                if taken.refused:
                    self._trouble("kafka", InputError(f"{taken.refused} messages refused; {taken.reason}"))
            except Exception as error:
                self._trouble("kafka", error)
                self._stopping.wait(AGAIN_S)
        intake.close()
