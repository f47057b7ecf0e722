"""The append-only log: framed binary with a checksum a frame, so that a torn tail is seen and cut.

A segment is 16 bytes of header and then frames. A frame's header is 32 bytes, little endian: payload length
(u32), CRC-32 of all that follows (u32), kind (u8), flags (u8), 0 (u16), rows (u32), least and largest seen_ns
(i64). Kinds: 1 keys (JSON), 2 a list of series that rows refer to (i32), 3 rows (list number u32, first
arrival u32, then times, seen times unless all equal, values).
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from telemetry.errors import StoreError
from telemetry.types import Events, Float64, Int64, Nanos, SeriesKey

__all__ = ["HEADER", "Encoder", "Rows", "SegmentIndex", "arrivals", "start_segment"]

HEADER = b"TWLG" + struct.pack("<HHQ", 1, 0, 0)
_FRAME = struct.Struct("<IIBBHIqq")
_BODY = struct.Struct("<BBHIqq")
_ROWS = struct.Struct("<II")
_KEYS, _SERIES, _DATA = 1, 2, 3
_FLOAT, _ONE_SEEN, _ONE_TIME = 1, 2, 4
_MAX_FRAME = 1 << 30
_REMEMBERED, _REMEMBERED_BYTES = 64, 1 << 17


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


class Encoder:
    """Turns batches into frames of one segment; keys and lists of series are written once."""

    def __init__(self) -> None:
        self._ids: dict[SeriesKey, int] = {}
        self._lookups: dict[int, tuple[tuple[SeriesKey, ...], NDArray[np.int32]]] = {}
        self._lists: dict[bytes, int] = {}
        self._made = 0
        self._seen: Nanos | None = None
        self._next = 0
        self._last: tuple[tuple[SeriesKey, ...], Int64, int] | None = None

    @property
    def keys(self) -> tuple[SeriesKey, ...]:
        return tuple(self._ids)

    def carry(self, other: Encoder) -> None:
        """Go on counting arrivals where another segment's encoder stopped."""
        self._seen, self._next = other._seen, other._next

    def encode(self, events: Events) -> list[bytes]:
        """Frames of a batch. seen_ns must not decrease within it."""
        frames: list[bytes] = []
        number = self._list(events, frames)
        seen, time, value = events.seen_ns, events.time_ns, events.value
        first = self._next if self._seen is not None and seen[0] == self._seen else 0
        n, last = len(seen), int(seen[-1])
        flags = _FLOAT if value.dtype.kind == "f" else 0
        parts = [_ROWS.pack(number, first)]
        if n > 1 and not (time != time[0]).any():
            flags |= _ONE_TIME
            parts.append(_le(time[:1]))
        else:
            parts.append(_le(time))
        if seen[0] == last:
            flags |= _ONE_SEEN
            self._next = first + n
        else:
            parts.append(_le(seen))
            tail = n - int(np.searchsorted(seen, last))
            self._next = tail
        self._seen = last
        parts.append(_le(value))
        frames.append(_frame(_DATA, flags, n, int(seen[0]), last, b"".join(parts)))
        return frames

    def _list(self, events: Events, frames: list[bytes]) -> int:
        fixed = not events.series.flags.writeable  # only such an array is known to hold what it held
        if fixed and self._last is not None and self._last[0] is events.keys and self._last[1] is events.series:
            return self._last[2]
        text = np.ascontiguousarray(self._lookup(events.keys, frames)[events.series]).tobytes()
        number = self._lists.get(text)
        if number is None:
            number = self._made
            self._made += 1
            frames.append(_frame(_SERIES, 0, len(events), 0, 0, text))
            if len(text) <= _REMEMBERED_BYTES:
                self._lists[text] = number
                if len(self._lists) > _REMEMBERED:
                    del self._lists[next(iter(self._lists))]
        self._last = (events.keys, events.series, number) if fixed else None
        return number

    def _lookup(self, keys: tuple[SeriesKey, ...], frames: list[bytes]) -> NDArray[np.int32]:
        known = self._lookups.get(id(keys))
        if known is not None and known[0] is keys:
            return known[1]
        new = [k for k in keys if k not in self._ids]
        if new:
            new = list(dict.fromkeys(new))
            for key in new:
                self._ids[key] = len(self._ids)
            text = json.dumps([[k.host, k.metric, k.labels] for k in new]).encode()
            frames.append(_frame(_KEYS, 0, len(new), 0, 0, text))
        lookup = np.array([self._ids[k] for k in keys], np.int32)
        if len(self._lookups) > 64:
            self._lookups.clear()
        self._lookups[id(keys)] = (keys, lookup)
        return lookup


def start_segment(path: Path) -> int:
    """Create a segment and return its descriptor, held by an exclusive lock while the writer lives.

    Raises
    ------
    StoreError
        If the file cannot be made.
    """
    import fcntl

    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(fd, HEADER)
    except OSError as error:
        raise StoreError(f"{path}: cannot start a log segment: {error.strerror}") from error
    return fd


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
        self._frames: list[tuple[int, int, int, int, Nanos, Nanos]] = []

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
        for at, length, flags, n, first, last in self._frames:
            if last >= seen_from and first < seen_to:
                yield self._rows(memoryview(os.pread(fd, length, at)), flags, n, first)

    def used_keys(self) -> set[SeriesKey]:
        """The series that some row has."""
        return {self.keys[i] for i in set().union(*(s.tolist() for s in self._lists))}

    def _take(self, data: memoryview) -> int:
        at = 0
        if self.good == 0:
            if len(data) < len(HEADER) or data[:6] != HEADER[:6]:
                return 0
            at = len(HEADER)
        while at + _FRAME.size <= len(data):
            length, crc, kind, flags, _, n, first, last = _FRAME.unpack_from(data, at)
            end = at + _FRAME.size + length
            if length > _MAX_FRAME or end > len(data) or zlib.crc32(data[at + 8 : end]) != crc:
                break
            body = data[at + _FRAME.size : end]
            if kind == _KEYS:
                for h, m, labels in json.loads(bytes(body)):
                    self.keys.append(SeriesKey(h, m, tuple((str(k), str(v)) for k, v in labels)))
            elif kind == _SERIES:
                series = np.frombuffer(bytes(body), np.int32)
                self._lists.append(series)
                hosts = {self.keys[i].host for i in set(series.tolist())}
                self._hosts.append(hosts.pop() if len(hosts) == 1 else None)
            elif kind == _DATA:
                self._note(body, flags, n, first, last)
                self._frames.append((self.good + at + _FRAME.size, length, flags, n, first, last))
            at = end
        return at

    def _note(self, body: memoryview, flags: int, n: int, first: Nanos, last: Nanos) -> None:
        self.rows += n
        if self._frames:
            self.ordered = self.ordered and first >= self._frames[-1][5]
        self.first_seen = first if self.first_seen is None else min(self.first_seen, first)
        host = self._hosts[_ROWS.unpack_from(body)[0]]
        if host is not None:
            self.last_seen[host] = max(last, self.last_seen.get(host, last))
            return
        rows = self._rows(body, flags, n, first)
        names = [self.keys[i].host for i in rows.series.tolist()]
        for name, seen in dict(zip(names, rows.seen_ns.tolist(), strict=True)).items():
            self.last_seen[name] = max(seen, self.last_seen.get(name, seen))

    def _wants(self, data: memoryview) -> int:
        """Bytes of the frame at hand, if its head can be believed."""
        at = 0 if self.good else len(HEADER)
        length = _FRAME.unpack_from(data, at)[0]
        return at + _FRAME.size + int(length) if length <= _MAX_FRAME else 0

    def _rows(self, body: memoryview, flags: int, n: int, first_seen: Nanos) -> Rows:
        number, first = _ROWS.unpack_from(body)
        at = _ROWS.size
        if flags & _ONE_TIME:
            time = np.full(n, np.frombuffer(body, np.int64, 1, at)[0])
            at += 8
        else:
            time = np.frombuffer(body, np.int64, n, at)
            at += 8 * n
        if flags & _ONE_SEEN:
            seen = np.full(n, first_seen, np.int64)
            arrival = np.arange(first, first + n, dtype=np.int64)
        else:
            seen = np.frombuffer(body, np.int64, n, at)
            at += 8 * n
            arrival = arrivals(seen, first)
        value: Int64 | Float64
        if flags & _FLOAT:
            value = np.frombuffer(body, np.float64, n, at)
        else:
            value = np.frombuffer(body, np.int64, n, at)
        return Rows(self._lists[number], time, seen, arrival, value)


def _frame(kind: int, flags: int, n: int, first: Nanos, last: Nanos, body: bytes) -> bytes:
    head = _BODY.pack(kind, flags, 0, n, first, last)
    crc = zlib.crc32(body, zlib.crc32(head))
    return b"".join((struct.pack("<II", len(body), crc), head, body))


def _le(array: NDArray[np.generic]) -> bytes:
    return np.ascontiguousarray(array).tobytes()
