"""What goes away and comes back: power, disks, clocks, databases, sinks, leases. Afterwards all is as undisturbed."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.service_crash import START, make_store, outcome
from benchmarks.service_faults import SECOND, config, disks, jumping_clock, power_cuts
from pipelines import scorer
from pipelines.score import Locked, score
from pipelines.sinks import deliver, make_sinks
from pipelines.state import LeaseLost, StateDB
from pipelines.watch import Watcher
from telemetry.errors import StoreError
from telemetry.store import Store
from telemetry.types import Alert, Events, SeriesKey

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("faults") / "store"
    make_store(path, seconds=100)
    return path


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    """The undisturbed job."""
    folder = tmp_path_factory.mktemp("calm")
    assert score(config(folder, store)).incidents
    return folder


def served(folder: Path, store: Path, disturb: Callable[[Watcher], None] = lambda w: None, **more: object) -> Watcher:
    """`watch` over a store, disturbed while it works, until it has nothing more to do."""
    watcher = Watcher(config(folder, store), host="elsewhere", harvest=False, **more)  # type: ignore[arg-type]
    thread = threading.Thread(target=watcher.run)
    thread.start()
    disturb(watcher)
    with Store(store, create=False) as whole:
        last = whole.last_seen_ns()
    assert last is not None
    for _ in range(600):
        time.sleep(0.1)
        if watcher.scorer.engine.offsets.get("h", 0) > last and not watcher.scorer.engine.waiting:
            break
    watcher.stop.set()
    thread.join()
    watcher.close()
    return watcher


def test_hosts_are_caught_up_with_together(store: Path, calm: Path, tmp_path: Path) -> None:
    """One after the other, what they share would come apart: the second's alerts would lie behind the first's."""
    with Store(store, create=False) as one:
        batches = list(one.read(0, 2**62))
    for host, later in (("h", 0), ("a", 4 * SECOND // 10)):
        with Store(tmp_path / "store") as two:
            for b in batches:
                keys = tuple(replace(k, host=host) for k in b.keys)
                two.append(Events(keys, b.series, b.time_ns + later, b.seen_ns + later, b.value))
    score(config(tmp_path / "job", tmp_path / "store"))
    watcher = Watcher(config(tmp_path / "service", tmp_path / "store"), host="elsewhere", harvest=False)
    watcher._catch_up()
    watcher._follow_store()
    watcher.close()
    assert outcome(tmp_path / "service")[:2] == outcome(tmp_path / "job")[:2]
    with StateDB(tmp_path / "service" / "state.db") as state:
        assert [i.place.split(",")[0] for i in state.incidents()] == ["host=a|h"]


def test_rows_of_one_instant_that_come_apart_are_all_scored(tmp_path: Path) -> None:
    """A writer hands over whole numbers first, and a look falls in between."""
    whole, real = SeriesKey.of("h", "context_switches_total"), SeriesKey.of("h", "wire_latency_ns")
    at, series = np.array([START]), np.zeros(1, np.int64)
    with Store(tmp_path / "store") as writer:
        writer.append(Events((whole,), series, at, at, np.array([1])))
        writer.flush()
        watcher = Watcher(config(tmp_path, tmp_path / "store"), host="elsewhere", harvest=False)
        watcher._catch_up()
        writer.append(Events((real,), series, at, at, np.array([1.5])))
        writer.flush()
        for _ in range(3):
            watcher._follow_store()
        watcher.close()
    assert watcher.counters.events == 2


def test_power_cuts(store: Path, tmp_path: Path) -> None:
    cuts, differ = power_cuts(store, tmp_path, 3, seed=2)
    assert cuts >= 3
    assert differ == 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare (util-linux)")
def test_full_and_read_only_disks(store: Path, tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    found = disks(store, tmp_path, 12)
    assert found["failed"] >= 8
    assert found["runs"] == 14
    assert (found["differ"], found["strange"]) == (0, 0)


def test_a_clock_that_jumps(calm: Path, store: Path, tmp_path: Path) -> None:
    score(config(tmp_path / "job", store), clock=jumping_clock(1))
    score(config(tmp_path / "job", store), clock=lambda: START + 7200 * SECOND)
    assert outcome(tmp_path / "job") == outcome(calm)
    served(tmp_path / "service", store, clock=jumping_clock(2))
    assert outcome(tmp_path / "service") == outcome(calm)


def test_messages_do_not_wait_for_a_clock_that_was_set_back(calm: Path, tmp_path: Path) -> None:
    shutil.copytree(calm, tmp_path / "s")
    settings = config(tmp_path / "s", tmp_path / "none")
    hour = 3600 * SECOND
    with StateDB(settings.state) as state:
        state.outbox._mark([1, 2], state="due", next_ns=START + hour)  # put off when the clock was an hour ahead
        assert deliver(state, make_sinks(settings), START).sent == 2
        state.outbox._mark([1], state="delivered", next_ns=START + hour)
        assert state.outbox.sent_between("jsonl", START - 60 * SECOND, START) == 1


def test_a_locked_database_is_waited_for(calm: Path, store: Path, tmp_path: Path) -> None:
    def disturb(watcher: Watcher) -> None:
        other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
        for _ in range(20):
            try:
                other.execute("BEGIN IMMEDIATE")
                break
            except sqlite3.OperationalError:
                time.sleep(0.05)
        for _ in range(600):
            time.sleep(0.1)
            if watcher.counters.errors > 1:
                break
        other.execute("ROLLBACK")
        other.close()

    watcher = served(tmp_path, store, disturb)
    assert watcher.counters.errors > 0
    assert outcome(tmp_path) == outcome(calm)


def test_what_cannot_be_committed_does_not_grow_without_end(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer, "HELD_MOST", 200)
    two = tmp_path / "two"
    with Store(store, create=False) as whole, Store(two) as both:
        for b in whole.read(0, 2**62):
            for host in ("g", "h"):
                both.append(replace(b, keys=tuple(replace(k, host=host) for k in b.keys)))
    score(config(tmp_path / "calm", two))
    known = []

    def disturb(watcher: Watcher) -> None:
        with sqlite3.connect(tmp_path / "state.db", isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(600):
                time.sleep(0.1)
                if watcher.scorer.engine.waiting > 200:
                    break
            time.sleep(2)
            known.append((max(watcher.scorer.engine.offsets.values()), watcher.scorer.engine.waiting > 200))
            other.execute("ROLLBACK")

    served(tmp_path, two, disturb)
    with Store(two, create=False) as both:
        last = both.last_seen_ns()
    assert last is not None
    assert known[-1][0] <= last, "the rest waits in the store"
    assert known[-1][1]
    assert {repr(a) for a in found(tmp_path)} == {repr(a) for a in found(tmp_path / "calm")}


def found(folder: Path) -> list[Alert]:
    with StateDB(folder / "state.db", create=False) as state:
        return state.alerts()


def test_a_sink_that_is_away_gets_all_of_it_in_order(calm: Path, store: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    settings = config(tmp_path, store, out=blocked / "out.jsonl")
    assert score(settings).undelivered == 1
    now = time.time_ns()
    with StateDB(settings.state) as state:
        for minute in range(1, 10):
            assert deliver(state, make_sinks(settings), now + minute * 60 * SECOND).sent == 0
        blocked.unlink()
        for minute in range(10, 30):
            deliver(state, make_sinks(settings), now + minute * 60 * SECOND)
        assert state.outbox.waiting() == {("jsonl", "delivered"): len(outcome(calm)[1])}
    assert (blocked / "out.jsonl").read_text().count("\n") == len(outcome(calm)[1])
    (blocked / "out.jsonl").rename(tmp_path / "out.jsonl")
    assert outcome(tmp_path) == outcome(calm)


def test_a_job_whose_lease_was_taken_over_commits_nothing_more(calm: Path, store: Path, tmp_path: Path) -> None:
    settings = config(tmp_path, store)
    late = time.time_ns() + 3600 * SECOND

    def progress(events: int) -> None:  # the job slept for an hour, and another machine's did its work
        with StateDB(settings.state) as state:
            state.lease("main", "another:1:1", late, late + SECOND)

    with pytest.raises(LeaseLost, match="taken over"):
        score(settings, progress=progress)
    with pytest.raises(Locked):
        score(settings)
    score(settings, clock=lambda: late + 10 * SECOND)
    assert outcome(tmp_path) == outcome(calm)


def test_a_service_holds_its_partition(store: Path, tmp_path: Path) -> None:
    watcher = Watcher(config(tmp_path, store), host="h", harvest=False)
    with StateDB(tmp_path / "state.db") as state:
        (part,) = state.parts()
        assert part["lease_owner"] == watcher.scorer._owner
    command = [sys.executable, "-m", "pipelines.cli", "score", "--store", store, "--state", tmp_path / "state.db"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 75, done.stderr
    watcher.close()
    assert score(config(tmp_path, store)).incidents


def test_a_store_cut_short_and_sent_again(calm: Path, store: Path, tmp_path: Path) -> None:
    """A power cut takes the end of the log; who sent it sends it again, later."""
    with Store(store, create=False) as whole:
        batches = list(whole.read(0, 2**62))
    path = tmp_path / "store"
    writer = Store(path, writer="w", segment_bytes=1 << 40)
    cut = START + 70 * SECOND
    for b in batches:
        for second in range(70):
            lo, hi = np.searchsorted(b.seen_ns, [START + second * SECOND, START + (second + 1) * SECOND])
            writer.append(b[lo:hi])
    writer.flush()
    score(config(tmp_path, path))
    (segment,) = (path / "log").glob("*.twl")
    with open(segment, "r+b") as f:
        f.truncate(segment.stat().st_size - 20_011)
    writer._fd = -1  # the process is gone: it neither closes nor cuts
    del writer
    with Store(path) as again:
        kept = again.last_seen_ns()
        assert kept is not None
        assert kept < cut - SECOND
        for b in batches:
            again.append(b[b.seen_ns > kept])
    score(config(tmp_path, path))
    assert outcome(tmp_path) == outcome(calm)


def test_a_database_that_cannot_be_used_is_one_line(store: Path, tmp_path: Path) -> None:
    (tmp_path / "state.db").mkdir()
    with pytest.raises(StoreError, match="state") as error:
        score(config(tmp_path, store))
    assert "\n" not in str(error.value)


def test_trouble_is_told_once_in_a_while(tmp_path: Path, store: Path) -> None:
    told: list[str] = []

    class Listen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    logger, listen = logging.getLogger("tailwatch.watch"), Listen()
    logger.addHandler(listen)
    try:
        watcher = Watcher(config(tmp_path, store), host="h", harvest=False)
        for _ in range(50):
            watcher._troubles.tell("store", StoreError("full"))
        watcher._troubles.tell("store", StoreError("read-only"))
        watcher.close()
    finally:
        logger.removeHandler(listen)
    assert told == ["store: full", "store: read-only"]
    assert watcher.counters.errors == 51
