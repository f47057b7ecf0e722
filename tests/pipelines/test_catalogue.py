"""Labelled incidents as people have them: NAB's windows, columns of 0 and 1, Alertmanager's alerts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipelines.cli import cli
from telemetry.labels import read_labels

NAB = {"a.csv": [["2014-02-26 13:45:00.000000", "2014-02-27 06:25:00.000000"]], "b.csv": []}
ALERT = {
    "fingerprint": "f1",
    "labels": {"alertname": "TailwatchIncident", "kind": "cpu_contention", "host": "tx07", "severity": "warning"},
    "annotations": {"summary": "busy"},
    "startsAt": "2026-11-20T09:30:00.123Z",
    "endsAt": "2026-11-20T09:31:00Z",
}


def catalogue(*args: str, stdin: str | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["catalogue", *args], input=stdin)
    said = result.output + (str(result.exception) if result.exception and result.exit_code else "")
    return result.exit_code, said


def test_nab_windows(tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(json.dumps(NAB))
    out = str(tmp_path / "i.csv")
    code, said = catalogue("import", str(tmp_path / "w.json"), "--form", "nab", "--out", out)
    assert code == 0, said
    (label,) = read_labels(out)
    assert label.scope == "file=a.csv"
    assert catalogue("check", out)[1].endswith("1 unknown\n")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_alertmanager_from_standard_input_and_again(tmp_path: Path, suffix: str) -> None:
    out = str(tmp_path / f"i{suffix}")
    for said_new in ("1 incidents brought in, 0", "0 incidents brought in, 1"):
        text = json.dumps({"alerts": [ALERT, {**ALERT, "endsAt": "0001-01-01T00:00:00Z"}]})
        code, said = catalogue("import", "-", "--form", "alertmanager", "--out", out, "--append", stdin=text)
        assert code == 0, said
        assert said_new in said
    (label,) = read_labels(out)
    assert (label.kind, label.scope) == ("cpu_contention", "host=tx07")
    assert label.start_ns % 10**9 == 123_000_000


def test_columns_of_flags_with_and_without_times(tmp_path: Path) -> None:
    rows = "".join(f"2026-11-20T09:{m:02d}:00Z,{m},{int(10 <= m < 15)}\n" for m in range(30))
    (tmp_path / "t.csv").write_text("time,value,is_anomaly\n" + rows)
    out = str(tmp_path / "i.csv")
    code, said = catalogue("import", str(tmp_path / "t.csv"), "--form", "flags", "--scope", "host=a", "--out", out)
    assert code == 0, said
    (label,) = read_labels(out)
    assert (label.end_ns - label.start_ns) == 300 * 10**9
    (tmp_path / "u.csv").write_text("label\n" + "0\n1\n1\n0\n")
    code, said = catalogue("import", str(tmp_path / "u.csv"), "--form", "flags", "--out", out)
    assert code != 0
    assert "--start" in said
    start = ["--start", "2026-11-20T09:00:00Z", "--step", "30s"]
    code, said = catalogue("import", str(tmp_path / "u.csv"), "--form", "flags", "--out", out, *start)
    assert code == 0, said
    assert read_labels(out)[0].end_ns - read_labels(out)[0].start_ns == 60 * 10**9
    (tmp_path / "v.csv").write_text("time,label\n2026-11-20T09:00:00Z,0.5\n2026-11-20T09:01:00Z,1\n")
    assert "only 0 and 1" in catalogue("import", str(tmp_path / "v.csv"), "--form", "flags", "--out", out)[1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("cpu_contenton,,2026-11-20T09:00:00Z,2026-11-20T09:01:00Z\n", "did you mean"),
        ("smi,,2026-11-20T09:00:00,2026-11-20T09:01:00Z\n", "time zone"),
        ("smi,,2026-11-20T09:02:00Z,2026-11-20T09:01:00Z\n", "end after start"),
        ("smi,,2026-11-20T09:00:00Z,2026-11-20T09:01:00Z\nsmi,,2026-11-20T09:00:30Z,2026-11-20T09:02:00Z\n", "overlap"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, rows: str, message: str) -> None:
    (tmp_path / "i.csv").write_text("kind,scope,start,end\n" + rows)
    code, said = catalogue("check", str(tmp_path / "i.csv"))
    assert code != 0
    assert message in said
