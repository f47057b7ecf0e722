"""Addresses of packets: as text, and numbered for a dictionary."""

from __future__ import annotations

import socket
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["Addresses", "address_text"]


def address_text(version: int, hi: int, lo: int) -> str:
    """An address as people write it."""
    if version == 4:
        return socket.inet_ntop(socket.AF_INET, lo.to_bytes(4, "big"))
    return socket.inet_ntop(socket.AF_INET6, ((hi << 64) | lo).to_bytes(16, "big"))


@njit(cache=True, nogil=True)
def _codes(
    hi: Any, lo: Any, version: Any, n: int, slots: Any, key_hi: Any, key_lo: Any, key_version: Any, known: int, out: Any
) -> int:
    """Number addresses in order of appearance (open addressing); returns how many are known now.

    `slots` has a power-of-two length of more than twice the addresses that can come.
    """
    mask = len(slots) - 1
    last = -1
    for i in range(n):
        v = version[i]
        if v == 0:
            out[i] = -1
            continue
        h = hi[i]
        w = lo[i]
        if last >= 0 and key_lo[last] == w and key_hi[last] == h and key_version[last] == v:
            out[i] = last
            continue
        mixed = (h ^ (w * np.uint64(0x9E3779B97F4A7C15))) + np.uint64(v)
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
        at = np.int64(mixed >> np.uint64(33)) & mask
        while True:
            code = slots[at]
            if code < 0:
                code = known
                key_hi[known] = h
                key_lo[known] = w
                key_version[known] = v
                slots[at] = known
                known += 1
                break
            if key_lo[code] == w and key_hi[code] == h and key_version[code] == v:
                break
            at = (at + 1) & mask
        out[i] = code
        last = code
    return known


class Addresses:
    """The distinct addresses of a row group."""

    def __init__(self, rows: int) -> None:
        most = 4 * rows
        self._slots = np.full(1 << (2 * most - 1).bit_length(), -1, np.int32)
        self._hi, self._lo = np.zeros(most, np.uint64), np.zeros(most, np.uint64)
        self._version = np.zeros(most, np.uint8)
        self._known = 0

    def codes(self, hi: Any, lo: Any, version: Any, out: NDArray[np.int32]) -> None:
        self._known = _codes(
            hi, lo, version, len(hi), self._slots, self._hi, self._lo, self._version, self._known, out
        )  # fmt: skip

    def take(self) -> list[str]:
        """Their texts, and start anew."""
        keys = zip(self._version[: self._known], self._hi[: self._known], self._lo[: self._known], strict=True)
        texts = [address_text(int(v), int(hi), int(lo)) for v, hi, lo in keys]
        self._slots.fill(-1)
        self._known = 0
        return texts
