"""Writers that come again, segments of every size, compactors and a reader at once: no row is missing or told twice."""

from __future__ import annotations

import multiprocessing
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from telemetry.store import Store
from tests.naive.rows import T0, ticks

TICKS, SERIES, STEP = 150, 5, 10**8


def _write(path: str, host: str, odd: bool) -> None:
    for part in range(3):
        with Store(
            path, writer=host, cut_ns=10**9, flush_ns=0, background=not odd, segment_bytes=4_000 if odd else 1 << 25
        ) as store:
            for b in list(ticks(host, TICKS))[part * TICKS // 3 : (part + 1) * TICKS // 3]:
                store.append(b)


def _compact(path: str, stop: Event) -> None:
    store = Store(path, create=False)
    while not stop.is_set():
        store.compact()


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(4))
def test_a_storm(tmp_path: Path, turn: int) -> None:
    path = str(tmp_path / "s")
    Store(path).close()
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    compactors = [context.Process(target=_compact, args=(path, stop)) for _ in range(2)]
    writers = [context.Process(target=_write, args=(path, f"tx{i}", i % 2 == 1)) for i in range(4)]
    for p in (*compactors, *writers):
        p.start()
    reader = Store(path, create=False)
    while any(w.is_alive() for w in writers):
        told: dict[str, list[int]] = {}
        for b in reader.read(0, 2**62):
            for i, t in zip(b.series.tolist(), b.time_ns.tolist(), strict=True):
                told.setdefault(b.keys[i].host, []).append(t)
        for times in told.values():
            seen = sorted(set(times))
            assert len(times) == SERIES * len(seen)
            assert seen[0] - T0 < STEP
            assert (seen[-1] - seen[0]) // STEP + 1 == len(seen)
    stop.set()
    for p in (*writers, *compactors):
        p.join()
        assert p.exitcode == 0
    assert sum(len(b) for b in Store(path, create=False).read(0, 2**62)) == 4 * TICKS * SERIES
    assert reader.duplicates == 0
