"""Detectors times cases, handed out to an executor and put together again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path

from pipelines.backtest import DRAWS, Outcome, Replayed, Task, join, run_task
from pipelines.cases import Case
from pipelines.cluster import run_all
from pipelines.config import Config
from pipelines.resolve import Candidate
from telemetry.labels import read_labels
from telemetry.types import Label

__all__ = ["run_tasks", "store_labels"]


def store_labels(config: Config, incidents: str | None) -> tuple[list[Label], str]:
    """The labelled incidents of a file, or of the state database, and a name for them."""
    if incidents:
        return read_labels(incidents), Path(incidents).stem
    from pipelines.state import StateDB

    with StateDB(config.state) as state:
        return list(state.labels()), "labels"


def run_tasks(
    pool: Executor,
    candidates: Sequence[Candidate],
    cases: Sequence[Case],
    progress: Callable[[int], None] | None = None,
    *,
    draws: int = DRAWS,
) -> tuple[list[Outcome], list[str]]:
    """Backtest every candidate over all cases; outcomes in the order of `candidates`, and why some have none.

    A recording is decoded once for all candidates; over a store each candidate is a piece of work of its own.
    """
    shared = any(c.form != "store" for c in cases)
    groups = [tuple(candidates)] if shared else [(c,) for c in candidates]
    tasks = [Task(group, case) for group in groups for case in cases]
    found: dict[int, list[Replayed]] = {i: [] for i in range(len(candidates))}
    reasons: dict[int, str] = {}
    at = {id(c): i for i, c in enumerate(candidates)}
    for task, results in zip(tasks, run_all(pool, run_task, tasks, progress), strict=True):
        for candidate, result in zip(task.candidates, results, strict=True):
            if isinstance(result, str):
                reasons[at[id(candidate)]] = result
            else:
                found[at[id(candidate)]].append(result)
    outcomes = [join(parts, draws=draws) for parts in found.values() if parts]
    return outcomes, [reason for i, reason in reasons.items() if not found[i]]
