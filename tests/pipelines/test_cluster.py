from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.service_crash import make_store
from detectors.signature import load_catalogue
from pipelines.backtest import Replayed, Task, join, run_task
from pipelines.cases import Case
from pipelines.cluster import executor, run_all
from pipelines.resolve import Candidate
from telemetry.errors import ConfigError

PORT = 21000


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    path = tmp_path_factory.mktemp("cluster") / "store"
    make_store(path, seconds=80)
    specs = {s.kind: s.spec for s in load_catalogue()}
    kinds = ("context_switch_storm", "tail_latency_creep", "cpu_contention")
    return [Task((Candidate(specs[k], "0"),), Case("store", "store", str(path), ())) for k in kinds]


def plain(results: list[Replayed | str]) -> tuple[list[str], bytes]:
    (found,) = results
    assert isinstance(found, Replayed)
    return [repr(a) for a in found.alerts], np.nan_to_num(found.track.surprise).tobytes()


def test_a_part_that_has_nothing_says_so(tasks: list[Task]) -> None:
    (nothing,) = run_task(replace(tasks[0], case=replace(tasks[0].case, select='host="elsewhere"')))
    assert isinstance(nothing, str)
    assert "no windows" in nothing


def test_hosts_apart_are_one_outcome(tasks: list[Task]) -> None:
    (whole,) = run_task(tasks[0])
    assert isinstance(whole, Replayed)
    hosts = sorted({a.series.host for a in whole.alerts}) or ["h0"]
    select = f'host="{hosts[0]}"'
    inside = replace(tasks[0].case, select=select)
    outside = replace(tasks[0].case, select=select.replace("=", "!="))
    parts = [r for case in (inside, outside) for r in run_task(replace(tasks[0], case=case)) if not isinstance(r, str)]
    one, two = join([whole], draws=0), join(parts, draws=0)
    assert [a.id for a in one.alerts] == [a.id for a in two.alerts]
    np.testing.assert_array_equal(one.timeline[1], two.timeline[1])


@pytest.mark.slow
def test_processes_score_bit_for_bit_as_one(tasks: list[Task]) -> None:
    alone = [plain(run_task(t)) for t in tasks]
    with executor(jobs=2) as pool:
        assert [plain(o) for o in run_all(pool, run_task, tasks)] == alone


@pytest.fixture
def dask() -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    pytest.importorskip("distributed", reason="extra: tailwatch[cluster]")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    run = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(PORT)]
    address = f"tcp://127.0.0.1:{PORT}"
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
    jobs = [subprocess.Popen([*run, "--no-dashboard"], **quiet)]  # type: ignore[call-overload]
    jobs += [subprocess.Popen([*worker, "--no-nanny"], **quiet) for _ in range(2)]  # type: ignore[call-overload]
    yield address, jobs
    for job in jobs:
        job.kill()
        job.wait()


@pytest.mark.slow
def test_a_dask_cluster_scores_the_same_though_a_worker_dies(
    tasks: list[Task], dask: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    address, jobs = dask
    alone = [plain(run_task(t)) for t in tasks]
    with executor(address) as pool:
        assert pool.submit(len, "ab").result(timeout=60) == 2
        futures = [pool.submit(run_task, t) for t in tasks]
        jobs[-1].kill()  # one of two workers
        assert [plain(f.result(timeout=300)) for f in futures] == alone


def test_no_scheduler_is_one_line() -> None:
    pytest.importorskip("distributed", reason="extra: tailwatch[cluster]")
    with pytest.raises(ConfigError, match="no scheduler answers"), executor("tcp://127.0.0.1:1"):
        pass


def test_paths_are_plain_so_that_workers_find_them(tasks: list[Task]) -> None:
    assert Path(tasks[0].case.path).is_absolute()
