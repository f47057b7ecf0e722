"""Hardware timestamps: what a tap or switch wrote behind (or in place of the FCS of) each frame.

Recognised by proof, never by luck. Only bytes past the IP total length are looked at. A trailer whose
"original FCS" is the CRC of the frame before it proves the format at once; without such a proof more than
nine packets in ten must carry the same device and port, and a time within a day of the capture's. Formats
with a 32-bit counter need the device's keyframes. cPacket and VSS trailers cannot be proven: they are
read only when configured. The form with EtherType 0xD28B is read by the decoder itself.

Sources: Wireshark's packet-metamako.c, packet-exablaze.c, packet-ixiatrailer.c, packet-vssmonitoring.c;
the exact-capture format; public notes on ExaLINK and Arista 7150 keyframes.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

from telemetry.capture.columns import (
    CAP,
    FRAME,
    HAS_HW,
    HAS_KEYFRAME,
    HAS_TRAILER,
    HW_DEV,
    HW_PORT,
    HW_SUB,
    HW_TIME,
    L3_END,
    NULL,
    TIME,
    VERSION,
    WIRE,
    Arena,
    F32s,
    I32s,
    I64s,
    U8s,
    int64,
    uint64,
)
from telemetry.capture.decode import be16, be32
from telemetry.capture.keyframes import Keyframes
from telemetry.errors import ConfigError

__all__ = ["CONFIGURED", "Stamper", "crc32"]

METAMAKO, HPT, IXIA, EXPCAP, CPACKET, VSS, VSS2 = range(1, 8)
CONFIGURED: Final = {
    "metamako": METAMAKO,
    "hpt": HPT,
    "ixia": IXIA,
    "expcap": EXPCAP,
    "cpacket": CPACKET,
    "vss": VSS,
    "vss2": VSS2,
}
_NAMES: Final = {code: name for name, code in CONFIGURED.items()}
_LEAST: Final = 4  # packets that must agree where there is no proof
_DAY: Final = 86_400


def _crc_table() -> I64s:
    table = np.zeros(256, np.int64)
    for i in range(256):
        c = i
        for _ in range(8):
            c = (c >> 1) ^ (0xEDB88320 if c & 1 else 0)
        table[i] = c
    return table


CRC: Final = _crc_table()


@njit(cache=True, nogil=True)
def crc32(data: U8s, start: int, stop: int) -> int:
    """CRC-32 of Ethernet over ``data[start:stop]``, as the int whose little-endian bytes end a frame."""
    c = int64(0xFFFFFFFF)
    for o in range(start, stop):
        c = (c >> 8) ^ CRC[(c ^ data[o]) & 0xFF]
    return c ^ int64(0xFFFFFFFF)


@njit(cache=True, nogil=True)
def _le32(data: U8s, o: int) -> int:
    return int64(data[o]) | (int64(data[o + 1]) << 8) | (int64(data[o + 2]) << 16) | (int64(data[o + 3]) << 24)


@njit(cache=True, nogil=True)
def _read(data: U8s, kind: int, off: int, lowest: int, end: int, now: int) -> tuple[bool, int, float, int, int, int]:
    """Read a trailer of `kind` that ends at `end`, in a frame from `off`, not reaching below `lowest`.

    Returns (plausible, ns, fraction of a ns, device, port, where the trailer with its original FCS begins).
    Plausible: in bounds, well formed, and within a day of `now` (ns).
    """
    bad = (False, int64(0), 0.0, -1, -1, int64(-1))
    low = max(off, lowest)
    sub = np.nan
    device = int64(-1)
    port = int64(-1)
    if kind == METAMAKO:
        if end - 16 < low:
            return bad
        sec = int64(be32(data, end - 12))
        ns = int64(be32(data, end - 8))
        flags = data[end - 4]
        if flags & 0xC8:
            return bad
        device = int64(be16(data, end - 3))
        port = int64(data[end - 1])
        begin = end - 12
        if flags & 2:
            final = False
            while not final:
                if begin - 4 < low:
                    return bad
                word = be32(data, begin - 4)
                final = word & 0x20 != 0
                tag = word & 0x1F
                extra = ((word >> 6) & 0x3FF) + 1 if tag == 0x1F else (word >> 6) & 3
                if tag == 1:
                    sub = (word >> 8) / 16_777_216.0
                begin -= 4 * (extra + 1)
                if begin < low:
                    return bad
        begin -= 4
    elif kind == HPT:
        if end - 16 < low:
            return bad
        begin = end - 16
        device = int64(data[begin + 4])
        port = int64(data[begin + 5])
        sec = int64(be32(data, begin + 6))
        high = int64(be32(data, begin + 10))
        frac = (high << 8) | int64(data[begin + 14])
        # frac * 1e9 / 2^40: in two halves, exact
        upper = (frac >> 20) * 1_000_000_000
        total = upper + (((frac & 0xFFFFF) * 1_000_000_000) >> 20)
        ns = total >> 20
        sub = (total & 0xFFFFF) / 1_048_576.0
    elif kind == IXIA:
        if end - 15 < low or be16(data, end - 4) != 0xAF12:
            return bad
        size = int64(data[end - 5])
        begin = end - 5 - size
        if begin < low:
            return bad
        check = 0
        for k in range(0, size + 3, 2):
            check += data[begin + k] << 8
            if k + 1 < size + 3:
                check += data[begin + k + 1]
        while check >> 16:
            check = (check & 0xFFFF) + (check >> 16)
        if (check ^ 0xFFFF) != be16(data, end - 2):
            return bad
        at = begin
        sec = int64(-1)
        ns = int64(0)
        while at + 2 <= end - 5:
            tag = data[at]
            length = int64(data[at + 1])
            if at + 2 + length > end - 5:
                return bad
            if 3 <= tag <= 7 and length == 8:
                sec = int64(be32(data, at + 2))
                ns = int64(be32(data, at + 6))
            at += 2 + length
    elif kind == EXPCAP:
        if end - 16 < low:
            return bad
        begin = end - 16
        sec = int64(_le32(data, begin))
        ps = int64(_le32(data, begin + 4)) | (int64(data[begin + 8]) << 32)
        ns = ps // 1000
        sub = (ps % 1000) / 1000.0
        device = int64(data[begin + 10])
        port = int64(data[begin + 11])
    elif kind == CPACKET:
        if end - 16 < low:
            return bad
        begin = end - 16
        sec = int64(be32(data, begin + 4))
        ns = int64(be32(data, begin + 8))
        device = int64(be16(data, begin + 13))
        port = int64(data[begin + 15])
    else:
        width = 1 if kind == VSS else 2
        begin = end - 8 - width
        if begin < low:
            return bad
        sec = int64(be32(data, begin))
        ns = int64(be32(data, begin + 4)) & 0x3FFFFFFF
        port = int64(data[begin + 8]) if width == 1 else int64(be16(data, begin + 8))
    if ns >= 1_000_000_000 or sec < _DAY or abs(sec - now // 1_000_000_000) > _DAY:
        return bad
    return True, sec * 1_000_000_000 + ns, sub, device, port, begin


@njit(cache=True, nogil=True)
def _candidates(n: int, i64: I64s, i32: I32s, u8: U8s, rows: I64s) -> tuple[int, int]:
    """Put the rows with room for a trailer into `rows`; (how many, how many IP packets were captured whole)."""
    found = 0
    whole = 0
    for number in range(n):
        i = uint64(number)
        end = i64[FRAME, i] + int64(i32[CAP, i])
        if u8[VERSION, i] == 0 or i32[CAP, i] < i32[WIRE, i] or i64[TIME, i] == NULL:
            continue
        whole += 1
        if 0 <= i64[L3_END, i] <= end - 10:
            rows[found] = number
            found += 1
    return found, whole


@njit(cache=True, nogil=True)
def _probe(data: U8s, rows: I64s, kind: int, fcs: int, i64: I64s, i32: I32s) -> tuple[int, int, int]:
    """Count in `rows`: (plausible trailers, those with the commonest device and port, proven ones)."""
    plausible = 0
    proven = 0
    same = 0
    chosen = int64(-1)
    lead = 0
    for turn in range(2):
        for i in rows:
            off = i64[FRAME, i]
            cap = int64(i32[CAP, i])
            if kind == EXPCAP and cap != int64(i32[WIRE, i]) + 16:
                continue
            ok, _, _, device, port, begin = _read(data, kind, off, i64[L3_END, i], off + cap - fcs, i64[TIME, i])
            if not ok:
                continue
            mark = device * 65_536 + port
            if turn == 0:
                plausible += 1
                if kind == IXIA or (kind <= HPT and crc32(data, off, begin) == _le32(data, begin)):
                    proven += 1
                if lead == 0:  # the majority, if there is one
                    chosen = mark
                lead += 1 if mark == chosen else -1
            elif mark == chosen:
                same += 1
    return plausible, same, proven


@njit(cache=True, nogil=True)
def _stamp(data: U8s, n: int, kind: int, fcs: int, i64: I64s, i32: I32s, f32: F32s) -> int:
    """Write the stamps of a known format; returns how many."""
    count = 0
    for i in range(n):
        off = i64[FRAME, i]
        cap = int64(i32[CAP, i])
        wire = int64(i32[WIRE, i])
        low = max(i64[L3_END, i], off)
        if i64[TIME, i] == NULL or cap < wire:
            continue
        if kind == EXPCAP:
            if cap != wire + 16 or wire == 0:
                continue
            low = off + cap - 16
        ok, ns, sub, device, port, _ = _read(data, kind, off, low, off + cap - fcs, i64[TIME, i])
        if ok:
            i64[HW_TIME, i] = ns
            f32[HW_SUB, i] = sub
            i32[HW_DEV, i] = device
            i32[HW_PORT, i] = port
            count += 1
    return count


class Stamper:
    """The hardware stamps of one file: finds out the format, then reads it.

    Parameters
    ----------
    configured : str, optional
        One of `CONFIGURED`: read this format without asking for proof.
    """

    def __init__(self, configured: str | None = None) -> None:
        if configured is not None and configured not in CONFIGURED:
            raise ConfigError(f"stamps: expected one of {', '.join(CONFIGURED)}, got {configured!r}")
        self._kind = CONFIGURED[configured] if configured else 0
        self._fcs = -1
        self._keyframes = Keyframes()
        self._ethertype = False

    @property
    def format(self) -> str:
        """The format found ("" while there is none)."""
        return _NAMES.get(self._kind, "") or self._keyframes.format or ("arista7280" if self._ethertype else "")

    def apply(self, arena: Arena, data: U8s, n: int) -> int:
        """Fill in the hardware columns of rows [0, n); returns how many stamps there are."""
        a = arena
        count = int(np.count_nonzero(a.i64[HW_TIME, :n] != NULL)) if a.dirty & HAS_HW else 0
        self._ethertype |= count > 0
        if self._keyframes.format or a.dirty & HAS_KEYFRAME:
            found = self._keyframes.apply(a, data, n)
            if found:
                a.dirty |= HAS_HW
                return count + found
        if not self._kind and a.dirty & HAS_TRAILER:
            self._recognise(a, data, n)
        if self._kind:
            if self._fcs < 0:
                self._fcs = self._place(a, data, n)
            found = int(_stamp(data, n, self._kind, max(self._fcs, 0), a.i64, a.i32, a.f32))
            if found:
                a.dirty |= HAS_HW
            count += found
        return count

    def _recognise(self, a: Arena, data: U8s, n: int) -> None:
        rows, whole = self._rows(a, n)
        best = (0, 0)
        for kind, fcs in ((METAMAKO, 0), (METAMAKO, 4), (HPT, 0), (HPT, 4), (IXIA, 0), (IXIA, 4), (EXPCAP, 0)):
            plausible, same, proven = _probe(data, rows, kind, fcs, a.i64, a.i32)
            agreed = kind != IXIA and plausible >= _LEAST and plausible > 0.9 * whole and same > 0.9 * plausible
            if (proven or agreed) and (proven, plausible) > best:
                best = (proven, plausible)
                self._kind, self._fcs = kind, fcs

    def _place(self, a: Arena, data: U8s, n: int) -> int:
        """For a configured format: whether a new FCS follows the trailer (4), or not (0); -1 not known yet."""
        rows, _ = self._rows(a, n)
        none, four = (_probe(data, rows, self._kind, fcs, a.i64, a.i32) for fcs in (0, 4))
        if none[0] == four[0] == 0:
            return -1
        return 0 if (none[2], none[0]) >= (four[2], four[0]) else 4

    def _rows(self, a: Arena, n: int) -> tuple[I64s, int]:
        rows = np.empty(n, np.int64)
        found, whole = _candidates(n, a.i64, a.i32, a.u8, rows)
        return rows[:found], int(whole)
