"""Folds in time order, sweeps, and going on after a kill: on a real store and a real MLflow file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from detectors.spec import DetectorSpec
from pipelines.cli import cli
from pipelines.cluster import executor, run_all
from pipelines.registry import Registry
from pipelines.search import Ledger, Sweep, Trial, fold_ranges, with_params
from pipelines.train import learn, warm
from telemetry.errors import ConfigError
from telemetry.labels import write_labels
from telemetry.source import ArraySource
from telemetry.store import Store
from telemetry.types import Events, Label, SeriesKey

SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND
SPEC = """
name = "folded"
kind = "tail_latency_creep"
[[features]]
kind = "window"
select = "lat_ns"
window = "1s"
columns = ["p99"]
[model]
kind = "light"
[policy]
kind = "budget"
per_day = 5
"""
LABELS = [
    Label(f"inc-{i}", "tail_latency_creep", "host=h", at, at + 30 * SECOND, at + 30 * SECOND)
    for i, at in enumerate(START + s * SECOND for s in (450, 700, 950, 1100))
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    rng = np.random.default_rng(0)
    n = 12_000
    t = np.sort(rng.integers(0, 1200 * SECOND, n)) + START
    value = rng.lognormal(10, 0.3, n)
    for i, label in enumerate(LABELS):
        value[(t >= label.start_ns) & (t < label.end_ns)] *= 6 * 4**i
    with Store(folder / "store") as store:
        store.append(Events((SeriesKey.of("h", "lat_ns"),), np.zeros(n, np.int64), t, t, value))
    write_labels(folder / "incidents.csv", LABELS)
    (folder / "folded.toml").write_text(SPEC)
    (folder / "t.toml").write_text(
        f'store = "{folder}/store"\nstate = "{folder}/state.db"\ncheckpoints = "{folder}/ck"\n'
        f'tracking = "sqlite:///{folder}/mlflow.db"\nartifacts = "{folder}/artifacts"\n'
    )
    return folder


def arguments(place: Path, *more: str) -> list[str]:
    spec, incidents = str(place / "folded.toml"), str(place / "incidents.csv")
    return ["--config", str(place / "t.toml"), "train", spec, "--incidents", incidents, *more]


def test_a_sweep_over_folds_is_nested_runs_and_its_best_is_registered(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.retrain.code_digest", lambda: "fixed")  # a working tree may change under a test
    grid = ["--folds", "3", "--grid", "policy.threshold=2.5,60"]
    result = CliRunner().invoke(cli, arguments(place, *grid, "--json"))
    assert result.exit_code == 0, result.output
    (done,) = json.loads(result.stdout)
    assert done["params"] == {"policy.threshold": 2.5}
    assert done["trials"] == 2
    assert done["figures"]["labels"] == 4  # those of the judged parts
    assert done["figures"]["found"] >= 3

    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{place}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tailwatch").experiment_id], max_results=100)
    by_parent: dict[str, list[str]] = {}
    for run in runs:
        by_parent.setdefault(run.data.tags.get("mlflow.parentRunId", ""), []).append(run.info.run_id)
    (parent,) = by_parent[""]
    assert len(by_parent[parent]) == 3  # two trials and the version
    folds = [len(by_parent.get(child, ())) for child in by_parent[parent]]
    assert sorted(folds) == [0, 3, 3]
    registry = Registry(f"sqlite:///{place}/mlflow.db", f"{place}/artifacts")
    assert registry.evaluations("folded") == []  # folds and trials are not of its history
    version = client.get_model_version_by_alias("folded", "challenger")
    inputs = client.get_run(version.run_id).inputs.dataset_inputs
    assert [t.value for i in inputs for t in i.tags if t.key == "mlflow.data.context"].count("training") >= 1

    again = CliRunner().invoke(cli, arguments(place, *grid))
    assert "done before" in again.output
    assert len(client.search_model_versions("name='folded'")) == 1


def test_a_backtest_tells_which_incidents_it_cannot_judge(place: Path, tmp_path: Path) -> None:
    start, end = START + 9000 * SECOND, START + 9030 * SECOND
    late = replace(LABELS[0], id="late", start_ns=start, end_ns=end, known_ns=end)
    write_labels(tmp_path / "incidents.csv", [*LABELS, late])
    run = ["--config", str(place / "t.toml"), "backtest", str(place / "folded.toml"), "--no-mlflow"]
    result = CliRunner().invoke(cli, [*run, "--incidents", str(tmp_path / "incidents.csv")])
    assert result.exit_code == 0, result.output
    assert "folded@file: 1 of 5 labelled incidents are not in " in result.stderr


@pytest.mark.slow
def test_a_killed_training_goes_on(place: Path, tmp_path: Path) -> None:
    config = tmp_path / "t.toml"
    config.write_text((place / "t.toml").read_text().replace(f"{place}/ck", f"{tmp_path}/ck"))
    run = arguments(place, "--folds", "5", "--grid", "model.alpha=0.02,0.05,0.1,0.2", "--json")
    run[1] = str(config)
    command = [sys.executable, "-m", "pipelines.cli", *run]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": os.getcwd()})
    deadline = time.monotonic() + 240
    ledgers: list[Path] = []
    while time.monotonic() < deadline and process.poll() is None:
        ledgers = list((tmp_path / "ck" / "training").glob("*.jsonl"))
        if ledgers and ledgers[0].read_text().count("\n") >= 4:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = Ledger(ledgers[0]).done
    assert "registered" not in before
    result = CliRunner().invoke(cli, run)
    assert result.exit_code == 0, result.output
    after = ledgers[0].read_text()
    assert all(after.count(json.dumps(key)) == 1 for key in before)  # nothing was done twice
    assert json.loads(result.stdout)[0]["trials"] == 4


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with executor(jobs=2) as processes:
        yield processes


@pytest.mark.parametrize("kind", ["shift", "seasonal", "joint"])
def test_two_processes_fit_what_one_does(pool: Executor, kind: str) -> None:
    rng = np.random.default_rng(1)
    keys = tuple(SeriesKey.of("h", "lat_ns", flow=str(i)) for i in range(5))
    t = np.sort(rng.integers(0, 900 * SECOND, 20_000)) + START
    events = ArraySource(Events(keys, rng.integers(0, 5, len(t)), t, t, rng.lognormal(10, 0.3, len(t))))
    spec = DetectorSpec.from_toml(SPEC.replace('kind = "light"', f'kind = "{kind}"'))
    handed: list[int] = []

    def spread(task: Callable[[Any], Any], work: Sequence[Any]) -> list[Any]:
        handed.append(len(work))
        return run_all(pool, task, work)

    one = learn(spec, events, 0, 2**62, masked=LABELS[:1])
    two = learn(spec, events, 0, 2**62, masked=LABELS[:1], spread=spread, split=True)
    assert handed == ([] if kind == "joint" else [5])
    for learnt in (one, two):
        warm(learnt, events, 0, 2**62)
    a, b = one.detector.snapshot(), two.detector.snapshot()
    assert a.meta == b.meta
    assert list(a.arrays) == list(b.arrays)
    for name, array in a.arrays.items():
        np.testing.assert_array_equal(array, b.arrays[name], err_msg=name, strict=True)


def test_a_joint_model_says_that_it_is_fitted_in_one_process(place: Path) -> None:
    (place / "together.toml").write_text(SPEC.replace('"folded"', '"together"').replace('"light"', '"joint"'))
    run = [a.replace("folded.toml", "together.toml") for a in arguments(place, "--jobs", "2")]
    result = CliRunner().invoke(cli, run)
    assert result.exit_code == 0, result.output
    assert "together: model 'joint' is fitted in one process: it looks at all series together" in result.stderr
    assert "together v1 (challenger): 1 series" in result.stdout


def test_a_series_with_too_short_a_history_is_named(place: Path) -> None:
    (place / "days.toml").write_text(SPEC.replace('"folded"', '"days"').replace('"light"', '"seasonal"'))
    result = CliRunner().invoke(cli, [a.replace("folded.toml", "days.toml") for a in arguments(place)])
    assert result.exit_code == 0, result.output
    (note,) = [line for line in result.stdout.splitlines() if "simpler baseline" in line]
    assert "p99: level: stl: 0.0 days of history, it needs 2" in note


def test_folds_only_look_back() -> None:
    for start, cut, stop in fold_ranges(0, 1000, 4):
        assert start == 0
        assert start < cut < stop
    cuts = [(cut, stop) for _, cut, stop in fold_ranges(0, 1000, 4)]
    assert cuts == [(200, 400), (400, 600), (600, 800), (800, 1000)]


def test_no_fold_cuts_an_incident() -> None:
    end = START + 1200 * SECOND
    ranges = fold_ranges(START, end, 5, LABELS)
    assert ranges[-1][2] == end
    for _, cut, _ in ranges:
        assert not any(x.start_ns < cut < x.end_ns + 30 * SECOND for x in LABELS)
    whole = Label("all", "smi", "", START, end, end)
    assert fold_ranges(START, end, 5, [whole]) == []


def test_a_sweep_draws_by_its_seed(tmp_path: Path) -> None:
    grid = {"model.alpha": [0.1, 0.2, 0.3], "policy.per_day": [1, 2, 3]}
    assert len(Sweep(grid).choices()) == 9
    one, two = (Sweep(grid, trials=4, seed=s).choices() for s in (1, 1))
    assert one == two
    assert len(one) == 4
    assert one != Sweep(grid, trials=4, seed=2).choices()
    file = tmp_path / "sweep.toml"
    file.write_text('seed = 3\ntrials = 2\nby = "vus_pr"\n[grid]\n"model.alpha" = [0.1, 0.2, 0.3]\n')
    assert Sweep.from_file(file) == Sweep({"model.alpha": [0.1, 0.2, 0.3]}, 2, 3, "vus_pr")
    assert Sweep.from_options(["a.b=1,x,2.5"]) == {"a.b": [1, "x", 2.5]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.alhpa=1", "alpha"),
        ("nonsense.x=1", "model.x"),
        ("model.alpha", "NAME=VALUE"),
        ("features.7.x=1", "sweep"),
    ],
)
def test_a_wrong_parameter_is_told_before_any_work(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_params(DetectorSpec.from_toml(SPEC), {k: v[0] for k, v in Sweep.from_options([text]).items()})
    with pytest.raises(ConfigError, match="'by'"):
        Sweep(by="accuracy")


def test_optuna_may_choose(place: Path) -> None:
    pytest.importorskip("optuna", reason="extra: tailwatch[sweeps]")
    (place / "tpe.toml").write_text('sampler = "tpe"\ntrials = 3\n[grid]\n"policy.threshold" = [3.0, 60.0]\n')
    result = CliRunner().invoke(cli, arguments(place, "--sweep", str(place / "tpe.toml"), "--json", "--alias", ""))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)[0]["trials"] == 3


def test_a_cut_line_of_the_ledger_does_not_count(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.jsonl")
    ledger.add("a", {"x": 1.0})
    with ledger.path.open("a") as file:
        file.write('["b", {"x": ')
    again = Ledger(ledger.path)
    assert again.done == {"a": {"x": 1.0}}
    again.add("c", {"x": float("nan")})
    third = Ledger(ledger.path).done
    assert set(third) == {"a", "c"}
    assert np.isnan(third["c"]["x"])


def test_trials_add_up_over_folds() -> None:
    spec = DetectorSpec.from_toml(SPEC)
    folds = ({"labels": 2.0, "found": 1.0, "false": 1.0, "clean_days": 0.5}, {"labels": 1.0, "found": 1.0})
    figures = Trial({}, spec, folds).figures
    assert figures["event_recall"] == pytest.approx(2 / 3)
    assert figures["false_per_day"] == 2.0
    assert Trial({}, spec, folds).worth("event_f1") > Trial({}, spec, ()).worth("event_f1")
