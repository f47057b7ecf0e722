"""Backtest of a corpus: places, shares, and the recorded runs themselves."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pipelines.cli import cli
from pipelines.corpus import RunResult, corpus_runs, gathered, reliability, run_corpus, summary
from pipelines.truth import judged_kinds, place_agrees
from telemetry.errors import InputError, NoDataError
from telemetry.types import Events, SeriesKey

DATA = os.environ.get("TAILWATCH_DATA")


@pytest.mark.parametrize(
    ("found", "recorded", "right"),
    [
        ("host=lab,hop=exch>trd", {"layer": "network", "hop": "exch-trd"}, True),
        ("host=lab,hop=trd>exch", {"layer": "network", "hop": "exch-trd"}, True),
        ("host=lab,process=strat", {"layer": "network", "hop": "exch-trd"}, False),
        ("host=lab,process=strat", {"layer": "host", "process": "strat", "cpu": "1"}, True),
        ("host=lab,process=strat,cpu=0", {"layer": "host", "process": "strat", "cpu": "1"}, False),
        ("host=lab,cpu=0|1", {"layer": "host", "cpu": "1"}, True),
        ("host=lab", {"layer": "host", "netns": "trd"}, True),
        ("host=lab,hop=exch>trd", {"layer": "host", "netns": "trd"}, False),
        ("host=lab", {}, None),
    ],
)
def test_places(found: str, recorded: dict[str, str], right: bool | None) -> None:
    assert place_agrees(found, recorded) is right


@pytest.mark.parametrize(
    ("fault", "told", "clean", "kinds"),
    [
        ("loss", "steal", False, ("network_gap", "tcp_loss")),
        ("microburst", "udp_overflow", False, ("microburst",)),
        ("ctx_switch", "", False, ("context_switch_storm",)),
        ("page_fault", "", False, ("page_fault_burst",)),
        ("collapse", "", False, ("tcp_collapse",)),
        ("gap", "host_gap", False, ("host_gap",)),
        ("our_own", "nagle", False, ("nagle",)),
        ("deploy", "", True, ("none",)),
        ("baseline", "nagle", False, ("none",)),
    ],
)
def test_kinds_follow_from_names(fault: str, told: str, clean: bool, kinds: tuple[str, ...]) -> None:
    """A label does not decide what is right where the fault's name does."""
    assert judged_kinds(fault, told, clean) == kinds


def test_reliability_tells_what_was_said_and_what_came_true(tmp_path: Path) -> None:
    def result(confidence: float, kind: str, delay: float | None = 1.0) -> RunResult:
        return RunResult(
            "r", kind, (kind,), "", delay, 0, "nagle", "nagle", ("nagle",), 1, 60.0, confidence, "", True, None
        )  # fmt: skip

    table = reliability([result(0.6, "nagle"), result(0.7, "steal"), result(1.0, "nagle"), result(0.9, "nagle", None)])
    assert [(x.n, x.right) for x in table] == [(0, 0), (2, 1), (0, 0), (1, 1)]
    assert table[1].said == pytest.approx(0.65)


def test_gathering_changes_nothing_but_the_cuts() -> None:
    key = SeriesKey.of("a", "m")
    time = np.arange(100, dtype=np.int64) * 10_000_000
    whole = Events((key,), np.zeros(100, np.int64), time, time, np.arange(100))
    pieces = [whole[i : i + 3] for i in range(0, 100, 3)]
    joined = list(gathered(pieces))
    assert 2 < len(joined) < len(pieces)
    assert np.array_equal(Events.concat(joined).value, whole.value)
    mixed = list(gathered([whole[:2], Events((key,), *(x[2:4] for x in (whole.series, time, time)), np.zeros(2))]))
    assert [b.value.dtype.kind for b in mixed] == ["i", "f"], "exact integers stay integers"


def test_what_is_no_corpus_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoDataError):
        corpus_runs(tmp_path)
    with pytest.raises(InputError):
        corpus_runs(tmp_path / "absent")


def test_a_broken_run_is_left_out_and_said(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "label.json").write_text("{}")
    broken: list[str] = []
    assert run_corpus(tmp_path, broken=broken) == []
    assert "label.json" in broken[0]
    with pytest.raises(InputError):
        run_corpus(tmp_path)
    done = CliRunner().invoke(cli, ["backtest", "--corpus", str(tmp_path), "--json", str(tmp_path / "f.json")])
    assert isinstance(done.exception, InputError)
    assert json.loads((tmp_path / "f.json").read_text()) == []


@pytest.mark.corpus
@pytest.mark.skipif(not DATA, reason="needs TAILWATCH_DATA (lab recordings)")
def test_recorded_runs(tmp_path: Path) -> None:
    """Signature, place and delay of the public recordings; their counts vary and are not asserted."""
    lab = Path(str(DATA)) / "lab"
    for name in ("baseline", "loss", "rt_contention"):
        (tmp_path / name).symlink_to(lab / name)
    results = run_corpus(tmp_path)
    by = {r.run: r for r in results}
    assert by["baseline"].kind == "none"
    assert sum(r.false for r in results) == 0
    assert by["loss"].top_kinds[0] in ("network_gap", "tcp_loss")
    assert "hop=exch>trd" in by["loss"].place
    assert by["rt_contention"].top_kinds[0] == "cpu_contention"
    assert "process=strat" in by["rt_contention"].place
    for name in ("loss", "rt_contention"):
        assert by[name].incidents == 1
        assert 0 <= (by[name].delay_s or 0) < 3
    assert summary(results)["found"].startswith("2/2")


@pytest.mark.corpus
@pytest.mark.skipif(not DATA, reason="needs TAILWATCH_DATA (lab recordings)")
def test_command_writes_what_is_promised(tmp_path: Path) -> None:
    out = tmp_path / "f.json"
    done = CliRunner().invoke(
        cli, ["backtest", "--corpus", str(Path(str(DATA)) / "lab" / "gc_pause"), "--json", str(out)]
    )
    assert done.exit_code == 0, done.output
    (row,) = json.loads(out.read_text())
    assert {"run", "kind", "top_kinds", "place", "delay_s", "false"} <= set(row)
    assert row["top_kinds"][0] == "process_pause"
