"""Threads of a process: run and wait time, switches, faults, last CPU, state, from ``/proc/PID/task/*``.

``/proc/PID/schedstat`` and ``status`` speak of the leading thread alone.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from telemetry.errors import InputError
from telemetry.host.batch import pread
from telemetry.types import Int64, SeriesKey

__all__ = ["ThreadStates", "ThreadTimes", "compile_readers", "scan_task"]

_TIMES = ("thread_run_ns_total", "thread_wait_ns_total", "thread_timeslices_total")
_STATES = (
    "thread_voluntary_switches_total",
    "thread_nonvoluntary_switches_total",
    "thread_minor_faults_total",
    "thread_major_faults_total",
    "thread_last_cpu",
    "thread_state",
)


class _Threads(ABC):
    """The threads of one process and a few open files of each."""

    files: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()

    def __init__(self, folder: Path, host: str, process: str) -> None:
        self.process = process
        self.name = f"{folder}/task/*/{'+'.join(self.files)}"
        self.stale = False
        """Threads came or went: the next read says so."""
        self._folder, self._host = folder, host
        self._open: dict[str, tuple[int, ...]] = {}
        self._labels: dict[str, str] = {}
        self._fds = np.empty((0, len(self.files)), np.int32)
        self._room = np.empty((2, 4096), np.uint8)

    def look(self) -> bool:
        """Whether the threads are others than those that are open."""
        try:
            return set(os.listdir(self._folder / "task")) != self._open.keys()
        except OSError:
            return bool(self._open)

    def discover(self) -> Sequence[SeriesKey]:
        now = os.listdir(self._folder / "task")
        for tid in [t for t in self._open if t not in now]:
            self._forget(tid)
        for tid in now:
            if tid not in self._open:
                self._add(tid)
        self.stale = False
        self._fds = np.array(list(self._open.values()), np.int32).reshape(-1, len(self.files))
        if not self._open:
            raise InputError(f"{self.name}: no thread can be read")
        out = []
        for tid in self._open:
            label = {"process": self.process, "thread": self._labels[tid], "tid": tid}
            out += [SeriesKey.of(self._host, m, **label) for m in self.metrics]
        return out

    def read(self, out: Int64) -> bool:
        return not self.stale and self._all(self._fds, self._room, out)

    def close(self) -> None:
        for tid in list(self._open):
            self._forget(tid)

    @abstractmethod
    def _all(self, fds: NDArray[np.int32], room: NDArray[np.uint8], out: Int64) -> bool:
        """Read the files of all threads into `out`; False if a thread is gone or a file torn."""

    def _add(self, tid: str) -> None:
        folder = self._folder / "task" / tid
        fds: list[int] = []
        try:
            for name in self.files:
                fds.append(os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC))
            self._labels[tid] = (folder / "comm").read_text(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            for fd in fds:
                os.close(fd)
            return
        except OSError:
            for fd in fds:
                os.close(fd)
            raise
        self._open[tid] = tuple(fds)

    def _forget(self, tid: str) -> None:
        for fd in self._open.pop(tid):
            os.close(fd)
        self._labels.pop(tid, None)


class ThreadTimes(_Threads):
    """``schedstat`` of each thread: ns on a CPU, ns runnable but waiting, timeslices. The best contention metric."""

    files = ("schedstat",)
    metrics = _TIMES

    def _all(self, fds: NDArray[np.int32], room: NDArray[np.uint8], out: Int64) -> bool:
        return bool(read_times(fds, room, out))


class ThreadStates(_Threads):
    """``status`` and ``stat`` of each thread: switches, faults, last CPU, state (1 stopped, 2 uninterruptible)."""

    files = ("status", "stat")
    metrics = _STATES

    def _all(self, fds: NDArray[np.int32], room: NDArray[np.uint8], out: Int64) -> bool:
        return bool(read_states(fds, room, out))


def compile_readers() -> None:
    """Have the readers compiled, which takes a second where no cache is."""
    room, none = np.empty((2, 4096), np.uint8), np.empty(0, np.int64)
    for read, files in ((read_times, 1), (read_states, 2)):
        read(np.empty((0, files), np.int32), room, none)


@njit(cache=True, nogil=True)
def scan_three(text: NDArray[np.uint8], n: int, out: Int64) -> bool:  # pragma: no cover - compiled
    """Read three unsigned numbers."""
    at = 0
    for i in range(3):
        while at < n and not 48 <= text[at] <= 57:
            at += 1
        if at >= n:
            return False
        value = 0
        while at < n and 48 <= text[at] <= 57:
            value = value * 10 + (text[at] - 48)
            at += 1
        out[i] = value
    return True


@njit(cache=True, nogil=True)
def scan_task(
    status: NDArray[np.uint8], n: int, stat: NDArray[np.uint8], m: int, out: Int64
) -> bool:  # pragma: no cover - compiled
    """Read switches from a task's ``status`` and faults, CPU and state from its ``stat``; False if they are torn.

    The name in ``stat`` may hold anything, parentheses too: the fields begin after the last one.
    """
    found = 0
    at = 0
    while at < n:
        # "voluntary_ctxt_switches:" or "nonvoluntary_ctxt_switches:" at the start of a line
        which = -1
        if at + 24 < n and status[at] == 118 and status[at + 1] == 111 and status[at + 9] == 95:
            which = 0
        elif at + 27 < n and status[at] == 110 and status[at + 3] == 118 and status[at + 12] == 95:
            which = 1
        value = 0
        colon = False
        while at < n and status[at] != 10:
            if which >= 0:
                if status[at] == 58:
                    colon = True
                elif colon and 48 <= status[at] <= 57:
                    value = value * 10 + (status[at] - 48)
            at += 1
        if which >= 0 and at < n:
            out[which] = value
            found += 1
        at += 1
    close = m - 1
    while close >= 0 and stat[close] != 41:
        close -= 1
    if found != 2 or close < 0 or close + 2 >= m:
        return False
    word = 0
    at = close + 2
    letter = stat[at]
    out[5] = 1 if letter == 84 or letter == 116 else (2 if letter == 68 else 0)
    while at < m and word < 37:
        value = 0
        while at < m and stat[at] != 32 and stat[at] != 10:
            value = value * 10 + (stat[at] - 48)
            at += 1
        if word == 7:
            out[2] = value
        elif word == 9:
            out[3] = value
        elif word == 36:
            out[4] = value
        word += 1
        at += 1
    return word == 37


@njit(cache=True, nogil=True)
def read_times(fds: NDArray[np.int32], room: NDArray[np.uint8], out: Int64) -> bool:  # pragma: no cover - compiled
    """All threads' ``schedstat`` in one step; False if one is gone or torn."""
    where = np.uintp(room.ctypes.data)
    for i in range(len(fds)):
        size = pread(fds[i, 0], where, np.uint64(room.shape[1]), np.int64(0))
        if size <= 0 or not scan_three(room[0], size, out[3 * i : 3 * i + 3]):
            return False
    return True


@njit(cache=True, nogil=True)
def read_states(fds: NDArray[np.int32], room: NDArray[np.uint8], out: Int64) -> bool:  # pragma: no cover - compiled
    """All threads' ``status`` and ``stat`` in one step; False if one is gone or torn."""
    where = np.uintp(room.ctypes.data)
    width = room.shape[1]
    for i in range(len(fds)):
        status = pread(fds[i, 0], where, np.uint64(width), np.int64(0))
        stat = pread(fds[i, 1], where + np.uintp(width), np.uint64(width), np.int64(0))
        if status <= 0 or stat <= 0:
            return False
        if not scan_task(room[0], status, room[1], stat, out[6 * i : 6 * i + 6]):
            return False
    return True
