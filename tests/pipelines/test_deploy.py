"""What is deployed is what exists: commands, options, keys of the configuration, metrics, exit codes."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from pipelines.cli import cli
from pipelines.config import Config, reference

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
yaml = pytest.importorskip("yaml", reason="PyYAML comes with Dask and MLflow")


def check(args: list[str]) -> None:
    """The command line parses; nothing is run."""
    assert args[0] == "tailwatch" or args[0].endswith("/tailwatch")
    context = cli.make_context("tailwatch", args[1:])
    name, command, rest = cli.resolve_command(context, [*context._protected_args, *context.args])
    assert name is not None
    assert isinstance(command, click.Command)
    command.make_context(name, rest, parent=context)


def documents(path: Path) -> list[dict[str, Any]]:
    return [d for d in yaml.safe_load_all(path.read_text()) if d]


def containers(document: dict[str, Any]) -> list[dict[str, Any]]:
    spec = document.get("spec", {})
    spec = spec.get("jobTemplate", {}).get("spec", spec)
    found: list[dict[str, Any]] = spec.get("template", {}).get("spec", {}).get("containers", [])
    return found


@pytest.mark.parametrize("path", sorted((DEPLOY / "kubernetes").glob("*.yaml")), ids=lambda p: p.name)
def test_manifests(path: Path) -> None:
    works = 0
    for document in documents(path):
        assert {"apiVersion", "kind", "metadata"} <= set(document)
        if document["kind"] == "ConfigMap":
            msgspec.convert(tomllib.loads(document["data"]["tailwatch.toml"]), Config)
            continue
        spec = document["spec"].get("jobTemplate", document)["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["automountServiceAccountToken"] is False
        for container in containers(document):
            works += 1
            check(["tailwatch", *container["args"]])
            limits = container["securityContext"]
            assert limits["readOnlyRootFilesystem"] is True
            assert limits["capabilities"]["drop"] == ["ALL"]
            assert "memory" in container["resources"]["limits"]
            assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in spec["volumes"]}
            (cache,) = [e["value"] for e in container["env"] if e["name"] == "NUMBA_CACHE_DIR"]
            assert any(cache.startswith(m["mountPath"]) for m in container["volumeMounts"])
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if probe in container:
                    compile(container[probe]["exec"]["command"][-1], probe, "exec")
    assert works


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("*.service")), ids=lambda p: p.name)
def test_units(path: Path) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(path.read_text())
    service = unit["Service"]
    check(shlex.split(service["ExecStart"]))
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["Environment"].startswith("NUMBA_CACHE_DIR=/var/lib/tailwatch")
    if shutil.which("systemd-analyze"):
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True)
        assert "Unknown" not in done.stderr


def test_cron_line() -> None:
    line = next(x for x in (DEPLOY / "crontab").read_text().splitlines() if not x.startswith("#"))
    command = line.split("&&")[1].split(">>")[0]
    check(shlex.split(command))


def test_container_file() -> None:
    text = re.sub(r"\\\n", " ", (DEPLOY / "Containerfile").read_text())
    steps = [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]
    known = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in steps} <= known
    for name, rest in steps:
        if name == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
    packages = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["root_packages"])
    assert packages <= set(text.split())
    values = dict(steps)
    assert values["USER"] != "root"
    check([*json.loads(values["ENTRYPOINT"]), *json.loads(values["CMD"])])


def test_the_reference_is_the_schema_and_the_page_is_current() -> None:
    text = reference()
    for name in ("store", "max_series", "keep_evidence_days", "tls_cert", "format", "taps", "max_per_minute"):
        assert f"# {name} = " in text
    live = re.sub(r"(?m)^# (\w+ = )(?!\.\.\.)", r"\1", text)
    live = re.sub(r"(?ms)^# \[(?:sinks\.\w+|kafka)\].*?(?=^\[|\Z)", "", live)
    parsed = tomllib.loads(live)
    assert msgspec.convert(parsed, Config) == Config(), "the defaults that it shows are the defaults"
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert text.strip() in page, "docs/configuration.md: put the output of 'tailwatch config --reference' into it"
