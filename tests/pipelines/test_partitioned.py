"""Split work equals whole work: hosts over processes and Dask workers, features by host and day, captures by file."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.service_cluster import alerts, dask, many_hosts, settings
from benchmarks.service_crash import START, make_store
from pipelines.cluster import executor
from pipelines.features import write_features
from pipelines.ingest import ingest
from pipelines.partitioned import DAY, ScoreTask, part_of, plan_days, score_part, score_parts, write_days
from pipelines.score import score
from pipelines.state import StateDB
from pipelines.units import plan
from telemetry.selectors import of_host
from telemetry.store import Store
from tests.naive.wire_frames import pcap, udp

ROOT = Path(__file__).parents[2]
SPEC = """
[[features]]
kind = "window"
select = "wire_latency_ns"
window = "1s"
columns = ["count", "p50", "p99", "max"]

[[features]]
kind = "rate"
select = "context_switches_total"
window = "1s"
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return many_hosts(tmp_path_factory.mktemp("hosts"), 4, 100)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, store: Path) -> list[str]:
    """What one process finds."""
    config = settings(tmp_path_factory.mktemp("whole"), store)
    assert score(config).incidents
    return alerts(config)


def test_a_host_has_its_part_everywhere() -> None:
    assert [part_of(h, 4) for h in ("tx07", "tx08", "a\nb", "")] == [0, 0, 3, 0]
    counts = np.bincount([part_of(f"tx{i}", 7) for i in range(7000)], minlength=7)
    assert counts.min() > 850


def test_parts_find_what_one_process_finds(store: Path, whole: list[str], tmp_path: Path) -> None:
    config = settings(tmp_path, store)
    with ThreadPoolExecutor(1) as pool:
        results = score_parts(config, pool, 3)
    assert not [r for r in results if isinstance(r, str)]
    assert alerts(config) == whole
    with StateDB(config.state) as state:
        assert {p["name"] for p in state.parts()} == {f"main.{i}of3" for i in (1, 2, 3)}


def test_a_part_that_is_held_is_told_and_stops_no_other(store: Path, tmp_path: Path) -> None:
    config = settings(tmp_path, store)
    now = time.time_ns()
    with StateDB(config.state) as state:
        state.lease("main.1of2", "another:1:1", now, now + 10**12)
    assert "another job" in str(score_part(ScoreTask(config, "main", 0, 2)))
    assert not isinstance(score_part(ScoreTask(config, "main", 1, 2)), str)


@pytest.mark.slow
def test_processes_and_the_command(store: Path, whole: list[str], tmp_path: Path) -> None:
    config = settings(tmp_path, store)
    command = [sys.executable, "-m", "pipelines.cli", "--config", str(tmp_path / "t.toml"), "score", "--parts", "3"]
    (tmp_path / "t.toml").write_text(
        f'store = "{store}"\nstate = "{config.state}"\ncheckpoints = "{config.checkpoints}"\n'
        f'[sinks]\njsonl = "{tmp_path}/out.jsonl"\n'
    )
    done = subprocess.run([*command, "--jobs", "2"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 parts" in done.stdout
    assert alerts(config) == whole
    assert (tmp_path / "out.jsonl").read_text().count("\n") >= 2


@pytest.mark.slow
def test_a_dask_worker_that_dies_loses_nothing(store: Path, whole: list[str], tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="extra: tailwatch[cluster]")
    config = settings(tmp_path, store)
    with StateDB(config.state), dask(2) as (address, jobs), executor(address) as pool:
        assert pool.submit(len, "ab").result(timeout=60) == 2
        futures = [pool.submit(score_part, ScoreTask(config, "main", i, 4)) for i in range(4)]
        time.sleep(1.0)
        jobs[-1].kill()
        results = [f.result(timeout=300) for f in futures]
    assert not [r for r in results if isinstance(r, str)]
    assert alerts(config) == whole


def test_features_by_host_and_day_are_those_of_the_whole(tmp_path: Path) -> None:
    make_store(tmp_path / "plain", seconds=60)
    shift = DAY - (START + 25 * 1_000_000_000) % DAY  # midnight lies within
    with Store(tmp_path / "plain", create=False) as plain, Store(tmp_path / "store") as store:
        for b in plain.read(0, 2**62):
            for host in ("a", "b"):
                keys = tuple(replace(k, host=host) for k in b.keys)
                store.append(replace(b, keys=keys, time_ns=b.time_ns + shift, seen_ns=b.seen_ns + shift))
    spec = tmp_path / "spec.toml"
    spec.write_text(SPEC)
    with Store(tmp_path / "store", create=False) as store, ThreadPoolExecutor(1) as pool:
        tasks = plan_days(str(spec), store, str(tmp_path / "out"), 0, 2**62)
        assert len(tasks) == 4
        written = write_days(tasks, pool)
        assert all(written)
        for host in ("a", "b"):

            class One:
                def read(self, lo: int, hi: int, host: str = host):  # type: ignore[no-untyped-def]
                    return store.read(lo, hi, select=of_host(host))

            write_features(spec, One(), tmp_path / "whole.parquet", seen_from_ns=0, seen_to_ns=2**62)
            files = sorted((tmp_path / "out" / f"host={host}").glob("day=*/features.parquet"))
            assert len(files) == 2
            parts = [row for f in files for row in rows(f)]
            assert len(parts) > 100
            assert sorted(parts) == sorted(rows(tmp_path / "whole.parquet"))


def rows(path: Path) -> list[str]:
    return [str(row) for row in pq.ParquetFile(path).read().to_pylist()]


@pytest.mark.slow
def test_captures_over_dask(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="extra: tailwatch[cluster]")
    for n in range(4):
        frames = [(START + i * 10_000_000, udp("10.0.0.1", 9, "10.0.0.2", 4000 + n, b"x" * 30)) for i in range(500)]
        (tmp_path / f"c{n}.pcap").write_bytes(pcap(frames))
    units = plan([str(p) for p in sorted(tmp_path.glob("*.pcap"))], (), "wire")
    digests = []
    with dask(2) as (address, _):
        for name, cluster in (("here", None), ("dask", address)):
            done = list(ingest(units, str(tmp_path / name), cluster=cluster))
            assert {d.state for d in done} == {"loaded"}
            with Store(tmp_path / name, create=False) as store:
                rows = sorted(
                    (str(b.keys[s]), t, v)
                    for b in store.read(0, 2**62)
                    for s, t, v in zip(b.series.tolist(), b.time_ns.tolist(), b.value.tolist(), strict=True)
                )
            digests.append(rows)
    assert digests[0] == digests[1]
