"""A store's writer: appends to a log segment of its own, from which Parquet is cut."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from pathlib import Path
from typing import Final, Literal

import numpy as np

from telemetry.errors import StoreError
from telemetry.storage.cut import adopt, cut_up_to
from telemetry.storage.cutter import Cutter
from telemetry.storage.layout import part
from telemetry.storage.log import Encoder, start_segment
from telemetry.storage.manifest import read_manifest
from telemetry.storage.segments import segment_name, segments
from telemetry.types import Events, Nanos

__all__ = ["CUT_NS", "FLUSH_NS", "SEGMENT_BYTES", "LogWriter"]

FLUSH_NS: Final = 1_000_000_000
CUT_NS: Final = 300 * 1_000_000_000
SEGMENT_BYTES: Final = 32 << 20
BUFFER_BYTES: Final = 1 << 20

_FULL = (errno.ENOSPC, errno.EDQUOT)


class LogWriter:
    """The half of `telemetry.store.Store` that writes; see there for the parameters.

    Attributes
    ----------
    dropped : int
        Rows lost to a full disk (``on_full="drop"``).
    torn_bytes : int
        Bytes cut off the ends of segments that a killed writer left.
    """

    def __init__(
        self,
        path: Path,
        *,
        writer: str | None,
        flush_ns: Nanos,
        cut_ns: Nanos,
        segment_bytes: int,
        on_full: Literal["raise", "drop"],
        background: bool,
    ) -> None:
        self.path = path
        self.dropped = 0
        self.torn_bytes = 0
        self._name = (
            writer if writer is not None else f"{part(socket.gethostname())}-{os.getpid()}-{os.urandom(3).hex()}"
        )
        self._flush_ns, self._cut_ns, self._segment_bytes = flush_ns, cut_ns, segment_bytes
        self._on_full = on_full
        self._background = background
        self._number = 0
        self._fd = -1
        self._size = 0
        self._first_seen: Nanos | None = None
        self._encoder = Encoder()
        self._buffer: list[bytes] = []
        self._buffered_bytes = self._buffered_rows = 0
        self._buffer_seen: Nanos | None = None
        self._cutter: Cutter | None = None
        self._adopted = False
        self._lock = threading.RLock()

    def append(self, events: Events) -> None:
        """Take in a batch. Rows are on disk after `flush`, or when `flush_ns` have passed.

        Raises
        ------
        StoreError
            If the disk is full (unless ``on_full="drop"``) or not writable.
        """
        if not len(events):
            return
        with self._lock:
            self._append(events)

    def _append(self, events: Events) -> None:
        if not self._adopted:
            self._adopted = True
            self.torn_bytes += adopt(self.path)
        if self._fd < 0 and not self._start():
            self.dropped += len(events)
            return
        frame = self._encoder.same_again(events)
        if frame is not None:
            frames = [frame]
        else:
            if (events.seen_ns[1:] < events.seen_ns[:-1]).any():
                events = events[np.argsort(events.seen_ns, kind="stable")]
            frames = self._encoder.encode(events)
        self._buffer += frames
        self._buffered_bytes += sum(map(len, frames))
        self._buffered_rows += len(events)
        last = int(events.seen_ns[-1])
        if self._buffer_seen is None:
            self._buffer_seen = int(events.seen_ns[0])
        if self._first_seen is None:
            self._first_seen = int(events.seen_ns[0])
        if last - self._buffer_seen >= self._flush_ns or self._buffered_bytes >= BUFFER_BYTES:
            self.flush()
            if last - self._first_seen >= self._cut_ns or self._size >= self._segment_bytes:
                self._rotate()

    def flush(self) -> None:
        """Hand all rows to the kernel: a kill of this process no longer loses them."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        if not self._buffer:
            return
        data = b"".join(self._buffer)
        rows = self._buffered_rows
        self._buffer, self._buffered_bytes, self._buffered_rows, self._buffer_seen = [], 0, 0, None
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            self._size += len(data)
        except OSError as error:
            self._failed(error, rows)

    def close(self) -> None:
        """Flush and cut what is left into Parquet."""
        with self._lock:
            self._flush()
            if self._fd >= 0:
                self._rotate(wait=True)
        if self._cutter is not None:
            self._cutter.close()
            self._cutter = None

    def _start(self) -> bool:
        try:
            (self.path / "log").mkdir(exist_ok=True)
            # a writer of this name may have been here before: what is below its cut, or below a segment of it that
            # waits to be cut, does not count. The folder first: a segment leaves it after its cut is written.
            names = [n for p in segments(self.path) if (n := segment_name(p)) and n[0] == self._name]
            cut = read_manifest(self.path).cut.get(self._name, 0)
            self._number = max([self._number, cut, *(n + 1 for _, n in names)])
            while (fd := start_segment(self.path / "log" / f"{self._name}-{self._number}.twl")) is None:
                self._number += 1
            self._fd = fd
        except (StoreError, OSError) as error:
            cause = error.__cause__ if isinstance(error, StoreError) else error
            if self._on_full == "drop" and isinstance(cause, OSError) and cause.errno in _FULL:
                with contextlib.suppress(OSError):
                    (self.path / "log" / f"{self._name}-{self._number}.twl").unlink(missing_ok=True)
                return False
            raise
        self._size = os.fstat(self._fd).st_size
        encoder = Encoder()
        encoder.carry(self._encoder)
        self._encoder = encoder
        self._first_seen = None
        return True

    def _failed(self, error: OSError, rows: int) -> None:
        """Take back half a write, so that the segment stays whole; start anew with fresh names."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, self._size)
        self._rotate(wait=self._on_full == "raise")
        if error.errno not in _FULL or self._on_full == "raise":
            raise StoreError(f"{self.path}: cannot write the log: {error.strerror}; {rows} rows lost") from error
        self.dropped += rows

    def _rotate(self, *, wait: bool = False) -> None:
        path = self.path / "log" / f"{self._name}-{self._number}.twl"
        os.close(self._fd)  # also gives up its lock
        self._fd = -1
        self._number += 1
        if self._background and not wait:
            if self._cutter is None:
                self._cutter = Cutter(self.path)
            self._cutter.submit(path)
            return
        if self._cutter is not None:
            self._cutter.drain()
        try:
            self.torn_bytes += cut_up_to(self.path, path)
        except OSError as error:
            # The rows are safe in the segment; the next writer, or the next cut, takes them on.
            if error.errno not in _FULL and self._on_full == "raise":
                raise StoreError(f"{self.path}: cannot cut Parquet: {error.strerror or error}") from error
