from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from telemetry.source import ArraySource, merge
from telemetry.types import Events, SeriesKey

seen = st.lists(st.integers(0, 30), max_size=20).map(sorted)


def stream(name: str, times: list[int], rows: int) -> list[Events]:
    t = np.array(times, np.int64)
    whole = Events((SeriesKey(name, "m"),), np.zeros(len(t), np.int64), t, t, np.arange(len(t), dtype=np.float64))
    return [whole[i : i + rows] for i in range(0, len(t), rows)]


@given(st.lists(st.tuples(seen, st.integers(1, 5)), max_size=4))
def test_merge_equals_a_stable_sort(streams: list[tuple[list[int], int]]) -> None:
    merged = merge([iter(stream(str(i), t, rows)) for i, (t, rows) in enumerate(streams)])
    got = [
        (int(s), e.keys[k].host, float(v)) for e in merged for s, k, v in zip(e.seen_ns, e.series, e.value, strict=True)
    ]
    rows = [(s, str(i), float(n)) for i, (t, _) in enumerate(streams) for n, s in enumerate(t)]
    assert got == sorted(rows, key=lambda r: r[0])


@given(seen, st.integers(0, 30), st.integers(0, 30))
def test_array_source_reads_half_open_ranges(times: list[int], lo: int, hi: int) -> None:
    (events,) = stream("h", times, 100) or [Events.empty()]
    got = [int(t) for e in ArraySource(events, rows=3).read(lo, hi) for t in e.seen_ns]
    assert got == [t for t in times if lo <= t < hi]
