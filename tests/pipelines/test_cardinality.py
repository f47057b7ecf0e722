"""The limit on series, and hostile names from the store to the receivers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from benchmarks.service_crash import START, make_store, outcome
from benchmarks.service_faults import config
from pipelines.cardinality import Guard
from pipelines.config import Scoring
from pipelines.http import Collector
from pipelines.score import score
from pipelines.state import StateDB
from pipelines.status import report
from pipelines.watch import Watcher
from telemetry.store import Store
from telemetry.types import Events, SeriesKey

SECOND = 1_000_000_000


def batch(names: list[int], *, at: int = 0, label: str = "port") -> Events:
    keys = tuple(SeriesKey.of("h", "udp_socket_drops_total", **{label: n}) for n in dict.fromkeys(names))
    index = {int(dict(k.labels)[label]): i for i, k in enumerate(keys)}
    t = np.full(len(names), at)
    return Events(keys, np.array([index[n] for n in names], np.int64), t, t, np.arange(len(names)))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=20), max_size=8), st.integers(1, 20), st.integers(0, 8)
)
def test_the_first_series_are_let_in_however_events_are_cut(rows: list[list[int]], most: int, stop: int) -> None:
    first: list[int] = list(dict.fromkeys(n for row in rows for n in row))[:most]
    guard, passed = Guard(most), []
    for i, row in enumerate(rows):
        if i == stop:  # and across a restart
            again = Guard(most)
            again.restore(guard.snapshot())
            guard = again
        got = guard.admit(batch(row))
        passed += [dict(got.keys[s].labels)["port"] for s in got.series]
    assert passed == [str(n) for row in rows for n in row if n in first]
    assert guard.refused == sum(n not in first for row in rows for n in row)
    assert len(guard) == len(first)
    assert bool(guard.culprit) == bool(guard.refused) or stop < len(rows)


def test_the_culprit_is_named() -> None:
    guard = Guard(100)
    guard.admit(batch(list(range(20)), label="cpu"))
    guard.admit(batch(list(range(5000)), label="port"))
    assert "udp_socket_drops_total" in guard.culprit
    assert "'port'" in guard.culprit


def test_a_job_survives_a_flood_of_series_and_says_whose_it_was(tmp_path: Path) -> None:
    make_store(tmp_path / "store", seconds=100)
    score(config(tmp_path / "calm", tmp_path / "store"))
    with Store(tmp_path / "store", create=False) as store:
        for second in range(20, 60, 4):
            store.append(batch(list(range(second * 1000, second * 1000 + 900)), at=START + second * SECOND + 7))
    settings = structs.replace(config(tmp_path / "flood", tmp_path / "store"), scoring=Scoring(max_series=50))
    score(settings)
    with StateDB(settings.state) as state:
        (note,) = {n["what"]: n for n in state.notes()}.values()
    assert note["what"] == "series_limit"
    assert "'port'" in json.loads(note["body"])["culprit"]
    assert len(outcome(tmp_path / "flood")[1]) == len(outcome(tmp_path / "calm")[1]), "the known series go on"
    (problem,) = [p for p in report(settings, START + 120 * SECOND)["problems"] if "series" in p["what"]]
    assert "port" in problem["what"]
    assert "max_series" in problem["do"]


HOSTILE = '</script><img src=x onerror=alert(1)>"\\\n\u202e{}%s\x1b[31m'


def test_hostile_names_stay_text_everywhere(tmp_path: Path) -> None:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.parser import text_string_to_metric_families

    from pipelines.report.page import render

    make_store(tmp_path / "plain", seconds=100)
    with Store(tmp_path / "plain", create=False) as plain, Store(tmp_path / "store") as store:
        for b in plain.read(0, 2**62):
            keys = tuple(SeriesKey.of(HOSTILE, k.metric, **dict(k.labels), note=HOSTILE) for k in b.keys)
            store.append(Events(keys, b.series, b.time_ns, b.seen_ns, b.value))
    settings = config(tmp_path, tmp_path / "store")
    assert score(settings).incidents
    (opened, *_) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert opened["incident"]["alerts"][0]["series"]["host"] == HOSTILE
    with StateDB(settings.state) as state:
        incidents = state.incidents()
    page = render(incidents, None, title=HOSTILE)
    assert "<img src=x" not in page
    assert "</script><img" not in page
    watcher = Watcher(settings, host=HOSTILE, harvest=False)
    watcher._catch_up()
    registry = CollectorRegistry()
    registry.register(Collector(watcher))
    text = generate_latest(registry).decode()
    families = {f.name for f in text_string_to_metric_families(text)}
    assert {"tailwatch_series", "tailwatch_series_limit", "tailwatch_alerts"} <= families
    assert all(re.fullmatch(r"[a-z_0-9]+", name) for name in families)
    watcher.close()
    shown = report(settings, START + 120 * SECOND)
    assert json.loads(json.dumps(shown))
