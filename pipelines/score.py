"""A scheduled job: score what is new since the last run, commit, deliver, exit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.config import Config
from pipelines.lease import LEASE_NS, Locked, myself, take
from pipelines.sinks import Delivery, Sink, deliver, make_sinks, refresh
from pipelines.state import StateDB
from telemetry.errors import NoDataError
from telemetry.store import Store
from telemetry.types import Events, Nanos

__all__ = ["Locked", "Result", "score", "send_due"]

WARM_NS = 3_600_000_000_000


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
    config: Config,
    *,
    part: str = "main",
    clock: Callable[[], Nanos] = time.time_ns,
    progress: Callable[[int], None] | None = None,
    hosts: Callable[[str], bool] | None = None,
    send: bool = True,
) -> Result:
    """Score everything in the store that this partition has not seen, in bounded memory.

    `hosts` says which hosts are the partition's (all by default); without `send`, messages wait in the outbox.

    Safe to run twice, late or in parallel (a lease); after a crash the next run continues exactly.

    Raises
    ------
    Locked, LeaseLost
        Another job holds the lease, or has taken it over.
    NoDataError
        There is no store yet.
    """
    start = time.perf_counter()
    owner = myself()
    if not Path(config.store).exists():
        raise NoDataError(f"{config.store}: no store there yet; run 'tailwatch harvest' or 'tailwatch ingest' first")
    with StateDB(config.state) as state, Store(config.store, create=False) as store:
        take(state, part, owner, clock())
        try:
            sinks = make_sinks(config)
            events = alerts = incidents = 0
            watermark, _ = state.progress(part)
            kept = state.checkpoint(part)
            offsets = kept.meta["offsets"] if kept is not None else {}
            mine = {h: at for h, at in store.newest().items() if hosts is None or hosts(h)}
            if any(at >= offsets.get(host, at) for host, at in mine.items()):
                events, alerts, incidents, watermark = _catch_up(
                    config, state, store, part, owner, sinks, clock, progress, hosts
                )
            done = send_due(config, state, sinks, clock()) if send else Delivery(0, 0, 0)
        finally:
            state.release(part, owner)
    return Result(events, alerts, incidents, done.sent, done.failed, watermark, time.perf_counter() - start)


def send_due(config: Config, state: StateDB, sinks: Sequence[Sink], now_ns: Nanos) -> Delivery:
    """Deliver what waits, and remind receivers of what is open."""
    refresh(state, sinks, now_ns)
    return deliver(state, sinks, now_ns, per_minute=config.sinks.max_per_minute)


def _catch_up(
    config: Config,
    state: StateDB,
    store: Store,
    part: str,
    owner: str,
    sinks: Sequence[Sink],
    clock: Callable[[], Nanos],
    progress: Callable[[int], None] | None,
    wanted: Callable[[str], bool] | None,
) -> tuple[int, int, int, Nanos]:
    """Read, score and commit in steps; imports the numeric libraries only now that there is something to do."""
    from pipelines.engine import Engine
    from pipelines.live import live_detectors, make_grouper, shadow_detectors
    from telemetry.selectors import of_host
    from telemetry.source import merge

    engine = Engine(
        state, part, live_detectors(state, config.scoring.detectors), make_grouper(config), Path(config.checkpoints),
        sinks=[s.name for s in sinks], shadows=shadow_detectors(state), owner=owner,
        max_series=config.scoring.max_series,
    )  # fmt: skip
    engine.resume()
    for host, detector in engine.unwarmed():
        until = engine.offsets[host]
        engine.warm(detector, store.read(max(0, until - WARM_NS), until, select=of_host(host)))
    events = alerts = incidents = 0
    at = time.monotonic_ns()
    hosts = [h for h in sorted(store.hosts()) if wanted is None or wanted(h)]
    with store.by_host({h: (engine.offsets.get(h, 0), 2**62) for h in hosts}) as streams:
        for batch, whole in _instants(merge(streams)):
            engine.push(batch)
            step = engine.step(clock())
            events += len(batch)
            alerts += len(step.alerts)
            incidents += sum(c.action == "opened" for c in step.changes)
            if progress is not None:
                progress(events)
            if whole and time.monotonic_ns() - at > config.scoring.checkpoint_s * 1e9:
                now = clock()
                state.lease(part, owner, now, now + LEASE_NS)
                engine.checkpoint(now)
                at = time.monotonic_ns()
    engine.checkpoint(clock())
    return events, alerts, incidents, engine.watermark_ns


def _instants(batches: Iterable[Events]) -> Iterator[tuple[Events, bool]]:
    """Each batch, and whether all rows of its last instant have come with it: a checkpoint knows instants, not rows."""
    before: Events | None = None
    for batch in batches:
        if before is not None:
            yield before, bool(batch.seen_ns[0] > before.seen_ns[-1])
        before = batch
    if before is not None:
        yield before, True
