"""A plain pcap file: read, walked and decoded in one compiled loop.

Bytes are decoded while they are still in the second-level cache, and no step of Python lies between one stretch
of them and the next. What is rare (the end of the file, an error, damage) ends the loop: the caller deals with it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numba.core import types

from telemetry.capture.container import MORE, walk_pcap
from telemetry.capture.decode import decode

__all__ = ["take_pcap"]

_STRETCH: Final = 1 << 17
"""Bytes a reading: with the page cache's own copy of them, half of a second-level cache of 512 kB."""

_read: Any = types.ExternalFunction("read", types.int64(types.int32, types.uintp, types.uint64))


@njit(cache=True, nogil=True)
def take_pcap(  # type: ignore[no-untyped-def]
    fd, data, pos, end, row, rows, i64, u64, i32, i16, u8, big, head, unit, longest, link, swap, zeros, near,
):  # fmt: skip
    """Fill rows from `row` with the records at `pos`, reading on behind ``data[:end]`` as far as there is room.

    Returns
    -------
    row, position, end : behind what was decoded, walked and read
    dirty : sparse column groups that were written (``HAS_*``)
    why : as `walk_pcap`
    """
    where = np.uintp(data.ctypes.data)
    dirty = 0
    while True:
        before = row
        row, pos, why = walk_pcap(
            data, pos, end, row, rows, i64, i32, big, head, unit, longest, link, swap, zeros, near
        )  # fmt: skip
        if row > before:
            dirty |= decode(data, before, row, i64, u64, i32, i16, u8)
        room = min(_STRETCH, len(data) - end)
        if why != MORE or room == 0:
            break
        got = _read(fd, where + np.uintp(end), np.uint64(room))
        if got <= 0:
            break  # the end, or an error: the caller asks again and hears which
        end += got
    return row, pos, end, dirty, why
