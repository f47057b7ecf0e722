"""``net/udp``: the queue and the drops of each UDP port."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from telemetry.errors import InputError
from telemetry.host.batch import pread
from telemetry.types import Int64, SeriesKey

__all__ = ["UdpSockets", "scan_sockets"]

_ROOM = 4096


class UdpSockets:
    """Sockets of one namespace, summed by local port.

    Notes
    -----
    When a socket of a port closes, its drops leave the sum; the set of inodes is the shape, so that the sum only
    ever falls together with a new look at the names.
    """

    def __init__(self, path: str | Path, host: str, netns: str = "") -> None:
        self.name = str(path)
        self._host = host
        self._netns = netns
        self._fd = -1
        self._reads = 1
        self._buffer = bytearray(65_536)
        self._view = memoryview(self._buffer)
        self._bytes = np.frombuffer(self._buffer, np.uint8)
        self._rows = np.empty((_ROOM, 4), np.int64)
        self._ports: Int64 = np.empty(0, np.int64)
        self._place: Int64 = np.empty(0, np.int64)
        self._shape = (-1, 0)

    def discover(self) -> Sequence[SeriesKey]:
        if self._fd < 0:
            self._fd = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC)
        self._shape = self._scan()
        if self._shape[0] < 0:
            raise InputError(f"{self.name}: expected a table of sockets, line {-self._shape[0]} is none")
        ports = self._rows[: self._shape[0], 0]
        self._ports, place = np.unique(ports, return_inverse=True)
        self._place = place.astype(np.int64)
        out = []
        for port in self._ports.tolist():
            label = {"port": str(port), "netns": self._netns}
            out.append(SeriesKey.of(self._host, "udp_socket_drops_total", **label))
            out.append(SeriesKey.of(self._host, "udp_socket_rx_queue_bytes", **label))
        return out

    def read(self, out: Int64) -> bool:
        # As many reads as the table took the last time; the end of it is only looked for if it is another.
        if read_sockets(self._fd, self._bytes, self._reads, self._rows, self._place, self._shape, out):
            return True
        if self._scan() != self._shape:
            return False
        out[:] = 0
        n = len(self._place)
        np.add.at(out[0::2], self._place, self._rows[:n, 2])
        np.add.at(out[1::2], self._place, self._rows[:n, 1])
        return True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _scan(self) -> tuple[int, int]:
        size = done = 0
        while True:
            got = os.preadv(self._fd, (self._view[size:],), size)
            if got == 0:
                break
            done += 1
            size += got
            if size == len(self._buffer):
                self._buffer = self._buffer + bytearray(len(self._buffer))
                self._view = memoryview(self._buffer)
                self._bytes = np.frombuffer(self._buffer, np.uint8)
        self._reads = max(done, 1)
        count, shape = scan_sockets(self._bytes, size, self._rows)
        if count > len(self._rows):
            self._rows = np.empty((2 * count, 4), np.int64)
            count, shape = scan_sockets(self._bytes, size, self._rows)
        return int(count), int(shape)


@njit(cache=True, nogil=True)
def scan_sockets(text: NDArray[np.uint8], n: int, rows: Int64) -> tuple[int, int]:  # pragma: no cover - compiled
    """Per socket: local port, receive queue, drops, inode. Returns their number and a hash of ports and inodes.

    The first line is the header. A line that is no socket gives minus its number instead of the count.
    """
    count = 0
    line = 0
    at = 0
    shape = np.uint64(1469598103934665603)
    prime = np.uint64(1099511628211)
    while at < n:
        end = at
        while end < n and text[end] != 10:
            end += 1
        line += 1
        if line > 1 and end > at:
            word = 0
            port = 0
            queue = 0
            inode = 0
            last = 0
            i = at
            while i < end:
                while i < end and text[i] == 32:
                    i += 1
                start = i
                while i < end and text[i] != 32:
                    i += 1
                if i == start:
                    break
                if word == 1 or word == 4:
                    colon = start
                    for j in range(start, i):
                        if text[j] == 58:
                            colon = j
                    value = 0
                    for j in range(colon + 1, i):
                        c = text[j]
                        value = value * 16 + (c - 48 if c < 58 else (c & 31) + 9)
                    if word == 1:
                        port = value
                    else:
                        queue = value
                elif word >= 9:
                    value = 0
                    for j in range(start, i):
                        value = value * 10 + (text[j] - 48)
                    if word == 9:
                        inode = value
                    last = value
                word += 1
            if word < 13:
                return -line, 0
            if count < len(rows):
                rows[count, 0] = port
                rows[count, 1] = queue
                rows[count, 2] = last
                rows[count, 3] = inode
            count += 1
            shape = (shape ^ np.uint64(port)) * prime
            shape = (shape ^ np.uint64(inode)) * prime
        at = end + 1
    return count, np.int64(shape >> np.uint64(1))  # type: ignore[return-value]


@njit(cache=True, nogil=True)
def read_sockets(
    fd: int,
    text: NDArray[np.uint8],
    reads: int,
    rows: Int64,
    place: Int64,
    expected: tuple[int, int],
    out: Int64,
) -> bool:  # pragma: no cover - compiled
    """Read and sum in one step; False if the table is another than expected, or has outgrown its place."""
    size = 0
    base = np.uintp(text.ctypes.data)
    for _ in range(reads):
        got = pread(np.int32(fd), base + np.uintp(size), np.uint64(len(text) - size), np.int64(size))
        if got < 0:
            return False
        if got == 0:
            break
        size += got
        if size == len(text):
            return False
    count, shape = scan_sockets(text, size, rows)
    if count != expected[0] or shape != expected[1] or count > len(rows):
        return False
    out[:] = 0
    for i in range(count):
        out[2 * place[i]] += rows[i, 2]
        out[2 * place[i] + 1] += rows[i, 1]
    return True
