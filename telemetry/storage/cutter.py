"""Parquet is made beside the sampler, not in its way."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from telemetry.errors import StoreError
from telemetry.storage.cut import cut_up_to

__all__ = ["Cutter"]


class Cutter:
    """Cuts segments into Parquet in a thread of the lowest priority, one after the other."""

    def __init__(self, root: Path) -> None:
        from concurrent.futures import Future, ThreadPoolExecutor

        self._root = root
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cut", initializer=_be_nice)
        self._waiting: list[Future[int]] = []

    def submit(self, path: Path) -> None:
        self._waiting = [f for f in self._waiting if not f.done()]
        self._waiting.append(self._pool.submit(self._cut, path))

    def _cut(self, path: Path) -> int:
        try:
            return cut_up_to(self._root, path)
        except (OSError, StoreError):
            return 0  # left in the log, where it counts as well; the next writer takes it on

    def drain(self) -> None:
        for future in self._waiting:
            future.result()
        self._waiting = []

    def close(self) -> None:
        self._pool.shutdown(wait=True)


def _be_nice() -> None:
    import threading

    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
