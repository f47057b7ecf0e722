"""Many small files in one call: read, stamp, parse, without a step of Python between them.

A sampler that wakes up ten times a second finds its caches cold; each step of an interpreter then costs several
microseconds. The kernel here calls ``pread`` and ``clock_gettime`` of the C library itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numba.core import types
from numpy.typing import NDArray

from telemetry.host.scan import scan_fields
from telemetry.host.sources import TextFile
from telemetry.types import Int64

__all__ = ["Batch", "Digests", "pread"]

pread: Any = types.ExternalFunction("pread", types.int64(types.int32, types.uintp, types.uint64, types.int64))
_clock_gettime: Any = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.uintp))


class Batch:
    """Files that are open and whose shape is known, in the order of their values.

    Parameters
    ----------
    files : sequence of TextFile
        All discovered. Their values follow each other from the start of `out` in `read`.
    """

    def __init__(self, files: Sequence[TextFile]) -> None:
        self.files = list(files)
        n = len(self.files)
        self._fds = np.array([f.fd for f in self.files], np.int32)
        self._hexa = np.array([f.hexa for f in self.files], np.bool_)
        self._expected = np.array([f.expected for f in self.files], np.int64).reshape(n, 2)
        self._reads = np.array([f.reads for f in self.files], np.int64)
        rooms = [max(512, 2 * f.size) for f in self.files]
        self._starts = np.concatenate(([0], np.cumsum(rooms))).astype(np.int64)
        self._text = np.empty(int(self._starts[-1]), np.uint8)
        picks = [f.pick for f in self.files]
        self._ends = np.concatenate(([0], np.cumsum([len(p) for p in picks]))).astype(np.int64)
        none = np.empty(0, np.int64)
        self._pick = np.concatenate([none, *picks])
        self._scale = np.concatenate([none, *(f.scale for f in self.files)])
        self._numbers = np.empty(max([1, *(f.size // 2 + 2 for f in self.files)]), np.int64)
        self._bad = np.zeros(n, np.int64)

    def read(self, out: Int64, times: Int64) -> list[int]:
        """Fill `out`, and `times` with the middle of each file's reading; return the files that were otherwise."""
        count = _read_all(
            self._fds, self._text, self._starts, self._reads, self._hexa, self._expected, self._ends,
            self._pick, self._scale, self._numbers, out, times, self._bad,
        )  # fmt: skip
        return np.flatnonzero(self._bad).tolist() if count else []


class Digests:
    """Files whose whole content matters, but which hardly ever change: which of them did?"""

    def __init__(self, fds: Sequence[int]) -> None:
        self._fds = np.array(fds, np.int32)
        self._last = np.zeros(len(fds), np.int64)
        self._changed = np.empty(len(fds), np.bool_)
        self._room = np.empty(4096, np.uint8)

    def changed(self) -> list[int]:
        """Places of the files that differ from the last call (at first: all), or that can no longer be read."""
        _digest_all(self._fds, self._room, self._last, self._changed)
        return np.flatnonzero(self._changed).tolist() if self._changed.any() else []


@njit(cache=True, nogil=True)
def _digest_all(
    fds: NDArray[np.int32], room: NDArray[np.uint8], last: Int64, changed: NDArray[np.bool_]
) -> None:  # pragma: no cover - compiled
    where = np.uintp(room.ctypes.data)
    for i in range(len(fds)):
        got = pread(fds[i], where, np.uint64(len(room)), np.int64(0))
        digest = np.uint64(1469598103934665603) + np.uint64(got + 2)
        for j in range(got):
            digest = (digest ^ np.uint64(room[j])) * np.uint64(1099511628211)
        now = np.int64(digest >> np.uint64(1))
        changed[i] = now != last[i] or got < 0
        last[i] = now


@njit(cache=True, nogil=True)
def _read_all(
    fds: NDArray[np.int32],
    text: NDArray[np.uint8],
    starts: Int64,
    reads: Int64,
    hexa: NDArray[np.bool_],
    expected: Int64,
    ends: Int64,
    pick: Int64,
    scale: Int64,
    numbers: Int64,
    out: Int64,
    times: Int64,
    bad: Int64,
) -> int:  # pragma: no cover - compiled
    now = np.empty(2, np.int64)
    _clock_gettime(np.int32(0), np.uintp(now.ctypes.data))
    before = now[0] * 1_000_000_000 + now[1]
    failed = 0
    base = np.uintp(text.ctypes.data)
    for i in range(len(fds)):
        size = 0
        room = starts[i + 1] - starts[i]
        bad[i] = 0
        for _ in range(max(1, reads[i])):
            where = base + np.uintp(starts[i] + size)
            got = pread(fds[i], where, np.uint64(room - size), np.int64(size))
            if got < 0:
                bad[i] = 1
                break
            if got == 0:
                break
            size += got
            if size == room:
                bad[i] = 1  # it outgrew its place
                break
        lo, hi = ends[i], ends[i + 1]
        if bad[i] == 0:
            part = text[starts[i] : starts[i] + size]
            count, shape = scan_fields(part, size, hexa[i], numbers, pick[lo:hi], scale[lo:hi], out[lo:hi])
            if count != expected[i, 0] or shape != expected[i, 1]:
                bad[i] = 1
        _clock_gettime(np.int32(0), np.uintp(now.ctypes.data))
        after = now[0] * 1_000_000_000 + now[1]
        middle = before + (after - before) // 2
        for j in range(lo, hi):
            times[j] = middle
        before = after
        failed += bad[i]
    return failed
