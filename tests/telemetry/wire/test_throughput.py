"""Windows and peaks against sums over all packets."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.wire.throughput import SPANS, Link, Peaks, Throughput, span_name
from tests.naive.wire import peak, windows

rows = st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(0, 3), st.integers(60, 1500)), min_size=1, max_size=80)


def _cuts(n: int, size: int) -> list[slice]:
    return [slice(i, i + size) for i in range(0, n, size)]


@given(rows, st.integers(1, 80))
@settings(max_examples=50, deadline=None)
def test_windows_are_sums_for_any_batches(deltas: list[tuple[int, int, int]], size: int) -> None:
    time = np.cumsum([d[0] for d in deltas]).astype(np.int64)
    flow = np.array([d[1] for d in deltas], np.int32)
    lens = np.array([d[2] for d in deltas], np.int32)
    counter, link, peaks = Throughput(1_000_000), Link(1_000_000), Peaks(10_000_000)
    got, whole, top = [], [], []
    for cut in _cuts(len(time), size):
        got += counter.push(time[cut], flow[cut], lens[cut], 4).tolist()
        whole += link.push(time[cut], lens[cut]).tolist()
        top += peaks.push(time[cut], lens[cut]).tolist()
    got += counter.finish().tolist()
    whole += link.finish().tolist()
    top += peaks.finish().tolist()
    wanted = windows(list(zip(time.tolist(), flow.tolist(), lens.tolist(), strict=True)), 1_000_000)
    assert {(f, e): (p, b) for f, e, p, b in got} == wanted
    assert len(got) == len(wanted)
    one = windows([(t, 0, b) for t, b in zip(time.tolist(), lens.tolist(), strict=True)], 1_000_000)
    assert {(0, e): (p, b) for e, p, b in whole} == one
    pairs = list(zip(time.tolist(), lens.tolist(), strict=True))
    for span, end, most in top:
        assert most == peak(pairs, SPANS[span], end - 10_000_000, end)


def test_peaks_of_long_bursts() -> None:
    rng = np.random.default_rng(11)
    time = np.cumsum(rng.exponential(1500, 60_000) * rng.choice([0.1, 1, 30], 60_000)).astype(np.int64)
    lens = rng.integers(60, 1500, 60_000).astype(np.int32)
    window = 100_000_000
    peaks = Peaks(window)
    got = [
        row
        for at in range(0, len(time), 4096)
        for row in peaks.push(time[at : at + 4096], lens[at : at + 4096]).tolist()
    ]
    got += peaks.finish().tolist()
    before = np.concatenate(([0], np.cumsum(lens)))
    for number, span in enumerate(SPANS):
        bytes_in = before[1:] - before[np.searchsorted(time, time - span, side="right")]
        assert [r[2] for r in got if r[0] == number] == [
            int(bytes_in[time // window == w].max()) for w in np.unique(time // window)
        ]


def test_a_burst_longer_than_the_ring_is_cut() -> None:
    n = 40_000  # in 4 ms: more than the ring of 32,768 holds
    peaks = Peaks(1_000_000_000)
    peaks.push(np.arange(n, dtype=np.int64) * 100, np.ones(n, np.int32))
    assert [r[2] for r in peaks.finish().tolist()] == [1000, 10_000, 32_767]


def test_time_that_steps_back_counts_in_the_open_window() -> None:
    counter = Throughput(100)
    time = np.array([50, 150, 90, 250], np.int64)
    out = counter.push(time, np.zeros(4, np.int32), np.full(4, 10, np.int32), 1).tolist() + counter.finish().tolist()
    assert out == [[0, 100, 1, 10], [0, 200, 2, 20], [0, 300, 1, 10]]
    assert counter.stepped_back == 1


def test_span_names() -> None:
    assert [span_name(s) for s in (*SPANS, 1_000_000_000, 7)] == ["100us", "1ms", "10ms", "1s", "7ns"]
