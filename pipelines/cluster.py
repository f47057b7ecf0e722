"""One machine or many, through the standard Executor interface: no scheduler of our own.

Work is split where state allows it: by host, by detector, by file; never along time. Locally a pool of fresh
processes, with ``--cluster tcp://...`` Dask distributed (extra ``cluster``), whose workers need the same Tailwatch and
paths. A task is a plain function of plain arguments, so a worker that dies loses nothing: Dask runs its tasks again.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, TypeVar

from telemetry.errors import ConfigError

__all__ = ["Here", "executor", "run_all"]

T = TypeVar("T")
R = TypeVar("R")


class Here(Executor):
    """Runs a task when it is handed in, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def executor(cluster: str | None = None, jobs: int | None = None) -> Iterator[Executor]:
    """An Executor: `jobs` processes here (default: one a CPU; 1 is this one), or the Dask cluster at `cluster`.

    Raises
    ------
    ConfigError
        The scheduler does not answer, or the extra is not installed.
    """
    if cluster is None and jobs == 1:
        yield Here()
        return
    if cluster is None:
        context = multiprocessing.get_context("spawn")  # locks and threads of Arrow do not survive a fork
        with ProcessPoolExecutor(jobs or os.cpu_count() or 1, mp_context=context) as pool:
            yield pool
        return
    try:
        from distributed import Client
    except ImportError:
        raise ConfigError("--cluster needs Dask: pip install 'tailwatch[cluster]'") from None
    try:
        client = Client(cluster, timeout=10)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TimeoutError) as error:
        raise ConfigError(f"--cluster {cluster}: no scheduler answers: {error}") from None
    with client, client.get_executor(retries=3) as pool:  # type: ignore[no-untyped-call]
        yield pool


def run_all(
    pool: Executor, task: Callable[[T], R], work: Sequence[T], progress: Callable[[int], None] | None = None
) -> list[R]:
    """Run `task` on each item; results in the order of `work`, whatever the order they came in."""
    done = 0

    def count(_: Future[R]) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done)

    futures = []
    for item in work:
        futures.append(pool.submit(task, item))
        futures[-1].add_done_callback(count)
    for _ in as_completed(futures):
        pass
    return [f.result() for f in futures]
