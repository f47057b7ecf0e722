"""``tailwatch lab`` on the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.lab.run import ROOT
from pipelines.lab.scenarios import SCENARIOS


def lab(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "pipelines.cli", "lab", *words]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_list_names_every_scenario_and_its_kind() -> None:
    done = lab("list")
    assert done.returncode == 0
    rows = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()}
    assert rows == {name: s.kind for name, s in SCENARIOS.items()}


@pytest.mark.parametrize("words", [("--help",), ("run", "--help"), ("list", "--help"), ("restore", "--help")])
def test_help_has_examples(words: tuple[str, ...]) -> None:
    done = lab(*words)
    assert done.returncode == 0
    assert "Examples:" in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "dely_step", "--out", "x"), "did you mean delay_step?"),
        (("run", "--out", "x"), "nothing to run"),
        (("run", "loss", "--seeds", "a/b", "--out", "x"), "--seeds"),
        (("run", "loss", "--seconds", "2", "--out", "x"), "--seconds"),
        (("run", "loss"), "--out"),
    ],
)
def test_a_mistake_is_one_line_and_no_traceback(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = lab(*words)
    assert done.returncode not in (0, 1)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
