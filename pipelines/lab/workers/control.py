"""What every worker of the lab shares: orders on stdin, a clean stop, exact timers."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
from collections.abc import Callable

__all__ = ["RT", "Orders", "prepare"]

RT = "TAILWATCH_LAB_RT"
"""Name of the environment variable that holds a worker's SCHED_RR priority."""

_PR_SET_PDEATHSIG, _PR_SET_TIMERSLACK = 1, 29


def prepare(stop: Callable[[], None]) -> None:
    """Turn the collector off, timers exact (1 ns slack), die with the parent, call `stop` on SIGTERM or SIGINT.

    The real-time priority is taken here, after the interpreter's start-up, which would be felt by others.
    """
    gc.disable()
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    priority = int(os.environ.get(RT, "0"))
    with contextlib.suppress(OSError):  # not granted (a container, a real-time budget of 0): go on without
        os.sched_setscheduler(0, os.SCHED_RR if priority else os.SCHED_OTHER, os.sched_param(priority))
    signal.signal(signal.SIGTERM, lambda *_: stop())
    signal.signal(signal.SIGINT, lambda *_: stop())


class Orders:
    """Lines from stdin, read without blocking; an end of file is no order."""

    def __init__(self) -> None:
        os.set_blocking(0, False)
        self._rest = b""
        self.open = True

    def fileno(self) -> int:
        return 0

    def read(self) -> list[list[str]]:
        """Return the complete lines that have arrived, each split into words."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            data = os.read(0, 65536)
            self.open = self.open and data != b""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [words for line in lines if (words := line.decode().split())]
