"""The state database on a real PostgreSQL (Debian's package), and a scoring job on it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from pipelines.codec import encode
from pipelines.config import Config
from pipelines.score import score
from pipelines.state import StateDB
from telemetry.errors import ConfigError, StoreError
from telemetry.types import Alert, SeriesKey

pytest.importorskip("psycopg", reason="extra: tailwatch[postgres]")
BIN = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
pytestmark = [pytest.mark.service, pytest.mark.skipif(BIN is None, reason="Debian package postgresql")]
PORT = 20000 + os.getpid() % 900


class Server:
    """A PostgreSQL of our own, that can be stopped and started."""

    url = f"postgresql+psycopg://tw@127.0.0.1:{PORT}/postgres"

    def __init__(self) -> None:
        self.folder = Path(tempfile.gettempdir(), f"tailwatch-pg-{os.getpid()}")
        self.folder.mkdir(mode=0o700)
        self.as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self.as_user:
            shutil.chown(self.folder, "postgres")
        self._run("initdb", "-U", "tw", "-A", "trust")
        self.start()

    def _run(self, tool: str, *args: str) -> None:
        command = [*self.as_user, f"{BIN}/{tool}", "-D", str(self.folder / "data"), *args]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")

    def start(self) -> None:
        own = f"-c unix_socket_directories={self.folder} -c fsync=off"
        listen = f"-p {PORT} -c listen_addresses=127.0.0.1 {own}"
        self._run("pg_ctl", "-w", "-o", listen, "-l", f"{self.folder}/log", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-m", "immediate", "stop")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def url(server: Server) -> str:
    return server.url


def test_workers_write_together_and_each_alert_once(url: str) -> None:
    def work(part: str) -> None:
        with StateDB(url) as state:
            for i in range(30):
                alert = Alert(f"a{i}", "d", "1", "unknown", SeriesKey("h", "m"), "rate", 1, i, i, 5.0, 0.7, 1, 2.0)
                state.commit(part, [alert], [], watermark_ns=i)

    with StateDB(url):
        pass
    threads = [threading.Thread(target=work, args=(f"p{i}",)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    with StateDB(url) as state:
        assert [a.id for a in state.alerts()] == sorted((f"a{i}" for i in range(30)), key=lambda s: int(s[1:]))
        assert {p["name"] for p in state.parts()} == {f"p{i}" for i in range(4)}
        assert sum(state.lease("p0", f"w{i}", 0, 10**18) for i in range(4)) == 1


def test_a_job_on_postgresql_equals_one_on_sqlite(url: str, tmp_path: Path) -> None:
    from benchmarks.service_crash import make_store

    make_store(tmp_path / "store", seconds=90)
    found = []
    for name, state_url in (("pg", url), ("lite", str(tmp_path / "state.db"))):
        config = Config(store=str(tmp_path / "store"), state=state_url, checkpoints=str(tmp_path / name))
        score(config, part="compare")
        with StateDB(state_url) as state:
            found.append(([repr(a) for a in state.alerts() if a.detector != "d"], [repr(i) for i in state.incidents()]))
    assert found[0] == found[1]
    assert found[0][1]


def test_a_service_waits_for_a_database_that_is_away(server: Server, tmp_path: Path) -> None:
    """The server goes in the middle of the work and comes back: nothing is lost, nothing is double."""
    from benchmarks.service_crash import make_store, outcome
    from benchmarks.service_faults import config
    from pipelines.watch import Watcher

    make_store(tmp_path / "store", seconds=90)
    calm = config(tmp_path / "calm", tmp_path / "store")
    score(calm, part="away")
    with StateDB(server.url) as state:
        state._conn.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("create database away")
    url = server.url.replace("/postgres", "/away")
    settings = structs.replace(config(tmp_path / "pg", tmp_path / "store"), state=url)
    watcher = Watcher(settings, host="elsewhere", harvest=False, part="away")
    server.stop()
    thread = threading.Thread(target=watcher.run)
    try:
        watcher.scorer.engine.resume = dict  # type: ignore[method-assign, assignment]  # it started before the server went
        thread.start()
        for _ in range(600):
            time.sleep(0.1)
            if watcher.scorer.engine.waiting and watcher.counters.errors > 1:
                break
        assert thread.is_alive()
        assert watcher.scorer.engine.waiting > 0
        assert watcher.counters.errors > 1
    finally:
        server.start()
    for _ in range(600):
        time.sleep(0.1)
        if not watcher.scorer.engine.waiting:
            break
    watcher.stop.set()
    thread.join()
    watcher.close()
    expected = outcome(tmp_path / "calm")
    with StateDB(url) as state:
        assert [encode(a) for a in state.alerts()] == expected[0]
    sent = {json.loads(line)["id"] for line in (tmp_path / "pg" / "out.jsonl").read_text().splitlines()}
    assert sent == expected[2]


def test_what_is_wrong_is_told_in_a_line_without_the_password() -> None:
    with pytest.raises(StoreError) as error:
        StateDB(f"postgresql+psycopg://tw:hunter2@127.0.0.1:{PORT + 1}/postgres")
    assert "hunter2" not in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError):
        StateDB("nosuchdriver://x")
