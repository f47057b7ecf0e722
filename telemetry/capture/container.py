"""Containers: bytes -> records, incrementally.

A container walks a buffer and writes, for each whole record, its time, lengths, link type and offset
into the rows of an arena. It keeps no bytes: what is not whole yet is walked again when more has come.
So files, pipes, decompressors and growing files are all the same to it.

Sources: the pcap file format (draft-ietf-opsawg-pcap), libpcap's sf-pcap.c for the patched variants.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final, Protocol

import numpy as np
from numba import njit

from telemetry.capture.columns import CAP, FRAME, IFACE, LINK, TIME, WIRE, Arena, I32s, I64s, U8s, int64, uint64
from telemetry.errors import InputError

__all__ = ["CONTROL", "DAMAGE", "FULL", "MORE", "Container", "Pcap", "max_capture", "u32", "walk_pcap"]

FULL, MORE, DAMAGE, CONTROL = range(4)
"""Why a walk ended: no row left; no whole record left; what is here is no record; a block for Python to read."""

NS: Final = 1_000_000_000


class Container(Protocol):
    """A walk over one kind of file."""

    @property
    def name(self) -> str: ...
    @property
    def head(self) -> int: ...
    @property
    def dropped(self) -> int:
        """Packets that the capture says it lost."""
        ...

    @property
    def line_rate(self) -> int:
        """Bits a second of the fastest interface, 0 if it is not told."""
        ...

    def index(self, data: U8s, pos: int, end: int, row: int, arena: Arena) -> tuple[int, int, int]:
        """Walk ``data[pos:end]`` into rows from `row`; return (row after, position after, why it ended)."""
        ...

    def need(self, data: U8s, pos: int, end: int) -> int:
        """How many bytes the record at `pos` takes, as far as ``data[pos:end]`` tells."""
        ...

    def control(self, data: U8s, pos: int, end: int) -> int:
        """Read the block at `pos` that `index` ended at; return how many bytes it takes, 0 if it is damaged."""
        ...

    def complaint(self, data: U8s, pos: int, end: int) -> str:
        """What is wrong with the record at `pos`."""
        ...

    def find(self, data: U8s, pos: int, end: int, last: bool) -> int:
        """The next position where records go on after damage, or -1; `last` if `end` is the file's."""
        ...

    def resume(self) -> dict[str, object]:
        """What a later reader of the same file must know besides the position (JSON types)."""
        ...


def max_capture(linktype: int) -> int:
    """The longest captured length that is believed (as libpcap and Wireshark do)."""
    return 128 << 20 if linktype in (231, 249) else 262_144


@njit(cache=True, nogil=True)
def u32(data: U8s, o: int, big: bool) -> int:
    # unsigned indices: numba then leaves out the test for negative ones, and LLVM sees one load
    a = data[uint64(o)]
    b = data[uint64(o + 1)]
    c = data[uint64(o + 2)]
    d = data[uint64(o + 3)]
    if big:
        return (a << 24) | (b << 16) | (c << 8) | d
    return a | (b << 8) | (c << 16) | (d << 24)


@njit(cache=True, nogil=True)
def walk_pcap(
    data: U8s,
    pos: int,
    end: int,
    row: int,
    rows: int,
    i64: I64s,
    i32: I32s,
    big: bool,
    head: int,
    unit: int,
    longest: int,
    link: int,
    swap: int,
    zeros: bool,
    near: I64s,
) -> tuple[int, int, int]:
    """Walk ``data[pos:end]`` into rows from `row`; return (row after, position after, why it ended).

    `near`: seconds of the first record, and of one not long ago (see `_find_pcap`).
    """
    why = 0
    first = row
    while True:
        if row >= rows:
            why = 0
            break
        if pos + head > end:
            why = 1
            break
        cap = int64(u32(data, pos + 8, big))
        wire = int64(u32(data, pos + 12, big))
        if swap == 2 or (swap == 1 and cap > wire):
            cap, wire = wire, cap
        if cap > longest:
            why = 2
            break
        if not zeros and cap == 0 and wire == 0 and u32(data, pos, big) == 0 and u32(data, pos + 4, big) == 0:
            why = 2  # a hole: blocks of a file that were never written
            break
        if pos + head + cap > end:
            why = 1
            break
        i64[TIME, row] = int64(u32(data, pos, big)) * 1_000_000_000 + int64(u32(data, pos + 4, big)) * unit
        i64[FRAME, row] = pos + head
        i32[CAP, row] = cap
        i32[WIRE, row] = min(wire, 0x7FFFFFFF)
        i32[LINK, row] = link
        i32[IFACE, row] = int64(u32(data, pos + 16, big)) & 0x7FFFFFFF if head == 24 else 0
        pos += head + cap
        row += 1
    if row > first:
        near[1] = i64[TIME, (first + row) // 2] // NS
        if near[0] < 0:
            near[0] = near[1]
    return row, pos, why


@njit(cache=True, nogil=True)
def _find_pcap(
    data: U8s, pos: int, end: int, last: bool, big: bool, head: int, unit: int, longest: int, near: I64s, swap: int
) -> int:
    """First position from which a chain of plausible records goes on, or reaches the end of the file.

    Four records are a chain if they are within a day of either time in `near` (s), eight if they are only
    within a day of each other; fewer if they end where the file ends.
    """
    for start in range(pos, end - head + 1):
        at = start
        links = 0
        before = int64(-1)
        anchored = False
        while True:
            if at == end and last and (links > 1 or (links == 1 and anchored)):
                return start
            if at + head > end:
                break
            sec = int64(u32(data, at, big))
            frac = int64(u32(data, at + 4, big))
            cap = int64(u32(data, at + 8, big))
            wire = int64(u32(data, at + 12, big))
            if swap == 2 or (swap == 1 and cap > wire):
                cap, wire = wire, cap
            if cap > longest or cap == 0 or wire < cap or wire > 262_144 or frac * unit >= 1_000_000_000:
                links = -1
                break
            if links == 0:
                anchored = abs(sec - near[0]) <= 86_400 or abs(sec - near[1]) <= 86_400
            elif abs(sec - before) > 86_400:
                links = -1
                break
            before = sec
            if at + head + cap > end:
                break
            links += 1
            at += head + cap
            if links >= 8 or (anchored and links >= 4):
                return start
        if last and links >= 2 and anchored:
            return start  # a whole chain, and a record cut off by the end of the file
    return -1


class Pcap:
    """pcap in both byte orders, micro- and nanoseconds, and Kuznetsov's modified records.

    A file header of 24 bytes, then records: seconds, fraction, captured length, wire length (u32 each).
    """

    line_rate = 0
    MAGICS: Final = {
        0xA1B2C3D4: ("pcap", 16, 1000),
        0xA1B23C4D: ("pcap", 16, 1),
        0xA1B2CD34: ("modified pcap", 24, 1000),
        0x1C0001AC: ("IxVeriWave lcap", 16, 1),
        0x1C0001AB: ("IxVeriWave lcap", 16, 1),
    }

    def __init__(self, header: bytes, name: str) -> None:
        order = ">" if struct.unpack(">I", header[:4])[0] in self.MAGICS else "<"
        self._header = header
        magic, major, minor, _, _, self.snaplen, link = struct.unpack(order + "IHHiIII", header[:24])
        self.name, self._record, self._unit = self.MAGICS[magic]
        self.big = order == ">"
        self.head = 28 if magic >> 8 == 0x1C0001 else 24
        self.linktype = link & 0xFFFF
        self.dropped = 0
        self.holed = self.keep_zeros = False
        if major > 2 and major != 543:
            raise InputError(f"{name}: expected pcap version 2, got {major}.{minor}")
        # Old writers put the two lengths the other way round (libpcap, sf-pcap.c).
        self._swap = 2 if major == 543 or minor < 3 else 1 if minor == 3 else 0
        self._longest = max_capture(self.linktype)
        self._near = np.full(2, -1 << 40, np.int64)  # seconds of the first record, and of a recent one

    def index(self, data: U8s, pos: int, end: int, row: int, arena: Arena) -> tuple[int, int, int]:
        return walk_pcap(data, pos, end, row, arena.rows, arena.i64, arena.i32, *self.layout())

    def layout(self) -> tuple[bool, int, int, int, int, int, bool, I64s]:
        """What `walk_pcap` has to know of the file; it keeps the last of them up to date."""
        return (
            self.big, self._record, self._unit, self._longest, self.linktype, self._swap, self.keep_zeros, self._near,
        )  # fmt: skip

    def need(self, data: U8s, pos: int, end: int) -> int:
        if pos + self._record > end:
            return self._record
        lengths = struct.unpack_from(">II" if self.big else "<II", data.data, pos + 8)
        return self._record + min(min(lengths) if self._swap else lengths[0], self._longest)

    def control(self, data: U8s, pos: int, end: int) -> int:
        return 0

    def complaint(self, data: U8s, pos: int, end: int) -> str:
        cap = struct.unpack_from(">I" if self.big else "<I", data.data, pos + 8)[0]
        self.holed = cap == 0
        if self.holed:
            return "a hole of zero bytes"
        return f"captured length {cap} is more than {self._longest}"

    def find(self, data: U8s, pos: int, end: int, last: bool) -> int:
        longest = min(self._longest, max(self.snaplen & 0xFFFFFFFF, 64)) if self.snaplen else self._longest
        return int(
            _find_pcap(
                data, pos, end, last, self.big, self._record, self._unit, longest, self._near, self._swap
            )
        )  # fmt: skip

    def resume(self) -> dict[str, object]:
        return {"header": self._header.hex(), "near": self._near.tolist()}

    @classmethod
    def resumed(cls, state: Mapping[str, Any]) -> Pcap:
        """A walk that goes on where `resume` was called."""
        self = cls(bytes.fromhex(state["header"]), "")
        self._near[:] = state["near"]
        return self
