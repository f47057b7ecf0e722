"""``tailwatch detect``: what goes in, what comes out, and that no row sees a later one."""

from __future__ import annotations

import csv
import os
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from pipelines.commands.detect import command
from pipelines.detect import Budget, parse_budget, score_table
from pipelines.series_files import Table, read_table
from pipelines.series_times import parse_times
from telemetry.errors import ConfigError, InputError

CORPUS = os.environ.get("TAILWATCH_DATA")


def series(n=700, seed=0):
    rng = np.random.default_rng(seed)
    x = 100 + rng.normal(0, 3, n)
    x[n * 6 // 7 : n * 6 // 7 + 3] += 60
    return x


def write(
    path, x, *, start=datetime(2014, 4, 1), names=("timestamp", "value"), delimiter=",", form="%Y-%m-%d %H:%M:%S"
):
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = x if isinstance(x, list) else [x]
    with open(path, "w", newline="") as file:
        out = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        out.writerow(names)
        for i in range(len(columns[0])):
            out.writerow([(start + timedelta(minutes=5 * i)).strftime(form), *(c[i] for c in columns)])
    return path


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def detect(*args):
    return CliRunner().invoke(command, [str(a) for a in args], standalone_mode=False, catch_exceptions=True)


def test_one_column(tmp_path):
    source = write(tmp_path / "a.csv", series())
    result = detect(source, "--out", tmp_path / "out")
    assert result.exception is None
    rows = read(tmp_path / "out" / "a.csv")
    given = read(source)
    assert list(rows[0]) == ["timestamp", "value", "surprise", "anomaly_score", "alert"]
    assert [r["timestamp"] for r in rows] == [g["timestamp"] for g in given]
    assert [r["value"] for r in rows] == [g["value"] for g in given]
    assert all(r["surprise"] == "" for r in rows[:128])
    assert all(float(r["surprise"]) >= 0 for r in rows[128:])
    alerts = [i for i, r in enumerate(rows) if r["alert"] == "1"]
    assert 600 in alerts
    assert len(alerts) <= 2
    scores = np.array([float(r["anomaly_score"]) for r in rows])
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (scores == 0).mean() >= 0.95


@pytest.mark.parametrize("purpose", ["all", "events", "shifts"])
def test_no_row_sees_a_later_one(tmp_path, purpose):
    x = series(900, 3)
    x[400:] += 25
    write(tmp_path / "whole.csv", x)
    write(tmp_path / "head.csv", x[:520])
    assert (
        detect(tmp_path / "whole.csv", tmp_path / "head.csv", "--out", tmp_path / "o", "--for", purpose).exception
        is None
    )
    whole, head = read(tmp_path / "o" / "whole.csv"), read(tmp_path / "o" / "head.csv")
    assert whole[:520] == head


def test_shifts_are_noted_below_every_event_and_leave_the_surprise_alone():
    """A series with a season shifts all day: that must not hide what is odd in it."""
    x = 10.0 * np.sign(np.sin(np.arange(3_000) / 9.0)) + np.random.default_rng(5).standard_normal(3_000)
    end = 1_700_000_000 * 10**9 + 60 * 10**9 * np.arange(3_000)
    table = Table((), end, ("v",), (), x[:, None], 0, True)
    events, both = score_table(table, purpose="events"), score_table(table)
    np.testing.assert_array_equal(both.surprise, events.surprise)
    noted = both.score != events.score
    assert noted.any()
    assert both.score[noted].max() < both.score[~noted & (both.score > 0)].min()


def test_several_columns_and_a_tree(tmp_path):
    write(tmp_path / "in/x/a.csv", [series(), series(seed=1)], names=("timestamp", "p50", "p99"))
    write(tmp_path / "in/b.csv", series(300))
    assert detect(tmp_path / "in", "--out", tmp_path / "out").exception is None
    rows = read(tmp_path / "out/x/a.csv")
    assert list(rows[0]) == [
        "timestamp", "p50", "p99", "surprise:p50", "anomaly_score:p50", "alert:p50",
        "surprise:p99", "anomaly_score:p99", "alert:p99",
    ]  # fmt: skip
    assert len(read(tmp_path / "out/b.csv")) == 300


def test_joint(tmp_path):
    rng = np.random.default_rng(0)
    columns = [rng.normal(size=900) for _ in range(3)]
    columns[1][800:812] += 25
    write(tmp_path / "a.csv", columns, names=("timestamp", "a", "b", "c"))
    assert detect(tmp_path / "a.csv", "--out", tmp_path / "o", "--joint").exception is None
    rows = read(tmp_path / "o/a.csv")
    assert list(rows[0])[-4:] == ["surprise", "anomaly_score", "alert", "contributors"]
    best = max(range(800, 812), key=lambda i: float(rows[i]["surprise"] or 0))
    assert rows[best]["contributors"].startswith("b:")


def test_missing_values_and_times_that_repeat(tmp_path):
    source = write(tmp_path / "a.csv", series())
    lines = source.read_text().splitlines()
    lines[301] = lines[300].split(",")[0] + ","
    lines[302] = lines[302].split(",")[0] + ",NaN"
    source.write_text("\n".join(lines) + "\n")
    result = detect(source, "--out", tmp_path / "o")
    assert result.exception is None
    rows = read(tmp_path / "o/a.csv")
    assert rows[300]["surprise"] == rows[301]["surprise"] == ""
    assert rows[300]["alert"] == "0"
    assert len(rows) == 700
    assert "1 rows with a repeated or backward time" in result.stderr


def test_bad_files_do_not_cost_good_ones(tmp_path):
    write(tmp_path / "in/good.csv", series(300))
    bad = write(tmp_path / "in/bad.csv", series(300))
    text = bad.read_text().splitlines()
    text[200] = text[200].split(",")[0] + ",broken"
    bad.write_text("\n".join(text))
    (tmp_path / "in/empty.csv").write_text("")
    (tmp_path / "in/foreign.csv").write_bytes(b"\x7fELF\x00\x00\x01")
    (tmp_path / "in/header.csv").write_text("timestamp,value\n")
    (tmp_path / "in/short.parquet").write_bytes(b"PAR1")
    runner = CliRunner()
    result = runner.invoke(command, [str(tmp_path / "in"), "--out", str(tmp_path / "o")])
    assert result.exit_code == 2
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["good.csv"]
    assert "bad.csv, line 201: expected a number in column 'value', got 'broken'" in result.stderr
    assert "Traceback" not in result.output + result.stderr


def test_parquet_in_parquet_out(tmp_path):
    x = series()
    times = pa.array(np.arange(len(x)) * 60 * 10**9 + 1_400_000_000 * 10**9, pa.timestamp("ns"))
    pq.write_table(pa.table({"when": times, "v": x}), tmp_path / "a.parquet")
    assert detect(tmp_path / "a.parquet", "--out", tmp_path / "o").exception is None
    got = pq.read_table(tmp_path / "o/a.parquet")
    assert got.column_names == ["timestamp", "v", "surprise", "anomaly_score", "alert"]
    assert got["timestamp"].to_pylist() == times.to_pylist()
    assert got["surprise"].null_count == 128
    assert got["alert"].to_numpy()[600] == 1
    assert got["alert"].to_numpy().sum() <= 2


@pytest.mark.parametrize(
    ("form", "delimiter"), [("%d/%m/%Y %H:%M", ";"), ("%m/%d/%Y %H:%M", ";"), ("%Y-%m-%d %H:%M:%S", "\t")]
)
def test_delimiters_and_date_orders(tmp_path, form, delimiter):
    start = datetime(2016, 10, 14, 21, 17)
    path = write(tmp_path / "r.csv", series(), start=start, names=("epoch", "rtt"), delimiter=delimiter, form=form)
    table = read_table(path)
    assert table.names == ("rtt",)
    assert table.backward == 0
    assert np.all(np.diff(table.time_ns) == 300 * 10**9)
    assert table.time_ns[0] == int(start.timestamp() - datetime(1970, 1, 1).timestamp()) * 10**9


def test_ambiguous_days_run_forward():
    cells = [f"{d:02d}/03/2020 10:00" for d in range(1, 10)]
    assert np.all(np.diff(parse_times(cells)) == 86_400 * 10**9)


def test_lost_probes_are_missing(tmp_path):
    x = series()
    x[50:53] = -1
    table = read_table(write(tmp_path / "r.csv", x, names=("epoch", "rtt")))
    assert np.isnan(table.values[50:53, 0]).all()
    assert np.isfinite(table.values[:50]).all()


@pytest.mark.parametrize(
    ("cells", "first"),
    [
        (["1400000000", "1400000060"], 1_400_000_000 * 10**9),
        (["1400000000.5", "1400000060.5"], 1_400_000_000_500_000_000),
        (["1400000000123", "1400000060123"], 1_400_000_000_123_000_000),
        (["1400000000123456789", "1400000060123456789"], 1_400_000_000_123_456_789),
        (["2014-05-13T16:53:20Z", "2014-05-13T18:53:20+02:00"], 1_400_000_000 * 10**9),
    ],
)
def test_times(cells, first):
    assert parse_times(cells)[0] == first


def test_no_time_column_counts_rows(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n" + "\n".join(f"{i % 7},{i % 5}" for i in range(200)))
    result = detect(tmp_path / "a.csv", "--out", tmp_path / "o")
    assert result.exception is None
    assert "no time column" in result.stderr
    assert read(tmp_path / "o/a.csv")[3]["timestamp"] == "3"


def test_missing_column_and_missing_file(tmp_path):
    source = write(tmp_path / "a.csv", series(200))
    for extra in (("--value", "nope"), ("--time", "nope")):
        result = CliRunner().invoke(command, [str(source), "--out", str(tmp_path / "o"), *extra])
        assert result.exit_code == 2
        assert "nope" in result.stderr
    assert CliRunner().invoke(command, [str(tmp_path / "gone.csv"), "--out", str(tmp_path / "o")]).exit_code == 2
    with pytest.raises(InputError, match="expected rows"):
        read_table(Path(write(tmp_path / "h.csv", np.empty(0))))


def test_out_that_cannot_be_a_folder(tmp_path):
    source = write(tmp_path / "a.csv", series(200))
    (tmp_path / "o").write_text("a file")
    result = detect(source, "--out", tmp_path / "o")
    assert "cannot be written" in str(result.exception)


def test_budgets():
    assert parse_budget("0.5/1000rows") == Budget(0.5)
    default = next(p.default for p in command.params if p.name == "budget")
    assert parse_budget(default) == Budget() == Budget(1.0)
    assert parse_budget("7/week").per_day == pytest.approx(1.0)
    for text in ("5", "x/day", "-1/day", "1/year", "inf/day", "0/1000rows"):
        with pytest.raises(ConfigError, match="budget"):
            parse_budget(text)


@pytest.mark.corpus
@pytest.mark.skipif(not CORPUS, reason="TAILWATCH_DATA is not set")
def test_nab_scorer_gives_the_published_scores():
    from benchmarks.corpora import load_nab, published
    from pipelines.nab import PROFILES, best, prepare

    folder = Path(CORPUS) / "series" / "nab"
    files = load_nab(folder)
    for name, want in {
        "ARTime": (67.85, 57.84, 73.72),
        "numenta": (66.59, 60.81, 71.06),
        "contextOSE": (62.19, 57.14, 66.31),
    }.items():
        ready = [prepare(published(folder, name, f.name), f.windows) for f in files]
        got = [best(ready, PROFILES[p]).score for p in ("standard", "low_fp", "low_fn")]
        assert got == pytest.approx(want, abs=0.006)


@pytest.mark.corpus
@pytest.mark.skipif(not CORPUS, reason="TAILWATCH_DATA is not set")
def test_quality_does_not_fall():
    from benchmarks import quality_rtt
    from benchmarks.corpora import load_nab
    from pipelines.nab import PROFILES, corpus_score, prepare

    files = [f for f in load_nab(Path(CORPUS) / "series" / "nab") if len(f.table.time) < 6000]
    ready = [prepare(score_table(f.table).score[:, 0], f.windows) for f in files]
    assert corpus_score(ready, 0.5, PROFILES["standard"]).score > 65.0
    rows = {r.name: r.value for r in quality_rtt.run(data=CORPUS, quick=True)}
    assert rows["rtt_f1"] > 0.70


def _halves(tmp_path, joint):
    """A table of three columns cut in two, with an anomaly 40 rows into the second part."""
    rng = np.random.default_rng(5)
    columns = [100 + rng.normal(0, 3, 1400) for _ in range(3 if joint else 1)]
    for c in columns:
        c[1040:1046] += 60
    names = ("timestamp", *"abc"[: len(columns)])
    write(tmp_path / "old" / "x.csv", [c[:1000] for c in columns], names=names)
    later = datetime(2014, 4, 1) + timedelta(minutes=5 * 1000)
    write(tmp_path / "new" / "x.csv", [c[1000:] for c in columns], names=names, start=later)
    write(tmp_path / "whole" / "x.csv", columns, names=names)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("folder", [False, True])
def test_history_is_learnt_first(tmp_path, joint, folder):
    """From its first row on the surprise is there, and what was anomalous is found where it cold is not."""
    _halves(tmp_path, joint)
    more = ["--joint"] if joint else []
    history = tmp_path / "old" if folder else tmp_path / "old" / "x.csv"
    assert detect(tmp_path / "new", "--out", tmp_path / "o", "--history", history, *more).exception is None
    assert detect(tmp_path / "new", "--out", tmp_path / "cold", *more).exception is None
    warm, cold = read(tmp_path / "o" / "x.csv"), read(tmp_path / "cold" / "x.csv")
    assert len(warm) == 400
    assert all(r["surprise"] != "" for r in warm)
    assert all(r["surprise"] == "" for r in cold[:40])
    assert [i for i, r in enumerate(warm) if r["alert"] == "1"] == [40]
    if not joint:  # the model goes on as if the two were one (the joint one fits its history's range first)
        assert detect(tmp_path / "whole", "--out", tmp_path / "w").exception is None
        whole = read(tmp_path / "w" / "x.csv")[1000:]
        assert [r["surprise"] for r in warm] == [r["surprise"] for r in whole]


def test_history_that_does_not_fit(tmp_path):
    """Each a line that says what and where; nothing is scored by a wrong history."""
    _halves(tmp_path, True)
    new, old = tmp_path / "new", tmp_path / "old"

    def told(history):
        runner = CliRunner().invoke(command, [str(new), "--out", str(tmp_path / "o"), "--history", str(history)])
        assert not (tmp_path / "o" / "x.csv").exists()
        assert runner.exit_code != 0
        return f"{runner.output} {runner.exception}"

    assert "no such file or folder of history" in told(tmp_path / "none")
    assert "must end before it begins at 2014-04-04T11:20:00" in told(tmp_path / "whole")
    write(tmp_path / "b" / "x.csv", series(), names=("timestamp", "a"))
    assert "no column 'b'; it has timestamp, a" in told(tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "x.csv").write_text("a,b,c\n1,2,3\n2,3,4\n")
    assert "only one of the two has a time column" in told(tmp_path / "c")
    (old / "x.csv").unlink()
    assert "No such file" in told(old)
