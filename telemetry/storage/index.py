"""What lies where in a log segment, and its rows."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from telemetry.storage.log import (
    DATA,
    DELTA,
    FLOAT,
    FRAME,
    HEADER,
    KEYS,
    MAX_FRAME,
    ONE_SEEN,
    ONE_TIME,
    ROWS,
    RUN_TIME,
    RUNS,
    SERIES,
)
from telemetry.types import Float64, Int64, Nanos, SeriesKey

__all__ = ["Rows", "SegmentIndex", "arrivals"]

_WINDOW = 1 << 20
_BLOCK = 64


@dataclass(frozen=True, slots=True)
class Rows:
    """A frame of rows: `series` are indices into the segment's keys, `arrival` the rank among equal seen_ns."""

    series: NDArray[np.int32]
    time_ns: Int64
    seen_ns: Int64
    arrival: Int64
    value: Int64 | Float64

    def __len__(self) -> int:
        return len(self.time_ns)


def arrivals(seen: Int64, first: int) -> Int64:
    """Rank each row among those of equal seen_ns; the first run starts at `first`."""
    n = len(seen)
    if n == 0:
        return np.empty(0, np.int64)
    place = np.arange(n, dtype=np.int64)
    if seen[0] == seen[-1]:
        return place + first
    starts = np.flatnonzero(np.diff(seen)) + 1
    base = np.zeros(n, np.int64)
    base[starts] = starts
    np.maximum.accumulate(base, out=base)
    out = place - base
    out[: starts[0]] += first
    return out


class _Frame(NamedTuple):
    """Where a frame of rows lies; `base` is the frame from which its values can be told, `runs` its runs of times."""

    at: int
    length: int
    flags: int
    n: int
    first: Nanos
    last: Nanos
    number: int
    base: int
    runs: int


def _alike(a: _Frame, b: _Frame) -> bool:
    """Whether two frames can be decoded in one block."""
    mask = ONE_SEEN | RUN_TIME | FLOAT
    return a.number == b.number and a.runs == b.runs and a.flags & mask == b.flags & mask


class SegmentIndex:
    """What lies where in a segment; `extend` takes note of what was appended since.

    A frame that is cut off, or whose checksum is wrong, ends the segment: what follows cannot be trusted.
    """

    def __init__(self) -> None:
        self.keys: list[SeriesKey] = []
        self.good = 0
        """Bytes of whole frames."""
        self.lost = 0
        """Bytes after them."""
        self.rows = 0
        self.ordered = True
        """No frame was first seen before the one that precedes it."""
        self.first_seen: Nanos | None = None
        self.last_seen: dict[str, Nanos] = {}
        self._lists: list[NDArray[np.int32]] = []
        self._hosts: list[str | None] = []
        self._frames: list[_Frame] = []
        self._base: dict[int, int] = {}
        self._runs: list[Int64] = []
        self._runs_of: dict[int, int] = {}

    def extend(self, fd: int) -> None:
        """Read on from where the last look ended."""
        chunk = 8 << 20
        while True:
            data = memoryview(os.pread(fd, chunk, self.good))
            used = self._take(data)
            self.good += used
            size = os.fstat(fd).st_size
            self.lost = size - self.good
            if used == 0:
                if len(data) == chunk and self._wants(data) > chunk:
                    chunk = self._wants(data)
                    continue
                return
            if self.lost <= 0:
                return

    def read(self, fd: int, seen_from: Nanos = -(2**63), seen_to: Nanos = 2**63 - 1) -> Iterator[Rows]:
        """The frames that may hold rows seen in ``[seen_from, seen_to)``."""
        wanted = [i for i, f in enumerate(self._frames) if f.last >= seen_from and f.first < seen_to]
        if not wanted:
            return
        ours = set(wanted)
        lists = {self._frames[i].number for i in wanted}
        begin = min(self._frames[i].base for i in wanted)
        values: dict[int, Int64] = {}
        data, start = memoryview(b""), 0
        block: list[tuple[memoryview, _Frame]] = []
        for i in range(begin, wanted[-1] + 1):
            f = self._frames[i]
            if f.number not in lists or (i not in ours and f.base < begin):
                continue
            if f.at < start or f.at + f.length > start + len(data):
                start = f.at
                data = memoryview(os.pread(fd, max(_WINDOW, f.length), start))
            body = data[f.at - start : f.at - start + f.length]
            if block and not (i in ours and len(block) < _BLOCK and _alike(block[0][1], f)):
                yield self._block(block, values)
                block = []
            if i in ours and f.flags & ONE_SEEN and f.flags & RUN_TIME:
                block.append((body, f))
                continue
            rows = self._rows(body, f, values)
            if i in ours:
                yield rows
        if block:
            yield self._block(block, values)

    def used_keys(self) -> set[SeriesKey]:
        """The series that some row has."""
        return {self.keys[i] for i in set().union(*(s.tolist() for s in self._lists))}

    def _take(self, data: memoryview) -> int:
        at = 0
        if self.good == 0:
            if len(data) < len(HEADER) or data[:6] != HEADER[:6]:
                return 0
            at = len(HEADER)
        while at + FRAME.size <= len(data):
            length, crc, kind, flags, _, n, first, last = FRAME.unpack_from(data, at)
            end = at + FRAME.size + length
            if length > MAX_FRAME or end > len(data) or zlib.crc32(data[at + 8 : end]) != crc:
                break
            body = data[at + FRAME.size : end]
            if kind == KEYS:
                for h, m, labels in json.loads(bytes(body)):
                    self.keys.append(SeriesKey(h, m, tuple((str(k), str(v)) for k, v in labels)))
            elif kind == SERIES:
                series = np.frombuffer(bytes(body), np.int32)
                self._lists.append(series)
                hosts = {self.keys[i].host for i in set(series.tolist())}
                self._hosts.append(hosts.pop() if len(hosts) == 1 else None)
            elif kind == RUNS:
                self._runs.append(np.diff(np.append(np.frombuffer(bytes(body), np.int32), len(self._lists[n]))))
                self._runs_of[n] = len(self._runs) - 1
            elif kind == DATA:
                number = ROWS.unpack_from(body)[0]
                if not flags & DELTA:
                    self._base[number] = len(self._frames)
                frame = _Frame(
                    self.good + at + FRAME.size, length, flags, n, first, last, number,
                    self._base[number], self._runs_of.get(number, -1),
                )  # fmt: skip
                self._note(body, frame)
                self._frames.append(frame)
            at = end
        return at

    def _note(self, body: memoryview, f: _Frame) -> None:
        self.rows += f.n
        if self._frames:
            self.ordered = self.ordered and f.first >= self._frames[-1].last
        self.first_seen = f.first if self.first_seen is None else min(self.first_seen, f.first)
        host = self._hosts[f.number]
        if host is not None:
            self.last_seen[host] = max(f.last, self.last_seen.get(host, f.last))
            return
        _, seen, _ = self._stamps(body, f)
        names = [self.keys[i].host for i in self._lists[f.number].tolist()]
        for name, at in dict(zip(names, seen.tolist(), strict=True)).items():
            self.last_seen[name] = max(at, self.last_seen.get(name, at))

    def _wants(self, data: memoryview) -> int:
        """Bytes of the frame at hand, if its head can be believed."""
        at = 0 if self.good else len(HEADER)
        length = FRAME.unpack_from(data, at)[0]
        return at + FRAME.size + int(length) if length <= MAX_FRAME else 0

    def _stamps(self, body: memoryview, f: _Frame) -> tuple[Int64, Int64, int]:
        """Times, seen times, and where the values begin."""
        at, n = ROWS.size, f.n
        if f.flags & ONE_TIME:
            time = np.full(n, np.frombuffer(body, np.int64, 1, at)[0])
            at += 8
        elif f.flags & RUN_TIME:
            lengths = self._runs[f.runs]
            time = np.repeat(np.frombuffer(body, np.int64, len(lengths), at), lengths)
            at += 8 * len(lengths)
        else:
            time = np.frombuffer(body, np.int64, n, at)
            at += 8 * n
        if f.flags & ONE_SEEN:
            return time, np.full(n, f.first, np.int64), at
        return time, np.frombuffer(body, np.int64, n, at), at + 8 * n

    def _block(self, block: list[tuple[memoryview, _Frame]], values: dict[int, Int64]) -> Rows:
        """Decode samples of the same series that follow each other, all at once."""
        f = block[0][1]
        lengths, series = self._runs[f.runs], self._lists[f.number]
        bits = np.empty((len(block), f.n), np.int64)
        stamps = np.empty((len(block), len(lengths)), np.int64)
        firsts = np.empty((len(block), 1), np.int64)
        before = values.get(f.number)
        for row, (body, frame) in enumerate(block):
            firsts[row] = ROWS.unpack_from(body)[1]
            stamps[row] = np.frombuffer(body, np.int64, len(lengths), ROWS.size)
            at = ROWS.size + 8 * len(lengths)
            now = bits[row]
            if frame.flags & DELTA and before is not None:
                changed = (frame.length - at) // 12
                now[:] = before
                now[np.frombuffer(body, np.int32, changed, at)] = np.frombuffer(
                    body, np.int64, changed, at + 4 * changed
                )
            else:
                now[:] = np.frombuffer(body, np.int64, f.n, at)
            before = now
        values[f.number] = bits[-1].copy()
        value: Int64 | Float64 = bits.reshape(-1)
        return Rows(
            np.tile(series, len(block)),
            np.repeat(stamps, lengths, axis=1).reshape(-1),
            np.repeat(np.array([frame.first for _, frame in block], np.int64), f.n),
            (firsts + np.arange(f.n)).reshape(-1),
            value.view(np.float64) if f.flags & FLOAT else value,
        )

    def _rows(self, body: memoryview, f: _Frame, values: dict[int, Int64]) -> Rows:
        """Decode a frame; `values` holds the bits of the last frame of each list."""
        _, first = ROWS.unpack_from(body)
        time, seen, at = self._stamps(body, f)
        if f.flags & ONE_SEEN:
            arrival = np.arange(first, first + f.n, dtype=np.int64)
        else:
            arrival = arrivals(seen, first)
        if f.flags & DELTA:
            changed = (f.length - at) // 12
            bits = values[f.number].copy()
            bits[np.frombuffer(body, np.int32, changed, at)] = np.frombuffer(body, np.int64, changed, at + 4 * changed)
        else:
            bits = np.frombuffer(body, np.int64, f.n, at)
        values[f.number] = bits
        return Rows(self._lists[f.number], time, seen, arrival, bits.view(np.float64) if f.flags & FLOAT else bits)
