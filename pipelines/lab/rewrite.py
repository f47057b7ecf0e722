"""Shift the stamps of a classic nanosecond pcap within a window (a simulated clock step)."""

from __future__ import annotations

import struct
from pathlib import Path

from telemetry.errors import InputError

__all__ = ["shift_capture"]

_NANO = b"\x4d\x3c\xb2\xa1"


def shift_capture(path: Path, window: tuple[int, int], offset_ns: int) -> int:
    """Add `offset_ns` to the stamps in ``[window[0], window[1])``, in place.

    Returns
    -------
    int
        How many packets were shifted.

    Raises
    ------
    InputError
        If the file is not a little-endian nanosecond pcap.
    """
    data = bytearray(path.read_bytes())
    if data[:4] != _NANO:
        raise InputError(f"{path}: expected a little-endian nanosecond pcap, got magic {data[:4].hex()}")
    at, shifted = 24, 0
    while at + 16 <= len(data):
        seconds, nanos, size, _ = struct.unpack_from("<IIII", data, at)
        stamp = seconds * 1_000_000_000 + nanos
        if window[0] <= stamp < window[1]:
            struct.pack_into("<II", data, at, *divmod(stamp + offset_ns, 1_000_000_000))
            shifted += 1
        at += 16 + size
    path.write_bytes(data)
    return shifted
