from __future__ import annotations

import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.state import Champion, Checkpoint, StateDB
from pipelines.upkeep import backup, restore_backup, trim
from telemetry.errors import ConfigError, StoreError
from telemetry.types import Alert, Cause, Change, Incident, IncidentChange, Label, SeriesKey

KEY = SeriesKey.of("h", "m_total", cpu=3)


def alert(id_: str, end: int = 10) -> Alert:
    return Alert(id_, "d", "1", "unknown", KEY, "rate", 1, end, end - 1, 5.0, 0.7, 1, 2.0)


def incident(id_: str, state: str = "open") -> Incident:
    cause = Cause("interrupt_storm", "an interrupt storm", 0.8, "host=h", ("irq 5",))
    change = Change("pin it", "echo 1", "echo 2", "low", "compare")
    resolved = 30 if state == "resolved" else None
    return Incident(id_, state, "k", "warning", "host=h", 1, 10, 20, resolved, "t", (alert("a"),), (cause,), (change,))  # type: ignore[arg-type]


@pytest.fixture
def state(tmp_path: Path):  # type: ignore[no-untyped-def]
    with StateDB(tmp_path / "s" / "state.db") as db:
        yield db


def test_a_step_commits_once(state: StateDB) -> None:
    change = IncidentChange("opened", 10, incident("i1"))
    for expected in (1, 0):
        fresh = state.commit(
            "p", [alert("a")], [change, change], watermark_ns=10, offsets={"h": 11}, sinks=["one", "two"]
        )
        assert fresh == expected
    assert state.progress("p") == (10, {"h": 11})
    assert [a.id for a in state.alerts()] == ["a"]
    assert len(state.outbox.due("one", 0)) == len(state.outbox.due("two", 0)) == 1
    assert state.incident("i").causes[0].kind == "interrupt_storm"
    assert [action for _, action, _ in state.history("i1")] == ["opened"]


def test_alerts_survive_the_round_trip_with_nan(state: StateDB) -> None:
    state.commit("p", [alert("a")], [], watermark_ns=1)
    (back,) = state.alerts()
    assert repr(back) == repr(alert("a"))


def test_an_incident_is_found_by_the_beginning_of_its_id(state: StateDB) -> None:
    changes = [IncidentChange("opened", 10, incident(i)) for i in ("abc", "abd")]
    state.commit("p", [], changes, watermark_ns=10)
    assert state.incident("abc").id == "abc"
    for bad in ("ab", "x", "%"):
        with pytest.raises(ConfigError, match="expected one"):
            state.incident(bad)


def test_leases(state: StateDB) -> None:
    assert state.lease("p", "one", 0, 100)
    assert not state.lease("p", "two", 50, 150)
    assert state.lease("p", "one", 50, 150)
    assert state.lease("p", "two", 200, 300)
    state.release("p", "one")
    assert not state.lease("p", "one", 250, 350)
    state.release("p", "two")
    assert state.lease("p", "one", 250, 350)


def test_outbox_retries_dies_and_is_sent_again(state: StateDB) -> None:
    state.commit("p", [], [IncidentChange("opened", 10, incident("i"))], watermark_ns=10, sinks=["s"])
    (row,) = state.outbox.due("s", 0)
    state.outbox.failed(row.seq, "away", 500)
    assert state.outbox.due("s", 499) == []
    (again,) = state.outbox.due("s", 500)
    assert (again.attempts, again.error) == (1, "away")
    state.outbox.failed(row.seq, "gone", 0, dead=True)
    assert state.outbox.due("s", 10**18) == []
    assert [d.key for d in state.outbox.dead()] == [row.key]
    assert state.outbox.resend() == 1
    state.outbox.delivered([r.seq for r in state.outbox.due("s", 0)])
    assert state.outbox.waiting() == {("s", "delivered"): 1}


def test_champions_have_a_history(state: StateDB) -> None:
    for version in ("1", "2"):
        state.promote(Champion("d", version, {"name": "d"}, None, None, int(version)), who="me", why="better")
    assert [c.version for c in state.champions()] == ["2"]
    assert [(p["version"], p["before"]) for p in state.promotions("d")] == [("1", None), ("2", "1")]


def test_labels_and_checkpoints(state: StateDB) -> None:
    label = Label("l", "steal", "host=h", 1, 2, 3, "me", "note")
    state.put_label(label)
    state.put_label(Label("false", "none", "", 1, 2, 3), real=False)
    assert state.labels() == [label]
    assert state.checkpoint("p") is None
    state.set_checkpoint("p", Checkpoint("/x", "d", {"offsets": {"h": 5}}))
    assert state.checkpoint("p") == Checkpoint("/x", "d", {"offsets": {"h": 5}})


def test_backup_restore_trim(tmp_path: Path) -> None:
    url = str(tmp_path / "state.db")
    with StateDB(url) as state:
        changes = [
            IncidentChange("opened", 10, incident("old", "resolved")),
            IncidentChange("opened", 10, incident("new")),
        ]
        state.commit("p", [alert("a")], changes, watermark_ns=10)
        backup(state, str(tmp_path / "copy.db"))
        with pytest.raises(ConfigError, match="there already"):
            backup(state, str(tmp_path / "copy.db"))
        removed = trim(state, 25)
        assert removed["incidents"] == 1
        assert removed["alerts"] == 1
        assert [i.id for i in state.incidents()] == ["new"]
    restore_backup(url, str(tmp_path / "copy.db"))
    with StateDB(url, create=False) as state:
        assert {i.id for i in state.incidents()} == {"old", "new"}


def test_restore_keeps_what_was_there_whole(tmp_path: Path) -> None:
    url = str(tmp_path / "state.db")
    with StateDB(url) as state:
        backup(state, str(tmp_path / "copy.db"))
        state.commit("p", [], [IncidentChange("opened", 10, incident("late"))], watermark_ns=10)
        for name in ("state.db", "state.db-wal"):  # as a job that is killed now leaves them
            shutil.copy(tmp_path / name, tmp_path / f"kept-{name}")
    for name in ("state.db", "state.db-wal"):
        shutil.copy(tmp_path / f"kept-{name}", tmp_path / name)
    _, first = restore_backup(url, str(tmp_path / "copy.db"))
    _, second = restore_backup(url, str(tmp_path / "copy.db"))
    assert (first, second) == (f"{url}.before", f"{url}.before2")
    with StateDB(f"{url}.before", create=False) as state:
        assert [i.id for i in state.incidents()] == ["late"]


def test_evidence_goes_before_the_rest_in_small_transactions(state: StateDB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.upkeep.AT_ONCE", 7)
    weak = [replace(alert(f"e{i}", end=i), grade="evidence") for i in range(50)]
    state.commit("p", [*weak, *(alert(f"a{i}", end=i) for i in range(50))], [], watermark_ns=50)
    removed = trim(state, 10, evidence_before_ns=40)
    assert (removed["alerts"], removed["evidence"]) == (20, 30)
    left = state.alerts()
    assert {a.id for a in left} == {f"e{i}" for i in range(40, 50)} | {f"a{i}" for i in range(10, 50)}


def test_reading_does_not_wait_for_a_writer(state: StateDB) -> None:
    state.commit("p", [alert("a")], [], watermark_ns=1)
    with StateDB(state.url, busy_ms=100) as other:
        with state.transaction() as c:
            c.exec_driver_sql("update partitions set watermark_ns = 7")
            assert other.progress("p") == (1, {})
            assert [a.id for a in other.alerts()] == ["a"]
            with pytest.raises(StoreError, match="locked"):
                other.commit("p", [alert("b")], [], watermark_ns=2)
        assert other.commit("p", [alert("b")], [], watermark_ns=2) == 0
        assert len(state.alerts()) == 2


def test_bad_databases_are_told_plainly(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no state database"):
        StateDB(tmp_path / "missing.db", create=False)
    (tmp_path / "foreign.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError, match="not a database"):
        StateDB(tmp_path / "foreign.db")
    with pytest.raises(ConfigError):
        StateDB("nosuch://x")
    with StateDB(tmp_path / "new.db") as state, state.transaction() as c:
        c.exec_driver_sql("update alembic_version set version_num = '9999'")
    with pytest.raises(StoreError, match="newer"):
        StateDB(tmp_path / "new.db")


def _writer(path: str, name: str) -> None:
    with StateDB(path) as state:
        for i in range(20):
            state.commit(name, [alert(f"{name}{i}")], [], watermark_ns=i)


def test_processes_start_and_write_together(tmp_path: Path) -> None:
    path = str(tmp_path / "state.db")
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=_writer, args=(path, f"p{i}")) for i in range(3)]
    for j in jobs:
        j.start()
    for j in jobs:
        j.join()
    assert [j.exitcode for j in jobs] == [0, 0, 0]
    with StateDB(path) as state:
        assert len(state.alerts()) == 60
