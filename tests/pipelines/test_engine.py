from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from benchmarks.service_crash import START, crash, make_store
from detectors.incidents import Grouper
from detectors.signature import load_catalogue
from pipelines.config import Config, Scoring
from pipelines.engine import Engine
from pipelines.lease import Locked, myself, take
from pipelines.live import live_detectors
from pipelines.savefile import load_snapshots, save_snapshots
from pipelines.score import score
from pipelines.state import Champion, StateDB
from pipelines.watch import Watcher
from telemetry.errors import ConfigError
from telemetry.labels import write_labels
from telemetry.store import Store
from telemetry.types import Events, Label, SeriesKey, Snapshot

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "store"
    make_store(path, seconds=100)
    return path


def config(folder: Path, store: Path) -> Config:
    often = Scoring(checkpoint_s=0.01)
    return Config(store=str(store), state=str(folder / "state.db"), checkpoints=str(folder / "ck"), scoring=often)


def stored(folder: Path) -> tuple[list[str], list[str]]:
    with StateDB(folder / "state.db", create=False) as state:
        return [repr(a) for a in state.alerts()], [repr(i) for i in state.incidents()]


def test_a_job_finds_the_storm_and_a_second_run_finds_nothing_new(store: Path, tmp_path: Path) -> None:
    first = score(config(tmp_path, store))
    assert first.incidents >= 1
    kept = stored(tmp_path)
    kinds = {k for i in kept[1] for k in ("context_switch_storm", "tail_latency_creep", "cpu_contention") if k in i}
    assert kinds
    again = score(config(tmp_path, store))
    assert (again.events, again.alerts, again.incidents) == (0, 0, 0)
    assert stored(tmp_path) == kept


def test_many_small_runs_over_a_growing_store_equal_one(store: Path, tmp_path: Path) -> None:
    score(config(tmp_path / "one", store))
    with Store(store, create=False) as whole:
        batches = list(whole.read(0, 2**62))
    seen = np.unique(np.concatenate([b.seen_ns for b in batches]))
    with Store(tmp_path / "grown") as grown:
        for lo, hi in zip(seen[:: len(seen) // 6], [*seen[len(seen) // 6 :: len(seen) // 6], 2**62], strict=True):
            for batch in batches:
                a, b = np.searchsorted(batch.seen_ns, [lo, hi])
                grown.append(batch[a:b])
            grown.flush()
            score(config(tmp_path / "many", tmp_path / "grown"))
    assert stored(tmp_path / "one") == stored(tmp_path / "many")


def test_a_host_that_was_seen_before_another_is_scored_when_it_comes(tmp_path: Path) -> None:
    make_store(tmp_path / "store", seconds=20)
    assert score(config(tmp_path, tmp_path / "store")).events > 0
    key = SeriesKey.of("old", "context_switches_total")
    at = START - 3600 * 10**9 + np.arange(30) * 10**8
    with Store(tmp_path / "store") as store:
        store.append(Events((key,), np.zeros(30, np.int64), at, at, np.arange(30)))
    assert score(config(tmp_path, tmp_path / "store")).events == 30
    assert score(config(tmp_path, tmp_path / "store")).events == 0


def test_a_job_killed_after_a_checkpoint_goes_on_with_the_next_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of one instant come in batches, one for each type of values: a checkpoint between them would part them."""
    whole = SeriesKey.of("h", "context_switches_total")
    real = SeriesKey.of("h", "wire_latency_ns")
    with Store(tmp_path / "store") as store:
        for i in range(12):
            at = np.array([START + i * 10**8])
            store.append(Events((whole,), np.zeros(1, np.int64), at, at, np.array([i])))
            store.append(Events((real,), np.zeros(1, np.int64), at, at, np.array([float(i)])))
    pushed: list[tuple[int, str]] = []
    plain = Engine.checkpoint

    def push(self: Engine, events: Events) -> None:
        self.offsets["h"] = int(events.seen_ns[-1]) + 1
        pushed.extend((int(t), events.value.dtype.kind) for t in events.seen_ns)

    def checkpoint(self: Engine, now_ns: int = 0) -> None:
        plain(self, now_ns)
        if len(pushed) < 24:
            raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "push", push)
    monkeypatch.setattr(Engine, "checkpoint", checkpoint)
    settings = structs.replace(config(tmp_path, tmp_path / "store"), scoring=Scoring(checkpoint_s=0.0))
    for _ in range(60):
        try:
            score(settings)
            break
        except KeyboardInterrupt:
            continue
    assert sorted(pushed) == [(START + i * 10**8, kind) for i in range(12) for kind in "fi"]


def test_many_hosts_with_writers_of_their_own(tmp_path: Path) -> None:
    """A look at the store holds a file open for each writer: one look a host would be too many."""
    resource = pytest.importorskip("resource")
    writers = [Store(tmp_path / "store", writer=f"w{i}") for i in range(30)]
    at = np.array([START])
    for i, writer in enumerate(writers):
        key = SeriesKey.of(f"h{i}", "context_switches_total")
        writer.append(Events((key,), np.zeros(1, np.int64), at, at, np.array([1])))
        writer.flush()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, before[1]))
    try:
        assert score(config(tmp_path, tmp_path / "store")).events == 30
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for writer in writers:
            writer.close()


def test_a_checkpoint_continues_exactly(store: Path, tmp_path: Path) -> None:
    def engine(state: StateDB) -> Engine:
        return Engine(state, "main", live_detectors(state), Grouper(), tmp_path / "ck")

    score(config(tmp_path / "whole", store))
    with StateDB(tmp_path / "state.db") as state, Store(store, create=False) as source:
        batches = list(source.read(0, 2**62))
        for events in batches:
            half = len(events) // 2
            half += int(np.searchsorted(events.seen_ns[half:], events.seen_ns[half], side="right"))
            for piece in (events[:half], events[half:]):
                run = engine(state)
                run.resume()
                run.push(piece)
                run.step()
                run.checkpoint()
    with StateDB(tmp_path / "state.db") as state:
        got = [repr(a) for a in state.alerts()]
    assert got == stored(tmp_path / "whole")[0]


def test_a_damaged_checkpoint_is_noted_and_the_one_before_it_taken(store: Path, tmp_path: Path) -> None:
    score(config(tmp_path / "calm", store))
    for damaged in (1, 2):  # the newest; then both: everything is read again
        folder = tmp_path / str(damaged)
        score(config(folder, store))
        files = sorted((folder / "ck").glob("*.npz"), key=lambda p: int(p.name.split("-")[1]))
        assert len(files) == 2
        for file in files[-damaged:]:
            file.write_bytes(file.read_bytes()[:-100])
        with StateDB(folder / "state.db") as state:
            run = Engine(state, "main", live_detectors(state), Grouper(), folder / "ck")
            assert bool(run.resume()) == (damaged == 1)
            notes = [n["what"] for n in state.notes()]
            assert notes == ["checkpoint_refused"] * damaged
        with Store(store, create=False) as source:
            for events in source.read(run.offsets.get("h", 0), 2**62):
                run.push(events)
                with StateDB(folder / "state.db") as run.state:
                    run.step()
        assert stored(folder) == stored(tmp_path / "calm")


def test_checkpoints_may_be_damaged_one_after_the_other(tmp_path: Path) -> None:
    at, key = np.array([START]), SeriesKey.of("h", "context_switches_total")
    with StateDB(tmp_path / "state.db") as state:
        for i in range(6):
            run = Engine(state, "main", live_detectors(state), Grouper(), tmp_path / "ck")
            assert run.resume() == ({"h": START + i} if i else {})
            run.push(Events((key,), np.zeros(1, np.int64), at + i, at + i, np.array([i])))
            run.checkpoint()
            whole = state.checkpoint("main")
            assert whole is not None
            run.checkpoint()
            newest = state.checkpoint("main")
            assert newest is not None
            Path(newest.path).write_bytes(b"damaged")
            assert Path(whole.path).exists()
            run = Engine(state, "main", live_detectors(state), Grouper(), tmp_path / "ck")
            assert run.resume() == {"h": START + i + 1}
            run.checkpoint()
            last = state.checkpoint("main")
            assert last is not None
            Path(last.path).write_bytes(b"damaged as well")


def test_partitions_leave_each_others_checkpoints_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.engine.os.urandom", lambda n: bytes.fromhex("123456"))
    with StateDB(tmp_path / "state.db") as state:
        parts = [Engine(state, name, live_detectors(state), Grouper(), tmp_path / "ck") for name in ("p", "p-1", "p-2")]
        for _ in range(3):
            for part in parts:
                part.checkpoint()
        for part in parts:
            kept = state.checkpoint(part.part)
            assert kept is not None
            assert Path(kept.path).exists()
            assert Path(kept.meta["before"]["path"]).exists()


def test_state_of_another_tailwatch_is_replaced_and_told(store: Path, tmp_path: Path) -> None:
    score(config(tmp_path, store))
    with StateDB(tmp_path / "state.db") as state:
        kept = state.checkpoint("main")
        assert kept is not None
        snapshots = load_snapshots(Path(kept.path), kept.digest)
        name = next(n for n in snapshots if "rate" in n)
        arrays = {k: v for k, v in snapshots[name].arrays.items() if not k.startswith("model-")}
        digest = save_snapshots(Path(kept.path), {**snapshots, name: Snapshot(snapshots[name].meta, arrays)})
        state.set_checkpoint("main", replace(kept, digest=digest))
        run = Engine(state, "main", live_detectors(state), Grouper(), tmp_path / "ck")
        run.resume()
        assert [d.spec.name for _, d in run.unwarmed()] == [name.split("\x1f")[1]]
        assert [n["what"] for n in state.notes()] == ["state_refused"]


def test_two_jobs_at_once(store: Path, tmp_path: Path) -> None:
    import time

    now = time.time_ns()
    with StateDB(tmp_path / "state.db") as state:
        assert state.lease("main", "elsewhere:1:1", now, now + 10**11)
        with pytest.raises(Locked):
            score(config(tmp_path, store))
        state.release("main", "elsewhere:1:1")
        dead = myself().rsplit(":", 1)[0] + ":1"  # this pid, of another start time: a job that died
        assert state.lease("main", dead, now, now + 10**11)
    assert score(config(tmp_path, store)).events > 0


def test_a_killed_job_that_nobody_has_waited_for_holds_nothing(tmp_path: Path) -> None:
    tell = "from pipelines.lease import myself; print(myself(), flush=True); input()"
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", tell]
    with (
        StateDB(tmp_path / "state.db") as state,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as job,
    ):
        assert job.stdout is not None
        assert state.lease("main", job.stdout.readline().strip(), 1, 10**11)
        with pytest.raises(Locked):
            take(state, "main", myself(), 2)
        job.kill()
        os.waitid(os.P_PID, job.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
        take(state, "main", myself(), 3)


def test_a_challenger_scores_in_the_shadow(store: Path, tmp_path: Path) -> None:
    spec = next(s.spec for s in load_catalogue() if s.kind == "context_switch_storm")
    score(config(tmp_path / "alone", store))
    with StateDB(tmp_path / "state.db") as state:
        state.challenge(Champion(spec.name, "7", spec.to_dict(), None, None, 1))
    score(config(tmp_path, store))
    with StateDB(tmp_path / "state.db") as state:
        dark = state.alerts(shadow=True)
        assert dark
        assert {a.version for a in dark} == {"7"}
        assert "7" not in {a.version for a in state.alerts()}
        (line,) = state.shadow_report(0, 2**62)
        assert line["both"] == line["champion_alerts"] == line["challenger_alerts"] > 0
        kinds = [i.kind for i in state.incidents()]
    with StateDB(tmp_path / "alone" / "state.db") as state:
        assert kinds == [i.kind for i in state.incidents()]


def test_a_service_takes_up_a_challenger(store: Path, tmp_path: Path) -> None:
    spec = next(s.spec for s in load_catalogue() if s.kind == "context_switch_storm")
    watcher = Watcher(config(tmp_path, store), host="elsewhere", harvest=False)
    watcher.scorer.engine.resume()
    watcher.scorer.engine.detectors("h")
    watcher.scorer.engine.offsets["h"] = START
    with StateDB(tmp_path / "state.db") as state:
        state.challenge(Champion(spec.name, "7", spec.to_dict(), str(tmp_path / "away.npz"), "", 1))
        watcher.scorer.maintain()
        assert watcher.scorer.engine._shadows["h"] == []
        assert watcher.counters.errors == 1
        state.challenge(Champion(spec.name, "7", spec.to_dict(), None, None, 1))  # its state can be read now
    watcher.scorer.maintain()
    dark = watcher.scorer.engine._shadows["h"]
    watcher.close()
    assert [d.version for d in dark] == ["7"]


@pytest.mark.slow
def test_killed_jobs_leave_what_an_undisturbed_one_does() -> None:
    assert crash(8, seed=5) == (8, 0)


def test_expected_events_are_told_as_expected(store: Path, tmp_path: Path) -> None:
    drill = Label("drill", "unknown", "host=h", START, START + 3600 * 10**9, START, note="failover drill")
    write_labels(tmp_path / "expected.csv", [drill])
    scoring = Scoring(expected=str(tmp_path / "expected.csv"))
    score(structs.replace(config(tmp_path, store), scoring=scoring))
    with StateDB(tmp_path / "state.db") as state:
        (found,) = state.incidents()
    assert found.severity == "info"
    assert "failover drill" in found.title


def test_a_misspelt_detector_is_told_and_not_left_out(tmp_path: Path) -> None:
    with StateDB(str(tmp_path / "s.db")) as state:
        with pytest.raises(ConfigError, match="unknown detector 'netwrok_gap'; did you mean network_gap"):
            live_detectors(state, ["netwrok_gap"])
        live_detectors(state, ["network_gap"])
