"""The three laws, for every kind: chunking, no look-ahead, restart. Bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from features.feature_set import FeatureSet
from features.spec import CLOCK, KINDS, build_features
from telemetry.types import Events, Panel, Part
from tests.features.streams import CPU, MS, streams

CASES: dict[str, list[Part]] = {
    "window": [
        Part(
            "window",
            {
                "select": "wire_latency_ns",
                "window": "100ms",
                "columns": "count,sum,mean,min,max,std,p50,p99,exceed,last,twp50,tail_ratio",
                "level": 40,
            },
        ),
        Part("window", {"select": "wire_latency_ns", "window": "300ms", "step": "100ms", "columns": "count,p90,twp99"}),
    ],
    "rate": [
        Part(
            "rate", {"select": 'metric=~".*_total"', "window": "200ms", "columns": "rate,increment,resets", "gap": "1s"}
        ),
        Part("rate", {"select": CPU, "window": "300ms", "step": "100ms"}),
    ],
    "shape": [
        Part("shape", {"select": CPU, "over": "cpu", "window": "200ms", "columns": "total,entropy,mover,share"}),
    ],
    "ratio": [
        Part(
            "ratio",
            {
                "numerator": CPU,
                "denominator": "wire_latency_ns",
                "on": ["host"],
                "window": "200ms",
                "columns": ["ratio", "difference"],
            },
        ),
    ],
    "dynamics": [
        Part(
            "dynamics",
            {
                "select": "wire_latency_ns",
                "of": ["count", "max"],
                "window": "100ms",
                "span": 8,
                "columns": "diff_1,diff_3,slope_4,curvature_3,acf_2,period_4,peak_4,dispersion_5,first_2,level_12s,"
                "ratio_300ms",
            },
        ),
    ],
    "join": [
        Part("join", {"select": "wire_latency_ns", "with": CPU, "window": "200ms", "max_age": "600ms"}),
        Part(
            "join",
            {"select": "wire_latency_ns", "with": CPU, "window": "100ms", "of": "count", "correlate": 4, "max_lag": 2},
        ),
    ],
    "compose": [
        Part(
            "compose",
            {
                "select": CPU,
                "window": "200ms",
                "steps": [
                    {"kind": "rate", "columns": ["increment"]},
                    {"kind": "shape", "over": "cpu", "columns": ["top_share", "gini"]},
                    {"kind": "dynamics", "of": ["gini"], "columns": ["diff_1"], "keep": True},
                ],
            },
        ),
    ],
    "clock": [
        Part("window", {"select": "wire_latency_ns", "window": "500ms", "columns": ["count"]}),
        Part("clock", {"calendar": "America/New_York", "schedule": ["2026-03-08T10:00:01Z,expiry"]}),
    ],
}
CASES["all"] = [
    p for parts in CASES.values() for p in parts if p.params.get("step") is None and p.params.get("window") != "300ms"
]


def test_every_kind_is_held_to_the_laws() -> None:
    assert set(KINDS) | {CLOCK, "all"} == set(CASES)


def make(parts: Sequence[Part]) -> FeatureSet:
    return build_features(
        parts, lateness_ns=120 * MS, idle_timeout_ns=900 * MS, max_ahead_ns=10**15, max_gap_ns=5000 * MS
    )


def run(
    parts: Sequence[Part], events: Events, cuts: Sequence[int] = (), closes: int = 0, restarts: int = 0
) -> tuple[list[Panel], FeatureSet]:
    """All windows, pushed in pieces; bit i of `closes` (`restarts`) says what happens after piece i."""
    builder = make(parts)
    edges = [0, *sorted({c for c in cuts if 0 < c < len(events)}), len(events)]
    got: list[tuple[Panel, ...]] = []
    for i, (a, b) in enumerate(itertools.pairwise(edges)):
        builder.push(events[a:b])
        if closes >> i & 1 or b == len(events):
            got.append(builder.close(builder.watermark_ns))
        if restarts >> i & 1:
            state = {k: np.array(v, copy=True) for k, v in builder.snapshot().items()}
            builder = make(parts)
            builder.restore(state)
    return [joined(panels) for panels in zip(*got, strict=True)], builder


def joined(panels: Sequence[Panel]) -> Panel:
    last = panels[-1]
    for p in panels:
        assert last.keys[: len(p.keys)] == p.keys, "keys only ever grow at their end"
        assert p.columns == last.columns
    end = np.concatenate([p.end_ns for p in panels])
    values = np.full((len(end), len(last.keys), len(last.columns)), np.nan)
    at = 0
    for p in panels:
        values[at : at + len(p.end_ns), : len(p.keys)] = p.values
        at += len(p.end_ns)
    return Panel(last.keys, last.columns, last.window_ns, end, values)


def unclocked(panel: Panel, windows: int | None = None, keys: int | None = None) -> np.ndarray:
    """Values without the clock, which every key has from the first window on, whenever it is met."""
    keep = [i for i, c in enumerate(panel.columns) if not c.startswith("clock_")]
    return panel.values[:windows, :keys][:, :, keep]


def same(a: Sequence[Panel], b: Sequence[Panel]) -> None:
    for p, q in zip(a, b, strict=True):
        assert p.keys == q.keys
        assert p.columns == q.columns
        np.testing.assert_array_equal(p.end_ns, q.end_ns)
        np.testing.assert_array_equal(unclocked(p), unclocked(q))


@pytest.mark.parametrize("kind", CASES)
@settings(
    max_examples=12,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),  # shrinking takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    events=streams(),
    cuts=st.lists(st.integers(1, 60), max_size=8),
    closes=st.integers(0, 511),
    restarts=st.integers(0, 511),
)
def test_laws(kind: str, events: Events, cuts: list[int], closes: int, restarts: int) -> None:
    parts = CASES[kind]
    whole, builder = run(parts, events)
    assert all((np.diff(p.end_ns) > 0).all() for p in whole)
    split, other = run(parts, events, cuts, closes)
    same(whole, split)
    assert (builder.late, builder.ahead, builder.watermark_ns) == (other.late, other.ahead, other.watermark_ns)
    same(whole, run(parts, events, cuts, closes, restarts)[0])
    # What came before does not depend on what comes later, nor on whether anything does.
    cut = min(cuts, default=len(events) // 2)
    if 0 < cut < len(events):
        value = events.value.copy()
        value[cut:] = value[cut:] * 7 + 3
        for changed in (events[:cut], Events(events.keys, events.series, events.time_ns, events.seen_ns, value)):
            head, _ = run(parts, events[:cut])
            full, _ = run(parts, changed)
            for p, q in zip(head, full, strict=True):
                n, s = len(p.end_ns), len(p.keys)
                assert q.keys[:s] == p.keys
                np.testing.assert_array_equal(q.end_ns[:n], p.end_ns)
                np.testing.assert_array_equal(unclocked(q, n, s), unclocked(p))
                assert np.isnan(unclocked(q, n)[:, s:]).all()
