"""Captures that are still being written: a growing file, a rotated set in a folder or behind a glob, a pipe.

How to use it::

    follow = Follow("/captures/", start=saved)         # a file, a folder, "ring.pcap*", a FIFO, or "-"
    while not stopped:
        for packets in follow.poll():                  # all that is there now; never waits
            ...                                        # use or copy: the next batch overwrites the arrays
            saved = follow.position()                  # JSON types: what has been handed out so far
        time.sleep(0.1)

or, where nothing else has to be done meanwhile, ``for packets in follow.packets(idle_s=60)``. What the packets say
(latency, loss, throughput, feeds) comes from `telemetry.wire.live.Live`, which holds a `Follow`.

A position names a file by the bytes it begins with, not only by its name: a ring that writes its files anew, and
files compressed once they are full (``tcpdump -z gzip``), are told for what they are, and no packet comes twice. A
pipe has no position.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Final, cast

from telemetry.capture.columns import NULL, Arena, Packets
from telemetry.capture.fileset import CaptureFile, FileSet
from telemetry.capture.open import open_stream
from telemetry.capture.pipe import Pipe
from telemetry.capture.reader import Reader
from telemetry.capture.stamps import Stamper
from telemetry.capture.stats import CaptureStats, Damage
from telemetry.errors import InputError

__all__ = ["Follow"]

_POLL_S: Final = 0.05


class Follow:
    """Batches of packets of a capture that grows.

    Parameters
    ----------
    source : path of a file, folder or pipe; a glob; or "-"
        Of a folder or glob the files are read in the order of their first packets; files that are no captures are
        left out. The set is one capture that moves from file to file, not several at once.
    start : mapping, optional
        A `position` of an earlier reading: go on behind the last packet that had been handed out then.
    newest : bool
        Without `start`: begin with the newest file of a set, not with the oldest.
    batch_rows, hardware, stamps, stats
        See `telemetry.capture.packets.read_packets`.

    Raises
    ------
    InputError
        If there is nothing at `source`, or (while reading) a single file is no capture. What is damaged does not
        raise: see `stats`.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        start: Mapping[str, Any] | None = None,
        newest: bool = False,
        batch_rows: int = 8192,
        hardware: bool = True,
        stamps: str | None = None,
        stats: CaptureStats | None = None,
    ) -> None:
        self.source = os.fspath(source)
        self.stats = CaptureStats() if stats is None else stats
        self.finished = False
        """Nothing more can come: the pipe was closed at its other end, or `finish` was called."""
        self._newest = newest and not start
        self._arena = Arena(batch_rows)
        self._hardware, self._stamps = hardware, stamps
        self._start = dict(start) if start else None
        self._before = dict(start or {})
        self._current: CaptureFile | None = None
        self._reader: Reader | None = None
        self._batches: Iterator[Packets] | None = None
        self._number = 0
        self._last = False
        self._pipe = Pipe.at(self.source)
        self._set = FileSet(self.source)
        if self._pipe is None and not self._set.many and not os.path.isfile(self.source):
            raise InputError(f"{self.source}: expected a capture, a folder of them, a glob or a pipe; there is nothing")

    def position(self) -> dict[str, Any]:
        """Where reading stands, as JSON types: all packets handed out so far lie before. Empty for a pipe."""
        file = self._current
        if self._reader is None or file is None:
            return dict(self._before)
        return {
            "file": os.path.basename(file.path), "head": _digest(file.head), "head_bytes": len(file.head),
            "first_ns": file.first_ns, "at": self._reader.position(),
        }  # fmt: skip

    def poll(self) -> Iterator[Packets]:
        """Yield what is there now; return where more is to be waited for (only a compressed pipe is waited for)."""
        while not self.finished and (self._batches is not None or self._open()):
            assert self._batches is not None
            batch = next(self._batches, None)
            if batch is None:
                self._batches = None
                packed = not self._set.many and self._current is not None and self._current.packed
                self.finished = self._pipe is not None or packed or (self._last and not self._later())
            elif batch.n:
                yield batch
            elif not self._moved_on():
                return

    def finish(self) -> Iterator[Packets]:
        """Take what is there for all there will be: yield the rest (half a record at the end is damage then)."""
        self._last = True
        if self._reader is not None:
            self._reader.stop_following()
        yield from self.poll()
        self.finished = True

    def packets(
        self, *, idle_s: float | None = None, stop: Callable[[], bool] = lambda: False, poll_s: float = _POLL_S
    ) -> Iterator[Packets]:
        """Yield batches as they come, until nothing has come for `idle_s` (`finish` then) or `stop` says so."""
        quiet = 0.0
        while not stop():
            for batch in self.poll():
                quiet = 0.0
                yield batch
                if stop():
                    return
            if self.finished or (idle_s is not None and quiet >= idle_s):
                yield from self.finish()
                return
            time.sleep(poll_s)
            quiet += poll_s

    def close(self) -> None:
        """Close what is open."""
        if self._batches is not None:
            self._batches.close()  # type: ignore[attr-defined]
        self._batches = None
        if self._pipe is not None:
            self._pipe.close()

    def _open(self) -> bool:
        """Open what comes next; False if there is nothing yet."""
        if self._pipe is not None:
            if self._reader is not None or not self._pipe.ready(self._last):
                return False
            self._read(cast(BinaryIO, self._pipe), None)
            return True
        at = self._begin() if self._start is not None else None
        if at is None:
            later = self._later()
            if not later:
                return False
            self._current = later[-1] if self._newest else later[0]
            self._newest = False
        assert self._current is not None
        self._read(self._current.path, at or None)
        return True

    def _begin(self) -> dict[str, Any] | None:
        """Find the file that the position names, and give the place in it; None if it is not there."""
        files = self._set.files(final=self._last)
        if not files and not self._last:
            return None
        assert self._start is not None
        start, self._start = self._start, None
        for file in files:
            begins = _digest(file.head[: start["head_bytes"]]) == start["head"]
            if begins and file.first_ns in (start["first_ns"], NULL):
                self._current = file
                return dict(start["at"])
        what = "the file in which reading stood is there no more: packets may be missing"
        self.stats.note(Damage(start["file"], start["at"].get("offset", 0), what))
        self._current = CaptureFile(start["file"], -1, (0, 0), b"", start["first_ns"], False)
        return None

    def _later(self) -> list[CaptureFile]:
        """Files behind the current one, which have packets already."""
        now = self._current
        empty_too = self._last and now is None and not self._set.many
        files = [f for f in self._set.files(final=self._last) if f.first_ns != NULL or empty_too]
        return [f for f in files if now is None or (f.place > now.place and not f.same(now))]

    def _moved_on(self) -> bool:
        """At the end of what is there: whether the capture goes on elsewhere, so that the rest can be read."""
        assert self._reader is not None
        if self._pipe is not None:
            if self._pipe.closed:
                self._reader.stop_following()
            return self._pipe.closed
        later = self._later()
        if not later:
            return False
        now = self._current
        if any(f.path == now.path and f.inode == now.inode for f in later if now is not None):
            self.close()  # written anew in place: what is there now is another capture
        self._reader.stop_following()  # all that was written before the other began is still read
        return True

    def _read(self, source: str | BinaryIO, start: Mapping[str, Any] | None) -> None:
        stream = open_stream(source)
        if stream.compressed and self._pipe is not None:
            self._pipe.waits = True
        follow = not self._last and not stream.compressed
        stamper = Stamper(self._stamps) if self._hardware else None
        reader = self._reader = Reader(stream, self._number, self._arena, self.stats, stamper, follow, start)
        self._number += 1

        def batches() -> Iterator[Packets]:
            try:
                yield from reader.batches()
            finally:
                stream.close()

        self._batches = batches()


def _digest(head: bytes) -> str:
    return hashlib.blake2b(head, digest_size=16).hexdigest()
