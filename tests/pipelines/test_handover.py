"""A new champion takes over in mid-stream: every window is scored once, by the old one or the new one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.service_crash import make_store
from detectors.detector import Detector
from detectors.incidents import Grouper
from detectors.policy import Decision
from detectors.spec import DetectorSpec
from pipelines.engine import Engine
from pipelines.live import live_detectors
from pipelines.savefile import save_snapshots
from pipelines.state import Champion, StateDB
from pipelines.train import train
from telemetry.store import Store
from telemetry.types import Events, Panel, Scores

SECOND = 1_000_000_000
SPEC = DetectorSpec.from_toml(
    """
name = "handed"
[[features]]
kind = "rate"
select = "context_switches_total"
window = "1s"
columns = ["rate"]
[[features]]
kind = "window"
select = "wire_latency_ns"
window = "1s"
columns = ["p99"]
[model]
kind = "light"
[policy]
kind = "budget"
threshold = 3.0
"""
)


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> list[Events]:
    path = tmp_path_factory.mktemp("handover") / "store"
    make_store(path, seconds=160)  # storms at 60 and 140 s
    with Store(path, create=False) as store:
        return list(store.read(0, 2**62))


def watch(detector: Detector, ends: list[tuple[str, int]]) -> None:
    before = detector.observer

    def note(panel: Panel, scores: Scores, decision: Decision) -> None:
        ends.extend((detector.version, int(t)) for t in panel.end_ns)
        if before is not None:
            before(panel, scores, decision)

    detector.observer = note


@pytest.mark.parametrize("trained_to", [40, 110, 160])  # before the handover at 100 s, after it, and to the end
def test_no_window_is_skipped_and_none_is_said_twice(batches: list[Events], tmp_path: Path, trained_to: int) -> None:
    start = int(batches[0].seen_ns[0])
    cut = start + 100 * SECOND

    def part(lo: int, hi: int) -> list[Events]:
        some = [b[(b.seen_ns >= lo) & (b.seen_ns < hi)] for b in batches]
        return [b for b in some if len(b)]

    class Past:
        def read(self, lo: int, hi: int):  # type: ignore[no-untyped-def]
            yield from part(lo, hi)

    def version(name: str, until: int) -> Champion:
        path = tmp_path / f"{name}.npz"
        digest = save_snapshots(path, {"detector": train(SPEC, Past(), 0, until).snapshot})
        return Champion("handed", name, SPEC.to_dict(), str(path), digest, 1)

    ends: list[tuple[str, int]] = []

    def engine(state: StateDB) -> Engine:
        run = Engine(state, "main", live_detectors(state, ["handed"]), Grouper(), tmp_path / "ck")
        run.resume()
        for _, detector in run.unwarmed():
            run.warm(detector, part(0, cut))
        for detector in run.detectors("h"):
            watch(detector, ends)
        return run

    with StateDB(tmp_path / "state.db") as state:
        state.promote(version("1", start + 20 * SECOND), who="t", why="t", verdict="")
        run = engine(state)
        for events in part(start, cut):
            run.push(events)
            run.step()
        run.checkpoint()
        state.promote(version("2", start + trained_to * SECOND), who="t", why="t", verdict="")
        run = engine(state)
        for events in part(cut, 2**62):
            run.push(events)
            run.step()
        run.checkpoint()
        alerts = [a for a in state.alerts() if a.grade == "alert"]
    times = [t for _, t in ends]
    assert len(times) == len(set(times))
    np.testing.assert_array_equal(np.diff(sorted(times)), SECOND)
    assert {v for v, t in ends if t > cut + SECOND} == {"2"}
    assert {v for v, t in ends if t <= cut - SECOND} == {"1"}
    assert len({a.id for a in alerts}) == len(alerts)
    if trained_to < 140:  # the second storm is told; who learnt from it has seen its like
        assert {a.version for a in alerts if a.end_ns > start + 139 * SECOND} == {"2"}
