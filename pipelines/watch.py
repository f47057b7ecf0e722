"""Always on: this host's kernel, captures, and what others put into the store in; incidents out.

One loop paces the sampler, reads captures in the time between, scores what came and commits it; deliveries run in a
thread of their own, so that a slow receiver never holds up scoring. Nothing that goes away (database, disk, sink)
stops the loop: what was found is held and committed once it is back; what must be left out meanwhile is read from the
store again. Graceful stop: the store is flushed, a checkpoint is written.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import structs

from pipelines.config import Config
from pipelines.engine import Engine, Memory, Step
from pipelines.harvest import Care, known_boot, make_harvester
from pipelines.intake import CaptureIntake, Delivery, KafkaThread
from pipelines.lease import LEASE_NS, myself, take
from pipelines.links import links
from pipelines.live import live_detectors, make_grouper, shadow_detectors
from pipelines.logs import Repeats
from pipelines.sinks import Sink, make_sinks
from pipelines.state import LeaseLost, StateDB
from pipelines.upkeep import trim
from telemetry.errors import ConfigError, TailwatchError
from telemetry.selectors import of_host
from telemetry.store import Store
from telemetry.types import Events, Nanos

__all__ = ["Counters", "Watcher"]

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
BUSY_MS = 200  # a locked database must not hold up the sampler
RETRY_NS = 2 * SECOND
HELD_MOST = 50_000  # alerts and steps that may wait for the database before scoring waits for it too
IDLE_S = 0.01

log = logging.getLogger("tailwatch.watch")


@dataclass(slots=True)
class Counters:
    """What the service says of itself."""

    events: int = 0
    alerts: int = 0
    incidents: int = 0
    steps: int = 0
    errors: int = 0
    late_ns: int = 0
    step_ns: list[int] = field(default_factory=list)
    step_total_ns: int = 0
    watermark_ns: Nanos = 0
    last_success_ns: Nanos = 0
    dropped: int = 0


class Watcher:
    """The service.

    Parameters
    ----------
    config : Config
    host : str
    harvest : bool
        Sample this host's kernel.
    follow : bool
        Also score what other writers put into the store (other hosts, ingested captures).
    on_step : callable, optional
        Told of every step that found something.
    part : str
        The partition; it is held by a lease as long as the service runs.
    reread : callable, optional
        Gives the configuration anew when `reload` is set.
    clock : callable
        The time of day: leases, retries, retention. Scoring does not look at it.

    Raises
    ------
    Locked
        Another job holds the partition.
    """

    def __init__(
        self,
        config: Config,
        *,
        host: str,
        harvest: bool = True,
        follow: bool = True,
        on_step: Callable[[Step], None] | None = None,
        part: str = "main",
        namespaces: bool = True,
        reread: Callable[[], Config] | None = None,
        clock: Callable[[], Nanos] = time.time_ns,
    ) -> None:
        self.config, self.host, self.part = config, host, part
        self.counters = Counters()
        self.stop, self.reload = threading.Event(), threading.Event()
        self._on_step, self._follow, self._reread, self._clock = on_step, follow, reread, clock
        self._owner, self._leased = myself(), time.monotonic_ns()
        self._repeats = Repeats()
        self._retry_at = 0
        self._behind = False
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._saving: tuple[Memory, Future[str]] | None = None
        self.captures: CaptureIntake | None = None
        if config.captures.taps and harvest and config.captures.host == host:
            raise ConfigError(
                f"captures.host: expected another name than this host's ({host!r}), whose kernel is watched"
            )
        self.state = StateDB(config.state, busy_ms=BUSY_MS)
        take(self.state, part, self._owner, clock())
        try:
            self.store = Store(config.store, background=True, on_full="drop")
            self.sinks: list[Sink] = make_sinks(config)
            self._make_engine()
            if config.captures.taps:
                self.captures = CaptureIntake(config.captures, config.store, self._trouble)
        except BaseException:
            self.state.release(part, self._owner)
            raise
        self.harvester = None
        if harvest:
            settings = structs.replace(config.harvest, namespaces=namespaces and config.harvest.namespaces)
            self.harvester = make_harvester(settings, host, Path(config.store))
            known_boot(Path(config.store), host, self.harvester.boot_id)
        self._over = threading.Event()
        self._delivery = Delivery(config, self.sinks, self._over, self._trouble, clock)
        self._champions = self._versions()

    def _make_engine(self) -> None:
        self.grouper = make_grouper(self.config)
        self.engine = Engine(
            self.state, self.part, live_detectors(self.state, self.config.scoring.detectors), self.grouper,
            Path(self.config.checkpoints), sinks=[s.name for s in self.sinks], shadows=shadow_detectors(self.state),
            owner=self._owner, max_series=self.config.scoring.max_series,
        )  # fmt: skip

    @property
    def delivered(self) -> int:
        """Messages acknowledged by sinks."""
        return self._delivery.sent

    def close(self) -> None:
        """Flush, checkpoint, give the lease back, close."""
        try:
            if self.captures is not None:
                self.captures.close()
            if self.harvester is not None:
                self.harvester.close()
            self.store.flush()
            self.engine.checkpoint(self._clock())
            self.state.release(self.part, self._owner)
        except TailwatchError as error:  # the next start goes on from the checkpoint before
            self._trouble("stop", error)
        self._writer.shutdown()
        self.store.close()
        self.state.close()

    def run(self, seconds: float | None = None) -> None:
        """Work until `stop` is set (or for `seconds`, or until a pipe that is the only input is closed).

        Raises
        ------
        LeaseLost
            Another job took the partition over.
        InputError
            The pipe that was the only input is no capture.
        """
        self._catch_up()
        helpers: list[threading.Thread] = [self._delivery]
        if self.config.kafka is not None:
            helpers.append(KafkaThread(self.config, self.stop, self._trouble))
        for helper in helpers:
            helper.start()
        settings = self.config.harvest
        care = Care(self.store, round(settings.keep_days * DAY), round(settings.max_gb * 1e9), None)
        try:
            with links(settings, self.store, self.host):
                self._loop(seconds, care)
            if self.captures is not None and not self.captures.durable:
                self._take_captures(last=True)  # what is still open; it cannot be read again
        finally:
            self.stop.set()
            self._over.set()  # one more delivery, of what the last step found
            for helper in helpers:
                helper.join(timeout=15)
            care.close()
        if self.harvester is None and self.captures is not None and self.captures.failed is not None:
            raise self.captures.failed

    def _loop(self, seconds: float | None, care: Care) -> None:
        period = self.harvester.tick_ns if self.harvester else SECOND // 10
        start = time.monotonic_ns()
        tick, checkpointed, looked, trimmed = 0, start, start, start
        while not self.stop.is_set():
            due = start + tick * period
            now = time.monotonic_ns()
            if now - due > 10 * period:  # never catch up in a burst after a stall
                tick = (now - start) // period
                due = now
            self._pause(due)
            self.counters.late_ns = max(0, time.monotonic_ns() - due)
            tick += 1
            self._tick()
            now = time.monotonic_ns()
            if now - looked > SECOND:
                looked = now
                self._renew(now)
                self._attempt("checkpoint", self._end_checkpoint)
                if self.engine.waiting:
                    self._step()
                self._follow_store()
                care.look(now / 1e9)
                if self.harvester is not None:
                    self.harvester.incident(bool(self.grouper.open_incidents))
            if self.reload.is_set():
                self.reload.clear()
                self._reconfigure()
            if now - checkpointed > self.config.scoring.checkpoint_s * SECOND:
                checkpointed = now
                self._maintain()
            if now - trimmed > 3600 * SECOND:
                trimmed = now
                self._writer.submit(self._attempt, "retention", self._trim)
            if seconds is not None and now - start > seconds * SECOND:
                break
            if self.captures is not None and self.captures.finished and self.harvester is None:
                break

    def _catch_up(self) -> None:
        """Read again what the last checkpoint does not know: from the store, and captures from their own place."""
        offsets = self.engine.resume()
        first = True
        for host in sorted(self.store.hosts()):
            if self.captures is not None and self.captures.durable and host == self.captures.host:
                continue
            if not self._follow and host not in (self.host, self.captures.host if self.captures else ""):
                continue
            for events in self.store.read(offsets.get(host, 0), 2**62, select=of_host(host)):
                self._take(events)
                first = False
                if self.engine.waiting > HELD_MOST:  # the database is away: the rest is read once it is back
                    self._behind = True
                    break
            if self._behind:
                break
        if not first:
            body = {"offsets": dict(self.engine.offsets)}
            self._attempt("state", lambda: self.state.note(self.part, self._clock(), "restart", body))
        if self.captures is not None:
            self.captures.start(self.engine.inputs.get("captures", {}))

    def _pause(self, due: int) -> None:
        """Until it is time for the next sample: read captures, or wait."""
        while True:
            told = self._take_captures(due)
            left = due - time.monotonic_ns()
            if left <= 0 or self.stop.is_set():
                return
            if not told:
                self.stop.wait(left / 1e9 if self.captures is None else min(left / 1e9, IDLE_S))

    def _take_captures(self, due: int = 0, *, last: bool = False) -> bool:
        """Score what captures tell, until `due` (one step at least); whether there was anything."""
        told = False
        if self.captures is None or (self.engine.waiting > HELD_MOST and not last):
            return False
        for taken in self.captures.poll(last=last):
            for events in taken.events:
                self.engine.push(events)
                self.counters.events += len(events)
            self.engine.inputs["captures"] = taken.position
            self._step()
            told = True
            if time.monotonic_ns() >= due and not last:
                break
        return told

    def _tick(self) -> None:
        if self.harvester is None:
            return
        if self.counters.late_ns:
            self.harvester.late(self.counters.late_ns)
        begun = time.perf_counter_ns()
        self._behind = self._behind or self.engine.waiting > HELD_MOST
        for events in self.harvester.sample():
            self._attempt("store", lambda batch=events: self.store.append(batch))  # type: ignore[misc]
            if not self._behind:
                self.engine.push(events)
            self.counters.events += len(events)
        dropped = self.store.dropped + (self.captures.dropped if self.captures is not None else 0)
        if dropped > self.counters.dropped:  # a full disk: scoring goes on, the loss is counted
            self._trouble("store", TailwatchError("samples could not be stored: the disk is full"))
            self.counters.dropped = dropped
        self._step()
        took = time.perf_counter_ns() - begun
        self.counters.step_total_ns += took
        self.counters.step_ns.append(took)
        del self.counters.step_ns[:-1000]

    def _follow_store(self) -> None:
        """Score what others stored; and what this host stored while scoring had to wait."""
        if self.engine.waiting > HELD_MOST:
            return
        own = {self.host} if self.harvester is not None and not self._behind else set()
        if self.captures is not None:
            own.add(self.captures.host)
        self._attempt("store", lambda: self._read_on(own))

    def _read_on(self, own: set[str]) -> None:
        for host in sorted(set(self.store.hosts()) - own):
            if not self._follow and host != self.host:
                continue
            for events in self.store.read(self.engine.offsets.get(host, 0), 2**62, select=of_host(host)):
                self._take(events)
                if self.engine.waiting > HELD_MOST:
                    return
        self._behind = False

    def _take(self, events: Events) -> None:
        self.engine.push(events)
        self.counters.events += len(events)
        self._step()

    def _step(self) -> None:
        """Score; commit what was found, once what it rests on is with the kernel."""
        now = self._clock()
        step = self.engine.step(now, commit=False)
        c = self.counters
        c.steps += 1
        if self.engine.waiting:
            if time.monotonic_ns() < self._retry_at:
                return
            try:
                self._flush()
                step = self.engine.commit(now)
            except LeaseLost:
                raise
            except TailwatchError as error:
                self._retry_at = time.monotonic_ns() + RETRY_NS
                self._trouble("commit", error)
                return
        c.alerts += len(step.alerts)
        c.incidents += sum(x.action == "opened" for x in step.changes)
        c.watermark_ns, c.last_success_ns = step.watermark_ns, now
        if self._on_step is not None and (step.alerts or step.changes):
            self._on_step(step)

    def _renew(self, now: int) -> None:
        if (now - self._leased) * 10 < LEASE_NS:
            return
        self._leased = now
        try:
            at = self._clock()
            if not self.state.lease(self.part, self._owner, at, at + LEASE_NS):
                raise LeaseLost(f"partition {self.part!r} was taken over by another job; this one stops")
        except LeaseLost:
            raise
        except TailwatchError as error:
            self._trouble("lease", error)

    def _maintain(self) -> None:
        """Begin a checkpoint; take up champions that were promoted."""
        if Path(self.config.tracking.removeprefix("sqlite:///")).exists():
            subprocess.Popen(
                [sys.executable, "-m", "pipelines.cli", "sync"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        try:
            if self._versions() != self._champions:
                self._checkpoint()
                self._champions = self._versions()
                self._renew_engine()
                return
        except LeaseLost:
            raise
        except TailwatchError as error:
            self._trouble("champions", error)
        self._attempt("checkpoint", self._begin_checkpoint)

    def _begin_checkpoint(self) -> None:
        """Copy the memory, and let a thread write it: a step must not wait for the disk."""
        if self._saving is not None:
            return
        self._flush()
        memory = self.engine.memory(self._clock())
        self._saving = memory, self._writer.submit(memory.write)

    def _end_checkpoint(self, *, wait: bool = False) -> None:
        """Point at what was written, once it is."""
        if self._saving is None or not (wait or self._saving[1].done()):
            return
        (memory, written), self._saving = self._saving, None
        self.engine.point_at(memory, written.result())

    def _checkpoint(self) -> None:
        """Save the memory, now; the rows that it has seen are with the kernel before."""
        self._attempt("checkpoint", lambda: self._end_checkpoint(wait=True))
        self._flush()
        self.engine.checkpoint(self._clock())

    def _flush(self) -> None:
        self.store.flush()
        if self.captures is not None:
            self.captures.flush()

    def _trim(self) -> None:
        now, scoring = self._clock(), self.config.scoring
        before = now - round(scoring.keep_days * DAY)
        with StateDB(self.config.state) as state:
            trim(state, before, evidence_before_ns=now - round(scoring.keep_evidence_days * DAY))

    def _versions(self) -> dict[str, str]:
        return {c.detector: c.version for c in self.state.champions()}

    def _reconfigure(self) -> None:
        """Take the configuration up anew, without a gap; what cannot change while running is told."""
        if self._reread is None:
            return
        try:
            fresh = self._reread()
            fixed = [n for n in ("store", "state", "checkpoints", "http", "harvest", "captures", "kafka")
                     if getattr(fresh, n) != getattr(self.config, n)]  # fmt: skip
            if fixed:
                log.warning("reload: %s: changes need a restart", ", ".join(fixed))
            sinks = make_sinks(fresh)
            self._checkpoint()
            before, self.config, self.sinks = (self.config, self.sinks), fresh, sinks
            try:
                self._renew_engine()
            except TailwatchError:
                self.config, self.sinks = before
                raise
            self._delivery.configure(fresh, sinks)
            log.info("configuration taken up anew")
        except LeaseLost:
            raise
        except TailwatchError as error:
            self._trouble("reload", error)

    def _renew_engine(self) -> None:
        """A new engine from the checkpoint just written; what it does not know is warmed silently: no gap."""
        kept = self.engine, self.grouper
        try:
            self._make_engine()
            self.engine.resume()
            for host, detector in self.engine.unwarmed():
                until = self.engine.offsets[host]
                history = self.store.read(max(0, until - 3600 * SECOND), until, select=of_host(host))
                self.engine.warm(detector, history)
        except TailwatchError:
            self.engine, self.grouper = kept
            raise

    def _attempt(self, where: str, what: Callable[[], object]) -> bool:
        """Do it; what goes wrong is counted, told and survived."""
        try:
            what()
        except LeaseLost:
            raise
        except (TailwatchError, OSError) as error:
            self._trouble(where, error)
            return False
        return True

    def _trouble(self, where: str, error: Exception) -> None:
        self.counters.errors += 1
        again = self._repeats.pass_on(where, str(error))
        if again is not None:
            extra = {"where": where, "error": type(error).__name__} | ({"repeated": again} if again else {})
            log.error("%s: %s%s", where, error, f" (and {again} times before)" if again else "", extra=extra)
