"""Always on: this host's kernel (and what others put into the store) in, incidents out.

One loop paces the sampler, scores what came and commits it; deliveries run in a thread of their own, so that a slow
receiver never holds up scoring. Graceful stop: the store is flushed, a checkpoint is written.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.config import Config
from pipelines.engine import Engine, Step
from pipelines.harvest import known_boot
from pipelines.live import live_detectors, make_grouper, shadow_detectors
from pipelines.sinks import Sink, deliver, make_sinks, refresh
from pipelines.state import StateDB
from telemetry.errors import InputError, StoreError, TailwatchError
from telemetry.harvest import Harvester
from telemetry.store import Store
from telemetry.types import Events, Nanos

__all__ = ["Counters", "Watcher"]

SECOND = 1_000_000_000


@dataclass(slots=True)
class Counters:
    """What the service says of itself."""

    events: int = 0
    alerts: int = 0
    incidents: int = 0
    steps: int = 0
    delivered: int = 0
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
        Also score what other writers put into the store (other hosts, captures).
    on_step : callable, optional
        Told of every step that found something.
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
    ) -> None:
        self.config, self.host, self.part = config, host, part
        self.counters = Counters()
        self.stop = threading.Event()
        self._on_step = on_step
        self._follow = follow
        self.state = StateDB(config.state)
        self.store = Store(config.store, background=True, on_full="drop")
        self.sinks: list[Sink] = make_sinks(config)
        self.grouper = make_grouper(self.config)
        self.engine = Engine(
            self.state, part, live_detectors(self.state, config.scoring.detectors), self.grouper,
            Path(config.checkpoints), sinks=[s.name for s in self.sinks], shadows=shadow_detectors(self.state),
        )  # fmt: skip
        settings = config.harvest
        self.harvester = None
        if harvest:
            self.harvester = Harvester(
                settings.root,
                host=host,
                hz=settings.hz,
                processes=settings.processes,
                namespaces=namespaces,
                boot_id=known_boot(Path(config.store), host),
            )
            known_boot(Path(config.store), host, self.harvester.boot_id)
        self._champions = self._versions()

    def close(self) -> None:
        """Flush, checkpoint, close."""
        self.store.flush()
        self.engine.commit_progress(time.time_ns())
        self.engine.checkpoint()
        self.store.close()
        self.state.close()

    def run(self, seconds: float | None = None) -> None:
        """Work until `stop` is set (or for `seconds`)."""
        self._catch_up()
        delivery = threading.Thread(target=self._deliver, name="delivery", daemon=True)
        delivery.start()
        helpers = [delivery]
        if self.config.kafka is not None:
            helpers.append(threading.Thread(target=self._take_kafka, name="kafka", daemon=True))
            helpers[-1].start()
        period = round(SECOND / (self.config.harvest.hz if self.harvester else 10.0))
        start = time.monotonic_ns()
        tick, checkpointed, looked = 0, start, start
        while not self.stop.is_set():
            due = start + tick * period
            now = time.monotonic_ns()
            if now < due:
                self.stop.wait((due - now) / 1e9)
            elif now - due > 10 * period:  # never catch up in a burst after a stall
                tick = (now - start) // period
                due = now
            self.counters.late_ns = max(0, time.monotonic_ns() - due)
            tick += 1
            self._tick()
            now = time.monotonic_ns()
            if now - looked > SECOND:
                looked = now
                self._follow_store()
            if now - checkpointed > self.config.scoring.checkpoint_s * SECOND:
                checkpointed = now
                self._maintain()
            if seconds is not None and now - start > seconds * SECOND:
                break
        self.stop.set()
        for thread in helpers:
            thread.join(timeout=15)

    def _catch_up(self) -> None:
        """Read again what the last checkpoint does not know, from the store."""
        offsets = self.engine.resume()
        first = True
        for host in sorted(self.store.hosts()):
            if not self._follow and host != self.host:
                continue
            for events in self.store.read(offsets.get(host, 0), 2**62, select=f'host="{host}"'):
                self._take(events)
                first = False
        if not first:
            self.state.note(self.part, time.time_ns(), "restart", {"offsets": dict(self.engine.offsets)})

    def _tick(self) -> None:
        if self.harvester is None:
            return
        if self.counters.late_ns:
            self.harvester.late(self.counters.late_ns)
        begun = time.perf_counter_ns()
        for events in self.harvester.sample():
            self.store.append(events)
            self.engine.push(events)
            self.counters.events += len(events)
        if self.store.dropped > self.counters.dropped:  # a full disk: scoring goes on, the loss is counted
            self._trouble("store", StoreError(f"{self.store.dropped} samples could not be stored so far"))
            self.counters.dropped = self.store.dropped
        self._step()
        took = time.perf_counter_ns() - begun
        self.counters.step_total_ns += took
        self.counters.step_ns.append(took)
        del self.counters.step_ns[:-1000]

    def _follow_store(self) -> None:
        if not self._follow:
            return
        for host in sorted(self.store.hosts()):
            if self.harvester is not None and host == self.host:
                continue
            for events in self.store.read(self.engine.offsets.get(host, 0), 2**62, select=f'host="{host}"'):
                self._take(events)

    def _take(self, events: Events) -> None:
        self.engine.push(events)
        self.counters.events += len(events)
        self._step()

    def _step(self) -> None:
        try:
            step = self.engine.step(time.time_ns())
        except TailwatchError as error:
            self._trouble("step", error)
            return
        c = self.counters
        c.steps += 1
        c.alerts += len(step.alerts)
        c.incidents += sum(x.action == "opened" for x in step.changes)
        c.watermark_ns, c.last_success_ns = step.watermark_ns, time.time_ns()
        if self._on_step is not None and (step.alerts or step.changes):
            self._on_step(step)

    def _maintain(self) -> None:
        self.store.flush()
        self.engine.commit_progress(time.time_ns())
        self.engine.checkpoint()
        if Path(self.config.tracking.removeprefix("sqlite:///")).exists():
            subprocess.Popen(
                [sys.executable, "-m", "pipelines.cli", "sync"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        if self._versions() != self._champions:
            self._reload()

    def _versions(self) -> dict[str, str]:
        return {c.detector: c.version for c in self.state.champions()}

    def _reload(self) -> None:
        """Take new champions up: a new engine from the checkpoint, new ones warmed silently, no gap."""
        self._champions = self._versions()
        self.grouper = make_grouper(self.config)
        self.engine = Engine(
            self.state, self.part, live_detectors(self.state, self.config.scoring.detectors), self.grouper,
            Path(self.config.checkpoints), sinks=[s.name for s in self.sinks], shadows=shadow_detectors(self.state),
        )  # fmt: skip
        self.engine.resume()
        for host, detector in self.engine.unwarmed():
            until = self.engine.offsets[host]
            history = self.store.read(max(0, until - 3600 * SECOND), until, select=f'host="{host}"')
            self.engine.warm(detector, history)

    def _deliver(self) -> None:
        with StateDB(self.config.state) as state:
            refreshed = 0
            while True:
                stopping = self.stop.wait(1.0)
                try:
                    now = time.time_ns()
                    per_minute = self.config.sinks.max_per_minute
                    self.counters.delivered += deliver(state, self.sinks, now, per_minute=per_minute).sent
                    if now - refreshed > 60 * SECOND:
                        refresh(state, self.sinks, now)
                        refreshed = now
                except Exception as error:  # the outbox keeps what could not be sent
                    self._trouble("delivery", error)
                if stopping:
                    return

    def _take_kafka(self) -> None:
        """Messages go into the store, whole and once; the loop finds them there."""
        settings = self.config.kafka
        if settings is None:
            return
        from telemetry.kafka import KafkaIntake

        real = {k: os.environ.get(v[4:], "") if v.startswith("env:") else v for k, v in settings.settings.items()}
        try:
            intake = KafkaIntake(self.config.store, settings.topic, real)
        except TailwatchError as error:
            self._trouble("kafka", error)
            return
        while not self.stop.is_set():
            try:
                taken = intake.poll(1.0)
                if taken.refused:
                    self._trouble("kafka", InputError(f"{taken.refused} messages refused; {taken.reason}"))
            except Exception as error:
                self._trouble("kafka", error)
                self.stop.wait(5.0)
        intake.close()

    def _trouble(self, where: str, error: Exception) -> None:
        self.counters.errors += 1
        print(f"tailwatch: {where}: {error}", file=sys.stderr)
