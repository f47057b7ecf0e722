"""Endace ERF: records with a 32.32 fixed-point time, a type, extension headers and a loss counter.

Source: the ERF types reference guide as read by Wireshark's wiretap/erf.c.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from numba import njit

from telemetry.capture.columns import CAP, FRAME, IFACE, LINK, TIME, WIRE, Arena, I32s, I64s, U8s, int64, uint64

__all__ = ["Erf", "looks_like_erf"]

_PAD = 48
_LONGEST_TYPE = 27


@njit(cache=True, nogil=True)
def erf_time(data: U8s, o: int) -> int:
    """32.32 fixed point, little-endian, at `o` -> ns, rounded to the nearest."""
    frac = int64(data[o]) | (int64(data[o + 1]) << 8) | (int64(data[o + 2]) << 16) | (int64(data[o + 3]) << 24)
    sec = int64(data[o + 4]) | (int64(data[o + 5]) << 8) | (int64(data[o + 6]) << 16) | (int64(data[o + 7]) << 24)
    ns = (uint64(frac) * uint64(1_000_000_000) + uint64(0x80000000)) >> uint64(32)
    return sec * 1_000_000_000 + int64(ns)


@njit(cache=True, nogil=True)
def erf_frame(data: U8s, o: int, end: int) -> tuple[int, int]:
    """(offset of the frame, its link type) of the record at `o`; (-1, 0) if its headers do not fit."""
    kind = data[o + 8]
    at = o + 16
    more = kind & 0x80 != 0
    while more:
        if at + 8 > end:
            return -1, 0
        more = data[at] & 0x80 != 0
        at += 8
    kind &= 0x7F
    link = 197
    if kind == 2 or kind == 11 or kind == 16 or kind == 20:
        at += 2
        link = 1
    elif kind == 22 or kind == 23:
        link = 101
    elif kind == 1 or kind == 10 or kind == 15 or kind == 19:
        link = 104
    if at > end:
        return -1, 0
    return at, link


@njit(cache=True, nogil=True)
def _walk_erf(data: U8s, pos: int, end: int, row: int, rows: int, i64: I64s, i32: I32s) -> tuple[int, int, int, int]:
    lost = 0
    why = 0
    while True:
        if row >= rows:
            why = 0
            break
        if pos + 16 > end:
            why = 1
            break
        kind = data[pos + 8] & 0x7F
        size = (int64(data[pos + 10]) << 8) | int64(data[pos + 11])
        if size < 16 or (kind > _LONGEST_TYPE and kind != _PAD):
            why = 2
            break
        if pos + size > end:
            why = 1
            break
        if kind != _PAD:
            at, link = erf_frame(data, pos, pos + size)
            if at < 0:
                why = 2
                break
            wire = (int64(data[pos + 14]) << 8) | int64(data[pos + 15])
            cap = pos + size - at
            if kind != 27 and wire > 0:
                cap = min(cap, wire)
            if kind == 1 or kind == 2:
                lost += (int64(data[pos + 12]) << 8) | int64(data[pos + 13])
            i64[TIME, row] = erf_time(data, pos)
            i64[FRAME, row] = at
            i32[CAP, row] = cap
            i32[WIRE, row] = wire
            i32[LINK, row] = link
            i32[IFACE, row] = data[pos + 9] & 3
            row += 1
        pos += size
    return row, pos, why, lost


@njit(cache=True, nogil=True)
def _chain(data: U8s, start: int, end: int, last: bool, near: int) -> int:
    """How many plausible records follow one another from `start`, at most 4; 4 if they reach the end of the file."""
    at = start
    links = 0
    before = near
    while links < 4:
        if at == end and last and links > 0:
            return 4
        if at + 16 > end:
            break
        kind = data[at + 8] & 0x7F
        size = (int64(data[at + 10]) << 8) | int64(data[at + 11])
        wire = (int64(data[at + 14]) << 8) | int64(data[at + 15])
        if size < 16 or (kind > _LONGEST_TYPE and kind != _PAD) or (wire == 0 and kind != 27 and kind != _PAD):
            return 0
        if kind != 27 and kind != _PAD and size > wire + 16 + 64 + 18:
            return 0
        if kind == _PAD and links == 0 and near >= 0:
            return 0  # padding has no time to go by
        if kind != _PAD:
            sec = erf_time(data, at) // 1_000_000_000
            if sec == 0 or (before >= 0 and abs(sec - before) > 86_400):
                return 0
            before = sec
        links += 1
        at += size
        if at > end:
            return links if last and links > 2 else 0
    return links


@njit(cache=True, nogil=True)
def _find_erf(data: U8s, pos: int, end: int, last: bool, near: int) -> int:
    for start in range(pos, end - 15):
        if _chain(data, start, end, last, near) >= 4:
            return start
    return -1


def looks_like_erf(data: U8s, end: int, last: bool) -> bool:
    """Whether the first records of ``data[:end]`` hold together as ERF, which has no magic number."""
    return bool(end >= 16 and _chain(data, 0, end, last, -1) >= (4 if last else 3))


class Erf:
    """A walk over ERF records. Provenance records are kept and counted; padding records are not packets."""

    name = "ERF"
    line_rate = 0
    head = 0

    def __init__(self) -> None:
        self.dropped = 0
        self._near = -1

    def index(self, data: U8s, pos: int, end: int, row: int, arena: Arena) -> tuple[int, int, int]:
        after, pos, why, lost = _walk_erf(data, pos, end, row, arena.rows, arena.i64, arena.i32)
        self.dropped += lost
        if after > row:
            self._near = int(arena.i64[TIME, (row + after) // 2]) // 1_000_000_000
        return after, pos, why

    def need(self, data: U8s, pos: int, end: int) -> int:
        return max(struct.unpack_from(">H", data.data, pos + 10)[0], 16) if pos + 16 <= end else 16

    def control(self, data: U8s, pos: int, end: int) -> int:
        return 0

    def complaint(self, data: U8s, pos: int, end: int) -> str:
        kind, size = int(data[pos + 8]) & 0x7F, struct.unpack_from(">H", data.data, pos + 10)[0]
        return f"record of type {kind} and length {size} does not hold together"

    def find(self, data: U8s, pos: int, end: int, last: bool) -> int:
        return int(_find_erf(data, pos, end, last, self._near))

    def resume(self) -> dict[str, object]:
        return {"near": self._near}

    @classmethod
    def resumed(cls, state: Mapping[str, Any]) -> Erf:
        """A walk that goes on where `resume` was called."""
        self = cls()
        self._near = state["near"]
        return self
