from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from telemetry.errors import StoreError
from telemetry.storage.cut import cut_segment
from telemetry.storage.manifest import read_manifest
from telemetry.store import Store
from telemetry.types import Events, SeriesKey
from tests.naive.rows import T0, ticks

ALL = (-(2**63), 2**63 - 1)
HOSTILE = ("../../etc", "a/b", "..", "", "h\x00st", 'q"uo\nte', "é" * 200, "host=1", "%2e%2e", "con,ma")


def batch(
    names: list[SeriesKey], rows: list[tuple[int, int, int, float]], dtype: type = np.int64, offset: int = T0
) -> Events:
    series, time_ns, seen, value = (np.array(c) for c in zip(*rows, strict=True))
    return Events(
        tuple(names),
        series.astype(np.int64),
        time_ns.astype(np.int64) + offset,
        seen.astype(np.int64) + offset,
        value.astype(dtype),
    )


def flat(store: Store, **options: object) -> list[tuple[str, int, int, str, float]]:
    """Every row, one by one."""
    out = []
    for b in store.read(*ALL, **options):  # type: ignore[arg-type]
        for s, t, seen, v in zip(
            b.series.tolist(), b.time_ns.tolist(), b.seen_ns.tolist(), b.value.tolist(), strict=True
        ):
            out.append((str(b.keys[s]), t, seen, b.value.dtype.kind, v))
    return out


def naive(batches: list[Events]) -> list[tuple[str, int, int, str, float]]:
    """Rows in the order of (seen, arrival): a stable sort of what was appended, for seen that never falls."""
    out = []
    for b in batches:
        for s, t, seen, v in zip(
            b.series.tolist(), b.time_ns.tolist(), b.seen_ns.tolist(), b.value.tolist(), strict=True
        ):
            out.append((str(b.keys[s]), t, seen, b.value.dtype.kind, v))
    return sorted(out, key=lambda r: r[2])


@st.composite
def histories(draw: st.DrawFn) -> list[Events]:
    """Batches of both value types whose seen times never fall, over a few days, hosts and families."""
    hosts = draw(st.lists(st.sampled_from([*HOSTILE, "tx1", "tx2"]), min_size=1, max_size=3, unique=True))
    metrics = ["irq_total", "meminfo_MemFree_bytes", "wire_latency_ns", "strange/../metric"]
    keys = [SeriesKey.of(h, m, cpu=c, path='a\\b"c\n,d=e') for h in hosts for m in metrics for c in range(2)]
    seen = 0
    out = []
    for _ in range(draw(st.integers(1, 8))):
        rows = []
        for _ in range(draw(st.integers(1, 12))):
            seen += draw(st.sampled_from([0, 0, 1, 1000, 40_000_000_000_000]))
            late = draw(st.sampled_from([0, 5, 200_000_000_000_000]))
            rows.append((draw(st.integers(0, len(keys) - 1)), seen - late, seen, draw(st.integers(-(2**62), 2**62))))
        out.append(batch(keys, rows, draw(st.sampled_from([np.int64, np.float64]))))
    return out


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories(), cut=st.sampled_from([0, 1000, 10**18]), stops=st.sets(st.integers(0, 8)))
def test_gives_back_what_was_appended(
    tmp_path_factory: pytest.TempPathFactory, history: list[Events], cut: int, stops: set[int]
) -> None:
    """In order, exactly once, however the rows lie: in the log, in Parquet, half and half, or compacted."""
    root = tmp_path_factory.mktemp("store")
    store = Store(root / "s", cut_ns=cut, flush_ns=0)
    for i, events in enumerate(history):
        if i in stops and i and events.seen_ns[0] > history[i - 1].seen_ns[-1]:
            store.close()
            store = Store(root / "s", cut_ns=cut)
        store.append(events)
    expected = naive(history)
    assert flat(store) == expected
    digest = store.digest(*ALL)
    store.close()
    assert flat(store) == expected
    store.compact()
    assert flat(store) == expected
    assert store.digest(*ALL) == digest
    assert store.hosts() == sorted({b.keys[s].host for b in history for s in b.series.tolist()})
    assert store.keys() == sorted({b.keys[s] for b in history for s in b.series.tolist()})
    assert store.last_seen_ns() == max(int(b.seen_ns[-1]) for b in history)
    everything = set(root.rglob("*"))
    assert all((root / "s") in p.parents or p == root / "s" for p in everything)


def test_range_time_and_selection(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        for b in ticks("tx1", 50) + ticks("tx2", 50):
            store.append(b)
        for _ in range(2):
            got = list(store.read(T0 + 10 * 10**8 + 7, T0 + 20 * 10**8 + 7, select="irq_total{cpu=2,host=tx2}"))
            assert sum(map(len, got)) == 10
            assert {b.keys[s] for b in got for s in b.series.tolist()} == {SeriesKey.of("tx2", "irq_total", cpu=2)}
            some = list(store.read(*ALL, time_from_ns=T0 + 49 * 10**8))
            assert sum(map(len, some)) == 10
            store.close()


def test_late_rows_come_where_they_were_seen(tmp_path: Path) -> None:
    key = [SeriesKey.of("h", "irq_total")]
    early = batch(key, [(0, 0, 10, 1), (0, 5, 20, 2)])
    late = batch(key, [(0, -(10**15), 30, 3)])  # happened eleven days before
    with Store(tmp_path / "s") as store:
        store.append(early)
        store.append(late)
    assert [r[4] for r in flat(store)] == [1, 2, 3]
    assert len({f.day for f in read_manifest(tmp_path / "s").files}) == 2


def test_a_batch_written_twice_is_one(tmp_path: Path) -> None:
    """A job that is run again after a crash appends the same rows: each is read once."""
    for _ in range(2):
        with Store(tmp_path / "s") as store:
            for b in ticks("tx1", 20):
                store.append(b)
    assert flat(store) == naive(ticks("tx1", 20))
    assert store.duplicates == 100
    store.compact()
    assert sum(f.rows for f in read_manifest(tmp_path / "s").files) == 100


def test_older_rows_appended_after_newer_ones(tmp_path: Path) -> None:
    """Back-filling: what was seen earlier is read earlier, from the log as from Parquet."""
    store = Store(tmp_path / "s")
    parts = ticks("tx1", 30, start=30) + ticks("tx1", 30)
    for b in parts:
        store.append(b)
    assert flat(store) == naive(parts)
    store.close()
    assert flat(store) == naive(parts)


def test_big_numbers_stay_exact(tmp_path: Path) -> None:
    values = [2**63 - 1, -(2**63), 2**53 + 1, 0]
    key = [SeriesKey.of("h", "tick_total")]
    with Store(tmp_path / "s") as store:
        at = np.arange(4)
        store.append(Events(tuple(key), np.zeros(4, np.int64), at, at, np.array(values)))
    assert [r[4] for r in flat(store)] == values


def test_torn_tail_is_cut_and_counted(tmp_path: Path) -> None:
    store = Store(tmp_path / "s", flush_ns=0)
    for b in ticks("tx1", 10):
        store.append(b)
    store.flush()
    os.close(store._fd)  # the writer dies here
    store._fd = -1
    (segment,) = (tmp_path / "s/log").glob("*.twl")
    whole = segment.read_bytes()
    for lost in (1, 7, 40):
        segment.write_bytes(whole[:-lost])
        assert len(flat(Store(tmp_path / "s"))) == 45  # a reader leaves the torn frame out
    segment.write_bytes(whole[:-5])
    with Store(tmp_path / "s") as other:
        for b in ticks("tx1", 1, start=20):
            other.append(b)
        assert other.torn_bytes > 0
    assert len(flat(other)) == 50
    assert not list((tmp_path / "s/log").glob("*.twl"))


def test_flipped_bit_ends_the_segment_there(tmp_path: Path) -> None:
    store = Store(tmp_path / "s", flush_ns=0)
    for b in ticks("tx1", 10):
        store.append(b)
    os.close(store._fd)
    store._fd = -1
    (segment,) = (tmp_path / "s/log").glob("*.twl")
    data = bytearray(segment.read_bytes())
    data[-20] ^= 1
    segment.write_bytes(data)
    assert len(flat(Store(tmp_path / "s"))) == 45


def test_another_version_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "s").close()
    (tmp_path / "s/store.json").write_text(json.dumps({"format": "tailwatch-store", "version": 9}))
    with pytest.raises(StoreError, match="another version: expected 1, got 9"):
        Store(tmp_path / "s")
    (tmp_path / "s/store.json").write_text("{}")
    with pytest.raises(StoreError, match="expected a store's head"):
        Store(tmp_path / "s")


def test_strange_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="got nothing"):
        Store(tmp_path / "s", create=False)
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(StoreError, match="not empty and not a store"):
        Store(tmp_path)
    with pytest.raises(StoreError, match="got a file"):
        Store(tmp_path / "letter.txt")


def test_foreign_parquet_in_place_of_ours(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        store.append(ticks("tx1", 1)[0])
    (file,) = (tmp_path / "s").glob("family=*/*/*/*.parquet")
    file.write_bytes(b"PAR1 not really")
    with pytest.raises(StoreError, match="expected a Parquet file"):
        flat(store)
    file.unlink()
    with pytest.raises(StoreError, match="not there"):
        flat(store)


def test_ring_by_age_and_size(tmp_path: Path) -> None:
    with Store(tmp_path / "s", cut_ns=10**9) as store:
        for b in ticks("tx1", 100):
            store.append(b)
    before = read_manifest(tmp_path / "s").files
    assert len(before) > 3
    gone = store.trim(seen_before_ns=T0 + 5 * 10**9)
    assert gone > 0
    left = flat(store)
    assert len(left) == 500 - gone
    assert min(r[2] for r in left) <= T0 + 5 * 10**9 + 10**9
    store.trim(max_bytes=0)
    assert flat(store) == []


def test_reader_survives_compaction_and_trim(tmp_path: Path) -> None:
    """A reading that has begun ends whole, though its files are replaced meanwhile."""
    with Store(tmp_path / "s", cut_ns=10**9) as store:
        for b in ticks("tx1", 100):
            store.append(b)
    reading = store.read(*ALL)
    first = next(reading)
    store.compact()
    store.trim(max_bytes=0)
    assert len(first) + sum(map(len, reading)) == 500


def _write(path: str, host: str, n: int) -> None:
    with Store(path, cut_ns=2 * 10**9, flush_ns=0) as store:
        for b in ticks(host, n):
            store.append(b)


def test_readers_see_whole_rows_while_two_write(tmp_path: Path) -> None:
    """No row twice, none missing among those before the last seen, while segments become Parquet under our feet."""
    path = str(tmp_path / "s")
    Store(path).close()
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(path, h, 200)) for h in ("tx1", "tx2")]
    for w in writers:
        w.start()
    store = Store(path, create=False)
    looks = 0
    while any(w.is_alive() for w in writers) or looks == 0:
        rows = flat(store)
        assert len(set(rows)) == len(rows)
        assert [r[2] for r in rows] == sorted(r[2] for r in rows)
        for host in ("tx1", "tx2"):
            mine = [r for r in rows if f'host="{host}"' in r[0]]
            assert len(mine) % 5 == 0
            assert len(mine) == 0 or len({r[2] for r in mine}) == (max(r[2] for r in mine) - T0) // 10**8 + 1
        looks += 1
        if looks % 5 == 0:
            store.compact()
    for w in writers:
        w.join()
        assert w.exitcode == 0
    store.compact()
    assert len(flat(store)) == 2000


def test_a_segment_taken_before_it_is_locked_is_started_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process adopts the new, still empty segment as a dead writer's: what is written then must not be lost."""
    lock, taken = fcntl.flock, []

    def flock(fd: int, how: int) -> None:
        if how == fcntl.LOCK_EX and os.readlink(f"/proc/self/fd/{fd}").endswith(".twl") and len(taken) < 2:
            taken.append(fd)
            Store(tmp_path / "s").compact()
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with Store(tmp_path / "s", cut_ns=2 * 10**9, flush_ns=0) as store:
        for b in ticks("tx1", 50):
            store.append(b)
        assert len(flat(Store(tmp_path / "s", create=False))) == 250
    assert len(taken) == 2
    assert len(flat(Store(tmp_path / "s", create=False))) == 250


def test_a_segment_cut_by_another_is_not_cut_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened; then another process cut and deleted it, and a third forgot its writer; only then came the lock."""
    store = Store(tmp_path / "s", writer="w", flush_ns=0)
    for b in ticks("tx1", 30):
        store.append(b)
    store.flush()
    os.close(store._fd)  # as if it were killed
    (path,) = (tmp_path / "s" / "log").glob("*.twl")
    lock, once = fcntl.flock, []

    def flock(fd: int, how: int) -> None:
        if how == fcntl.LOCK_EX | fcntl.LOCK_NB and not once:
            once.append(fd)
            cut_segment(tmp_path / "s", path)
            with Store(tmp_path / "s") as other:
                for b in ticks("tx2", 1):
                    other.append(b)
            assert "w" not in read_manifest(tmp_path / "s").cut
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    cut_segment(tmp_path / "s", path)
    assert once
    again = Store(tmp_path / "s", create=False)
    assert len(flat(again)) == 155
    assert again.duplicates == 0


def test_two_writers_of_one_name(tmp_path: Path) -> None:
    """A writer that did not end yet, and one started beside it: neither takes the other's segment."""
    first, second = (Store(tmp_path / "s", writer="w", cut_ns=2 * 10**9, flush_ns=0) for _ in range(2))
    for one, other in zip(ticks("tx1", 90), ticks("tx2", 90), strict=True):
        first.append(one)
        second.append(other)
    for store in (second, first):
        store.close()
    again = Store(tmp_path / "s", create=False)
    assert len(flat(again)) == 900
    assert again.duplicates == 0


def test_a_writer_comes_again_by_the_same_name(tmp_path: Path) -> None:
    for turn in range(3):
        with Store(tmp_path / "s", writer="w", cut_ns=2 * 10**9, flush_ns=0) as store:
            for b in list(ticks("tx1", 90))[30 * turn : 30 * (turn + 1)]:
                store.append(b)
        assert len(flat(Store(tmp_path / "s", create=False))) == 150 * (turn + 1)


def test_a_killed_writer_loses_at_most_what_was_not_flushed(tmp_path: Path) -> None:
    code = (
        "import time\n"
        "import numpy as np\n"
        "from telemetry.store import Store\n"
        "from telemetry.types import Events, SeriesKey\n"
        "keys = tuple(SeriesKey.of('tx1', 'irq_total', cpu=i) for i in range(5))\n"
        f"s = Store({str(tmp_path / 's')!r}, cut_ns=3*10**9)\n"
        "for i in range(206):\n"
        f"    at = np.full(5, {T0} + i * 10**8 + 7)\n"
        "    s.append(Events(keys, np.arange(5), at, at, np.arange(5) + i))\n"
        "print('there', flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"there\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    rows = flat(Store(tmp_path / "s", create=False))
    assert len(rows) >= 5 * (205 - 11)  # flushed each second of seen time: ten ticks
    assert [r[2] for r in rows[::5]] == [T0 + i * 10**8 + 7 for i in range(len(rows) // 5)]


def test_full_disk_drops_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write fails half way with ENOSPC; later there is room again."""
    real, full = os.write, False

    def write(fd: int, data: bytes) -> int:
        if full:
            if len(data) > 100:
                return real(fd, bytes(data)[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    store = Store(tmp_path / "s", flush_ns=0, on_full="drop")
    for i, b in enumerate(ticks("tx1", 30)):
        full = 10 <= i < 20
        store.append(b)
    store.close()
    assert 0 < store.dropped <= 60
    rows = flat(store)
    assert len(rows) + store.dropped == 150
    assert {r[4] for r in rows} >= {0, 27 * 3}
    strict = Store(tmp_path / "t", flush_ns=0)
    full = False
    strict.append(ticks("tx1", 1)[0])
    full = True
    with pytest.raises(StoreError, match="No space left"):
        strict.append(ticks("tx1", 1, start=5)[0])


@pytest.mark.root
def test_really_full_disk(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", mount]).returncode:
        pytest.skip("cannot mount a tmpfs")
    try:
        store = Store(mount / "s", flush_ns=0, on_full="drop", cut_ns=10**9)
        rng = np.random.default_rng(1)
        for b in ticks("tx1", 300, series=200):
            store.append(Events(b.keys, b.series, b.time_ns, b.seen_ns, rng.integers(0, 2**62, 200)))
        store.close()
        assert store.dropped > 0
        assert len(flat(Store(mount / "s"))) + store.dropped == 60_000
    finally:
        subprocess.run(["umount", "-l", mount])


def test_read_by_others_as_it_lies(tmp_path: Path) -> None:
    import duckdb
    import pandas as pd
    import polars as pl

    with Store(tmp_path / "s") as store:
        for b in ticks("tx1", 10):
            store.append(b)
    folder = f"{tmp_path}/s/family=cpu.int64"
    frame = pd.read_parquet(folder)
    assert set(frame["host"]) == {"tx1"}
    assert frame["value"].sum() == 5 * 3 * 45 + 10 * 10
    assert duckdb.sql(
        f"select sum(value) from read_parquet('{folder}/**/*.parquet', hive_partitioning=1)"
    ).fetchall() == [(775,)]
    assert pl.scan_parquet(f"{folder}/**/*.parquet").select(pl.col("value").sum()).collect().item() == 775


def test_background_cutting_gives_the_same(tmp_path: Path) -> None:
    with Store(tmp_path / "s", cut_ns=10**9, background=True) as store:
        for b in ticks("tx1", 200):
            store.append(b)
        assert flat(store) == naive(ticks("tx1", 200))
    assert flat(store) == naive(ticks("tx1", 200))
    assert not list((tmp_path / "s/log").glob("*.twl"))


def test_reading_in_a_thread_while_appending(tmp_path: Path) -> None:
    store = Store(tmp_path / "s", cut_ns=10**9)
    wrong: list[int] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            n = len(flat(store))
            if n % 5:
                wrong.append(n)

    thread = threading.Thread(target=look)
    thread.start()
    for b in ticks("tx1", 200):
        store.append(b)
    done.set()
    thread.join()
    store.close()
    assert not wrong
    assert len(flat(store)) == 1000


def test_segments_of_a_writer_are_cut_in_order(tmp_path: Path) -> None:
    """While an earlier one is held by somebody, the later ones wait: no moment in which rows are in neither place."""
    import fcntl

    store = Store(tmp_path / "s", flush_ns=0, writer="w", background=True)
    for b in ticks("tx1", 10):
        store.append(b)
    with (tmp_path / "s/log/w-0.twl").open("rb") as held:
        copy = (tmp_path / "s/log/w-0.twl").read_bytes()
        os.close(store._fd)
        store._fd, store._number = -1, 1
        fcntl.flock(held, fcntl.LOCK_EX)
        for b in ticks("tx1", 10, start=10):
            store.append(b)
        store.close()
        assert len(flat(store)) == 100
        assert (tmp_path / "s/log/w-0.twl").read_bytes() == copy
        assert (tmp_path / "s/log/w-1.twl").exists()
    Store(tmp_path / "s").compact()
    assert not list((tmp_path / "s/log").glob("*.twl"))
    assert flat(store) == naive(ticks("tx1", 20))


def test_last_seen_is_cheap(tmp_path: Path) -> None:
    """Neither pyarrow nor numba nor pandas is imported to see whether there is anything new."""
    with Store(tmp_path / "s") as store:
        store.append(ticks("tx1", 1)[0])
    code = (
        f"import sys; from telemetry.store import Store; s = Store({str(tmp_path / 's')!r}, create=False)\n"
        "print(s.last_seen_ns(), s.last_seen_ns('tx1'), s.last_seen_ns('no'), s.hosts())\n"
        "print([m for m in ('pyarrow', 'numba', 'pandas') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == f"{T0 + 7} {T0 + 7} None ['tx1']\n[]\n"


def test_memory_of_reading_is_bounded(tmp_path: Path) -> None:
    """A million rows are read in batches none of which is large."""
    keys = tuple(SeriesKey.of("h", "wire_latency_ns", flow=i) for i in range(1000))
    rng = np.random.default_rng(1)
    with Store(tmp_path / "s") as store:
        for i in range(10):
            at = T0 + np.arange(i * 100_000, (i + 1) * 100_000)
            store.append(Events(keys, rng.integers(0, 1000, 100_000), at, at, rng.integers(0, 10**6, 100_000)))
    start = time.process_time()
    sizes = [len(b) for b in store.read(*ALL)]
    assert sum(sizes) == 1_000_000
    assert max(sizes) <= 1 << 19
    assert time.process_time() - start < 20


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_the_compiled_step_writes_the_same_bytes(data: st.DataObject) -> None:
    """A process with numba and one without write the same log."""
    import telemetry.storage.kernel  # noqa: F401 - from here on numba is there
    from telemetry.storage import log

    n = data.draw(st.integers(2, 40))
    keys = tuple(SeriesKey.of("h", "irq_total", cpu=i) for i in range(n))
    series = np.arange(n)
    series.flags.writeable = False
    runs = np.sort(np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))))
    fast, slow = log.Encoder(), log.Encoder()
    value, seen = np.zeros(n, np.int64), 0
    for _ in range(data.draw(st.integers(1, 140))):
        value = value + np.array(data.draw(st.sampled_from([[0] * n, [1] * n, [1] + [0] * (n - 1), list(range(n))])))
        seen += data.draw(st.sampled_from([0, 1, 100]))
        time_ns = seen - 10 + data.draw(st.sampled_from([runs, runs * 0, np.arange(n), runs * 7]))
        kind = data.draw(st.sampled_from([np.int64, np.int64, np.int64, np.float64]))
        events = Events(keys, series, time_ns, np.full(n, seen), value.astype(kind))
        again = fast.same_again(events)
        ours = fast.encode(events) if again is None else [again]
        assert slow.encode(events) == ours
