"""A scheduled job: score what is new since the last run, commit, deliver, exit."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.config import Config
from pipelines.sinks import Sink, deliver, make_sinks, refresh
from pipelines.state import StateDB
from telemetry.errors import NoDataError
from telemetry.store import Store
from telemetry.types import Nanos

__all__ = ["Locked", "Result", "score"]

LEASE_NS = 300_000_000_000
WARM_NS = 3_600_000_000_000


class Locked(NoDataError):
    """Another job holds the partition."""

    exit_code = 75


@dataclass(frozen=True, slots=True)
class Result:
    """What a run did."""

    events: int
    alerts: int
    incidents: int
    delivered: int
    undelivered: int
    watermark_ns: Nanos
    seconds: float


def score(
    config: Config, *, part: str = "main", now_ns: Nanos | None = None, progress: Callable[[int], None] | None = None
) -> Result:
    """Score everything in the store that this partition has not seen, in bounded memory.

    Safe to run twice, late or in parallel (a lease); after a crash the next run continues exactly.

    Raises
    ------
    Locked
        Another job holds the lease.
    NoDataError
        There is no store yet.
    """
    start = time.perf_counter()
    now = time.time_ns() if now_ns is None else now_ns
    owner = myself()
    if not Path(config.store).exists():
        raise NoDataError(f"{config.store}: no store there yet; run 'tailwatch harvest' or 'tailwatch ingest' first")
    with StateDB(config.state) as state, Store(config.store, create=False) as store:
        if not take(state, part, owner, now):
            raise Locked(f"partition {part!r} is being scored by another job")
        try:
            sinks = make_sinks(config)
            events = alerts = incidents = 0
            watermark, offsets = state.progress(part)
            last = store.last_seen_ns()
            if last is not None and (not offsets or last >= max(offsets.values())):
                events, alerts, incidents, watermark = _catch_up(config, state, store, part, owner, sinks, progress)
            refresh(state, sinks, now)
            done = deliver(state, sinks, now, per_minute=config.sinks.max_per_minute)
        finally:
            state.release(part, owner)
    return Result(events, alerts, incidents, done.sent, done.failed, watermark, time.perf_counter() - start)


def myself() -> str:
    """This process, for a lease: host, pid and start time (pids are used again)."""
    return f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}"


def _started(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return ""


def take(state: StateDB, part: str, owner: str, now_ns: Nanos) -> bool:
    """Take the lease; at once from a job of this host that is dead."""
    if state.lease(part, owner, now_ns, now_ns + LEASE_NS):
        return True
    held = next((p["lease_owner"] for p in state.parts() if p["name"] == part), None) or ""
    host, _, rest = held.partition(":")
    pid, _, started = rest.partition(":")
    if host == socket.gethostname() and pid.isdigit() and _started(int(pid)) != started:
        state.release(part, held)
        return state.lease(part, owner, now_ns, now_ns + LEASE_NS)
    return False


def _catch_up(
    config: Config,
    state: StateDB,
    store: Store,
    part: str,
    owner: str,
    sinks: Sequence[Sink],
    progress: Callable[[int], None] | None,
) -> tuple[int, int, int, Nanos]:
    """Read, score and commit in steps; imports the numeric libraries only now that there is something to do."""
    from pipelines.engine import Engine
    from pipelines.live import live_detectors, make_grouper, shadow_detectors
    from telemetry.source import merge

    engine = Engine(
        state, part, live_detectors(state, config.scoring.detectors), make_grouper(config), Path(config.checkpoints),
        sinks=[s.name for s in sinks], shadows=shadow_detectors(state),
    )  # fmt: skip
    engine.resume()
    for host, detector in engine.unwarmed():
        until = engine.offsets[host]
        engine.warm(detector, store.read(max(0, until - WARM_NS), until, select=f'host="{host}"'))
    events = alerts = incidents = 0
    at = time.monotonic_ns()
    hosts = sorted(store.hosts())
    streams = [store.read(engine.offsets.get(h, 0), 2**62, select=f'host="{h}"') for h in hosts]
    for batch in merge(streams):
        engine.push(batch)
        step = engine.step(time.time_ns())
        events += len(batch)
        alerts += len(step.alerts)
        incidents += sum(c.action == "opened" for c in step.changes)
        if progress is not None:
            progress(events)
        if time.monotonic_ns() - at > config.scoring.checkpoint_s * 1e9:
            state.lease(part, owner, time.time_ns(), time.time_ns() + LEASE_NS)
            engine.commit_progress(time.time_ns())
            engine.checkpoint()
            at = time.monotonic_ns()
    engine.commit_progress(time.time_ns())
    engine.checkpoint()
    return events, alerts, incidents, engine.watermark_ns
