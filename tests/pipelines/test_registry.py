"""Train, register, backtest, promote, roll back, serve: on a real MLflow store."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from detectors.spec import DetectorSpec
from pipelines import judge
from pipelines.backtest import BUDGETS, backtest
from pipelines.config import Config
from pipelines.dossier import Dossier
from pipelines.frames import score_frame
from pipelines.judge import dossier, log_outcome
from pipelines.promote import compare, fair
from pipelines.registry import Registry, parse_name
from pipelines.resolve import Candidate, resolve
from pipelines.tracking import Tracker
from pipelines.train import history, mask, train
from telemetry.errors import ConfigError, NoDataError, StoreError
from telemetry.source import ArraySource
from telemetry.types import Events, Label, SeriesKey, Snapshot

SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND
KEY = SeriesKey.of("h", "lat_ns", flow="a")
SPEC = DetectorSpec.from_toml(
    """
name = "tiny"
kind = "tail_latency_creep"
[[features]]
kind = "window"
select = "lat_ns"
window = "1s"
columns = ["count", "p99"]
[model]
kind = "light"
[policy]
kind = "budget"
per_day = 5
"""
)
LABELS = [
    Label("inc-1", "tail_latency_creep", "host=h", START + 400 * SECOND, START + 430 * SECOND, START + 430 * SECOND),
    Label("inc-2", "tail_latency_creep", "host=h", START + 700 * SECOND, START + 730 * SECOND, START + 730 * SECOND),
]


@pytest.fixture(scope="module")
def events() -> Events:
    rng = np.random.default_rng(0)
    n = 40_000
    t = np.sort(rng.integers(0, 900 * SECOND, n)) + START
    value = rng.lognormal(10, 0.3, n)
    for label, factor in zip(LABELS, (6, 40), strict=True):  # a second of the same size would have a precedent
        value[(t >= label.start_ns) & (t < label.end_ns)] *= factor
    return Events((KEY,), np.zeros(n, np.int64), t, t, value)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder = tmp_path_factory.mktemp("mlflow")
    return Registry(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"))


@pytest.fixture(scope="module")
def registered(registry: Registry, events: Events) -> tuple[str, Snapshot]:
    trained = train(SPEC, ArraySource(events), 0, START + 300 * SECOND)
    snapshot = trained.detector.snapshot()
    outcome = backtest(Candidate(SPEC, "0"), ArraySource(events), LABELS, 0, 2**62)
    made = registry.register(SPEC, snapshot, dossier(outcome, LABELS, "tiny-corpus"))
    registry.alias("tiny", "champion", made.version)
    return made.version, snapshot


def test_training_masks_incidents_and_needs_data(events: Events) -> None:
    (panel,) = history(SPEC, ArraySource(events), 0, 2**62)
    masked = mask(panel, LABELS)
    hidden = np.isnan(masked.values).all(axis=(1, 2))
    inside = (panel.end_ns > LABELS[0].start_ns) & (panel.end_ns - SECOND < LABELS[0].end_ns)
    assert hidden[inside].all()
    assert 55 <= hidden.sum() <= 65
    with pytest.raises(NoDataError):
        train(SPEC, ArraySource(events), 0, 1)


def test_a_backtest_finds_both_incidents_and_prices_budgets(events: Events) -> None:
    outcome = backtest(Candidate(SPEC, "0"), ArraySource(events), LABELS, 0, 2**62)
    assert outcome.evaluation.found == 2
    assert outcome.by_kind == {"tail_latency_creep": (2, 2)}
    assert tuple(outcome.costs) == BUDGETS
    recall = [r for r, _ in outcome.costs.values()]
    assert recall == sorted(recall)
    lo, hi = outcome.intervals["event_recall"]
    assert lo <= 1.0 <= hi + 1e-9
    with pytest.raises(NoDataError):
        backtest(Candidate(SPEC, "0"), ArraySource(events), LABELS, 0, 1)


def test_a_version_comes_back_as_it_was(registry: Registry, registered: tuple[str, Snapshot]) -> None:
    version, snapshot = registered
    for how in ({"alias": "champion"}, {"version": version}, {}):
        found = registry.load("tiny", **how)
        assert found.spec == SPEC
        assert found.snapshot is not None
        assert found.snapshot.arrays.keys() == snapshot.arrays.keys()
        for name, array in found.snapshot.arrays.items():
            np.testing.assert_array_equal(snapshot.arrays[name], array)
    (listed,) = [v for v in registry.versions("tiny") if v["version"] == version]
    assert listed["aliases"] == ["champion"]
    for tag in ("spec_digest", "code_digest", "data_digest", "state_digest", "libraries", "corpus"):
        assert f"tailwatch.{tag}" in listed["tags"]
    assert registry.metrics(listed["run_id"])["tiny-corpus.event_recall"] == 1.0
    assert registry.evaluations("tiny")[0].caught == {"inc-1": True, "inc-2": True}
    files = {f.path for f in registry.client.list_artifacts(listed["run_id"], "pictures")}
    assert "pictures/timeline.png" in files


def test_unknown_versions_are_told_plainly(registry: Registry, registered: tuple[str, Snapshot]) -> None:
    with pytest.raises(ConfigError, match="tiny"):
        registry.load("tinny")
    with pytest.raises(ConfigError, match="@nosuch"):
        registry.load("tiny", alias="nosuch")
    with pytest.raises(ConfigError, match="did you mean"):
        resolve("interupt_storm", None)
    with pytest.raises(ConfigError, match="expected NAME"):
        parse_name("@champion")
    assert parse_name("a@v3") == ("a", None, "3")


def test_a_foreign_state_is_refused(registry: Registry, registered: tuple[str, Snapshot]) -> None:
    other = replace(SPEC, name="other")
    with pytest.raises(StoreError, match="spec"):
        Candidate(other, "1", registered[1]).make()


def test_served_equals_scored_whatever_the_order(
    registry: Registry, registered: tuple[str, Snapshot], events: Events
) -> None:
    import mlflow

    model = mlflow.pyfunc.load_model("models:/tiny@champion")
    late = events[events.time_ns >= START + 300 * SECOND][:4000]
    frame = pd.DataFrame({"series": str(KEY), "time_ns": late.time_ns, "value": late.value})
    out = model.predict(frame)
    assert out.equals(model.predict(frame.sample(frac=1, random_state=1)))
    assert out.equals(score_frame(SPEC, registered[1], frame))
    assert list(out.columns) == ["series", "end_ns", "surprise", "anomaly_score", "alert"]
    other = frame.assign(series='lat_ns{host="h",flow="b"}')
    assert set(model.predict(other).series) == set(other.series)  # nothing of what only the state knows
    cold = model.predict(frame, params={"state": "cold"})
    assert cold.surprise.isna().sum() > out.surprise.isna().sum()
    with pytest.raises(Exception, match="registered"):
        model.predict(frame, params={"state": "warm"})


def test_the_gate_refuses_a_deaf_challenger(events: Events) -> None:
    deaf = replace(SPEC, policy=type(SPEC.policy)("budget", {"threshold": 50.0}))
    good, bad = (backtest(Candidate(s, "1"), ArraySource(events), LABELS, 0, 2**62) for s in (SPEC, deaf))
    worse = compare(good, bad, LABELS)
    assert worse.answer == "worse"
    assert worse.lost == ("inc-1", "inc-2")
    assert "inc-1" in worse.text
    assert compare(bad, good, LABELS).answer == "better"
    assert compare(good, good, LABELS).answer == "not worse"


def test_a_comparison_is_even(registered: tuple[str, Snapshot], events: Events) -> None:
    old, new = Candidate(SPEC, "1"), Candidate(SPEC, "2", registered[1])  # trained on the first 300 s
    last = int(events.time_ns[-1])
    both, start, how = fair((old, new), LABELS, 0, 2**62, last)
    assert START + 295 * SECOND < start <= START + 300 * SECOND
    assert both[1].snapshot is not None
    assert "since" in how
    whole = train(SPEC, ArraySource(events), 0, 2**62)
    both, start, how = fair((old, Candidate(SPEC, "3", whole.snapshot)), LABELS, 0, 2**62, last)
    assert (start, both[1].snapshot) == (0, None)
    assert "cold" in how


def test_a_regression_is_told_at_once(registry: Registry, registered: tuple[str, Snapshot], events: Events) -> None:
    deaf = replace(SPEC, policy=type(SPEC.policy)("budget", {"threshold": 50.0}))
    outcome = backtest(Candidate(deaf, "new"), ArraySource(events), LABELS, 0, 2**62)
    config = Config(tracking=registry.tracking, artifacts=registry.artifacts)
    lines = log_outcome(Tracker(config), outcome, LABELS, "tiny-corpus", register=False)
    assert sum("regression" in line and "inc-" in line for line in lines) == 2
    (before,) = registry.evaluations("tiny", "tiny-corpus")
    assert before.caught == {"inc-1": True, "inc-2": True}
    columns, rows, told = judge.history(
        [before, replace(before, version="9", rows=({**before.rows[0], "found": False},))]
    )
    assert columns == ["incident", "kind", "v1", "v9"]
    assert rows[0][3] == "missed"
    assert told == ["v9 misses inc-1 that v1 caught"]


def test_a_version_of_other_libraries_says_so(registry: Registry, events: Events) -> None:
    text = """
name = "trees"
[[features]]
kind = "window"
select = "lat_ns"
window = "1s"
columns = ["p99"]
[model]
kind = "river"
name = "GaussianScorer"
"""
    spec = DetectorSpec.from_toml(text)
    good = train(spec, ArraySource(events), 0, START + 120 * SECOND).snapshot
    made = registry.register(spec, good, Dossier())
    assert registry.load("trees", version=made.version).snapshot is not None
    (stamp,) = [k for k in good.arrays if k.endswith("versions")]
    (pickled,) = [k for k in good.arrays if k.endswith("pickle")]
    older = np.array([str(v).replace("river ", "river 0.1.") for v in good.arrays[stamp]])
    other = registry.register(spec, Snapshot(good.meta, {**good.arrays, stamp: older}), Dossier())
    with pytest.raises(StoreError, match=r"trees v\d+ cannot be loaded here.*river 0\.1\..*train it again"):
        registry.load("trees", version=other.version)
    flipped = good.arrays[pickled].copy()
    flipped[-3] = flipped[-3] ^ 1
    bad = registry.register(spec, Snapshot(good.meta, {**good.arrays, pickled: flipped}), Dossier())
    with pytest.raises(StoreError, match="damaged: expected digest"):
        registry.load("trees", version=bad.version)


def test_plain_arrays_load_whatever_library_wrote_them(registry: Registry, registered: tuple[str, Snapshot]) -> None:
    tag = json.dumps({"numpy": "1.0", "numba": "0.1"})
    registry.client.set_model_version_tag("tiny", registered[0], "tailwatch.libraries", tag)
    assert registry.load("tiny", version=registered[0]).snapshot is not None


def test_promote_and_rollback_by_command(
    registry: Registry,
    registered: tuple[str, Snapshot],
    events: Events,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from click.testing import CliRunner

    from pipelines.cli import cli
    from pipelines.state import StateDB
    from telemetry.labels import write_labels
    from telemetry.store import Store

    with Store(tmp_path / "store") as store:
        store.append(events)
    write_labels(tmp_path / "incidents.csv", LABELS)
    (tmp_path / "t.toml").write_text(
        f'store = "{tmp_path}/store"\nstate = "{tmp_path}/state.db"\ncheckpoints = "{tmp_path}/ck"\n'
        f'tracking = "{registry.tracking}"\nartifacts = "{registry.artifacts}"\n'
    )

    def tailwatch(*args: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli, ["--config", str(tmp_path / "t.toml"), *args])
        return result.exit_code, result.output

    incidents = ["--incidents", str(tmp_path / "incidents.csv")]
    code, said = tailwatch("promote", f"tiny@{registered[0]}", *incidents)
    assert code == 0, said
    assert "first champion" in said
    deaf = registry.register(replace(SPEC, policy=type(SPEC.policy)("budget", {"threshold": 50.0})), None, Dossier())
    code, said = tailwatch("promote", f"tiny@{deaf.version}", *incidents)
    assert code == 1
    assert "refused" in said
    assert "inc-1" in said
    code, said = tailwatch("promote", f"tiny@{deaf.version}", *incidents, "--why", "a drill")
    assert code == 0
    code, said = tailwatch("rollback", "tiny")
    assert code == 0, said
    assert f"v{deaf.version} -> v{registered[0]}" in said
    assert registry.load("tiny", alias="champion").version == registered[0]
    code, said = tailwatch("sync", "--json")
    assert json.loads(said) == []
    code, said = tailwatch("score", "--json")
    assert code == 0, said
    assert json.loads(said)["events"] == len(events)

    def champions() -> tuple[str, str]:
        with StateDB(tmp_path / "state.db") as state:
            return state.champions()[0].version, registry.load("tiny", alias="champion").version

    # while MLflow is away, the alias stays behind: `sync` moves it, and does not undo the rollback
    assert tailwatch("promote", f"tiny@{deaf.version}", *incidents, "--why", "a drill")[0] == 0
    with monkeypatch.context() as away:
        away.setattr("pipelines.registry.Registry", None)
        code, said = tailwatch("rollback", "tiny")
    assert code == 0, said
    assert champions() == (registered[0], deaf.version)
    assert json.loads(tailwatch("sync", "--json")[1]) == []
    assert champions() == (registered[0], registered[0])
    registry.alias("tiny", "champion", deaf.version)  # by other means: that is taken up
    assert [m["version"] for m in json.loads(tailwatch("sync", "--json")[1])] == [deaf.version]
    assert json.loads(tailwatch("sync", "--json")[1]) == []
    assert champions() == (deaf.version, deaf.version)

    def meanwhile(*_: object) -> object:
        with StateDB(tmp_path / "state.db") as state:
            state.promote(replace(state.champions()[0], version="99"), who="another", why="faster")
        return found

    outcome = backtest(Candidate(SPEC, "0"), ArraySource(events), LABELS, 0, 2**62, draws=0)
    found = compare(outcome, outcome, LABELS)
    monkeypatch.setattr("pipelines.promote.compare", meanwhile)
    code, said = tailwatch("promote", f"tiny@{registered[0]}", *incidents)
    assert code == 1
    assert champions()[0] == "99", "nothing becomes champion over one that it was not compared with"
