"""pcapng: sections, interfaces, blocks (draft-ietf-opsawg-pcapng).

The kernel walks packet blocks and skips unknown ones; section headers, interface descriptions and
statistics are few and are read in Python.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numba import njit

from telemetry.capture.columns import CAP, FRAME, IFACE, LINK, NULL, TIME, WIRE, Arena, I32s, I64s, U8s, int64, uint64
from telemetry.capture.container import max_capture, u32

__all__ = ["Pcapng"]

_SHB, _IDB, _PB, _SPB, _NRB, _ISB, _EPB = 0x0A0D0D0A, 1, 2, 3, 4, 5, 6
MAX_BLOCK: Final = 16 << 20
_MAX_INTERFACES: Final = 1 << 16

# Columns of the interface table.
_I_LINK, _I_SNAP, _I_KIND, _I_ARG, _I_OFFSET, _I_LONGEST, _I_SCALE, _I_MOST = range(8)


@njit(cache=True, nogil=True)
def _ticks_to_ns(high: int, low: int, table: I64s, i: int) -> int:
    """64-bit ticks to ns, rounded down; exact for every resolution whose result fits in int64, else `NULL`."""
    ticks = (uint64(high) << uint64(32)) | uint64(low)
    arg = table[_I_ARG, i]
    if table[_I_KIND, i] == 10:
        if arg <= 9:
            if ticks > uint64(table[_I_MOST, i]):
                return NULL
            ns = ticks * uint64(table[_I_SCALE, i])
        else:
            ns = ticks // uint64(table[_I_SCALE, i])
    else:
        one = uint64(1_000_000_000)
        whole = ticks >> uint64(arg) if arg < 64 else uint64(0)
        if whole > uint64(9_223_372_035):
            return NULL
        part = ticks - (whole << uint64(arg)) if arg < 64 else ticks
        # part * 1e9 >> arg in 96 bits; upper < 2^62, so the carry cannot overflow
        lower = (part & uint64(0xFFFFFFFF)) * one
        if arg <= 32:
            ns = whole * one + (lower >> uint64(arg))
        elif arg < 96:
            mixed = (part >> uint64(32)) * one + (lower >> uint64(32))
            ns = whole * one + (mixed >> uint64(arg - 32))
        else:
            ns = uint64(0)
    if ns > uint64(9_223_372_036_854_775_807):
        return NULL
    offset = table[_I_OFFSET, i]
    second = int64(ns) // 1_000_000_000
    if offset > 9_223_372_034 - second or offset < -9_223_372_034:
        return NULL
    return int64(ns) + offset * 1_000_000_000


@njit(cache=True, nogil=True)
def _drop_count(data: U8s, at: int, stop: int, big: bool) -> int:
    """The drop count among the options of an enhanced packet block in ``data[at:stop]``."""
    while at + 12 <= stop:
        word = u32(data, at, big)
        code = word >> 16 if big else word & 0xFFFF
        size = int64(word & 0xFFFF if big else word >> 16)
        if code == 0:
            break
        if code == 4 and size == 8:
            low = u32(data, at + 8, big) if big else u32(data, at + 4, big)
            return int64(low)  # 32 bits of it: nobody lost more between two packets
        at += 4 + ((size + 3) & ~3)
    return 0


@njit(cache=True, nogil=True)
def _walk_pcapng(
    data: U8s, pos: int, end: int, row: int, rows: int, i64: I64s, i32: I32s, big: bool, table: I64s, interfaces: int
) -> tuple[int, int, int, int]:
    """As `Container.index`; the fourth is the sum of drops told by obsolete packet blocks."""
    drops = 0
    why = 0
    while True:
        if row >= rows:
            why = 0
            break
        if pos + 12 > end:
            why = 1
            break
        kind = int64(u32(data, pos, big))
        if kind in (_SHB, _IDB, _ISB):
            why = 3
            break
        size = int64(u32(data, pos + 4, big))
        if size < 12 or size > MAX_BLOCK:
            why = 2
            break
        padded = (size + 3) & ~3
        if pos + padded > end:
            why = 1
            break
        if u32(data, pos + padded - 4, big) != size:
            why = 2
            break
        if kind in (_EPB, _PB):
            if size < 32:
                why = 2
                break
            if kind == _EPB:
                iface = int64(u32(data, pos + 8, big))
                lost = 0
            else:
                both = int64(u32(data, pos + 8, big))
                iface = both >> 16 if big else both & 0xFFFF
                lost = both & 0xFFFF if big else both >> 16
                if lost == 0xFFFF:
                    lost = 0
            cap = int64(u32(data, pos + 20, big))
            if iface >= interfaces or cap > size - 32 or cap > table[_I_LONGEST, iface]:
                why = 2
                break
            drops += lost
            if kind == _EPB and size > 32 + cap + 3:
                drops += _drop_count(data, pos + 28 + ((cap + 3) & ~3), pos + padded - 4, big)
            i64[TIME, row] = _ticks_to_ns(u32(data, pos + 12, big), u32(data, pos + 16, big), table, iface)
            i64[FRAME, row] = pos + 28
            i32[CAP, row] = cap
            i32[WIRE, row] = min(int64(u32(data, pos + 24, big)), 0x7FFFFFFF)
            i32[LINK, row] = table[_I_LINK, iface]
            i32[IFACE, row] = iface
            row += 1
        elif kind == _SPB:
            if size < 16 or interfaces == 0:
                why = 2
                break
            wire = int64(u32(data, pos + 8, big))
            cap = min(wire, size - 16)
            if table[_I_SNAP, 0] > 0:
                cap = min(cap, table[_I_SNAP, 0])
            if cap > table[_I_LONGEST, 0]:
                why = 2
                break
            i64[TIME, row] = NULL
            i64[FRAME, row] = pos + 12
            i32[CAP, row] = cap
            i32[WIRE, row] = min(wire, 0x7FFFFFFF)
            i32[LINK, row] = table[_I_LINK, 0]
            i32[IFACE, row] = 0
            row += 1
        pos += padded
    return row, pos, why, drops


@njit(cache=True, nogil=True)
def _find_block(data: U8s, pos: int, end: int, last: bool, big: bool, interfaces: int) -> int:
    """First position of a whole block of a known kind that another block, or the end of the file, follows."""
    for start in range(pos, end - 11):
        at = start
        links = 0
        while links < 2:
            if at == end and last and links > 0:
                return start
            if at + 12 > end:
                break
            kind = int64(u32(data, at, big))
            size = int64(u32(data, at + 4, big))
            if (
                kind != _SHB
                and (kind == 0 or kind > 10)
                and kind & 0xFFFFF000 != 0
                and kind != 0xBAD
                and kind != 0x40000BAD
            ):
                break
            if kind == _SHB and links > 0:
                links = 2
                break
            if size < 12 or size % 4 != 0 or size > MAX_BLOCK or at + size > end:
                break
            if u32(data, at + size - 4, big) != size:
                break
            if kind == _EPB and (
                size < 32 or u32(data, at + 8, big) >= interfaces or u32(data, at + 20, big) > size - 32
            ):
                break
            if (kind == _SPB and size < 16) or (kind == _PB and size < 32):
                break
            links += 1
            at += size
        if links >= 2:
            return start
    return -1


class Pcapng:
    """A walk over pcapng. Interface numbers start anew in each section, as the format says."""

    name = "pcapng"
    head = 0

    def __init__(self) -> None:
        self.big = False
        self.line_rate = 0
        self._lost = 0
        self._table = np.zeros((8, 16), np.int64)
        self._interfaces = 0
        self._statistics: dict[int, int] = {}

    def index(self, data: U8s, pos: int, end: int, row: int, arena: Arena) -> tuple[int, int, int]:
        row, pos, why, drops = _walk_pcapng(
            data, pos, end, row, arena.rows, arena.i64, arena.i32, self.big, self._table, self._interfaces
        )
        self._lost += drops
        return row, pos, why

    def _size(self, data: U8s, pos: int, end: int) -> tuple[int, str]:
        """Length of the block at `pos` (0: not known yet, -1: damaged) and the byte order."""
        order = ">" if self.big else "<"
        if pos + 12 > end:
            return 0, order
        if struct.unpack_from("<I", data.data, pos)[0] == _SHB:
            magic = bytes(data[pos + 8 : pos + 12])
            if magic == b"\x1a\x2b\x3c\x4d":
                order = ">"
            elif magic == b"\x4d\x3c\x2b\x1a":
                order = "<"
            else:
                return -1, order
        size: int = struct.unpack_from(order + "I", data.data, pos + 4)[0]
        return (size if 12 <= size <= MAX_BLOCK else -1), order

    def need(self, data: U8s, pos: int, end: int) -> int:
        size, _ = self._size(data, pos, end)
        return (size + 3) & ~3 if size > 0 else 12

    def control(self, data: U8s, pos: int, end: int) -> int:
        size, order = self._size(data, pos, end)
        if size < 0:
            return 0
        padded = (size + 3) & ~3
        kind = struct.unpack_from(order + "I", data.data, pos)[0]
        if struct.unpack_from(order + "I", data.data, pos + padded - 4)[0] != size:
            return 0
        body = bytes(data[pos + 8 : pos + padded - 4])
        if kind == _SHB:
            if size < 28 or struct.unpack_from(order + "H", body, 4)[0] != 1:
                return 0
            self.big = order == ">"
            self._interfaces = 0
            self._fold()
        elif kind == _IDB:
            if size < 20 or self._interfaces >= _MAX_INTERFACES:
                return 0
            self._describe(order, body)
        elif kind == _ISB and len(body) >= 12:
            drops = 0
            for code, value in _options(order, body[12:]):
                if code in (5, 7) and len(value) == 8:
                    drops += struct.unpack(order + "Q", value)[0]
            self._statistics[struct.unpack_from(order + "I", body)[0]] = min(drops, 1 << 62)
            self._statistics = dict(list(self._statistics.items())[:_MAX_INTERFACES])
        return padded

    def _describe(self, order: str, body: bytes) -> None:
        link, _, snap = struct.unpack_from(order + "HHI", body)
        kind, arg, offset = 10, 6, 0
        for code, value in _options(order, body[8:]):
            if code == 9 and len(value) == 1:
                kind, arg = (2, value[0] & 0x7F) if value[0] & 0x80 else (10, value[0])
            elif code == 8 and len(value) == 8:
                self.line_rate = max(self.line_rate, min(struct.unpack(order + "Q", value)[0], 1 << 62))
            elif code == 14 and len(value) == 8:
                offset = struct.unpack(order + "q", value)[0]
        i = self._interfaces
        if i == self._table.shape[1]:
            self._table = np.concatenate([self._table, np.zeros_like(self._table)], axis=1)
        scale = 10 ** min(abs(9 - arg), 18) if kind == 10 else 1
        most = ((1 << 63) - 1) // scale
        self._table[:, i] = (link, snap, kind, arg, offset, max_capture(link), scale, most)
        self._interfaces += 1

    def _fold(self) -> None:
        """A new section: what the interfaces of the last one dropped stays counted."""
        self._lost += sum(self._statistics.values())
        self._statistics = {}

    @property
    def dropped(self) -> int:
        """Packets that packet blocks and interface statistics say were lost."""
        return self._lost + sum(self._statistics.values())

    def complaint(self, data: U8s, pos: int, end: int) -> str:
        kind, size = struct.unpack_from(">II" if self.big else "<II", data.data, pos)
        return f"block of type {kind:#x} and length {size} does not hold together"

    def find(self, data: U8s, pos: int, end: int, last: bool) -> int:
        return int(_find_block(data, pos, end, last, self.big, self._interfaces))

    def resume(self) -> dict[str, object]:
        return {"big": self.big, "line_rate": self.line_rate, "interfaces": self._table[:, : self._interfaces].tolist()}

    @classmethod
    def resumed(cls, state: Mapping[str, Any]) -> Pcapng:
        """A walk that goes on where `resume` was called."""
        self = cls()
        self.big = state["big"]
        self.line_rate = state.get("line_rate", 0)
        self._table = np.array(state["interfaces"], np.int64).reshape(8, -1)
        self._interfaces = self._table.shape[1]
        self._table = np.concatenate([self._table, np.zeros((8, 16), np.int64)], axis=1)
        return self


def _options(order: str, body: bytes) -> list[tuple[int, bytes]]:
    out, at = [], 0
    while at + 4 <= len(body):
        code, size = struct.unpack_from(order + "HH", body, at)
        if code == 0 or at + 4 + size > len(body):
            break
        out.append((code, body[at + 4 : at + 4 + size]))
        at += 4 + ((size + 3) & ~3)
    return out
