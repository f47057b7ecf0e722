"""Solaris snoop (RFC 1761)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from numba import njit

from telemetry.capture.columns import CAP, FRAME, IFACE, LINK, TIME, WIRE, Arena, I32s, I64s, U8s, int64
from telemetry.capture.container import NS, u32
from telemetry.errors import InputError

__all__ = ["Snoop"]


@njit(cache=True, nogil=True)
def _walk_snoop(
    data: U8s, pos: int, end: int, row: int, rows: int, i64: I64s, i32: I32s, link: int
) -> tuple[int, int, int, int]:
    drops = -1
    why = 0
    while True:
        if row >= rows:
            why = 0
            break
        if pos + 24 > end:
            why = 1
            break
        wire = int64(u32(data, pos, True))
        cap = int64(u32(data, pos + 4, True))
        size = int64(u32(data, pos + 8, True))
        if cap > 262_144 or size < 24 + cap or size > 24 + cap + 65_536:
            why = 2
            break
        if pos + size > end:
            why = 1
            break
        drops = int64(u32(data, pos + 12, True))
        i64[TIME, row] = int64(u32(data, pos + 16, True)) * 1_000_000_000 + int64(u32(data, pos + 20, True)) * 1000
        i64[FRAME, row] = pos + 24
        i32[CAP, row] = cap
        i32[WIRE, row] = min(wire, 0x7FFFFFFF)
        i32[LINK, row] = link
        i32[IFACE, row] = 0
        pos += size
        row += 1
    return row, pos, why, drops


@njit(cache=True, nogil=True)
def _find_snoop(data: U8s, pos: int, end: int, last: bool, near: int) -> int:
    for start in range(pos, end - 23):
        at = start
        links = 0
        while links < 3:
            if at == end and last and links > 0:
                return start
            if at + 24 > end:
                break
            wire = int64(u32(data, at, True))
            cap = int64(u32(data, at + 4, True))
            size = int64(u32(data, at + 8, True))
            sec = int64(u32(data, at + 16, True))
            if cap == 0 or cap > wire or wire > 262_144 or size < 24 + cap or size > 32 + cap:
                break
            if (near >= 0 and abs(sec - near) > 86_400) or u32(data, at + 20, True) >= 1_000_000 or at + size > end:
                break
            links += 1
            at += size
        if links == 3:
            return start
    return -1


class Snoop:
    """Solaris snoop, RFC 1761: big-endian records with a count of drops so far."""

    line_rate = 0

    def __init__(self, header: bytes, name: str) -> None:
        version, link = struct.unpack(">II", header[8:16])
        if version != 2:
            raise InputError(f"{name}: expected snoop version 2, got {version}")
        self._header = header
        self.name = "snoop"
        self.head = 16
        self.dropped = 0
        self.linktype = {0: 1, 4: 1, 2: 6, 5: 104, 8: 10}.get(link, 147)  # RFC 1761, section 4; 147: unknown
        self._near = -1

    def index(self, data: U8s, pos: int, end: int, row: int, arena: Arena) -> tuple[int, int, int]:
        after, pos, why, drops = _walk_snoop(data, pos, end, row, arena.rows, arena.i64, arena.i32, self.linktype)
        if after > row:
            self.dropped = drops
            self._near = int(arena.i64[TIME, (row + after) // 2]) // NS
        return after, pos, why

    def need(self, data: U8s, pos: int, end: int) -> int:
        if pos + 24 > end:
            return 24
        size: int = struct.unpack_from(">I", data.data, pos + 8)[0]
        return min(max(size, 24), 24 + 262_144 + 65_536)

    def control(self, data: U8s, pos: int, end: int) -> int:
        return 0

    def complaint(self, data: U8s, pos: int, end: int) -> str:
        cap, size = struct.unpack_from(">II", data.data, pos + 4)
        return f"captured length {cap} does not fit in a record of {size}"

    def find(self, data: U8s, pos: int, end: int, last: bool) -> int:
        return int(_find_snoop(data, pos, end, last, self._near))

    def resume(self) -> dict[str, object]:
        return {"header": self._header.hex(), "near": self._near}

    @classmethod
    def resumed(cls, state: Mapping[str, Any]) -> Snoop:
        """A walk that goes on where `resume` was called."""
        self = cls(bytes.fromhex(state["header"]), "")
        self._near = state["near"]
        return self
