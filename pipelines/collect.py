"""The collector: what many hosts have in stores of their own, wherever those lie, into one store."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from pipelines.savefile import write_atomic
from telemetry.errors import TailwatchError
from telemetry.selectors import of_host
from telemetry.store import Store
from telemetry.stores import open_stores
from telemetry.types import Nanos

__all__ = ["Collector"]


class Collector:
    """Copies what is new of each host, in the order in which it was seen there, in a thread of its own.

    Parameters
    ----------
    store : Store
        Into which.
    places : sequence of str
        Stores, or folders of them, by path or URI (``s3://bucket/hosts``, ``/mnt/hosts``).
    every_s : float
        Between looks.

    Notes
    -----
    How far a host is, is told by what `store` has of it, and for a host that lies in several places (captures are of a
    host ``wire`` wherever they are taken) by a mark for each: a restart of either side loses nothing, and a row that is
    copied twice is one row. The newest instant of a host is taken once it is no longer the newest, or a look later.
    """

    def __init__(self, store: Store, places: Sequence[str], every_s: float = 60.0) -> None:
        self.rows = self.failures = 0
        self.trouble = ""
        self._store, self._places, self._every_s = store, list(places), every_s
        self._marks = store.path / "collected.json"
        self._next: dict[str, Nanos] = {}
        self._newest: dict[str, Nanos] = {}
        self._kept: dict[str, Nanos] = {}
        with contextlib.suppress(OSError, ValueError):
            self._kept = json.loads(self._marks.read_text())
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look now, and again and again until `close`."""
        self._thread = threading.Thread(target=self._run, name="collect", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def collect(self) -> int:
        """Look once at all places; returns the rows copied. A place that fails is named, the others are read."""
        before = self.rows
        have = self._store.newest()
        found: list[tuple[str, Any, str]] = []
        for place in self._places:
            with self._survived():
                for source in open_stores([place]).stores:
                    if isinstance(source, Store) and os.path.samefile(source.path, self._store.path):
                        continue  # ours lies among the others
                    where = str(source.path) if isinstance(source, Store) else str(getattr(source, "uri", ""))
                    found += [(f"{where}\0{host}", source, host) for host in source.hosts()]
        times = Counter(host for _, _, host in found)
        for name, source, host in found:
            if self._stop.is_set():
                break
            with self._survived():
                if name not in self._next:  # again from the last instant that we have: it may not be whole
                    mark = self._kept.get(name, have.get(host, -(2**63)) if times[host] == 1 else -(2**63))
                    self._next[name] = min(mark, have.get(host, -(2**63)))
                self._copy(name, source, host)
        with self._survived():
            self._store.flush()
            if self.rows > before:
                write_atomic(self._marks, json.dumps({**self._kept, **self._next}).encode())
        return self.rows - before

    @contextlib.contextmanager
    def _survived(self) -> Iterator[None]:
        try:
            yield
        except (TailwatchError, OSError, pa.ArrowException) as error:  # tried again at the next look
            self.failures += 1
            self.trouble = f"collect: {error}"

    def _copy(self, name: str, source: Any, host: str) -> None:
        newest = source.last_seen_ns(host)
        if newest is None:
            return
        start = self._next[name]
        until = newest + 1 if self._newest.get(name) == newest else newest
        self._newest[name] = newest
        for batch in source.read(start, until, select=of_host(host)) if until > start else ():
            self._store.append(batch)
            self.rows += len(batch)
            self._next[name] = int(batch.seen_ns[-1])
            if self._stop.is_set():
                return
        self._next[name] = max(until, start)

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        while not self._stop.is_set():
            self.collect()
            self._stop.wait(self._every_s)
