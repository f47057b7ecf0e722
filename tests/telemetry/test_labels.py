"""The incident catalogue: what it reads, what it refuses, what it brings in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.errors import InputError
from telemetry.labels import (
    check_labels,
    format_time,
    labels_from_alertmanager,
    labels_from_flags,
    labels_from_nab,
    matches_scope,
    parse_time,
    read_labels,
    write_labels,
)
from telemetry.types import Label

S = 1_000_000_000
NOON = 1_795_435_200 * S


@given(at=st.integers(946_684_800 * S, 4_102_444_799 * S))
def test_times_are_exact_both_ways(at: int) -> None:
    assert parse_time(format_time(at), "t") == at
    assert parse_time(str(at), "t") == at


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("2026-11-23T12:00:00Z", 0),
        ("2026-11-23 13:00:00.000000001+01:00", 1),
        ("2026-11-23T07:00:00.5-05:00", S // 2),
        ("2026-11-23T12:00Z", 0),
    ],
)
def test_time_zones(text: str, ns: int) -> None:
    assert parse_time(text, "t") == NOON + ns


@pytest.mark.parametrize("text", ["2026-11-23T12:00:00", "yesterday", "1795435200", "2026-13-01T00:00:00Z", ""])
def test_no_zone_no_time_or_seconds_for_nanoseconds_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="row 3"):
        parse_time(text, "row 3")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str) -> None:
    labels = [
        Label("a", "writeback", "host=tx07,cpu=3", NOON, NOON + 5 * S + 1, NOON + 9 * S, "ops", 'said "now", twice'),
        Label("b", "unknown", "", NOON + 6 * S, NOON + 7 * S, NOON + 7 * S),
    ]
    path = tmp_path / f"incidents{suffix}"
    write_labels(path, labels)
    assert read_labels(path) == labels


def test_known_defaults_to_end_and_id_is_stable(tmp_path: Path) -> None:
    path = tmp_path / "i.csv"
    path.write_text("kind,scope,start,end\nsteal,host=a,2026-11-23T12:00:00Z,2026-11-23T12:00:05Z\n")
    (label,) = read_labels(path)
    assert label.known_ns == label.end_ns == NOON + 5 * S
    assert read_labels(path)[0].id == label.id != ""


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("steal,,2026-11-23T12:00:05Z,2026-11-23T12:00:00Z", "row 2.*end after start"),
        ("steal,,2026-11-23T12:00:05,2026-11-23T12:00:10", "row 2: start.*no time zone"),
        (",,2026-11-23T12:00:05Z,2026-11-23T12:00:10Z", "row 2.*'kind'"),
        ("steal,cpu3,2026-11-23T12:00:05Z,2026-11-23T12:00:10Z", "row 2: scope.*label=value"),
        ("steel,,2026-11-23T12:00:05Z,2026-11-23T12:00:10Z", "unknown kind 'steel'; did you mean 'steal'"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: str, complaint: str) -> None:
    path = tmp_path / "i.csv"
    path.write_text("kind,scope,start,end\n" + row + "\n")
    with pytest.raises(InputError, match=complaint):
        read_labels(path, kinds=["steal"])


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    for name, body in (("a.csv", b"x,y\n1,2\n"), ("b.csv", b"\xff\xfe\x00"), ("c.parquet", b"PAR?"), ("d.csv", b"")):
        (tmp_path / name).write_bytes(body)
        with pytest.raises(InputError):
            read_labels(tmp_path / name)
    with pytest.raises(InputError):
        read_labels(tmp_path / "absent.csv")


def test_overlap_of_one_kind_and_scope_is_refused_and_touching_is_not() -> None:
    def at(id_: str, a: int, b: int, scope: str = "host=a") -> Label:
        return Label(id_, "steal", scope, NOON + a, NOON + b, NOON + b)

    check_labels([at("1", 0, 10), at("2", 10, 20), at("3", 5, 15, "host=b")])
    with pytest.raises(InputError, match="overlap"):
        check_labels([at("1", 0, 100), at("2", 10, 20), at("3", 30, 40)])
    with pytest.raises(InputError, match="id '1'"):
        check_labels([at("1", 0, 10), at("1", 20, 30)])


@pytest.mark.parametrize(
    ("scope", "place", "same"),
    [
        ("", "host=a", True),
        ("host=a", "host=a,cpu=3", True),
        ("host=a,cpu=3", "host=a,cpu=1|3", True),
        ("host=a,cpu=2", "host=a,cpu=1|3", False),
        ("host=a", "host=b", False),
        ("process=strat", "host=a", True),
    ],
)
def test_scopes_overlap_unless_a_label_contradicts(scope: str, place: str, same: bool) -> None:
    assert matches_scope(scope, place) is matches_scope(place, scope) is same


def test_nab_windows() -> None:
    (label,) = labels_from_nab({"art/x.csv": [["2026-11-23 12:00:00.000000", "2026-11-23 13:00:00.000000"]]})
    assert (label.start_ns, label.end_ns, label.scope) == (NOON, NOON + 3600 * S, "file=art/x.csv")


def test_flags_become_runs() -> None:
    at = NOON + np.arange(6) * S
    found = labels_from_flags(at, np.array([1, 1, 0, 0, 1, 1]), "host=a")
    assert [(x.start_ns - NOON, x.end_ns - NOON) for x in found] == [(0, 2 * S), (4 * S, 6 * S)]
    assert labels_from_flags(at, np.zeros(6, np.int64)) == []
    with pytest.raises(InputError, match="only 0 and 1"):
        labels_from_flags(at, np.array([0, 1, 2, 0, 0, 0]))
    with pytest.raises(InputError, match="row 4"):
        labels_from_flags(at[[0, 1, 2, 2, 4, 5]], np.zeros(6, np.int64))


def test_alertmanager_history() -> None:
    ended = {
        "labels": {"alertname": "X", "host": "a", "kind": "steal", "severity": "page"},
        "startsAt": "2026-11-23T12:00:00.000Z",
        "endsAt": "2026-11-23T12:00:30.000Z",
        "annotations": {"summary": "slow"},
    }
    firing = ended | {"endsAt": "0001-01-01T00:00:00Z"}
    (label,) = labels_from_alertmanager([ended, firing])
    assert (label.kind, label.scope, label.note) == ("steal", "host=a", "slow")
    assert label.end_ns - label.start_ns == 30 * S
    with pytest.raises(InputError, match="alert 1"):
        labels_from_alertmanager([{"labels": {}}])
