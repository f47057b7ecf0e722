"""What `watch` scores with: an engine that outlives databases that are away, new champions, new configuration.

Steps are scored at once and committed as soon as the database takes them; checkpoints are copied here and written by a
thread, because a step must not wait for the disk.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pipelines.config import Config
from pipelines.counters import Troubles
from pipelines.engine import Engine, Memory, Step
from pipelines.lease import LEASE_NS, myself, take
from pipelines.live import live_detectors, make_grouper, shadow_detectors
from pipelines.sinks import Sink
from pipelines.state import LeaseLost, StateDB
from pipelines.upkeep import trim
from pipelines.versions import Role
from telemetry.errors import TailwatchError
from telemetry.types import Events, Nanos

__all__ = ["Scorer"]

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
BUSY_MS = 200  # a locked database must not hold up the sampler
RETRY_NS = 2 * SECOND
HELD_MOST = 50_000  # alerts and steps that may wait for the database before scoring waits for it too


class Scorer:
    """The engine of one partition, which is held by a lease as long as it runs.

    Parameters
    ----------
    config : Config
    part : str
    sinks : sequence of Sink
    flush : callable
        Hands to the kernel the rows that were scored, before what they led to is committed.
    history : callable of (host, from_ns, to_ns)
        What a host's store holds, to warm a detector that is new.
    troubles : Troubles
    clock : callable
        The time of day.

    Raises
    ------
    Locked
        Another job holds the partition.
    """

    def __init__(
        self,
        config: Config,
        part: str,
        sinks: Sequence[Sink],
        *,
        flush: Callable[[], None],
        history: Callable[[str, Nanos, Nanos], Iterable[Events]],
        troubles: Troubles,
        clock: Callable[[], Nanos],
    ) -> None:
        self._config, self._part, self._sinks = config, part, sinks
        self._flush, self._history, self._troubles, self._clock = flush, history, troubles, clock
        self._owner, self._leased = myself(), time.monotonic_ns()
        self._retry_at = 0
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._sync: subprocess.Popen[bytes] | None = None
        self._saving: tuple[Memory, Future[str]] | None = None
        self._state = StateDB(config.state, busy_ms=BUSY_MS)
        take(self._state, part, self._owner, clock())
        try:
            self._make_engine()
            self._champions = self._versions()
        except BaseException:
            self.release()
            raise

    def _make_engine(self) -> None:
        scoring = self._config.scoring
        self.grouper = make_grouper(self._config)
        self.engine = Engine(
            self._state, self._part, live_detectors(self._state, scoring.detectors), self.grouper,
            Path(self._config.checkpoints), sinks=[s.name for s in self._sinks], shadows=shadow_detectors(self._state),
            owner=self._owner, max_series=scoring.max_series,
        )  # fmt: skip

    @property
    def full(self) -> bool:
        """Whether so much waits for the database that scoring has to wait as well."""
        return self.engine.waiting > HELD_MOST

    def step(self, now: Nanos) -> Step | None:
        """Score; commit what was found, once what it rests on is with the kernel. None while it has to wait."""
        step = self.engine.step(now, commit=False)
        if not self.engine.waiting:
            return step
        if time.monotonic_ns() < self._retry_at:
            return None
        try:
            self._flush()
            return self.engine.commit(now)
        except LeaseLost:
            raise
        except TailwatchError as error:
            self._retry_at = time.monotonic_ns() + RETRY_NS
            self._troubles.tell("commit", error)
            return None

    def note(self, kind: str, body: dict[str, object]) -> None:
        """Leave a note of something that concerns the partition."""
        self._troubles.attempt("state", lambda: self._state.note(self._part, self._clock(), kind, body))

    def renew(self, now: int) -> None:
        """Renew the lease, if it is time (monotonic).

        Raises
        ------
        LeaseLost
        """
        if (now - self._leased) * 10 < LEASE_NS:
            return
        self._leased = now
        try:
            at = self._clock()
            if not self._state.lease(self._part, self._owner, at, at + LEASE_NS):
                raise LeaseLost(f"partition {self._part!r} was taken over by another job; this one stops")
        except LeaseLost:
            raise
        except TailwatchError as error:
            self._troubles.tell("lease", error)

    # -- memory ----------------------------------------------------------------------------------------------------

    def maintain(self) -> None:
        """Begin a checkpoint; take up champions that were promoted, and challengers."""
        tracking = self._config.tracking.removeprefix("sqlite:///")
        idle = self._sync is None or self._sync.poll() is not None
        if idle and ("://" in tracking or Path(tracking).exists()):
            self._sync = subprocess.Popen(
                [sys.executable, "-m", "pipelines.cli", "sync"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        try:
            versions = self._versions()
            if versions != self._champions:
                self._checkpoint()
                self._renew_engine()
                self._champions = versions
                return
        except LeaseLost:
            raise
        except TailwatchError as error:
            self._troubles.tell("champions", error)
        self._troubles.attempt("checkpoint", self._begin_checkpoint)

    def _begin_checkpoint(self) -> None:
        """Copy the memory, and let a thread write it: a step must not wait for the disk."""
        if self._saving is not None:
            return
        self._flush()
        memory = self.engine.memory(self._clock())
        self._saving = memory, self._writer.submit(memory.write)

    def end_checkpoint(self, *, wait: bool = False) -> None:
        """Point at what was written, once it is."""
        self._troubles.attempt("checkpoint", lambda: self._end_checkpoint(wait))

    def _end_checkpoint(self, wait: bool) -> None:
        if self._saving is None or not (wait or self._saving[1].done()):
            return
        (memory, written), self._saving = self._saving, None
        self.engine.point_at(memory, written.result())

    def _checkpoint(self) -> None:
        """Save the memory, now; the rows that it has seen are with the kernel before."""
        self.end_checkpoint(wait=True)
        self._flush()
        self.engine.checkpoint(self._clock())

    def trim(self) -> None:
        """Drop what is past its retention, in the thread that writes checkpoints."""
        self._writer.submit(self._troubles.attempt, "retention", self._trim)

    def _trim(self) -> None:
        now, scoring = self._clock(), self._config.scoring
        before = now - round(scoring.keep_days * DAY)
        with StateDB(self._config.state) as state:
            trim(state, before, evidence_before_ns=now - round(scoring.keep_evidence_days * DAY))

    # -- another engine --------------------------------------------------------------------------------------------

    def _versions(self) -> dict[tuple[str, str], str]:
        roles: tuple[Role, ...] = ("champion", "challenger")
        return {(role, c.detector): c.version for role in roles for c in self._state.champions(role)}

    def configure(self, config: Config, sinks: Sequence[Sink]) -> None:
        """Go on with another configuration, without a gap; if that fails, with the one before.

        Raises
        ------
        TailwatchError
        """
        self._checkpoint()
        before = self._config, self._sinks
        self._config, self._sinks = config, sinks
        try:
            self._renew_engine()
        except TailwatchError:
            self._config, self._sinks = before
            raise

    def _renew_engine(self) -> None:
        """A new engine from the checkpoint just written; what it does not know is warmed silently: no gap."""
        kept = self.engine, self.grouper
        try:
            self._make_engine()
            self.engine.resume()
            for host, detector in self.engine.unwarmed():
                until = self.engine.offsets[host]
                self.engine.warm(detector, self._history(host, max(0, until - 3600 * SECOND), until))
        except TailwatchError:
            self.engine, self.grouper = kept
            raise

    # -- the end ---------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the last checkpoint and give the lease back."""
        self.engine.checkpoint(self._clock())
        self.release()

    def release(self) -> None:
        """Give the lease back."""
        self._state.release(self._part, self._owner)

    def close(self) -> None:
        """Wait for what is being written; close."""
        self._writer.shutdown()
        self._state.close()
