from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipelines.commands.harvest import command
from pipelines.importing import import_file
from telemetry.errors import InputError
from telemetry.store import Store

ALL = (-(2**63), 2**63 - 1)


def rows(store: Store) -> list[tuple[str, int, float]]:
    return [
        (str(b.keys[s]), t, v)
        for b in store.read(*ALL)
        for s, t, v in zip(b.series.tolist(), b.time_ns.tolist(), b.value.tolist(), strict=True)
    ]


def test_open_metrics_with_times(tmp_path: Path) -> None:
    path = tmp_path / "x.om"
    path.write_text(
        "# TYPE orders counter\norders_total 5 1700000001.000000005\norders_total 4 1700000000\nuntimed 1\nbad{ 1\n"
        "load 0.5 1700000002\n# EOF\n"
    )
    with Store(tmp_path / "s") as store:
        assert import_file(store, path, "tx1") == (3, 2)
    assert rows(store) == [
        ('orders_total{host="tx1"}', 1_700_000_000_000_000_000, 4),
        ('orders_total{host="tx1"}', 1_700_000_001_000_000_005, 5),
        ('load{host="tx1"}', 1_700_000_002_000_000_000, 0.5),
    ]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_long_tables_and_again(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    text = (
        "time_ns,metric,host,labels,queue,value\n"
        '1700000000000000001,rx_total,tx1,"cpu=""3"",path=""a,b""",7,9007199254740993\n'
        "1700000000000000000,rx_total,,,,4\n"
        "1700000000000000002,,tx1,,,4\n"
        '1700000000000000003,rx_total,tx1,"cpu=",,4\n'
    )
    (tmp_path / "x.csv").write_text(text)
    if kind == "parquet":
        from pyarrow import csv, parquet

        parquet.write_table(csv.read_csv(tmp_path / "x.csv"), path)
    for _ in range(2):
        with Store(tmp_path / "s") as store:
            assert import_file(store, path, "me") == (2, 2)
    assert rows(store) == [
        ('rx_total{host="me"}', 1_700_000_000_000_000_000, 4),
        ('rx_total{host="tx1",cpu="3",path="a,b",queue="7"}', 1_700_000_000_000_000_001, 9007199254740993),
    ]


def test_wide_tables(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("timestamp,drops_total,load\n2026-01-01 00:00:00,1,0.5\n2026-01-01 00:00:01,2,\n")
    with Store(tmp_path / "s") as store:
        import_file(store, path, "me")
    assert sorted(rows(store)) == [
        ('drops_total{host="me"}', 1_767_225_600_000_000_000, 1),
        ('drops_total{host="me"}', 1_767_225_601_000_000_000, 2),
        ('load{host="me"}', 1_767_225_600_000_000_000, 0.5),
    ]


@pytest.mark.parametrize(
    ("name", "text"), [("x.parquet", "no"), ("x.csv", "metric,value\na,1\n"), ("x.csv", "metric,value,time_ns\na,1\n")]
)
def test_what_is_none(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with Store(tmp_path / "s") as store, pytest.raises(InputError, match="x"):
        import_file(store, tmp_path / name, "me")


def test_command(tmp_path: Path) -> None:
    (tmp_path / "x.om").write_text("a_total 5 1700000000\n# EOF\n")
    options = ["--store", str(tmp_path / "s"), "--import", str(tmp_path / "x.om"), "--host", "h", "--json"]
    told = CliRunner().invoke(command, options)
    assert told.exit_code == 0, told.output
    assert json.loads(told.output) == [{"from": str(tmp_path / "x.om"), "samples": 1, "bad": 0}]
    assert rows(Store(tmp_path / "s")) == [('a_total{host="h"}', 1_700_000_000_000_000_000, 5)]
