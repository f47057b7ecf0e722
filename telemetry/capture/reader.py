"""One file: a buffer, a container, and the way on after damage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from telemetry.capture.columns import FRAME, HAS_RECOVERED, NULL, RECOVERED, Arena, Packets, U8s
from telemetry.capture.container import CONTROL, DAMAGE, FULL, MORE, Container, Pcap
from telemetry.capture.decode import decode
from telemetry.capture.erf import Erf, looks_like_erf
from telemetry.capture.open import Raw, Stream, StreamDamage
from telemetry.capture.pcapng import Pcapng
from telemetry.capture.plain import take_pcap
from telemetry.capture.snoop import Snoop
from telemetry.capture.stamps import Stamper
from telemetry.capture.stats import CaptureStats, Damage
from telemetry.errors import InputError

__all__ = ["Reader"]

_BUFFER: Final = 2 << 20
_ROW: Final = 256  # bytes of buffer for each row of a batch, so that large batches are not cut short by it
_CHUNK: Final = 1 << 18
_KEEP: Final = 1 << 20  # of a damaged stretch, while more is read to find where records go on
_ENOUGH: Final = 4096  # bytes of a growing file that must tell its container

_LCAP: Final = (b"\x1c\0\x01\xac", b"\x1c\0\x01\xab", b"\xac\x01\0\x1c", b"\xab\x01\0\x1c")  # a header of 28 bytes
_KINDS: Final[dict[str, type[Pcap] | type[Pcapng] | type[Snoop] | type[Erf]]] = {
    "pcap": Pcap,
    "pcapng": Pcapng,
    "snoop": Snoop,
    "erf": Erf,
}


class Reader:
    """Walks, decodes and stamps one stream, batch by batch.

    Parameters
    ----------
    stream : Stream
    number : int
        Of the file in its set.
    arena : Arena
        The memory of the batches.
    stats : CaptureStats
    stamper : Stamper or None
        None: no hardware stamps are looked for.
    follow : bool
        The file is still being written: where it ends for now, an empty batch comes out, and asking for the next
        one looks for more (until `stop_following`).
    start : mapping or None
        A `CaptureStats.position` to go on from.
    """

    def __init__(
        self,
        stream: Stream,
        number: int,
        arena: Arena,
        stats: CaptureStats,
        stamper: Stamper | None = None,
        follow: bool = False,
        start: Mapping[str, Any] | None = None,
    ) -> None:
        self._stream, self._number, self._arena, self._stats = stream, number, arena, stats
        self._stamper, self._follow, self._start = stamper, follow, start
        self._buffer = np.empty(max(_BUFFER, _ROW * arena.rows), np.uint8)
        self._pos = self._end = 0
        self._base = 0  # offset in the stream of buffer[0]
        self._eof = False
        self._broken = ""
        self._recovering = False
        self._last_frame = -1  # where the last record's frame is in the buffer, if it still is
        self._last_bad = -1
        self._lost: tuple[int, str, int] | None = None  # damage whose end is not found yet: where, what, why
        self._container: Container | None = None
        self._kind = ""
        if follow and stream.compressed:
            raise InputError(f"{stream.name}: a compressed file cannot be followed")

    def stop_following(self) -> None:
        """Take the end of what is there for the end of the file."""
        self._follow = False

    def position(self) -> dict[str, Any]:
        if self._container is None:
            return {}
        at: dict[str, Any] = {"kind": self._kind, "offset": self._base + self._pos, "recovering": self._recovering}
        if self._lost is not None:
            at["lost"] = list(self._lost)
        return {**at, **self._container.resume()}

    def batches(self) -> Iterator[Packets]:
        """Yield the batches of the file; while it is followed, an empty one where nothing more has come yet.

        Raises
        ------
        InputError
            If the stream is empty or no capture, or damaged before its first packet and nothing follows.
        """
        stats, arena = self._stats, self._arena
        container = self._open() if self._start is None else self._resume(self._start)
        while container is None:
            yield arena.packets(0, self._buffer, self._stream.name, self._number)
            container = self._open()
        self._container = container
        stats.reader = self
        stats.files += 1
        stats.total_bytes += max(self._stream.size, 0)
        last_ns = NULL
        read = dropped = 0
        packets_before, damages_before = stats.packets, stats.damage_count
        more = True
        while more:
            arena.clean()
            self._compact()
            rows, more = self._fill(container)
            stats.dropped += container.dropped - dropped
            stats.line_rate = max(stats.line_rate, container.line_rate)
            stats.read_bytes += self._stream.consumed() - read
            dropped, read = container.dropped, self._stream.consumed()
            if rows or (more and self._follow):
                if self._stamper is not None:
                    stats.hardware += self._stamper.apply(arena, self._buffer, rows)
                last_ns = stats.count(arena, rows, last_ns)
                yield arena.packets(rows, self._buffer, self._stream.name, self._number)
        if self._stamper is not None and self._stamper.format not in ("", *stats.stamp_formats):
            stats.stamp_formats.append(self._stamper.format)
        if stats.packets == packets_before and stats.damage_count > damages_before and self._last_bad == 0:
            last = stats.damages[-1]
            raise InputError(f"{last.source}: expected a capture, but it is damaged at byte {last.offset}: {last.what}")

    def _open(self) -> Container | None:
        """Read the first bytes and tell the container by them; None if too few have come yet."""
        while self._end < 28 and self._more(28):
            pass  # a pipe may bring less
        head = bytes(self._buffer[: min(self._end, 64)])
        name = self._stream.name
        if not self._eof and (len(head) < 24 or (len(head) < 28 and head[:4] in _LCAP)):
            return None
        if not head:
            raise InputError(f"{name}: {self._broken or 'expected a capture, got an empty file'}")
        container: Container
        magic = {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")}
        if magic & Pcap.MAGICS.keys():
            if len(head) < 24:
                raise InputError(f"{name}: expected a pcap file header of 24 bytes, got {len(head)}")
            container, self._kind = Pcap(head[:28], name), "pcap"
        elif head[:4] == b"\x0a\x0d\x0d\x0a":
            container, self._kind = Pcapng(), "pcapng"
        elif head[:8] == b"snoop\0\0\0" and len(head) >= 16:
            container, self._kind = Snoop(head[:16], name), "snoop"
        else:
            while self._end < _CHUNK // 2 and self._more(64):
                pass  # ERF has no magic number: look at its first records
            if not looks_like_erf(self._buffer, self._end, self._eof):
                if not self._eof and self._end < _ENOUGH:
                    return None
                raise InputError(f"{name}: expected a capture (pcap, pcapng, snoop, ERF), got {head[:8].hex(' ')} ...")
            container, self._kind = Erf(), "erf"
        self._pos = container.head
        return container

    def _resume(self, start: Mapping[str, Any]) -> Container:
        self._kind = start["kind"]
        self._base = start["offset"]
        self._recovering = start["recovering"]
        if "lost" in start:
            bad, what, why = start["lost"]
            self._lost, self._last_bad = (bad, what, why), bad
        self._stream.skip(start["offset"])
        return _KINDS[self._kind].resumed(start)

    def _more(self, need: int) -> bool:
        """Bring at least one more byte, and room for `need` from `_pos` on.

        False at the end of the file, and (`_eof` is not set then) where a file that is followed ends for now.
        """
        if self._eof:
            return False
        size = len(self._buffer)
        if self._pos + need > size or self._end == size:
            kept = self._end - self._pos
            bigger = self._buffer
            if need > size or kept == size:
                bigger = np.empty(max(min(need, 2 * size), kept + _CHUNK), np.uint8)
            self._shift(bigger, self._pos)
        stop = min(self._end + _CHUNK, len(self._buffer))
        into = self._buffer.data[self._end : stop]
        try:
            n = self._stream.readinto(into)
        except StreamDamage as error:
            self._broken, n = str(error), 0
        except OSError as error:
            self._broken, n = f"cannot be read further: {error.strerror}", 0
        self._end += n
        self._eof = n == 0 and (not self._follow or bool(self._broken))
        return n > 0

    def _compact(self) -> None:
        """Move a short rest to the front, so that a batch is not cut short by the end of the buffer."""
        start = self._last_frame if 0 <= self._last_frame < self._pos else self._pos  # see `_resync`
        if start and self._end - start <= _CHUNK:
            self._shift(self._buffer, start)

    def _shift(self, into: U8s, start: int) -> None:
        """Move what is wanted, from `start` on, to the front of `into`."""
        into[: self._end - start] = self._buffer[start : self._end]
        self._buffer = into
        self._last_frame -= start
        self._base += start
        self._pos -= start
        self._end -= start

    def _fill(self, container: Container) -> tuple[int, bool]:
        """Fill the arena; return how many rows, and whether there may be more."""
        row = 0
        if self._lost is not None and not self._resync(container):
            return row, self._lost is not None
        while True:
            row, why = self._take(container, row)
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
            if why == MORE and not self._eof:
                need = container.need(self._buffer, self._pos, self._end)
                if row and (self._pos + need > len(self._buffer) or self._end == len(self._buffer)):
                    return row, True  # rows point into the buffer: hand them out before it moves
                if self._more(need):
                    continue
                if not self._eof:
                    return row, True  # followed: hand out what has come
            if why == MORE and self._pos == self._end:
                if self._broken:
                    self._note(self._base + self._end, self._broken)
                    self._broken = ""
                return row, False
            if row:
                return row, True  # the way on moves the buffer
            self._lose(container, why)
            if not self._resync(container):
                return row, self._lost is not None

    def _take(self, container: Container, row: int) -> tuple[int, int]:
        """Walk and decode what is in the buffer (of a plain pcap file: and what can be read behind it).

        Returns the row behind, and why the walk ended.
        """
        a, start, stream = self._arena, row, self._stream
        if isinstance(container, Pcap) and isinstance(stream, Raw) and stream.fd >= 0 and not self._eof:
            end = self._end
            row, self._pos, self._end, dirty, why = take_pcap(
                stream.fd, self._buffer, self._pos, end, row, a.rows, a.i64, a.u64, a.i32, a.i16, a.u8,
                *container.layout(),
            )  # fmt: skip
            stream.took(self._end - end)
        else:
            row, self._pos, why = container.index(self._buffer, self._pos, self._end, row, a)
            dirty = decode(self._buffer, start, row, a.i64, a.u64, a.i32, a.i16, a.u8) if row > start else 0
        if row > start:
            a.dirty |= dirty
            self._last_frame = int(a.i64[FRAME, row - 1])
            if self._recovering:
                a.u8[RECOVERED, start:row] = 1
                a.dirty |= HAS_RECOVERED
        return row, why

    def _lose(self, container: Container, why: int) -> None:
        """There is damage at `_pos`.

        The record before may have told a wrong length and swallowed good ones: look from its frame on.
        """
        bad = self._base + self._pos
        if why == MORE:
            what = self._broken or f"the file ends {self._end - self._pos} bytes into a record"
            self._broken = ""
        else:
            what = container.complaint(self._buffer, self._pos, self._end)
        swallowed = self._last_frame >= 0 and bad > self._last_bad
        self._pos = self._last_frame if swallowed else self._pos + 1
        self._last_bad = max(self._last_bad, bad)
        self._last_frame = -1
        self._lost = (bad, what, why)

    def _resync(self, container: Container) -> bool:
        """Step over damage; True if records go on. `_lost` stays set where more of a growing file is awaited."""
        assert self._lost is not None
        bad, what, why = self._lost
        while True:
            found = container.find(self._buffer, self._pos, self._end, self._eof)
            if found >= 0:
                self._pos, self._lost = found, None
                self._recovering = True
                self._note(bad, what, self._base + found)
                return True
            if self._eof:
                self._lost = None
                zeros = isinstance(container, Pcap) and container.holed and not container.keep_zeros
                if zeros and why == DAMAGE and self._base <= bad:
                    # nothing but zeros to the end: empty records, as tshark counts them
                    container.keep_zeros = True  # type: ignore[attr-defined]
                    self._pos = bad - self._base
                    return True
                self._pos = self._end
                self._note(bad, what)
                return False
            self._pos = max(self._pos, self._end - _KEEP)
            if not self._more(_KEEP + _CHUNK) and not self._eof:
                return False

    def _note(self, offset: int, what: str, resumed: int = -1) -> None:
        self._stats.note(Damage(self._stream.name, offset, what, resumed))
