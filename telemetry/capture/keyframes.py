"""Stamps that are counters: ExaLINK 32 bit and Arista 7150, tied to UTC by the device's keyframes.

The counter takes the place of the FCS (the last four bytes) or stands before it. A keyframe (one a second)
tells which counter value was which UTC time; one older than five seconds is stale, as the counter wraps
soon after. Sources: public notes on the n3550 timestamp decoder and on Arista 7150 keyframes.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from telemetry.capture.columns import (
    CAP,
    ETYPE,
    FRAME,
    HW_DEV,
    HW_PORT,
    HW_SUB,
    HW_TIME,
    NULL,
    PAYLOAD,
    PCAP,
    PROTO,
    TIME,
    WIRE,
    Arena,
    F32s,
    I16s,
    I32s,
    I64s,
    U8s,
    int64,
    uint64,
)
from telemetry.capture.decode import be16, be32, be64

__all__ = ["Keyframes"]

_EXALINK, _A7150 = 1, 2
_STALE_NS = 5_000_000_000
_NEAR_NS = 20_000_000  # how far counter time and capture time may drift apart between a keyframe and a packet
_DAY_NS = 86_400_000_000_000
_HZ = 350_000_000

# Columns of a keyframe.
_K_ROW, _K_UTC, _K_COUNT, _K_CAPTURED, _K_NUM, _K_DEN, _K_DEVICE, _K_PORT, _K_PLACE, _K_KIND = range(10)


@njit(cache=True, nogil=True)
def _collect(data: U8s, n: int, i64: I64s, i32: I32s, i16: I16s, frames: I64s, room: int) -> int:
    """Read the keyframes among rows [0, n) into `frames` from column 1 on; returns how many there are."""
    found = 0
    for i in range(n):
        if found >= room:
            break
        at = i64[TIME, i]
        off = i64[FRAME, i]
        end = off + int64(i32[CAP, i])
        if at == NULL:
            continue
        if i16[PROTO, i] == 253:
            o = i64[PAYLOAD, i]
            size = int64(i32[PCAP, i])
            if o < 0 or o + size > end:
                continue
        elif i32[ETYPE, i] == 0x88B5:
            o = off + 14
            while o + 2 <= end and o < off + 30 and be16(data, o - 2) != 0x88B5:
                o += 4
            size = end - o
        else:
            continue
        k = found + 1
        if size >= 40 and be32(data, o) == 0x45584B46 and data[o + 4] == 1:  # "EXKF", version 1
            frames[_K_UTC, k] = int64(be64(data, o + 8))
            frames[_K_COUNT, k] = int64(be64(data, o + 16) & uint64(0xFFFFFFFF))
            hertz = be64(data, o + 24)
            if hertz < uint64(1_000_000) or hertz > uint64(4_000_000_000):
                continue
            frames[_K_NUM, k] = 1
            frames[_K_DEN, k] = int64(hertz)
            frames[_K_DEVICE, k] = -1
            frames[_K_PORT, k] = -1
            frames[_K_PLACE, k] = 0
            frames[_K_KIND, k] = _EXALINK
        elif i16[PROTO, i] == 253 and size == 62 and 1 <= data[o + 60] <= 2:
            frames[_K_UTC, k] = int64(be64(data, o + 8))
            frames[_K_COUNT, k] = int64(be64(data, o) & uint64(0x7FFFFFFF))
            num = be64(data, o + 24)
            den = be64(data, o + 32)
            frames[_K_NUM, k] = 1
            frames[_K_DEN, k] = _HZ
            if den > uint64(0) and num > uint64(0):
                ratio = float(num) / float(den)
                if 0.999 < ratio < 1.001:
                    frames[_K_DEN, k] = int64(round(_HZ / ratio))
            frames[_K_DEVICE, k] = be16(data, o + 56)
            frames[_K_PORT, k] = be16(data, o + 58)
            frames[_K_PLACE, k] = 8 if data[o + 60] == 1 else 4
            frames[_K_KIND, k] = _A7150
        else:
            continue
        if frames[_K_UTC, k] < 0 or abs(frames[_K_UTC, k] - at) > _DAY_NS:
            continue
        frames[_K_ROW, k] = i
        frames[_K_CAPTURED, k] = at
        found += 1
    return found


@njit(cache=True, nogil=True)
def _count(
    data: U8s, n: int, i64: I64s, i32: I32s, f32: F32s, frames: I64s, first: int, found: int, place: int, write: bool
) -> tuple[int, int]:
    """(rows that could be stamped, rows whose counter agrees with the capture's time); stamps them if `write`."""
    k = first
    rows = 0
    agree = 0
    for i in range(n):
        while k + 1 <= found and frames[_K_ROW, k + 1] <= i:
            k += 1
        if frames[_K_ROW, k] == i and k > 0:
            continue  # the keyframe itself
        at = i64[TIME, i]
        off = i64[FRAME, i]
        end = off + int64(i32[CAP, i])
        if at == NULL or i32[CAP, i] < i32[WIRE, i] or end - place < off + 14:
            continue
        since = at - frames[_K_CAPTURED, k]
        if abs(since) > _STALE_NS:
            continue
        rows += 1
        value = int64(be32(data, end - place))
        if frames[_K_KIND, k] == _A7150:
            value = ((value & ~0xFF) >> 1) | (value & 0x7F)
            ticks = (value - frames[_K_COUNT, k]) & 0x7FFFFFFF
            if ticks >= 0x40000000:
                ticks -= 0x80000000
        else:
            ticks = (value - frames[_K_COUNT, k]) & 0xFFFFFFFF
            if ticks >= 0x80000000:
                ticks -= 0x100000000
        scaled = ticks * 1_000_000_000
        ns = scaled // frames[_K_DEN, k]
        if abs(ns - since) > _NEAR_NS:
            continue
        agree += 1
        if write:
            i64[HW_TIME, i] = frames[_K_UTC, k] + ns
            f32[HW_SUB, i] = (scaled - ns * frames[_K_DEN, k]) / float(frames[_K_DEN, k])
            i32[HW_DEV, i] = frames[_K_DEVICE, k]
            i32[HW_PORT, i] = frames[_K_PORT, k]
    return rows, agree


class Keyframes:
    """The keyframes of one file, and where its packets carry their counter."""

    def __init__(self) -> None:
        self._frames = np.zeros((10, 64), np.int64)  # column 0: the last one of the batches before
        self._known = False
        self._place = 0
        self.format = ""

    def apply(self, a: Arena, data: U8s, n: int) -> int:
        """Stamp rows [0, n); returns how many."""
        room = self._frames.shape[1] - 1
        found = int(_collect(data, n, a.i64, a.i32, a.i16, self._frames, room))
        while found == room and room < n:
            grown = np.zeros((10, 4 * (room + 1)), np.int64)
            grown[:, 0] = self._frames[:, 0]
            self._frames, room = grown, grown.shape[1] - 1
            found = int(_collect(data, n, a.i64, a.i32, a.i16, self._frames, room))
        if not found and not self._known:
            return 0
        first = 0 if self._known else 1
        self.format = "exalink32" if self._frames[_K_KIND, first] == _EXALINK else "arista7150"
        if not self._place:
            self._place = self._find_place(a, data, n, first, found)
        count = 0
        if self._place:
            _, count = _count(data, n, a.i64, a.i32, a.f32, self._frames, first, found, self._place, True)
        if found:
            self._frames[:, 0] = self._frames[:, found]
            self._frames[_K_ROW, 0] = -1
            self._known = True
        return int(count)

    def _find_place(self, a: Arena, data: U8s, n: int, first: int, found: int) -> int:
        """4: the counter replaces the FCS; 8: an FCS follows it; 0: not known yet."""
        told = int(self._frames[_K_PLACE, first])
        if told:
            return told
        best, place = 0, 0
        for candidate in (4, 8):
            rows, agree = _count(data, n, a.i64, a.i32, a.f32, self._frames, first, found, candidate, False)
            if agree > best and agree > 0.9 * rows:
                best, place = agree, candidate
        return place
