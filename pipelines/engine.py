"""Champions over the hosts of a partition: events in, committed alerts and incident changes out.

Each host has its own detectors (their state is sequential in its own seen order); one grouper joins all hosts, fed in
(end_ns, id) order up to the least watermark. A step commits what it found; model state is checkpointed apart.
After a crash: `resume` loads the last checkpoint, the caller reads its input again from `offsets`, and what is stored
already is recognised by its id. What could not be committed (the database is away) is held and committed by a later
step; nothing is checkpointed before it is.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detectors.build import build
from detectors.detector import Detector
from detectors.incidents import Grouper
from detectors.policy import Decision
from pipelines.cardinality import Guard
from pipelines.savefile import load_snapshots, save_snapshots
from pipelines.state import SHADOW, Checkpoint, StateDB
from telemetry.errors import StoreError
from telemetry.types import Alert, Events, IncidentChange, Nanos, Panel, Scores, Snapshot

__all__ = ["Engine", "Memory", "Step"]

NEVER = -(2**62)
log = logging.getLogger("tailwatch.engine")


@dataclass(frozen=True, slots=True)
class Step:
    """What a step found and committed."""

    alerts: list[Alert]
    changes: list[IncidentChange]
    watermark_ns: Nanos


@dataclass(frozen=True, slots=True)
class Memory:
    """All memory of an engine at one moment; its own copy."""

    path: Path
    snapshots: Mapping[str, Snapshot]
    meta: Mapping[str, Any]

    def write(self) -> str:
        """Write the file, durably; its digest. Any thread may do this."""
        return save_snapshots(self.path, dict(self.snapshots))


class Engine:
    """Runs and commits.

    Parameters
    ----------
    state : StateDB
    part : str
        Name of the partition.
    make : callable
        Makes the detectors of a host, cold or from their registered state.
    grouper : Grouper
    checkpoints : Path
        Folder of the checkpoint files.
    sinks : names of sinks that get an outbox row for each incident change.
    shadows : callable
        Makes the challengers of a host: they score, their alerts are stored apart and go nowhere.
    idle_timeout_ns : how long a silent host holds the grouper back.
    owner : str, optional
        Holder of the partition's lease: commits fail with `LeaseLost` once another job has it.
    max_series : int
        Events of series beyond this many are dropped, counted and noted (see `guard`).
    """

    def __init__(
        self,
        state: StateDB,
        part: str,
        make: Callable[[str], Sequence[Detector]],
        grouper: Grouper,
        checkpoints: Path,
        *,
        sinks: Sequence[str] = (),
        shadows: Callable[[str], Sequence[Detector]] | None = None,
        idle_timeout_ns: Nanos = 5_000_000_000,
        owner: str | None = None,
        max_series: int = 50_000,
    ) -> None:
        self.guard = Guard(max_series)
        self._told = ""
        self._owner = owner
        self._alerts: list[Alert] = []
        self._changes: list[IncidentChange] = []
        self._dark: list[Alert] = []
        self.inputs: dict[str, Any] = {}
        """Where inputs of their own position stand (captures): committed with each checkpoint, filled by `resume`."""
        self.state, self.part, self.sinks = state, part, tuple(sinks)
        self._make, self._grouper, self._folder = make, grouper, checkpoints
        self._idle = idle_timeout_ns
        self._lanes: dict[str, list[Detector]] = {}
        self._make_shadows = shadows or (lambda host: ())
        self._shadows: dict[str, list[Detector]] = {}
        self.calibration: dict[str, np.ndarray] = {}
        self.offsets: dict[str, Nanos] = {}
        self.watermark_ns = NEVER
        self._restored: set[int] = set()
        self._turn = 0

    def detectors(self, host: str) -> list[Detector]:
        """The detectors of a host (made when it is first seen)."""
        if host not in self._lanes:
            lane = self._lanes[host] = list(self._make(host))
            self._shadows[host] = list(self._make_shadows(host))
            for detector in lane:
                detector.observer = self._observer(detector.spec.name)
        return self._lanes[host]

    def _observer(self, name: str) -> Callable[[Panel, Scores, Decision], None]:
        """Tell the grouper what is watched, and count how often surprise exceeds 1, 2, 3 (is it calibrated?)."""
        seen = self.calibration.setdefault(name, np.zeros(4, np.int64))

        def observe(panel: Panel, scores: Scores, decision: Decision) -> None:
            self._grouper.watch(panel)
            s = scores.surprise
            seen[0] += np.count_nonzero(~np.isnan(s))
            for level in (1, 2, 3):
                seen[level] += np.count_nonzero(s >= level)

        return observe

    def push(self, events: Events) -> None:
        """Take in a batch, in seen order for each host."""
        if not len(events):
            return
        self._grouper.note(events)
        admitted = self.guard.admit(events)
        for host, mine in _by_host(events):
            self.offsets[host] = max(self.offsets.get(host, NEVER), int(mine.seen_ns[-1]) + 1)
            if admitted is events:
                self._push(host, mine)
        if admitted is not events and len(admitted):
            for host, mine in _by_host(admitted):
                self._push(host, mine)

    def _push(self, host: str, events: Events) -> None:
        for detector in (*self.detectors(host), *self._shadows[host]):
            detector.push(events)

    def step(self, now_ns: Nanos = 0, *, commit: bool = True) -> Step:
        """Close what the data allows, group, and commit it all in one transaction (unless `commit` is false)."""
        alerts: list[Alert] = []
        shadows: list[Alert] = []
        marks: list[Nanos] = []
        for host in sorted(self._lanes):
            lane = self._lanes[host]
            for detector in lane:
                alerts += detector.close(detector.watermark_ns)
            marks += [d.watermark_ns for d in lane]
            for detector in self._shadows[host]:
                shadows += detector.close(detector.watermark_ns)
        if marks:
            self.watermark_ns = max(self.watermark_ns, min(marks), max(marks) - self._idle)
        alerts.sort(key=lambda a: (a.end_ns, a.id))
        self._alerts += alerts
        self._dark += shadows
        if self.watermark_ns > NEVER:
            self._changes += self._grouper.push(alerts, self.watermark_ns)
        return self.commit(now_ns) if commit and self.waiting else Step([], [], self.watermark_ns)

    @property
    def waiting(self) -> int:
        """How many alerts and incident steps are found and not committed yet."""
        return len(self._alerts) + len(self._changes) + len(self._dark)

    def commit(self, now_ns: Nanos = 0) -> Step:
        """Commit what waits, watermark and offsets. On an error all of it goes on waiting."""
        self.state.commit(
            self.part, self._alerts, self._changes, watermark_ns=self.watermark_ns, offsets=self.offsets,
            sinks=self.sinks, shadows=self._dark, now_ns=now_ns, owner=self._owner,
        )  # fmt: skip
        if self.guard.culprit != self._told:
            self._told = self.guard.culprit
            body = {"limit": self.guard.most, "refused_events": self.guard.refused, "culprit": self._told}
            log.warning("series limit reached: %s", self._told, extra=body)
            self.state.note(self.part, now_ns, "series_limit", body)
        done = Step(self._alerts, self._changes, self.watermark_ns)
        self._alerts, self._changes, self._dark = [], [], []
        return done

    def checkpoint(self, now_ns: Nanos = 0) -> Checkpoint:
        """Commit what waits, save all memory to a new file and point at it; the file before it stays, older ones go."""
        memory = self.memory(now_ns)
        return self.point_at(memory, memory.write())

    def memory(self, now_ns: Nanos = 0) -> Memory:
        """Commit what waits; a copy of all memory as it is now, to be written while work goes on."""
        self.commit(now_ns)
        snapshots = {f"{host}\x1f{d.spec.name}": d.snapshot() for host, lane in self._lanes.items() for d in lane}
        dark = self._shadows.items()
        snapshots |= {f"{host}\x1f{d.spec.name}\x1f{SHADOW}": d.snapshot() for host, lane in dark for d in lane}
        snapshots["grouper"] = Snapshot({}, self._grouper.snapshot())
        snapshots["guard"] = Snapshot({}, self.guard.snapshot())
        meta: dict[str, Any] = {"offsets": dict(self.offsets), "watermark_ns": self.watermark_ns}
        meta |= {"turn": self._turn + 1, "inputs": dict(self.inputs)}
        name = f"{_safe(self.part)}-{self._turn + 1}-{os.urandom(3).hex()}.npz"  # no other job writes this one
        return Memory(self._folder / name, snapshots, meta)

    def point_at(self, memory: Memory, digest: str) -> Checkpoint:
        """Make what was written the checkpoint."""
        before = self.state.checkpoint(self.part)
        meta = dict(memory.meta)
        if before is not None:
            older = {k: v for k, v in before.meta.items() if k != "before"}
            meta["before"] = {"path": before.path, "digest": before.digest, "meta": older}
        done = Checkpoint(str(memory.path), digest, meta)
        try:
            self.state.set_checkpoint(self.part, done, owner=self._owner)
        except StoreError:
            memory.path.unlink(missing_ok=True)
            raise
        self._turn = meta["turn"]
        self._remove_all_but({memory.path.name, Path(before.path).name if before is not None else ""})
        return done

    def _remove_all_but(self, names: set[str]) -> None:
        mine = re.compile(re.escape(_safe(self.part)) + r"-\d+-[0-9a-f]{6}\.npz")
        for path in self._folder.glob("*.npz"):
            if path.name not in names and mine.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def resume(self) -> Mapping[str, Nanos]:
        """Load the last checkpoint that can be read; returns the offsets to read on from, by host.

        One that is damaged or gone is noted and the one before it is taken; without any, the input is read again from
        its beginning. Both give the same alerts, only later.
        """
        newest = kept = self.state.checkpoint(self.part)
        snapshots: dict[str, Snapshot] = {}
        while kept is not None:
            try:
                snapshots = load_snapshots(Path(kept.path), kept.digest)
                break
            except StoreError as error:
                log.warning("checkpoint refused, the one before it is tried: %s", error)
                self.state.note(self.part, int(kept.meta["watermark_ns"]), "checkpoint_refused", {"why": str(error)})
                before = kept.meta.get("before")
                kept = Checkpoint(**before) if before else None
        if kept is not newest:  # or the next one would keep the damaged file as the one before it, and not this
            self.state.set_checkpoint(self.part, kept, owner=self._owner)
        if kept is None:
            return {}
        for name, snapshot in snapshots.items():
            if name == "grouper":
                self._grouper.restore(snapshot.arrays)
                continue
            if name == "guard":
                self.guard.restore(snapshot.arrays)
                continue
            host, spec, *dark = name.split("\x1f")
            self.detectors(host)
            lane, make = (self._shadows[host], self._make_shadows) if dark else (self._lanes[host], self._make)
            for i, detector in enumerate(lane):
                known = (snapshot.meta["digest"], snapshot.meta["version"])
                if detector.spec.name != spec or known != (detector.spec.digest, detector.version):
                    continue
                try:
                    detector.restore(snapshot)
                    self._restored.add(id(detector))
                except StoreError as error:  # an upgrade: a fresh one, to be warmed from the store
                    lane[i] = next(d for d in make(host) if d.spec.name == spec)
                    if not dark:
                        lane[i].observer = self._observer(spec)
                    self.state.note(self.part, self.watermark_ns, "state_refused", {"host": host, "why": str(error)})
        self.offsets = {h: int(v) for h, v in kept.meta["offsets"].items()}
        self.watermark_ns = int(kept.meta["watermark_ns"])
        self._turn = int(kept.meta["turn"])
        self.inputs = dict(kept.meta.get("inputs", {}))
        return dict(self.offsets)

    def unwarmed(self) -> list[tuple[str, Detector]]:
        """Detectors of hosts with a history that the checkpoint does not know (new champions): (host, detector).

        One that was trained on what is not scored yet is rewound, or it would take that for late.
        """
        new = [
            (host, d)
            for host in sorted(self.offsets)
            for d in (*self.detectors(host), *self._shadows[host])
            if id(d) not in self._restored
        ]
        for host, d in new:
            if d.watermark_ns > self.offsets[host]:
                d.rewind(build(d.spec).features)
        return new

    def warm(self, detector: Detector, batches: Iterable[Events]) -> None:
        """Replay history silently: what it would have said is dropped, up to the committed offset."""
        for events in batches:
            detector.push(events)
            detector.close(detector.watermark_ns)


def _by_host(events: Events) -> Iterator[tuple[str, Events]]:
    of_key = [k.host for k in events.keys]
    present = sorted({of_key[i] for i in np.unique(events.series)})
    for host in present:
        if len(present) == 1:
            yield host, events
        else:
            belongs = np.array([h == host for h in of_key])
            yield host, events[belongs[events.series]]


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else f"%{ord(c):02x}" for c in name)
