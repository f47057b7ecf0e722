"""Whatever happens, everything is put back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.lab.journal import Journal, born, sweep
from pipelines.lab.run import ROOT
from telemetry.errors import ConfigError

CHANGER = """
import sys, time
from pipelines.lab.journal import Journal
journal = Journal.open_new("victim")
journal.setting(sys.argv[1], "64")
journal.setting(sys.argv[1], "32")
print("changed", flush=True)
time.sleep(60)
"""


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TAILWATCH_LAB_STATE", str(tmp_path / "state"))
    path = tmp_path / "netdev_max_backlog"
    path.write_text("1000\n")
    return path


def changed(path: Path) -> subprocess.Popen[str]:
    """Start a process that has changed the setting and lives on."""
    env = {**os.environ, "PYTHONPATH": ROOT}
    child = subprocess.Popen([sys.executable, "-c", CHANGER, str(path)], env=env, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "changed\n"
    assert path.read_text() == "32\n"
    return child


def test_the_first_old_value_comes_back(setting: Path) -> None:
    journal = Journal.open_new("run")
    for value in ("64", "32", "16"):
        journal.setting(str(setting), value)
    assert setting.read_text() == "16\n"
    assert journal.restore() == []
    assert setting.read_text() == "1000\n"
    assert not journal.path.exists()


def test_a_live_run_is_left_alone_and_a_killed_one_restored(setting: Path) -> None:
    child = changed(setting)
    try:
        assert sweep() == (0, [])
        assert setting.read_text() == "32\n"
    finally:
        child.kill()
        child.communicate()
    assert sweep() == (1, [])
    assert setting.read_text() == "1000\n"
    assert sweep() == (0, [])


def test_the_watchdog_restores_when_its_owner_is_killed(setting: Path) -> None:
    child = changed(setting)
    journal = Path(os.environ["TAILWATCH_LAB_STATE"]) / "victim.json"
    env = {**os.environ, "PYTHONPATH": ROOT}
    dog = subprocess.Popen([sys.executable, "-m", "pipelines.lab.journal", str(journal)], env=env)
    try:
        time.sleep(0.6)
        dog.send_signal(signal.SIGINT)  # Ctrl-C reaches the whole terminal: the watchdog must not care
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        assert dog.wait(10) == 0
    finally:
        dog.kill()
    assert setting.read_text() == "1000\n"
    assert not journal.exists()


def test_a_process_is_killed_only_if_it_is_the_same(setting: Path) -> None:
    bystander = subprocess.Popen(["sleep", "30"], start_new_session=True)
    try:
        journal = Journal.open_new("run")
        journal.data["processes"].append([bystander.pid, born(bystander.pid) - 1])  # its pid was used again
        journal.sync()
        journal.restore()
        assert bystander.poll() is None
        journal = Journal.open_new("run")
        journal.process(bystander.pid)
        journal.restore()
        assert bystander.wait(5) == -signal.SIGKILL
    finally:
        bystander.kill()


def test_what_cannot_be_restored_is_said_and_kept(setting: Path) -> None:
    journal = Journal.open_new("run")
    journal.setting(str(setting), "64")
    setting.unlink()
    setting.mkdir()
    assert "cannot write back 1000" in journal.restore()[0]
    assert journal.path.exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json", '{"owner": [1, 2]}'])
def test_a_foreign_journal_is_named_and_kept(setting: Path, text: str) -> None:
    path = Path(os.environ["TAILWATCH_LAB_STATE"])
    path.mkdir()
    (path / "x.json").write_text(text)
    with pytest.raises(ConfigError, match=r"x\.json"):
        Journal.load(path / "x.json")
    count, trouble = sweep()
    assert count == 0
    assert len(trouble) == 1
    assert (path / "x.json").exists()


def test_a_setting_that_is_not_there_is_one_line(setting: Path) -> None:
    with pytest.raises(ConfigError, match="cannot set"):
        Journal.open_new("run").setting(str(setting) + "-none", "1")
