from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipelines.commands.doctor import command
from pipelines.doctor.examine import examine, sampler_cost
from telemetry.store import Store

TREE = Path(__file__).parents[1] / "fixtures/proc/linux-5.14"


def said(root: Path, **options: object) -> dict[str, str]:
    return {f.what: f.level for f in examine(root, seconds=0, **options)}  # type: ignore[arg-type]


def test_a_host_with_isolated_cpus(tmp_path: Path) -> None:
    shutil.copytree(TREE, tmp_path / "r", symlinks=True)
    found = said(tmp_path / "r")
    strays = [w for w in found if "may hit isolated CPUs" in w]
    assert strays == ["1 interrupts may hit isolated CPUs (first: IRQ 131)"]
    assert found[strays[0]] == "problem"
    (tmp_path / "r/proc/irq/131/smp_affinity_list").write_text("0\n")
    assert not [w for w in said(tmp_path / "r") if "may hit isolated" in w]
    (tmp_path / "r/proc/sys/net/netfilter/nf_conntrack_count").write_text("65000\n")
    assert [w for w, level in said(tmp_path / "r").items() if "nearly full" in w and level == "problem"]


@pytest.mark.parametrize(
    ("tree", "words"),
    [("linux-3.10", "softnet_stat does not name its CPUs"), ("linux-3.10", "/proc/pressure/cpu is not there")],
)
def test_what_older_kernels_lack(tree: str, words: str) -> None:
    assert [w for w in said(TREE.parent / tree) if words in w]


def test_what_of_the_machine_can_be_seen(tmp_path: Path) -> None:
    """Of the tree's machine all but sensors; of a virtual one nothing."""
    hardware = [w for w in said(TREE) if w.startswith(("to be seen", "not there:"))]
    assert "throttling" in hardware[0]
    assert hardware[1:] == ["not there: sensors (hwmon); blind to heat and fans"]
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu0 1 2\n")
    nothing = next(w for w in said(tmp_path) if w.startswith("not there"))
    assert "cpuidle" in nothing
    assert "edac" in nothing


def test_tracers(tmp_path: Path) -> None:
    shutil.copytree(TREE, tmp_path / "r", symlinks=True)
    assert [w for w in said(tmp_path / "r") if "no tracing file system" in w]
    folder = tmp_path / "r/sys/kernel/tracing"
    (folder / "instances/tailwatch").mkdir(parents=True)
    (folder / "available_tracers").write_text("function nop\n")
    assert [w for w in said(tmp_path / "r") if "no osnoise, timerlat or hwlat" in w]
    (folder / "available_tracers").write_text("hwlat osnoise function nop\n")
    assert [w for w in said(tmp_path / "r") if w.startswith("tracers that this kernel has: osnoise, hwlat")]
    (folder / "instances/tailwatch/current_tracer").write_text("hwlat\n")
    assert [w for w, level in said(tmp_path / "r").items() if "hwlat tracer runs" in w and level == "ok"]


def test_kernel_bypass_and_what_it_blinds(tmp_path: Path) -> None:
    shutil.copytree(TREE, tmp_path / "r", symlinks=True)
    (tmp_path / "r/proc/4000/maps").write_text("7f00-7f01 r-xp 00000000 08:01 1 /usr/lib64/libonload.so\n")
    found = next(f for f in examine(tmp_path / "r", seconds=0) if f.area == "bypass")
    assert "process strat (4000) goes round the kernel" in found.what
    assert "softnet_*" in found.what
    assert "nodesc_drop" in found.remedy


@pytest.mark.skipif(not Path("/proc/interrupts").exists(), reason="needs Linux")
def test_the_clock_in_plain_words() -> None:
    clock = [f for f in examine("/", seconds=0) if f.area == "clock"]
    assert any("chronyd" in f.what for f in clock)
    assert any("PTP hardware clock" in f.what for f in clock)


def test_nothing_to_see(tmp_path: Path) -> None:
    assert [lv for w, lv in said(tmp_path).items() if "shows no kernel" in w] == ["problem"]


def test_stores(tmp_path: Path) -> None:
    Store(tmp_path / "s").close()
    assert [w for w in said(TREE, store=tmp_path / "s") if "is empty" in w]
    (tmp_path / "s/store.json").write_text('{"format": "tailwatch-store", "version": 99}')
    assert [w for w, lv in said(TREE, store=tmp_path / "s").items() if "another version" in w and lv == "problem"]


@pytest.mark.skipif(not Path("/proc/interrupts").exists(), reason="needs Linux")
def test_live_cost_is_told() -> None:
    finding = sampler_cost(0.5)
    assert "of a core" in finding.what
    assert {f.area for f in examine("/", seconds=0)} >= {"kernel", "clock", "cpus", "rights"}


def test_command(tmp_path: Path) -> None:
    options = ["--root", str(TREE), "--seconds", "0", "--store", str(tmp_path / "s")]
    plain = CliRunner().invoke(command, options)
    assert plain.exit_code == 0
    assert "PROBLEM" in plain.output
    told = CliRunner().invoke(command, [*options, "--json"])
    assert {"area", "level", "what", "remedy"} == set(json.loads(told.output)[0])
    assert CliRunner().invoke(command, [*options, "--strict"]).exit_code == 1
