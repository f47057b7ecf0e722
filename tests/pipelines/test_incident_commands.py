"""``incidents`` and ``label`` on a real state database."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipelines.cli import cli
from pipelines.state import StateDB
from telemetry.errors import ConfigError
from telemetry.labels import read_labels
from telemetry.types import Alert, Cause, Change, Incident, IncidentChange, SeriesKey, alert_id

S = 1_000_000_000
T = 1_795_435_200 * S


def make(host: str = "tx07") -> Incident:
    key = SeriesKey.of(host, "udp_socket_drops_total", port=30001)
    id_ = alert_id("d", key, T)
    alert = Alert(id_, "d", "1", "", key, "rate", S // 10, T + S, T, 3.0, 0.9, 1, 50.0, 0.0)
    cause = Cause("udp_overflow", "a slow reader", 0.9, f"host={host}", ("drops",), ("quiet",))
    change = Change("larger buffer", "sysctl -w x=2", "sysctl -w x=1", "memory", "no drops")
    return Incident(
        id_, "open", "udp_overflow", "critical", f"host={host},port=30001", T, T + S, T + S, None,
        "drops\x1b[31m on tx07", (alert,), (cause,), (change,),
    )  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tailwatch.toml"
    path.write_text(f'state = "{tmp_path / "state.db"}"\nstore = "{tmp_path / "store"}"\n')
    with StateDB(str(tmp_path / "state.db")) as state:
        for host in ("tx07", "tx08"):
            x = make(host)
            change = IncidentChange("opened", x.opened_ns, x)
            state.commit("all", x.alerts, [change], watermark_ns=T, offsets={}, sinks=(), now_ns=T)
    return path


def run(config: Path, *argv: str) -> Result:
    return CliRunner().invoke(cli, ["--config", str(config), *argv])


def test_list_and_show(config: Path) -> None:
    listed = run(config, "incidents")
    assert listed.exit_code == 0, listed.output
    assert listed.output.count("udp_overflow 90%") == 2
    shown = run(config, "incidents", make().id[:8])
    assert shown.exit_code == 0, shown.output
    for part in ("host=tx07", "sysctl -w x=2", "sysctl -w x=1", "+ drops", "- quiet", "life"):
        assert part in shown.output, part
    assert "\x1b" not in shown.output, "a label value must not drive the terminal"
    rows = json.loads(run(config, "incidents", "--json", "--open").output)
    assert {r["place"] for r in rows} == {"host=tx07,port=30001", "host=tx08,port=30001"}


def test_label_true_goes_to_the_catalogue(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.csv"
    done = run(config, "label", make().id, "--true", "--kind", "microburst", "--note", "burst", "--catalogue", str(out))
    assert done.exit_code == 0, done.output
    (label,) = read_labels(out)
    assert (label.kind, label.scope, label.start_ns, label.end_ns) == ("microburst", "host=tx07,port=30001", T, T + S)
    assert "labelled  microburst" in run(config, "incidents", make().id).output


def test_label_false_is_no_incident(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.csv"
    assert run(config, "label", make().id, "--false", "--catalogue", str(out)).exit_code == 0
    assert read_labels(out) == []


def test_mistakes_are_said(config: Path) -> None:
    for argv, part in (
        (("label", make().id, "--true", "--kind", "microbrust"), "microburst"),
        (("label", "zz", "--true"), "expected one"),
        (("incidents", "zz"), "expected one"),
    ):
        result = run(config, *argv)
        assert isinstance(result.exception, ConfigError)
        assert part in str(result.exception)
    assert run(config, "label", make().id).exit_code == 2


def test_a_report_without_a_store_says_so(config: Path, tmp_path: Path) -> None:
    done = run(config, "report", "--out", str(tmp_path / "r.html"))
    assert done.exit_code == 0, done.output
    assert "there is no store at" in done.stderr
    assert done.stdout.startswith("2 incidents:")
