"""What jobs say of themselves, to people and to machines; and taking up a changed configuration while running."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from benchmarks.service_crash import make_store, outcome
from benchmarks.service_faults import config
from pipelines.config import Sinks
from pipelines.logs import JsonFormatter, Repeats, TextFormatter, setup
from pipelines.score import score
from pipelines.watch import Watcher
from telemetry.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Other tests find the logger as it was."""
    logger = logging.getLogger("tailwatch")
    kept = list(logger.handlers), logger.propagate, logger.level
    yield
    logger.handlers[:], logger.propagate = kept[0], kept[1]
    logger.setLevel(kept[2])


@given(st.text(max_size=60), st.dictionaries(st.sampled_from(["where", "limit", "sink"]), st.text(max_size=20)))
def test_a_record_is_one_line_that_can_be_read_again(text: str, extra: dict[str, str]) -> None:
    record = logging.makeLogRecord({"msg": text, "name": "tailwatch.watch", "levelname": "ERROR", **extra})
    shown = JsonFormatter().format(record)
    assert "\n" not in shown
    read = json.loads(shown)
    assert (read["message"], read["level"], read["logger"]) == (text, "error", "tailwatch.watch")
    assert {k: read[k] for k in extra} == extra
    assert TextFormatter().format(record).isprintable()


def test_the_form_is_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    for form, check in (("json", json.loads), ("text", lambda line: line.index("watch: hello")), ("auto", json.loads)):
        setup(form)  # type: ignore[arg-type]
        logging.getLogger("tailwatch.watch").info("hello")
        check(capsys.readouterr().err.strip())
    setup("json", "warning")
    logging.getLogger("tailwatch.watch").info("hello")
    assert capsys.readouterr().err == ""


def test_repeats() -> None:
    repeats = Repeats(every_s=0.05)
    assert [repeats.pass_on("a", "x") for _ in range(3)] == [0, None, None]
    assert repeats.pass_on("b", "x") == 0
    time.sleep(0.06)
    assert repeats.pass_on("a", "x") == 2
    assert repeats.pass_on("a", "y") == 0


def test_a_command_logs_json_when_nobody_looks(tmp_path: Path) -> None:
    make_store(tmp_path / "store", seconds=12)
    (tmp_path / "t.toml").write_text(
        f'store = "{tmp_path}/store"\nstate = "{tmp_path}/s.db"\ncheckpoints = "{tmp_path}/ck"\n'
        "[scoring]\nmax_series = 2\n"
    )
    command = [sys.executable, "-m", "pipelines.cli", "--config", str(tmp_path / "t.toml"), "score"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    said = json.loads(line)
    assert said["level"] == "warning"
    assert said["limit"] == 2
    assert "series limit" in said["message"]


def test_a_changed_configuration_is_taken_up_without_a_gap(tmp_path: Path) -> None:
    make_store(tmp_path / "store", seconds=100)
    score(config(tmp_path / "calm", tmp_path / "store"))
    before = structs.replace(config(tmp_path, tmp_path / "store"), sinks=Sinks())
    wrong = structs.replace(before, sinks=Sinks(apprise=["env:NOT_THERE"]))
    after = structs.replace(before, sinks=Sinks(jsonl=str(tmp_path / "out.jsonl")), store="elsewhere")
    answers = iter([wrong, after])
    watcher = Watcher(before, host="elsewhere", harvest=False, reread=lambda: next(answers))
    thread = threading.Thread(target=watcher.run)
    for _ in range(2):
        watcher._reconfigure()
    assert watcher.counters.errors == 1, "the wrong one is refused and told, the old one stays"
    assert [s.name for s in watcher.sinks] == ["jsonl"]
    thread.start()
    for _ in range(200):
        time.sleep(0.1)
        if (tmp_path / "out.jsonl").exists():
            break
    watcher.stop.set()
    thread.join()
    watcher.close()
    assert outcome(tmp_path) == outcome(tmp_path / "calm")


def test_a_broken_file_on_reload_is_told(tmp_path: Path) -> None:
    def broken() -> None:
        raise ConfigError("tailwatch.toml: not TOML")

    watcher = Watcher(config(tmp_path, tmp_path / "store"), host="h", harvest=False, reread=broken)  # type: ignore[arg-type]
    watcher._reconfigure()
    assert watcher.counters.errors == 1
    watcher.close()
