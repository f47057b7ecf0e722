"""The state database on a real PostgreSQL (Debian's package), and a scoring job on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.config import Config
from pipelines.score import score
from pipelines.state import StateDB
from telemetry.errors import ConfigError, StoreError
from telemetry.types import Alert, SeriesKey

pytest.importorskip("psycopg", reason="extra: tailwatch[postgres]")
BIN = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
pytestmark = [pytest.mark.service, pytest.mark.skipif(BIN is None, reason="Debian package postgresql")]
PORT = 20000 + os.getpid() % 900


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    folder = Path(f"/tmp/tailwatch-pg-{os.getpid()}")
    folder.mkdir(mode=0o700)
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if as_user:
        shutil.chown(folder, "postgres")
    data = str(folder / "data")
    listen = f"-p {PORT} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "cwd": "/"}
    subprocess.run([*as_user, f"{BIN}/initdb", "-D", data, "-U", "tw", "-A", "trust"], **quiet)  # type: ignore[call-overload]
    subprocess.run([*as_user, f"{BIN}/pg_ctl", "-D", data, "-w", "-o", listen, "-l", f"{folder}/log", "start"], **quiet)  # type: ignore[call-overload]
    try:
        yield f"postgresql+psycopg://tw@127.0.0.1:{PORT}/postgres"
    finally:
        subprocess.run([*as_user, f"{BIN}/pg_ctl", "-D", data, "-m", "immediate", "stop"], **quiet)  # type: ignore[call-overload]
        shutil.rmtree(folder, ignore_errors=True)


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


def test_what_is_wrong_is_told_in_a_line_without_the_password() -> None:
    with pytest.raises(StoreError) as error:
        StateDB(f"postgresql+psycopg://tw:hunter2@127.0.0.1:{PORT + 1}/postgres")
    assert "hunter2" not in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError):
        StateDB("nosuchdriver://x")
