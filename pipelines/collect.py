"""The collector: what many hosts have in stores of their own, wherever those lie, into one store."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence

import pyarrow as pa

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
    How far a host is, is told by what `store` has of it: a restart of either side loses nothing, and a row that is
    copied twice is one row. The newest instant of a host is taken once it is no longer the newest, or a look later.
    """

    def __init__(self, store: Store, places: Sequence[str], every_s: float = 60.0) -> None:
        self.rows = self.failures = 0
        self.trouble = ""
        self._store, self._places, self._every_s = store, list(places), every_s
        self._next: dict[str, Nanos] = {}
        self._newest: dict[str, Nanos] = {}
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
        for place in self._places:
            try:
                self._place(place)
            except (TailwatchError, OSError, pa.ArrowException) as error:  # tried again at the next look
                self.failures += 1
                self.trouble = f"collect: {error}"
        self._store.flush()
        return self.rows - before

    def _place(self, place: str) -> None:
        for source in open_stores([place]).stores:
            if isinstance(source, Store) and os.path.samefile(source.path, self._store.path):
                continue  # ours lies among the others
            for host in source.hosts():
                newest = source.last_seen_ns(host)
                if newest is None:
                    continue
                start = self._next.get(host)
                if start is None:  # again from the last instant that we have: it may not be whole
                    start = self._store.last_seen_ns(host) or -(2**63)
                until = newest + 1 if self._newest.get(host) == newest else newest
                self._newest[host] = newest
                for batch in source.read(start, until, select=of_host(host)) if until > start else ():
                    self._store.append(batch)
                    self.rows += len(batch)
                    self._next[host] = int(batch.seen_ns[-1])
                    if self._stop.is_set():
                        return
                self._next[host] = max(until, start)

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        while not self._stop.is_set():
            self.collect()
            self._stop.wait(self._every_s)
