"""Always on: this host's kernel, captures, and what others put into the store in; incidents out.

One loop paces the sampler, reads captures in the time between, scores what came and commits it; deliveries run in a
thread of their own, so that a slow receiver never holds up scoring. Nothing that goes away (database, disk, sink)
stops the loop: what was found is held and committed once it is back; what must be left out meanwhile is read from the
store again. Graceful stop: the store is flushed, a checkpoint is written.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from msgspec import structs

from pipelines.care import Care
from pipelines.config import Config
from pipelines.counters import Counters, Troubles
from pipelines.engine import Step
from pipelines.harvest import known_boot, make_harvester
from pipelines.intake import CaptureIntake, Delivery, KafkaThread
from pipelines.links import links
from pipelines.scorer import Scorer
from pipelines.sinks import Sink, make_sinks
from pipelines.state import LeaseLost
from telemetry.errors import ConfigError, TailwatchError
from telemetry.selectors import of_host
from telemetry.source import merge
from telemetry.store import Store
from telemetry.types import Events, Nanos

__all__ = ["Watcher"]

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
IDLE_S = 0.01

log = logging.getLogger("tailwatch.watch")


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
        self.config, self.host = config, host
        self.counters = Counters()
        self._troubles = Troubles(self.counters)
        self.stop, self.reload = threading.Event(), threading.Event()
        self._on_step, self._follow, self._reread, self._clock = on_step, follow, reread, clock
        self._behind = False
        self._newest: dict[str, Nanos] = {}
        self.captures: CaptureIntake | None = None
        if config.captures.taps and harvest and config.captures.host == host:
            raise ConfigError(
                f"captures.host: expected another name than this host's ({host!r}), whose kernel is watched"
            )
        self.sinks: list[Sink] = make_sinks(config)
        self.scorer = Scorer(
            config, part, self.sinks, flush=self._flush, history=self._history, troubles=self._troubles, clock=clock
        )
        try:
            self.store = Store(config.store, background=True, on_full="drop")
            if config.captures.taps:
                self.captures = CaptureIntake(config.captures, config.store, self._troubles.tell)
        except BaseException:
            self.scorer.release()
            raise
        self.harvester = None
        if harvest:
            settings = structs.replace(config.harvest, namespaces=namespaces and config.harvest.namespaces)
            self.harvester = make_harvester(settings, host, Path(config.store))
            known_boot(Path(config.store), host, self.harvester.boot_id)
        self._over = threading.Event()
        self._delivery = Delivery(config, self.sinks, self._over, self._troubles.tell, clock)

    @property
    def _writes(self) -> bool:
        """Whether this job puts anything into the store; a reader of others' leaves it as it is."""
        settings = self.config.harvest
        sources = (self.harvester, self.captures, settings.listen, settings.collect, self.config.kafka)
        return any(sources)

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
            self.scorer.save()
        except TailwatchError as error:  # the next start goes on from the checkpoint before
            self._troubles.tell("stop", error)
        self.scorer.close()
        self.store.close()

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
            helpers.append(KafkaThread(self.config, self.stop, self._troubles.tell))
        for helper in helpers:
            helper.start()
        settings = self.config.harvest
        keep_ns, max_bytes = round(settings.keep_days * DAY) or None, round(settings.max_gb * 1e9) or None
        if not self._writes:
            keep_ns = max_bytes = None
        care = Care(self.store, keep_ns, max_bytes, None)
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
                self.scorer.renew(now)
                self.scorer.end_checkpoint()
                if self.scorer.engine.waiting:
                    self._step()
                self._follow_store()
                care.look(now / 1e9)
                if self.harvester is not None:
                    self.harvester.incident(bool(self.scorer.grouper.open_incidents))
            if self.reload.is_set():
                self.reload.clear()
                self._reconfigure()
            if now - checkpointed > self.config.scoring.checkpoint_s * SECOND:
                checkpointed = now
                self.scorer.maintain()
            if now - trimmed > 3600 * SECOND:
                trimmed = now
                self.scorer.trim()
            if seconds is not None and now - start > seconds * SECOND:
                break
            if self.captures is not None and self.captures.finished and self.harvester is None:
                break

    def _catch_up(self) -> None:
        """Read again what the last checkpoint does not know: from the store, and captures from their own place."""
        self.scorer.engine.resume()
        before = self.counters.events
        hosts = [
            host
            for host in self.store.hosts()
            if not (self.captures is not None and self.captures.durable and host == self.captures.host)
            and (self._follow or host in (self.host, self.captures.host if self.captures else ""))
        ]
        self._behind = not self._score_stored(hosts)
        if self.counters.events > before:
            self.scorer.note("restart", {"offsets": dict(self.scorer.engine.offsets)})
        if self.captures is not None:
            self.captures.start(self.scorer.engine.inputs.get("captures", {}))

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
        if self.captures is None or (self.scorer.full and not last):
            return False
        for taken in self.captures.poll(last=last):
            for events in taken.events:
                self.scorer.engine.push(events)
                self.counters.events += len(events)
            self.scorer.engine.inputs["captures"] = taken.position
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
        self._behind = self._behind or self.scorer.full
        for events in self.harvester.sample():
            self._troubles.attempt("store", lambda batch=events: self.store.append(batch))  # type: ignore[misc]
            if not self._behind:
                self.scorer.engine.push(events)
            self.counters.events += len(events)
        dropped = self.store.dropped + (self.captures.dropped if self.captures is not None else 0)
        if dropped > self.counters.dropped:  # a full disk: scoring goes on, the loss is counted
            self._troubles.tell("store", TailwatchError("samples could not be stored: the disk is full"))
            self.counters.dropped = dropped
        self._step()
        took = time.perf_counter_ns() - begun
        self.counters.step_total_ns += took
        self.counters.step_ns.append(took)
        del self.counters.step_ns[:-1000]

    def _follow_store(self) -> None:
        """Score what others stored; and what this host stored while scoring had to wait."""
        if self.scorer.full:
            return
        own = {self.host} if self.harvester is not None and not self._behind else set()
        if self.captures is not None:
            own.add(self.captures.host)
        self._troubles.attempt("store", lambda: self._read_on(own))

    def _read_on(self, own: set[str]) -> None:
        hosts = [h for h in self.store.hosts() if h not in own and (self._follow or h == self.host)]
        if self._score_stored(hosts):
            self._behind = False

    def _score_stored(self, hosts: Iterable[str]) -> bool:
        """Score what is stored of these hosts and not scored yet, in the order in which it was seen.

        The newest instant of a host that others write is taken once it is no longer the newest, or a look later: its
        rows may still be coming. False if the database is away: the rest is read once it is back.
        """
        offsets, newest = self.scorer.engine.offsets, self.store.newest()
        mine = {self.host, self.captures.host if self.captures is not None else self.host}
        spans = {}
        for host in hosts:
            last = newest.get(host, 0)
            spans[host] = offsets.get(host, 0), last + (host in mine or self._newest.get(host) == last)
        self._newest = newest
        seen = -1
        with self.store.by_host(spans) as streams:
            for events in merge(streams):
                if self.scorer.full and events.seen_ns[0] > seen:  # never within an instant: offsets are instants
                    return False
                seen = int(events.seen_ns[-1])
                self.scorer.engine.push(events)
                self.counters.events += len(events)
                self._step()
        return True

    def _step(self) -> None:
        """Score, and count what was committed."""
        now, c = self._clock(), self.counters
        step = self.scorer.step(now)
        c.steps += 1
        if step is None:
            return
        c.alerts += len(step.alerts)
        c.incidents += sum(x.action == "opened" for x in step.changes)
        c.watermark_ns, c.last_success_ns = step.watermark_ns, now
        if self._on_step is not None and (step.alerts or step.changes):
            self._on_step(step)

    def _flush(self) -> None:
        self.store.flush()
        if self.captures is not None:
            self.captures.flush()

    def _history(self, host: str, from_ns: Nanos, to_ns: Nanos) -> Iterable[Events]:
        return self.store.read(from_ns, to_ns, select=of_host(host))

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
            self.scorer.configure(fresh, sinks)
            self.config, self.sinks = fresh, sinks
            self._delivery.configure(fresh, sinks)
            log.info("configuration taken up anew")
        except LeaseLost:
            raise
        except TailwatchError as error:
            self._troubles.tell("reload", error)
