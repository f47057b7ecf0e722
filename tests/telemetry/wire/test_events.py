"""The collector against a plain sort."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.types import SeriesKey
from telemetry.wire.events import Collector

found = st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 40), st.integers(0, 5), st.integers(-5, 5)), max_size=60)


def _key(code: int, number: int) -> SeriesKey:
    return SeriesKey("h", f"m{code}", (("id", str(number)),))


@given(st.lists(found, min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_rows_come_out_in_time_order_under_their_names(batches: list[list[tuple[int, int, int, int]]]) -> None:
    """Batch b holds times of [b * 5, b * 5 + 10): what is not before (b + 1) * 5 waits."""
    collector = Collector(_key)
    codes = np.array([7, 2, -1, 900], np.int64)  # of the kinds; kind 2 is not told
    out: list[tuple[int, int, str]] = []
    want: list[tuple[int, int, str]] = []

    def take(before: int | None) -> None:
        for events in collector.drain(before):
            assert (np.diff(events.time_ns) >= 0).all()
            assert (events.seen_ns == events.time_ns).all()
            rows = zip(events.time_ns.tolist(), events.value.tolist(), events.series.tolist(), strict=True)
            out.extend((t, v, str(events.keys[s])) for t, v, s in rows)

    for b, batch in enumerate(batches):
        rows = np.array(batch, np.int64).reshape(-1, 4)
        rows[:, 2] += 5 * b + 3
        collector.add_rows(rows, codes, scale=64, offset=5, later=2)
        collector.add(7, rows[:, 1], rows[:, 2] + 2, 0)
        for kind, number, time, value in rows.tolist():
            if codes[kind] >= 0:
                want.append((time + 2, value, str(_key(int(codes[kind]), number * 64 + 5))))
            want.append((time + 2, 0, str(_key(7, number))))
        take(5 * (b + 1) + 5)
        assert all(t < 5 * (b + 1) + 5 for t, *_ in out)
    take(None)
    assert sorted(out) == sorted(want)
    assert collector.late == 0
