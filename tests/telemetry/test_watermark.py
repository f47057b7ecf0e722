"""The watermark: late or not, event by event, against the definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.errors import ConfigError
from telemetry.types import Events, SeriesKey
from telemetry.watermark import NEVER, Watermark
from tests.naive.features import watermarks

KEYS = tuple(SeriesKey(h, "m") for h in "abc")
S = 1_000_000_000


def events(rows: list[tuple[int, int]], seen: list[int] | None = None) -> Events:
    series = np.array([s for s, _ in rows], np.int64)
    time = np.array([t for _, t in rows], np.int64)
    return Events(KEYS, series, time, time.copy() if seen is None else np.array(seen, np.int64), np.zeros(len(rows)))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 400)), min_size=1, max_size=80),
    st.integers(0, 30), st.integers(0, 100), st.lists(st.integers(1, 80), max_size=5),
)  # fmt: skip
def test_is_as_defined_however_it_is_cut(
    rows: list[tuple[int, int]], lateness: int, idle: int, cuts: list[int]
) -> None:
    stream = events(rows, seen=[150] * len(rows))
    kept, marks = watermarks(stream, lateness, idle, ahead=200)
    mark = Watermark(lateness, idle, max_ahead_ns=200, grain_ns=7)
    at, got = 0, []
    crossed: list[int] = []
    for b in [*sorted(set(cuts)), len(rows)]:
        piece = stream[at : min(b, len(rows))]
        admitted = mark.admit(piece)
        got += [True] * len(piece) if admitted.keep is None else admitted.keep.tolist()
        crossed += [row[0] for row in admitted.crossings.rows]
        for row, heights in zip(admitted.crossings.rows, admitted.crossings.host_ns.tolist(), strict=True):
            assert row[3] == min(h for h in heights if h != NEVER)
        at = max(at, b)
        other = Watermark(lateness, idle, max_ahead_ns=200, grain_ns=7)
        other.restore(mark.snapshot())
        mark = other
    assert got == kept
    assert mark.watermark_ns == marks[-1]
    assert mark.late + mark.ahead == kept.count(False)
    # Every multiple of the grain that was passed is logged where it was passed.
    wanted = [b for a, b in zip([NEVER, *marks], marks, strict=False) if b != a and (a == NEVER or a // 7 != b // 7)]
    assert crossed == wanted


def test_a_silent_host_holds_back_for_the_idle_timeout_only() -> None:
    mark = Watermark(0, 5 * S)
    mark.admit(events([(0, 100 * S), (1, 100 * S)]))
    mark.admit(events([(0, 103 * S)]))
    assert mark.watermark_ns == 100 * S
    mark.admit(events([(0, 120 * S)]))
    assert mark.watermark_ns == 115 * S


def test_a_late_host_never_lowers_it_and_catches_up() -> None:
    mark = Watermark(0, 5 * S)
    mark.admit(events([(0, 100 * S)]))
    assert not mark.admit(events([(1, 98 * S)])).keep.any()  # type: ignore[union-attr]
    assert mark.watermark_ns == 100 * S
    mark.admit(events([(0, 103 * S)]))
    assert mark.watermark_ns == 100 * S  # the newcomer holds it back
    assert mark.admit(events([(1, 101 * S)])).keep is None
    assert mark.watermark_ns == 101 * S


def test_a_wrong_clock_is_rejected_and_counted() -> None:
    mark = Watermark(0, 5 * S)
    rows = [(0, 100 * S), (1, 4_000_000_000 * S), (0, 101 * S), (2, 2**63 - 1), (2, -(2**63)), (0, 102 * S)]
    keep = mark.admit(events(rows, seen=[100 * S] * 6)).keep
    assert keep is not None
    assert keep.tolist() == [True, False, True, False, False, True]
    assert (mark.ahead, mark.late, mark.watermark_ns) == (3, 0, 102 * S)


def test_what_each_host_had_told_is_logged_at_the_crossing() -> None:
    mark = Watermark(0, 2 * S, grain_ns=S)
    crossed = mark.admit(events([(0, 10 * S), (1, 10 * S + 1), (0, 15 * S), (0, 15 * S + 5)])).crossings
    assert [row[0] for row in crossed.rows] == [10 * S, 13 * S]
    assert crossed.host_ns[:, :2].tolist() == [[10 * S, NEVER], [15 * S, 10 * S + 1]]
    assert crossed.rows[1][1] == 10 * S + 1
    assert [row[3] for row in crossed.rows] == [10 * S, 10 * S + 1]  # the slowest of those heard of


def test_many_crossings_in_one_batch_are_all_logged() -> None:
    time = np.arange(2000, dtype=np.int64) * S
    stream = Events(KEYS, np.zeros(2000, np.int64), time, time, np.zeros(2000))
    crossed = Watermark(grain_ns=S).admit(stream).crossings
    np.testing.assert_array_equal([row[0] for row in crossed.rows], time)


def test_raised_by_hand_what_is_below_is_late() -> None:
    mark = Watermark(0, 5 * S)
    mark.admit(events([(0, 100 * S)]))
    assert mark.raise_to(110 * S).rows == [[110 * S, 100 * S, 100 * S, 100 * S]]
    assert mark.raise_to(105 * S).rows == []
    mark.admit(events([(0, 109 * S), (0, 110 * S)]))
    assert mark.late == 1


@pytest.mark.parametrize("setting", [{"lateness_ns": -1}, {"idle_timeout_ns": -5}, {"grain_ns": 0}])
def test_settings_out_of_range(setting: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Watermark(**setting)
