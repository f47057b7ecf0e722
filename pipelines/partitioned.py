"""Work that is split: scoring by host, features by host and day, over any Executor (see `pipelines.cluster`).

State of a host is sequential in time, so scoring is never split along it; a part of the hosts is a partition of its own
(lease, checkpoint, grouper), scored by the very job that scores a whole store. So its alerts are those of one process,
bit for bit, and a worker that dies leaves a partition that is simply scored again. Incidents join hosts of one
partition only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.cluster import run_all
from pipelines.config import Config
from pipelines.score import Result, score
from telemetry.errors import NoDataError, TailwatchError
from telemetry.types import Events, Nanos

if TYPE_CHECKING:
    from pipelines.features import Written
    from telemetry.store import Store

__all__ = ["DayTask", "ScoreTask", "part_of", "plan_days", "score_parts", "write_day", "write_days"]

DAY = 86_400_000_000_000


def part_of(host: str, parts: int) -> int:
    """The part of a host: the same on every machine and in every version."""
    return int.from_bytes(hashlib.blake2b(host.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") % parts


@dataclass(frozen=True, slots=True)
class ScoreTask:
    """Score the hosts of one part of `parts`."""

    config: Config
    part: str
    number: int
    parts: int

    @property
    def name(self) -> str:
        """The partition's name: another number of parts is another set of partitions."""
        return f"{self.part}.{self.number + 1}of{self.parts}"


def score_part(task: ScoreTask) -> Result | str:
    """Score one part; what went wrong with it, in a line, is no reason to stop the others."""
    try:
        return score(
            task.config, part=task.name, hosts=lambda host: part_of(host, task.parts) == task.number, send=False
        )
    except TailwatchError as error:
        return f"{task.name}: {error}"


def score_parts(config: Config, pool: Executor, parts: int, *, part: str = "main") -> list[Result | str]:
    """Score all parts, as many at once as the pool has workers. What was found waits in the outbox."""
    return run_all(pool, score_part, [ScoreTask(config, part, i, parts) for i in range(parts)])


@dataclass(frozen=True, slots=True)
class DayTask:
    """Write the features of one host and day (windows that end in ``(start, stop]``)."""

    spec: str
    store: str
    out: str
    host: str
    start_ns: Nanos
    stop_ns: Nanos
    run_up_ns: Nanos
    calendar: str | None = None


def plan_days(
    spec: str,
    store: Store,
    out: str,
    from_ns: Nanos,
    to_ns: Nanos,
    *,
    run_up_ns: Nanos = 600_000_000_000,
    calendar: str | None = None,
) -> list[DayTask]:
    """A task for each host and UTC day in which the store saw something.

    Parameters
    ----------
    run_up_ns : int
        How much before a day is read for what its first windows rest on (rates, dispersion over some minutes).

    Raises
    ------
    NoDataError
        The store has nothing in the range.
    """
    first, last = store.first_seen_ns(), store.last_seen_ns()
    if first is None or last is None or last < from_ns or first >= to_ns:
        raise NoDataError(f"{store.path}: expected events in the range, found none")
    begin, end = max(first, from_ns) // DAY, min(last, to_ns - 1) // DAY
    root = str(Path(store.path).absolute())
    return [
        DayTask(
            spec, root, out, host, max(day * DAY, from_ns), min((day + 1) * DAY, to_ns), run_up_ns, calendar
        )
        for host in store.hosts()
        for day in range(begin, end + 1)
    ]  # fmt: skip


def write_day(task: DayTask) -> Written | None:
    """Write ``OUT/host=.../day=.../features.parquet``, whole or not at all; None where there is nothing."""
    import datetime

    from pipelines.features import write_features
    from telemetry.selectors import of_host
    from telemetry.storage.layout import part
    from telemetry.store import Store

    day = datetime.datetime.fromtimestamp(task.start_ns // 1_000_000_000, datetime.UTC).strftime("%Y-%m-%d")
    folder = Path(task.out, f"host={part(task.host)}", f"day={day}")
    folder.mkdir(parents=True, exist_ok=True)

    class OneHost:
        def read(self, seen_from_ns: Nanos, seen_to_ns: Nanos) -> Iterator[Events]:
            with Store(task.store, create=False) as store:
                yield from store.read(seen_from_ns, seen_to_ns, select=of_host(task.host))

    try:
        return write_features(
            task.spec, OneHost(), folder / "features.parquet", seen_from_ns=task.start_ns - task.run_up_ns,
            seen_to_ns=task.stop_ns + task.run_up_ns, calendar=task.calendar, ends=(task.start_ns, task.stop_ns),
        )  # fmt: skip
    except NoDataError:
        return None
    finally:
        if not any(folder.iterdir()):
            os.removedirs(folder) if folder.parent != Path(task.out) else folder.rmdir()


def write_days(
    tasks: list[DayTask], pool: Executor, progress: Callable[[int], None] | None = None
) -> list[Written | None]:
    """Run all tasks; results in their order."""
    return run_all(pool, write_day, tasks, progress)
