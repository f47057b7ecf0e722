"""The harvest job: the pace and the pinning; ends in order when asked to."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import numpy as np

from pipelines.care import Care
from pipelines.config import Harvest
from pipelines.links import Link
from telemetry.harvest import Follower, Harvester, Joiner
from telemetry.host.bypass import OnloadStacks
from telemetry.host.tracer import TracerReader
from telemetry.logfile import LogFollower, read_log_spec
from telemetry.procfs import cpu_list
from telemetry.prometheus import Scraper
from telemetry.record import RecordReader, read_record_spec
from telemetry.storage.layout import part
from telemetry.store import Store
from telemetry.types import Nanos

__all__ = [
    "Summary",
    "followers",
    "harvest",
    "housekeeping_cpus",
    "known_boot",
    "make_harvester",
    "pin",
    "stop_signals",
]

SECOND = 1_000_000_000


class Summary(msgspec.Struct):
    """What a harvest did and what it cost. Times in seconds, lateness in microseconds."""

    host: str
    store: str
    seconds: float
    ticks: int
    missed_ticks: int
    series: int
    samples: int
    dropped_rows: int
    removed_rows: int
    cpu_s: float
    core_share: float
    late_p50_us: float
    late_p99_us: float
    late_max_us: float
    voluntary_switches_per_s: float
    involuntary_switches_per_s: float
    rss_mb: float
    pinned_to: list[int]
    missing: dict[str, str]
    troubles: list[str]


def housekeeping_cpus(root: str | Path = "/") -> list[int]:
    """CPUs that are neither isolated nor tickless, of those we may run on; all of ours if none is set apart."""
    apart: set[int] = set()
    for name in ("isolated", "nohz_full"):
        with contextlib.suppress(OSError, ValueError):
            text = (Path(root) / "sys/devices/system/cpu" / name).read_text()
            apart.update(cpu_list(text) if "null" not in text else [])
    allowed = os.sched_getaffinity(0)
    return sorted(allowed - apart) or sorted(allowed)


def pin(root: str | Path = "/") -> list[int]:
    """Stay off the isolated CPUs. The scheduling class is never changed: a harvester is not real-time."""
    cpus = housekeeping_cpus(root)
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, cpus)
    return cpus


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; the handlers before are put back."""
    stop = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before: dict[int, Any] = {n: signal.signal(n, ask) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def known_boot(store: Path, host: str, boot_id: str = "") -> str:
    """The boot id of a host's last harvest, or "" if there was none; remembers `boot_id` if given."""
    path = store / "hosts" / part(host)
    with contextlib.suppress(OSError):
        if boot_id:
            path.parent.mkdir(exist_ok=True)
            path.write_text(boot_id)
            return boot_id
        return path.read_text().strip()
    return ""


def harvest(
    harvester: Harvester,
    store: Store,
    *,
    seconds: float | None = None,
    stop: threading.Event | None = None,
    keep_ns: Nanos | None = None,
    max_bytes: int | None = None,
    pinned_to: list[int] | None = None,
    tell: Callable[[int], None] | None = None,
    publish_to: str | None = None,
    link: Link | None = None,
    warn: Callable[[str], None] | None = None,
) -> Summary:
    """Sample at the harvester's pace until `seconds` have passed or `stop` is set; then flush.

    Parameters
    ----------
    keep_ns, max_bytes : int, optional
        The ring: what was seen longer ago, and the oldest beyond this size, is removed.
    tell : callable of int
        Told the samples so far, once a second.
    publish_to : str, optional
        URI to which the store is copied each minute.
    link : Link, optional
        Whose troubles are told as well.
    warn : callable of str
        Told of what goes wrong beside the sampling, once for each kind.

    Notes
    -----
    Deadlines are fixed, so lateness does not add up; ticks that are missed by a whole period are left out and
    counted, never made up for in a burst.
    """
    stop = stop or threading.Event()
    period = harvester.tick_ns
    lateness: list[int] = []
    samples = ticks = missed = 0
    _raise_file_limit()
    joined = Joiner(store.append)
    for batch in harvester.sample():  # compiles, opens, learns the names: not at the cost of the first tick
        joined.append(batch)
        samples += len(batch)
    gc.collect()
    gc.freeze()
    care = Care(store, keep_ns, max_bytes, publish_to)
    warned: set[str] = set()

    def troubles() -> list[str]:
        return [*harvester.troubles, *(link.troubles if link else ()), *([care.trouble] if care.trouble else ())]

    usage, cpu = resource.getrusage(resource.RUSAGE_SELF), time.process_time_ns()
    begin = due = time.monotonic_ns()
    end = None if seconds is None else begin + round(seconds * SECOND)
    told = begin
    while not stop.is_set() and (end is None or due < end):
        now = time.monotonic_ns()
        if due > now:
            time.sleep((due - now) / 1e9)
            if stop.is_set():
                break
            now = time.monotonic_ns()
        late = now - due
        if late > period:
            skipped = late // period
            missed += skipped
            due += skipped * period
        lateness.append(late)
        if len(lateness) > 100_000:
            del lateness[::2]
        harvester.late(late)
        for batch in harvester.sample():
            joined.append(batch)
            samples += len(batch)
        ticks += 1
        due += period
        if now - told >= SECOND:
            told = now
            joined.flush()
            store.flush()
            care.look(now / 1e9)
            if tell is not None:
                tell(samples)
            for text in troubles():
                if warn is not None and text.split(" ")[0] not in warned:
                    warned.add(text.split(" ")[0])
                    warn(text)
    spent = (time.monotonic_ns() - begin) / 1e9
    cpu_s = (time.process_time_ns() - cpu) / 1e9
    after = resource.getrusage(resource.RUSAGE_SELF)
    joined.flush()
    store.flush()
    care.close()
    known_boot(store.path, harvester.host, harvester.boot_id)
    late_us = np.array(lateness or [0]) / 1e3
    return Summary(
        host=harvester.host,
        store=str(store.path),
        seconds=round(spent, 3),
        ticks=ticks,
        missed_ticks=int(missed),
        series=len(harvester.keys),
        samples=samples,
        dropped_rows=store.dropped,
        removed_rows=care.removed,
        cpu_s=round(cpu_s, 4),
        core_share=round(cpu_s / spent, 5) if spent else 0.0,
        late_p50_us=round(float(np.percentile(late_us, 50)), 1),
        late_p99_us=round(float(np.percentile(late_us, 99)), 1),
        late_max_us=round(float(late_us.max()), 1),
        voluntary_switches_per_s=round((after.ru_nvcsw - usage.ru_nvcsw) / max(spent, 1e-9), 2),
        involuntary_switches_per_s=round((after.ru_nivcsw - usage.ru_nivcsw) / max(spent, 1e-9), 2),
        rss_mb=round(after.ru_maxrss / 1024, 1),
        pinned_to=pinned_to or [],
        missing=harvester.missing,
        troubles=troubles(),
    )


def _raise_file_limit() -> None:
    """A descriptor a thread and file: take what the host allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 16) if hard > 0 else 1 << 16, hard))


def make_harvester(settings: Harvest, host: str, store: Path) -> Harvester:
    """The harvester that the settings describe.

    Raises
    ------
    ConfigError
        If a pattern or a description is wrong.
    """
    return Harvester(
        settings.root if settings.kernel else "/nonexistent",
        host=host,
        hz=settings.hz,
        fast_hz=settings.fast_hz,
        processes=settings.processes,
        namespaces=settings.namespaces,
        boot_id=known_boot(store, host),
        followers=followers(settings, host),
        trigger=settings.trigger or None,
        trigger_s=settings.trigger_s,
    )


def followers(settings: Harvest, host: str) -> list[Follower]:
    """Readers of the log files and records that TOML files describe, of exporters, tracers and accelerated stacks.

    Raises
    ------
    ConfigError
        If a description is wrong.
    """
    out: list[Follower] = [LogFollower(read_log_spec(path), host) for path in settings.logs]
    out += [RecordReader(read_record_spec(path), host) for path in settings.records]
    out += [Scraper(url, host, every_s=settings.scrape_s, ca=settings.tls_ca) for url in settings.scrape]
    if settings.kernel:
        out += [TracerReader(settings.root, host), OnloadStacks(settings.root, host)]
    return out
