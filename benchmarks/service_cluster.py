"""Scaling: the hosts of a store scored by one worker and by two, as processes and over Dask; always the same alerts."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from benchmarks.rows import Row, attempt
from benchmarks.service_crash import make_store
from pipelines.cluster import executor
from pipelines.config import Config
from pipelines.partitioned import part_of, score_parts
from pipelines.state import StateDB
from telemetry.store import Store

__all__ = ["alerts", "dask", "many_hosts", "settings"]


def many_hosts(root: Path, hosts: int, seconds: int) -> Path:
    """A store of hosts that storm, as evenly as possible over two and over four parts."""
    make_store(root / "one", seconds=seconds)
    names = [n for part in range(4) for n in (f"tx{i:03d}" for i in range(999)) if part_of(n, 4) == part]
    each = [n for part in range(4) for n in [x for x in names if part_of(x, 4) == part][: hosts // 4]]
    with Store(root / "one", create=False) as one, Store(root / "store") as store:
        for batch in one.read(0, 2**62):
            for host in each:
                keys = tuple(replace(k, host=host) for k in batch.keys)
                store.append(replace(batch, keys=keys))
    return root / "store"


def settings(folder: Path, store: Path) -> Config:
    return Config(store=str(store), state=str(folder / "state.db"), checkpoints=str(folder / "checkpoints"))


def alerts(config: Config) -> list[str]:
    """All alerts that a job left, as text."""
    with StateDB(config.state, create=False) as state:
        return [repr(a) for a in state.alerts()]


@contextmanager
def dask(workers: int) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and workers of one thread each, in processes: (address, processes)."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    scheduler = ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    worker = ["distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny"]
    jobs = [
        subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in (scheduler, *[worker] * workers)
    ]
    try:
        yield address, jobs
    finally:
        for job in jobs:
            with suppress(ProcessLookupError):
                job.kill()
            job.wait()


def timed(root: Path, store: Path, name: str, cluster: str | None, jobs: int) -> tuple[float, list[str]]:
    """Wall seconds of scoring all parts with workers that are warm, and what was found."""
    config = settings(root / name, store)
    with StateDB(config.state), executor(cluster, jobs) as pool:
        warm = settings(root / f"{name}-warm", store)
        with StateDB(warm.state):
            score_parts(warm, pool, 4)  # every worker has imported and compiled
        begun = time.perf_counter()
        results = score_parts(config, pool, 4)
        took = time.perf_counter() - begun
    wrong = [r for r in results if isinstance(r, str)]
    if wrong:
        raise RuntimeError(wrong[0])
    return took, alerts(config)


def scaling(quick: bool) -> list[float]:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        store = many_hosts(root, 8 if quick else 32, 100 if quick else 240)
        one, expected = timed(root, store, "one", None, 1)
        two, got = timed(root, store, "two", None, 2)
        differ = int(got != expected)
        walls = []
        for workers in (1, 2):
            with dask(workers) as (address, _):
                took, got = timed(root, store, f"dask{workers}", address, workers)
                walls.append(took)
                differ += got != expected
    return [one / two, walls[0] / walls[1], float(differ)]


def run(*, data: str | None, quick: bool = False) -> list[Row]:
    rows = [
        Row("score_two_processes", None, "x", 1.6, ">=", "hosts in four parts, wall time of one over two"),
        Row("score_two_dask_workers", None, "x", 1.6, ">="),
        Row("cluster_alerts_differ", None, "runs", 0, "<="),
    ]
    return attempt(rows, lambda: scaling(quick))
