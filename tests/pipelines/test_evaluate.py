"""Matching rules, on hand-made cases with known answers."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluate import Finding, evaluate, wilson
from telemetry.types import Label

S = 1_000_000_000


def label(start: int, end: int, scope: str = "", kind: str = "writeback") -> Label:
    return Label(f"{start}{scope}", kind, scope, start * S, end * S, end * S)


def at(*seconds: float, place: str = "host=a") -> list[Finding]:
    return [Finding(round(s * S), place, S // 10, id=str(s)) for s in seconds]


def test_first_alert_inside_finds_and_gives_the_delay() -> None:
    e = evaluate(at(102.5, 103, 110), [label(100, 120)], 0, 1000 * S)
    assert (e.found, len(e.false), e.matches[0].delay_ns, e.matches[0].more) == (1, 0, int(2.5 * S), 2)
    assert e.precision == e.recall == e.f1 == 1.0


def test_grace_is_five_seconds_or_three_windows() -> None:
    assert evaluate(at(124.9), [label(100, 120)], 0, 1000 * S).found == 1
    assert evaluate(at(125.0), [label(100, 120)], 0, 1000 * S).found == 0
    wide = [Finding(130 * S, "host=a", 10 * S)]
    assert evaluate(wide, [label(100, 120)], 0, 1000 * S).found == 1


def test_recovery_counts_neither_way() -> None:
    e = evaluate(at(149.0), [label(100, 120)], 0, 1000 * S)
    assert (e.found, len(e.false)) == (0, 0)
    e = evaluate(at(151.0), [label(100, 120)], 0, 1000 * S)
    assert (e.found, len(e.false)) == (0, 1)
    assert len(evaluate(at(400.0), [label(100, 120)], 0, 1000 * S, relearn_ns=300 * S).false) == 0


def test_false_ones_are_joined_within_a_minute() -> None:
    assert len(evaluate(at(10, 50, 100, 161), [], 0, 1000 * S).false) == 2


def test_an_alert_before_the_start_does_not_find() -> None:
    e = evaluate(at(99.9), [label(100, 120)], 0, 1000 * S)
    assert (e.found, len(e.false)) == (0, 1)


def test_scope_must_overlap() -> None:
    labels = [label(100, 120, "host=b"), label(100, 120, "host=a,cpu=3")]
    e = evaluate(at(105, place="host=a"), labels, 0, 1000 * S)
    assert {m.label.scope: m.finding is not None for m in e.matches} == {"host=b": False, "host=a,cpu=3": True}
    assert len(evaluate(at(105, place="host=c"), labels, 0, 1000 * S).false) == 1


def test_nothing_happened_labels_match_nothing() -> None:
    e = evaluate(at(105), [label(100, 120, kind="none")], 0, 1000 * S)
    assert (len(e.matches), len(e.false)) == (0, 1)


def test_clean_time_leaves_out_labels_and_recovery() -> None:
    e = evaluate([], [label(100, 120), label(130, 140)], 0, 1000 * S)
    assert e.clean_ns == (1000 - 70) * S
    assert math.isnan(e.delay_s())


@given(k=st.integers(0, 50), more=st.integers(0, 50))
def test_wilson_holds_the_share(k: int, more: int) -> None:
    n = k + more
    lo, hi = wilson(k, n)
    assert 0.0 <= lo <= hi <= 1.0
    if n:
        assert lo - 1e-12 <= k / n <= hi + 1e-12
        z = 1.959964
        for edge in (lo, hi):  # the interval's edges solve |p - k/n| = z sqrt(p (1 - p) / n)
            assert math.isclose(abs(edge - k / n), z * math.sqrt(edge * (1 - edge) / n), abs_tol=1e-7)
