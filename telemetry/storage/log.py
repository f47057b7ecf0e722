"""The append-only log: framed binary with a checksum a frame, so that a torn tail is seen and cut.

A segment is 16 bytes of header and then frames. A frame's header is 32 bytes, little endian: payload length
(u32), CRC-32 of all that follows (u32), kind (u8), flags (u8), 0 (u16), rows (u32), least and largest seen_ns
(i64). Kinds: 1 keys (JSON); 2 a list of series that rows refer to (i32); 3 rows (list number u32, first
arrival u32, then times, seen times unless all equal, values); 4 where the times of a list change (i32). Flags of
rows: 1 float64, 2 one seen time, 4 one time, 8 a time for each run of kind 4, 16 only the values (and their
places, i32) that differ from those of the frame before of the same list.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from telemetry.errors import StoreError
from telemetry.types import Events, Float64, Int64, Nanos, SeriesKey

__all__ = ["HEADER", "Encoder", "start_segment", "still_there"]

HEADER = b"TWLG" + struct.pack("<HHQ", 1, 0, 0)
FRAME = struct.Struct("<IIBBHIqq")
_BODY = struct.Struct("<BBHIqq")
ROWS = struct.Struct("<II")
KEYS, SERIES, DATA, RUNS = 1, 2, 3, 4
FLOAT, ONE_SEEN, ONE_TIME, RUN_TIME, DELTA = 1, 2, 4, 8, 16
_WHOLE_EVERY = 128
MAX_FRAME = 1 << 30
_REMEMBERED, _REMEMBERED_BYTES = 64, 1 << 17


class _Chain:
    """What the last batch of the same series held: unchanged counters and shared stamps are not written again."""

    __slots__ = ("_bits", "_count", "_float", "_lengths", "_room", "_starts")

    def __init__(self) -> None:
        self._bits: Int64 | None = None
        self._float = False
        self._count = 0
        self._starts: NDArray[np.int32] | None = None
        self._lengths: Int64 = np.empty(0, np.int64)
        self._room: tuple[NDArray[np.int32], Int64, Int64] | None = None

    def changed(self, value: Int64 | Float64) -> NDArray[np.int32] | None:
        """Places of the values that are not those of the batch before, or None to write all of them."""
        bits = np.ascontiguousarray(value).view(np.int64)
        before, was_float = self._bits, self._float
        self._bits, self._float = bits.copy(), value.dtype.kind == "f"
        self._count += 1
        if before is None or was_float != self._float or self._count % _WHOLE_EVERY == 0:
            return None
        places = np.flatnonzero(bits != before).astype(np.int32)
        return places if 12 * len(places) < 6 * len(bits) else None

    def ready(self, value: Int64 | Float64) -> bool:
        """Whether the next frame may be told by its differences."""
        if self._bits is None or self._starts is None or self._float != (value.dtype.kind == "f"):
            return False
        return len(self._bits) == len(value) and (self._count + 1) % _WHOLE_EVERY != 0

    def scratch(self) -> tuple[Any, ...]:
        """What `kernel.differences` works on."""
        if self._room is None:
            n = len(self._bits) if self._bits is not None else 0
            self._room = (np.empty(n, np.int32), np.empty(n, np.int64), np.empty(n, np.int64))
        return (self._bits, self._starts, *self._room)

    def taken(self, changed: int) -> tuple[bytes, bytes, bytes]:
        """Times of the runs, places and values of what changed."""
        self._count += 1
        if self._room is None or self._starts is None:
            return b"", b"", b""
        places, values, times = self._room
        return times[: len(self._starts)].tobytes(), places[:changed].tobytes(), values[:changed].tobytes()

    def runs_of(self, time: Int64, number: int, frames: list[bytes]) -> NDArray[np.int32] | None:
        """First rows of the runs of equal times (written ahead where they are new), or None if runs are short."""
        if self._starts is not None and np.array_equal(np.repeat(time[self._starts], self._lengths), time):
            return self._starts
        starts = np.concatenate(([0], np.flatnonzero(np.diff(time)) + 1)).astype(np.int32)
        if 8 * len(starts) > len(time):
            return None
        self._starts, self._lengths = starts, np.diff(np.append(starts, len(time)))
        frames.append(_frame(RUNS, 0, number, 0, 0, _le(starts)))
        return starts


class Encoder:
    """Turns batches into frames of one segment; keys and lists of series are written once."""

    def __init__(self) -> None:
        self._ids: dict[SeriesKey, int] = {}
        self._lookups: dict[int, tuple[tuple[SeriesKey, ...], NDArray[np.int32]]] = {}
        self._lists: dict[bytes, int] = {}
        self._chains: dict[int, _Chain] = {}
        self._made = 0
        self._seen: Nanos | None = None
        self._next = 0
        self._last: dict[int, tuple[tuple[SeriesKey, ...], Int64, int]] = {}

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
        flags = FLOAT if value.dtype.kind == "f" else 0
        parts = [ROWS.pack(number, first)]
        chain = self._chains.get(number)
        if n > 1 and not (time != time[0]).any():
            flags |= ONE_TIME
            parts.append(_le(time[:1]))
        elif chain is not None and (starts := chain.runs_of(time, number, frames)) is not None:
            flags |= RUN_TIME
            parts.append(_le(time[starts]))
        else:
            parts.append(_le(time))
        if seen[0] == last:
            flags |= ONE_SEEN
            self._next = first + n
        else:
            parts.append(_le(seen))
            self._next = n - int(np.searchsorted(seen, last))
        self._seen = last
        changed = None if chain is None else chain.changed(value)
        if changed is None:
            parts.append(_le(value))
        else:
            flags |= DELTA
            parts += [_le(changed), _le(value[changed])]
        frames.append(_frame(DATA, flags, n, int(seen[0]), last, b"".join(parts)))
        return frames

    def same_again(self, events: Events) -> bytes | None:
        """The frame of one more sample of the same series, in one compiled step; None where that does not do.

        It writes what `encode` would write; only it is quicker, and needs no look at the stamps before.
        """
        fixed = self._last.get(id(events.series))
        if fixed is None or fixed[0] is not events.keys or fixed[1] is not events.series or "numba" not in sys.modules:
            return None
        from telemetry.storage.kernel import differences

        number = fixed[2]
        chain = self._chains.get(number)
        if chain is None or not chain.ready(events.value):
            return None
        value = np.ascontiguousarray(events.value).view(np.int64)
        n, seen = len(value), int(events.seen_ns[0])
        first = self._next if seen == self._seen else 0
        changed = differences(
            np.ascontiguousarray(events.time_ns), np.ascontiguousarray(events.seen_ns), value, *chain.scratch()
        )
        if changed < 0:
            return None
        self._seen, self._next = seen, first + n
        flags = RUN_TIME | ONE_SEEN | DELTA | (FLOAT if events.value.dtype.kind == "f" else 0)
        body = b"".join((ROWS.pack(number, first), *chain.taken(changed)))
        return _frame(DATA, flags, n, seen, seen, body)

    def _list(self, events: Events, frames: list[bytes]) -> int:
        fixed = not events.series.flags.writeable  # only such an array is known to hold what it held
        known = self._last.get(id(events.series)) if fixed else None
        if known is not None and known[0] is events.keys and known[1] is events.series:
            return known[2]
        text = np.ascontiguousarray(self._lookup(events.keys, frames)[events.series]).tobytes()
        number = self._lists.get(text)
        if number is None:
            number = self._made
            self._made += 1
            frames.append(_frame(SERIES, 0, len(events), 0, 0, text))
            if len(text) <= _REMEMBERED_BYTES:
                self._lists[text] = number
                self._chains[number] = _Chain()
                if len(self._lists) > _REMEMBERED:
                    self._chains.pop(self._lists.pop(next(iter(self._lists))))
        if fixed:
            if len(self._last) >= _REMEMBERED:
                self._last.clear()
            self._last[id(events.series)] = (events.keys, events.series, number)
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
            frames.append(_frame(KEYS, 0, len(new), 0, 0, text))
        lookup = np.array([self._ids[k] for k in keys], np.int32)
        if len(self._lookups) > 64:
            self._lookups.clear()
        self._lookups[id(keys)] = (keys, lookup)
        return lookup


def start_segment(path: Path) -> int | None:
    """Create a segment and return its descriptor, held by an exclusive lock while the writer lives.

    None if there is one of this name, or if another process took the new file for one that a dead writer left, before
    it was locked: it is gone then, and what was written to it would be lost.

    Raises
    ------
    StoreError
        If the file cannot be made.
    """
    import fcntl

    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if not still_there(path, fd):
            os.close(fd)
            return None
        os.write(fd, HEADER)
    except FileExistsError:
        return None
    except OSError as error:
        raise StoreError(f"{path}: cannot start a log segment: {error.strerror}") from error
    return fd


def still_there(path: Path, fd: int) -> bool:
    """Whether a path still is the file that was opened: who waits for a lock may get it after the file was deleted."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _frame(kind: int, flags: int, n: int, first: Nanos, last: Nanos, body: bytes) -> bytes:
    head = _BODY.pack(kind, flags, 0, n, first, last)
    crc = zlib.crc32(body, zlib.crc32(head))
    return b"".join((struct.pack("<II", len(body), crc), head, body))


def _le(array: NDArray[np.generic]) -> bytes:
    return np.ascontiguousarray(array).tobytes()
