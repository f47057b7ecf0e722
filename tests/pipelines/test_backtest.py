"""A backtest over a corpus: cases, measures with intervals, the page; and what the intervals are made of."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import nab
from pipelines.casebook import plain_numbers
from pipelines.cases import corpus_cases, open_case
from pipelines.cli import cli
from pipelines.evaluate import Finding, evaluate
from pipelines.intervals import Track, edges, event_intervals, score_measures
from pipelines.measures import auc_pr, range_f1, vus_pr
from telemetry.errors import InputError, NoDataError
from telemetry.types import Label

CORPUS = os.environ.get("TAILWATCH_DATA")
ROOT = Path(__file__).parents[2]
SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND
SPEC = """
name = "{name}"
idle_timeout = "1d"
[[features]]
kind = "window"
select = "value"
window = "1m"
columns = ["mean"]
[model]
kind = "light"
[policy]
kind = "budget"
threshold = {threshold}
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six series of 600 minutes with a burst each; the last has none."""
    folder = tmp_path_factory.mktemp("series")
    (folder / "data").mkdir()
    rng = np.random.default_rng(0)
    windows: dict[str, list[list[str]]] = {}
    times = [f"2026-11-20 {m // 60:02d}:{m % 60:02d}:00" for m in range(600)]
    for i in range(6):
        value = rng.normal(50, 3, 600)
        at = 300 + 20 * i
        windows[f"s{i}.csv"] = []
        if i < 5:
            value[at : at + 12] += 40
            windows[f"s{i}.csv"] = [[times[at], times[at + 12]]]
        rows = "".join(f"{t},{v:.3f}\n" for t, v in zip(times, value, strict=True))
        (folder / "data" / f"s{i}.csv").write_text("timestamp,value\n" + rows)
    (folder / "windows.json").write_text(json.dumps(windows))
    for name, threshold in (("keen", 3.0), ("deaf", 60.0)):
        (folder / f"{name}.toml").write_text(SPEC.format(name=name, threshold=threshold))
    return folder


def test_two_detectors_over_a_corpus_with_page_pictures_and_runs(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(
        f'tracking = "sqlite:///{tmp_path}/m.db"\nartifacts = "{tmp_path}/a"\nstate = "{tmp_path}/s.db"\n'
    )
    out = tmp_path / "out"
    specs = [str(corpus / "keen.toml"), str(corpus / "deaf.toml")]
    arguments = ["--config", str(tmp_path / "t.toml"), "backtest", *specs, "--corpus", str(corpus), "--out", str(out)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    keen, deaf = json.loads((out / "figures.json").read_text())
    assert (keen["found"], keen["labels"], deaf["found"]) == (5, 5, 0)
    assert keen["event_recall_lo"] < 0.7 < keen["event_recall_hi"] == 1.0  # five of five proves no more
    for name in ("vus_pr", "auc_pr", "range_f1", "nab_standard", "event_f1", "false_per_day"):
        assert keen[f"{name}_lo"] <= keen[name] <= keen[f"{name}_hi"], name
    assert keen["vus_pr"] > 0.5
    assert keen["nab_standard"] > 50.0
    assert deaf["nab_standard"] == pytest.approx(0.0)
    page = (out / "report.html").read_text()
    assert "http" not in page
    assert page.count("data:image/png") >= 10  # five finds, five misses
    assert {p.name.split("-")[1] for p in (out / "deaf-file").iterdir()} == {"missed"}
    assert result.output.index("missed  deaf@file") < result.output.index("VUS-PR")

    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/m.db")
    experiment = client.get_experiment_by_name("tailwatch")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2
    for run in runs:
        files = {f.path for f in client.list_artifacts(run.info.run_id)}
        assert {"report.html", "incidents.json", "pictures"} <= files
        assert f"{corpus.name}.vus_pr" in run.data.metrics


def test_cases_hold_what_the_files_say(corpus: Path, tmp_path: Path) -> None:
    cases = corpus_cases(corpus)
    assert [c.name for c in cases] == [f"s{i}.csv" for i in range(6)]
    assert [len(c.labels) for c in cases] == [1] * 5 + [0]
    with open_case(cases[0]) as source:
        assert sum(len(b) for b in source.read(0, 2**62)) == 600
    with pytest.raises(NoDataError, match=r"windows\.json"):
        corpus_cases(tmp_path)
    (tmp_path / "windows.json").write_text("[")
    with pytest.raises(InputError, match="JSON"):
        corpus_cases(tmp_path)


def label(i: int, start: int, end: int) -> Label:
    return Label(f"i{i}", "smi", "", START + start * SECOND, START + end * SECOND, START + end * SECOND)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9000), st.integers(1, 2000)), max_size=6), st.integers(1, 100_000))
def test_borders_of_blocks_never_cut_an_incident(spans: list[tuple[int, int]], seconds: int) -> None:
    labels = [label(i, a, a + n) for i, (a, n) in enumerate(spans)]
    cut = edges(START, START + seconds * SECOND, labels)
    assert cut[0] == START
    assert cut[-1] == START + seconds * SECOND
    assert (np.diff(cut) > 0).all()
    for x in labels:
        assert not ((cut[1:-1] > x.start_ns) & (cut[1:-1] < x.end_ns)).any()


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """False alarms of a Poisson process at 12 a day: the 95 % interval holds 12 nearly always."""
    rng = np.random.default_rng(1)
    held = 0
    for trial in range(40):
        at = np.flatnonzero(rng.random(2 * 1440) < 12 / 1440) * 60 * SECOND + START
        e = evaluate([Finding(int(t), "") for t in at], [], START, START + 2 * 86_400 * SECOND)
        lo, hi = event_intervals([(e, START, START + 2 * 86_400 * SECOND)], trial)["false_per_day"]
        held += lo <= 12 <= hi
    assert held >= 33


def test_measures_of_one_case_are_those_of_its_rows() -> None:
    rng = np.random.default_rng(2)
    n = 900
    end_ns = START + (1 + np.arange(n)) * SECOND
    labels = (label(0, 300, 330), label(1, 700, 720))
    score = rng.random(n) * 0.6
    track = Track("x", end_ns, end_ns - SECOND, score, score, score >= 0.55, labels)
    hot = track.hot
    assert hot.sum() == 50
    out, intervals = score_measures([track], draws=50, seed=0)
    assert out["vus_pr"] == vus_pr(hot, score)
    assert out["auc_pr"] == auc_pr(hot, score)
    assert out["range_f1"] == range_f1(hot, score >= 0.5)
    file = nab.prepare(track.alert.astype(float), [(300, 329), (700, 719)])
    assert out["nab_standard"] == nab.corpus_score([file], 0.5, nab.PROFILES["standard"]).score
    assert set(intervals) == {"vus_pr", "auc_pr", "range_f1"}
    assert score_measures([track], draws=0, seed=0) == (out, {})
    assert plain_numbers([{"a": float("nan"), "b": 1.0}]) == [{"a": None, "b": 1.0}]


@pytest.mark.slow
@pytest.mark.corpus
@pytest.mark.skipif(not CORPUS, reason="TAILWATCH_DATA is not set")
@pytest.mark.parametrize(("specs", "folder"), [("lab", "lab"), ("nab", "series/nab")])
def test_the_recipes_of_the_handbook_run(specs: str, folder: str, tmp_path: Path) -> None:
    files = sorted(str(p) for p in (ROOT / "benchmarks" / "experiments" / specs).glob("*.toml"))
    assert len(files) == 5
    (tmp_path / "t.toml").write_text(
        f'tracking = "sqlite:///{tmp_path}/m.db"\nartifacts = "{tmp_path}/a"\nstate = "{tmp_path}/s.db"\n'
    )
    run = ["--config", str(tmp_path / "t.toml"), "backtest", *files, "--corpus", str(Path(str(CORPUS), folder))]
    result = CliRunner().invoke(cli, [*run, "--limit", "3", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert len(rows) == 5
    assert max(r["event_recall"] for r in rows) > 0.5
    assert all(0.0 <= r["vus_pr"] <= 1.0 for r in rows)
