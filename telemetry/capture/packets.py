"""Read captures as batches of columns, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from telemetry.capture.columns import HAS_RECOVERED, NULL, RECOVERED, TUNNELS, Arena, Packets
from telemetry.capture.container import CONTROL, DAMAGE, FULL, MORE, Container, Pcap, Snoop
from telemetry.capture.decode import decode
from telemetry.capture.erf import Erf, looks_like_erf
from telemetry.capture.open import CaptureInput, Stream, StreamDamage, open_stream
from telemetry.capture.pcapng import Pcapng
from telemetry.capture.stamps import Stamper
from telemetry.errors import InputError

__all__ = ["NULL", "TUNNELS", "CaptureInput", "CaptureStats", "Damage", "Packets", "read_packets"]

_BUFFER: Final = 2 << 20
_CHUNK: Final = 1 << 19
_KEEP: Final = 1 << 20  # of a damaged stretch, while more is read to find where records go on
_MOST_DAMAGES: Final = 1000


@dataclass(frozen=True, slots=True)
class Damage:
    """What was wrong at byte `offset` of the (uncompressed) file, and where records went on (-1: nowhere)."""

    source: str
    offset: int
    what: str
    resumed: int = -1

    def __str__(self) -> str:
        on = f"; records go on at byte {self.resumed}" if self.resumed >= 0 else ""
        return f"{self.source}: damaged at byte {self.offset}: {self.what}{on}"


@dataclass(slots=True)
class CaptureStats:
    """What a reading met, kept up to date from batch to batch.

    `read_bytes` counts bytes taken from disk (compressed ones), `total_bytes` their sum over the regular
    files given so far. `dropped` is what the containers themselves say was lost. `damages` keeps the first
    1000, `damage_count` counts all.
    """

    files: int = 0
    packets: int = 0
    recovered: int = 0
    captured_bytes: int = 0
    wire_bytes: int = 0
    snapped: int = 0
    backwards: int = 0
    dropped: int = 0
    hardware: int = 0
    first_ns: int = NULL
    last_ns: int = NULL
    read_bytes: int = 0
    total_bytes: int = 0
    damage_count: int = 0
    damages: list[Damage] = field(default_factory=list)


def read_packets(
    paths: CaptureInput | Sequence[CaptureInput],
    *,
    batch_rows: int = 8192,
    hardware: bool = True,
    stamps: str | None = None,
    stats: CaptureStats | None = None,
) -> Iterator[Packets]:
    """Decode captures: pcap, pcapng, snoop, ERF, plain or compressed.

    Parameters
    ----------
    paths : path, "-", binary file object, or a sequence of them
        Read one after the other. A batch never spans two files.
    batch_rows : int
        The most packets in a batch. 8192 keeps a batch in the second-level cache.
    hardware : bool
        Look for hardware timestamps.
    stamps : str, optional
        A hardware stamp format to be read without proof (`telemetry.capture.stamps.CONFIGURED`).
    stats : CaptureStats, optional
        Filled in while reading.

    Yields
    ------
    Packets
        Its arrays are overwritten by the next batch.

    Raises
    ------
    InputError
        If a file cannot be opened, is empty or is no capture. A *damaged* capture does not raise: its good
        packets come out (``recovered`` after the damage) and `stats` tells what was wrong where.
    """
    if batch_rows < 1:
        raise ValueError(f"batch_rows: expected at least 1, got {batch_rows}")
    stats = CaptureStats() if stats is None else stats
    many = paths if isinstance(paths, Sequence) and not isinstance(paths, (str, os.PathLike)) else [paths]
    arena = Arena(batch_rows)
    for number, source in enumerate(many):
        stream = open_stream(source)
        try:
            stamper = Stamper(stamps) if hardware else None
            yield from _Reader(stream, number, arena, stats, stamper).batches()
        finally:
            stream.close()


class _Reader:
    """One file: a buffer, a container, and the way on after damage."""

    def __init__(self, stream: Stream, number: int, arena: Arena, stats: CaptureStats, stamper: Stamper | None) -> None:
        self._stamper = stamper
        self._stream, self._number, self._arena, self._stats = stream, number, arena, stats
        self._buffer = np.empty(_BUFFER, np.uint8)
        self._pos = self._end = 0
        self._base = 0  # offset in the stream of buffer[0]
        self._eof = False
        self._recovering = False
        self._last_bad = -1
        self._broken = ""

    def batches(self) -> Iterator[Packets]:
        container = self._open()
        stats, arena = self._stats, self._arena
        stats.files += 1
        stats.total_bytes += max(self._stream.size, 0)
        last_ns = NULL
        before_read, before_drop = 0, 0
        more = True
        while more:
            arena.clean()
            rows, more = self._fill(container)
            dropped = container.dropped
            stats.dropped += dropped - before_drop
            stats.read_bytes += self._stream.consumed() - before_read
            before_drop, before_read = dropped, self._stream.consumed()
            if rows:
                if self._stamper is not None:
                    stats.hardware += self._stamper.apply(arena, self._buffer, rows)
                batch = arena.packets(rows, self._buffer, self._stream.name, self._number)
                last_ns = _count(batch, stats, last_ns)
                yield batch

    def _open(self) -> Container:
        """Read the first bytes and tell the container by them."""
        while self._end < 28 and self._more(28):
            pass  # a pipe may bring less
        head = bytes(self._buffer[: min(self._end, 64)])
        name = self._stream.name
        if not head:
            raise InputError(f"{name}: expected a capture, got an empty file")
        container: Container
        magic = {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")}
        if magic & Pcap.MAGICS.keys():
            if len(head) < 24:
                raise InputError(f"{name}: expected a pcap file header of 24 bytes, got {len(head)}")
            container = Pcap(head[:28], name)
        elif head[:4] == b"\x0a\x0d\x0d\x0a":
            container = Pcapng()
        elif head[:8] == b"snoop\0\0\0" and len(head) >= 16:
            container = Snoop(head[:16], name)
        else:
            while self._end < _CHUNK // 2 and self._more(64):
                pass  # ERF has no magic number: look at its first records
            if not looks_like_erf(self._buffer, self._end, self._eof):
                raise InputError(f"{name}: expected a capture (pcap, pcapng, snoop, ERF), got {head[:8].hex(' ')} ...")
            container = Erf()
        self._pos = container.head
        return container

    def _more(self, need: int) -> bool:
        """Bring at least one more byte, and room for `need` from `_pos` on; False at the end of the file."""
        if self._eof:
            return False
        size = len(self._buffer)
        if self._pos + need > size or self._end == size:
            kept = self._end - self._pos
            bigger = self._buffer
            if need > size or kept == size:
                bigger = np.empty(max(min(need, 2 * size), kept + _CHUNK), np.uint8)
            bigger[:kept] = self._buffer[self._pos : self._end]
            self._buffer = bigger
            self._base += self._pos
            self._pos, self._end = 0, kept
        view = memoryview(self._buffer)  # type: ignore[arg-type]
        stop = min(self._end + _CHUNK, len(self._buffer))
        try:
            n = self._stream.readinto(view[self._end : stop])
        except StreamDamage as error:
            self._broken, n = str(error), 0
        except OSError as error:
            self._broken, n = f"cannot be read further: {error.strerror}", 0
        self._end += n
        self._eof = n == 0
        return n > 0

    def _fill(self, container: Container) -> tuple[int, bool]:
        """Fill the arena; return how many rows, and whether there may be more."""
        arena, row = self._arena, 0
        while True:
            before = row
            row, self._pos, why = container.index(self._buffer, self._pos, self._end, row, arena)
            if row > before:
                self._decode(before, row)
            if why == FULL:
                return row, True
            if why == CONTROL:
                need = container.need(self._buffer, self._pos, self._end)
                if need > self._end - self._pos:
                    why = MORE
                else:
                    used = container.control(self._buffer, self._pos, self._end)
                    if used:
                        self._pos += used
                        continue
                    why = DAMAGE
            if why == MORE:
                need = container.need(self._buffer, self._pos, self._end)
                if row and (self._pos + need > len(self._buffer) or self._end == len(self._buffer)) and not self._eof:
                    return row, True  # rows point into the buffer: hand them out before it moves
                if self._more(need):
                    continue
                if self._pos == self._end:
                    if self._broken:
                        self._note(self._base + self._end, self._broken)
                        self._broken = ""
                    return row, False
            if row:
                return row, True  # the way on moves the buffer
            if not self._resync(container, why):
                return row, False

    def _decode(self, start: int, stop: int) -> None:
        a = self._arena
        a.dirty |= decode(self._buffer, start, stop, a.i64, a.u64, a.i32, a.i16, a.u8, a.f32)
        if self._recovering:
            a.u8[RECOVERED, start:stop] = 1
            a.dirty |= HAS_RECOVERED

    def _resync(self, container: Container, why: int) -> bool:
        """Step over damage at `_pos`; True if records go on."""
        bad = self._base + self._pos
        if why == MORE:
            what = self._broken or f"the file ends {self._end - self._pos} bytes into a record"
            self._broken = ""
        else:
            what = container.complaint(self._buffer, self._pos, self._end)
        self._pos += 1
        while True:
            found = container.find(self._buffer, self._pos, self._end, self._eof)
            if found >= 0:
                self._pos = found
                self._recovering = True
                self._note(bad, what, self._base + found)
                return True
            self._pos = max(self._pos, self._end - _KEEP)
            if not self._more(_KEEP + _CHUNK) and self._eof:
                found = container.find(self._buffer, self._pos, self._end, True)
                if found < 0:
                    self._pos = self._end
                    self._note(bad, what)
                    return False

    def _note(self, offset: int, what: str, resumed: int = -1) -> None:
        self._stats.damage_count += 1
        if len(self._stats.damages) < _MOST_DAMAGES:
            self._stats.damages.append(Damage(self._stream.name, offset, what, resumed))


def _count(batch: Packets, stats: CaptureStats, last_ns: int) -> int:
    """Add a batch to the stats; return the last time in it."""
    stats.packets += batch.n
    stats.captured_bytes += int(batch.cap_len.sum(dtype=np.int64))
    stats.wire_bytes += int(batch.wire_len.sum(dtype=np.int64))
    stats.snapped += int(np.count_nonzero(batch.cap_len < batch.wire_len))
    stats.recovered += int(np.count_nonzero(batch.recovered))
    times = batch.time_ns
    if times.min() == NULL:
        times = times[times != NULL]
        if not len(times):
            return last_ns
    stats.backwards += int(np.count_nonzero(times[1:] < times[:-1])) + int(times[0] < last_ns)
    least, most = int(times.min()), int(times.max())
    stats.first_ns = least if stats.first_ns == NULL else min(stats.first_ns, least)
    stats.last_ns = max(stats.last_ns, most)
    return int(times[-1])
