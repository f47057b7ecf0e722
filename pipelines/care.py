"""The ring of files that a store is: trimmed, joined and published while it is written."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time

from telemetry.errors import TailwatchError
from telemetry.storage.published import publish
from telemetry.store import Store
from telemetry.types import Nanos

__all__ = ["Care"]

TRIM_EVERY_S = 60.0
COMPACT_EVERY_S = 3600.0

log = logging.getLogger("tailwatch.care")


class Care:
    """Trims the ring each minute and joins small files each hour, in a thread of the lowest priority.

    Without `keep_ns` and `max_bytes` nothing is removed.
    """

    def __init__(self, store: Store, keep_ns: Nanos | None, max_bytes: int | None, uri: str | None) -> None:
        self._store, self._keep_ns, self._max_bytes, self._uri = store, keep_ns, max_bytes, uri
        self.trouble = ""
        self._thread: threading.Thread | None = None
        self._trimmed = self._compacted = time.monotonic()
        self.removed = 0

    def look(self, now_s: float) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        if now_s - self._compacted >= COMPACT_EVERY_S:
            self._compacted = now_s
            self._thread = threading.Thread(target=self._run, args=(True,), daemon=True)
            self._thread.start()
        elif now_s - self._trimmed >= TRIM_EVERY_S and (self._keep_ns or self._max_bytes or self._uri):
            self._trimmed = now_s
            self._thread = threading.Thread(target=self._run, args=(False,), daemon=True)
            self._thread.start()

    def close(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _run(self, compact: bool) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        try:
            # A store of its own: the sampler's is not for two threads. It writes nothing, it only keeps house.
            house = Store(self._store.path, create=False)
            if compact:
                house.compact()
                return
            before = None if self._keep_ns is None else time.time_ns() - self._keep_ns
            if before is not None or self._max_bytes is not None:
                gone = house.trim(seen_before_ns=before, max_bytes=self._max_bytes)
                self.removed += gone
                if gone:
                    log.info("%s: removed %d rows by harvest.keep_days and max_gb", self._store.path, gone)
            if self._uri:
                publish(self._store.path, self._uri)
            self.trouble = ""
        except (OSError, TailwatchError) as error:
            self.trouble = str(error)
