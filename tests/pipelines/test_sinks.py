from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import Alertmanager, Config, Sinks, Webhook
from pipelines.sinks import ATTEMPTS, deliver, make_sinks, refresh
from pipelines.state import StateDB
from telemetry.errors import ConfigError
from telemetry.types import Alert, Cause, Change, Incident, IncidentChange, SeriesKey


def change(action: str, at_ns: int, state: str = "open") -> IncidentChange:
    alert = Alert("a", "d", "1", "unknown", SeriesKey.of("tx07", "m"), "rate", 1, at_ns, at_ns, 5.0, 0.7, 1, 2.0)
    incident = Incident(
        "i1", state, "interrupt_storm", "warning", "host=tx07,cpu=3", at_ns, at_ns, at_ns,  # type: ignore[arg-type]
        at_ns if state == "resolved" else None, "an interrupt storm", (alert,),
        (Cause("interrupt_storm", "a storm", 0.9, "host=tx07"),), (Change("pin", "echo 1", "echo 2", "low", "look"),),
    )  # fmt: skip
    return IncidentChange(action, at_ns, incident)  # type: ignore[arg-type]


class Receiver:
    """A real HTTP server that can be told to fail."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], Any]] = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if outer.status < 300:
                    outer.got.append((dict(self.headers), json.loads(body)))
                self.send_response(outer.status)
                self.end_headers()

            def log_message(self, *args: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    r = Receiver()
    yield r
    r.server.shutdown()
    r.server.server_close()


def test_each_change_arrives_once_with_one_identity(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    out = tmp_path / "out.jsonl"
    config = Config(sinks=Sinks(jsonl=str(out), webhook=Webhook(receiver.url, token_file=str(tmp_path / "token"))))
    sinks = make_sinks(config)
    with StateDB(tmp_path / "state.db") as state:
        for c in (change("opened", 10), change("updated", 20), change("updated", 20)):
            state.commit("p", [], [c], watermark_ns=20, sinks=[s.name for s in sinks])
        assert deliver(state, sinks, 100).sent == 4
        assert deliver(state, sinks, 200).sent == 0
    ids = [json.loads(line)["id"] for line in out.read_text().splitlines()]
    assert ids == [body["id"] for _, body in receiver.got]
    assert len(set(ids)) == 2
    assert receiver.got[0][0]["Authorization"] == "Bearer s3cret"


def test_a_dead_receiver_delays_only_itself_and_ends_in_dead_letters(receiver: Receiver, tmp_path: Path) -> None:
    config = Config(sinks=Sinks(jsonl=str(tmp_path / "out.jsonl"), webhook=Webhook(receiver.url)))
    sinks = make_sinks(config)
    receiver.status = 503
    with StateDB(tmp_path / "state.db") as state:
        state.commit("p", [], [change("opened", 10)], watermark_ns=20, sinks=[s.name for s in sinks])
        first = deliver(state, sinks, 1)
        assert (first.sent, first.failed, first.dead) == (1, 1, 0)
        assert deliver(state, sinks, 2).failed == 0  # not before its time
        now = 1
        for _ in range(ATTEMPTS):
            now += 10**13
            deliver(state, sinks, now)
        (letter,) = state.outbox.dead()
        assert "503" in (letter.error or "")
        receiver.status = 200
        state.outbox.resend()
        assert deliver(state, sinks, now).sent == 1
    assert len(receiver.got) == 1


def test_a_receiver_is_not_flooded(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    sinks = make_sinks(Config(sinks=Sinks(jsonl=str(out))))
    minute = 60 * 10**9
    with StateDB(tmp_path / "state.db") as state:
        for i in range(10):
            state.commit("p", [], [change("updated", i)], watermark_ns=i, sinks=["jsonl"])
        sent = [deliver(state, sinks, at, per_minute=4).sent for at in (minute, minute + 1, 3 * minute, 5 * minute)]
    assert sent == [4, 0, 4, 2]


def test_secrets_come_from_the_environment_and_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHAT_URL", raising=False)
    with pytest.raises(ConfigError, match="env:CHAT_URL"):
        make_sinks(Config(sinks=Sinks(apprise=["env:CHAT_URL"])))
    with pytest.raises(ConfigError) as error:
        make_sinks(Config(sinks=Sinks(apprise=["nosuch://user:hunter2@host"])))
    assert "hunter2" not in str(error.value)


@pytest.mark.service
@pytest.mark.skipif(shutil.which("prometheus-alertmanager") is None, reason="Debian package prometheus-alertmanager")
def test_a_real_alertmanager_fires_and_resolves(tmp_path: Path) -> None:
    import httpx

    (tmp_path / "am.yml").write_text("route: {receiver: none}\nreceivers: [{name: none}]\n")
    base = "http://127.0.0.1:19193"
    command = ["prometheus-alertmanager", f"--config.file={tmp_path}/am.yml", f"--storage.path={tmp_path}/am"]
    server = subprocess.Popen(
        [*command, "--web.listen-address=127.0.0.1:19193", "--cluster.listen-address="], stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            try:
                httpx.get(base + "/-/ready").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.1)

        def seen() -> list[dict[str, Any]]:
            return [a for a in httpx.get(base + "/api/v2/alerts").json() if a["status"]["state"] == "active"]

        sinks = make_sinks(Config(sinks=Sinks(alertmanager=Alertmanager(base))))
        now = time.time_ns()
        with StateDB(tmp_path / "state.db") as state:
            state.commit("p", [], [change("opened", now)], watermark_ns=now, sinks=["alertmanager"])
            assert deliver(state, sinks, now).sent == 1
            (alert,) = seen()
            assert alert["labels"] == {"alertname": "TailwatchIncident", "incident": "i1", "host": "tx07"}
            assert "interrupt_storm" in alert["annotations"]["cause"]
            assert alert["annotations"]["change"] == "echo 1"
            refresh(state, sinks, time.time_ns())
            assert len(seen()) == 1
            done = change("resolved", now + 1, "resolved")
            done = replace(done, incident=replace(done.incident, onset_ns=now))
            state.commit("p", [], [done], watermark_ns=now, sinks=["alertmanager"])
            deliver(state, sinks, time.time_ns())
            for _ in range(50):
                if not seen():
                    break
                time.sleep(0.1)
            assert seen() == []
    finally:
        server.terminate()
        server.wait()


def test_parquet_has_each_change_once_by_day(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    sinks = make_sinks(Config(sinks=Sinks(parquet=str(tmp_path / "changes"))))
    day = 86_400 * 10**9
    with StateDB(tmp_path / "state.db") as state:
        for c in (change("opened", day), change("updated", day + 5), change("resolved", 2 * day, "resolved")):
            state.commit("p", [], [c], watermark_ns=c.at_ns, sinks=["parquet"])
        assert deliver(state, sinks, 3 * day).sent == 3
        state.outbox._mark([1, 2, 3], state="due")  # acknowledged, and the acknowledgement lost
        assert deliver(state, sinks, 9 * day).sent == 3
    files = sorted((tmp_path / "changes").glob("day=*/changes.parquet"))
    assert [f.parent.name for f in files] == ["day=1970-01-02", "day=1970-01-03"]
    first, second = (pq.ParquetFile(f).read().to_pylist() for f in files)
    assert [r["action"] for r in first] == ["opened", "updated"]
    (last,) = second
    assert (last["state"], last["resolved_ns"], last["incident"]) == ("resolved", 2 * day, "i1")
    assert json.loads(last["causes"])[0]["kind"] == "interrupt_storm"


def test_a_line_that_was_torn_stands_alone(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text('{"id": "half')
    (sink,) = make_sinks(Config(sinks=Sinks(jsonl=str(out))))
    sink.send({"id": "whole"})
    assert out.read_text().splitlines() == ['{"id": "half', '{"id": "whole"}']


def test_the_end_does_not_come_before_the_beginning(receiver: Receiver, tmp_path: Path) -> None:
    sinks = make_sinks(Config(sinks=Sinks(webhook=Webhook(receiver.url))))
    with StateDB(tmp_path / "state.db") as state:
        for c in (change("opened", 10), change("resolved", 20, "resolved")):
            state.commit("p", [], [c], watermark_ns=c.at_ns, sinks=["webhook"])
        receiver.status = 503
        deliver(state, sinks, 10**12)
        receiver.status = 200
        assert deliver(state, sinks, 10**12 + 1).sent == 0, "the first waits for its next turn, the second behind it"
        assert deliver(state, sinks, 10**12 + 10**11).sent == 2
    assert [body["action"] for _, body in receiver.got] == ["opened", "resolved"]
