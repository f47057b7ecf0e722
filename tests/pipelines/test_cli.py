from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pipelines.cli import COMMANDS
from pipelines.ui import Number


def run(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pipelines.cli", *args], capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_examples(name: str) -> None:
    from click.testing import CliRunner

    from pipelines.cli import cli

    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "Example" in result.output
    assert result.output.count("tailwatch ") >= 1


def _options(command: click.Command) -> Iterator[click.Parameter]:
    yield from command.params
    for sub in getattr(command, "commands", {}).values():
        yield from _options(sub)


@pytest.mark.parametrize("name", COMMANDS)
def test_numbers_are_finite_and_in_range(name: str) -> None:
    command = importlib.import_module(f"pipelines.commands.{name}").command
    for option in _options(command):
        if isinstance(option.type, (click.types.FloatParamType, Number)):
            assert isinstance(option.type, Number), option.name
            for text in ("nan", "inf", "-1e9"):
                with pytest.raises(click.BadParameter):
                    option.type.convert(text, option, None)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom pipelines.cli import cli\n"
        "try:\n    cli(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'pandas', 'numba', 'mlflow', 'pyarrow', 'sklearn', 'river', 'statsmodels', 'scipy'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_a_mistyped_command_is_helped() -> None:
    done = run("harvset")
    assert done.returncode == 2
    assert "Did you mean 'harvest'?" in done.stderr


def test_a_users_mistake_is_one_line_without_traceback(tmp_path: Path) -> None:
    (tmp_path / "tailwatch.toml").write_text("[harvest]\nhz = 'fast'\n")
    done = run("config", cwd=tmp_path)
    assert done.returncode == 4
    assert "tailwatch.toml" in done.stderr
    assert "harvest.hz" in done.stderr
    assert "Traceback" not in done.stderr
    (tmp_path / "tailwatch.toml").write_text("[harvets]\n")
    assert "harvets" in run("config", cwd=tmp_path).stderr
    (tmp_path / "tailwatch.toml").write_text("= 1")
    assert "not TOML" in run("config", cwd=tmp_path).stderr


def test_score_without_a_store_says_what_to_do(tmp_path: Path) -> None:
    done = run("score", cwd=tmp_path)
    assert done.returncode == 3
    assert "tailwatch harvest" in done.stderr


def test_config_reference_is_itself_a_configuration(tmp_path: Path) -> None:
    reference = run("config", "--reference").stdout
    uncommented = "\n".join(
        line.removeprefix("# ") if " = " in line and "..." not in line else line for line in reference.splitlines()
    )
    keep = [block for block in uncommented.split("\n\n") if not block.startswith("# [")]
    (tmp_path / "tailwatch.toml").write_text("\n\n".join(keep))
    done = run("config", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["harvest"]["hz"] == 10.0
