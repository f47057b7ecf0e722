"""How far the kernel believes its clock to be off: ``adjtimex(2)``, which any NTP or PTP daemon disciplines.

Whatever its source, ``clock_offset_ns`` is what is to be added to this host's clock: positive, it is behind.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

from telemetry.types import Int64, SeriesKey

__all__ = ["KernelClock"]

_UNSYNC, _NANO = 0x0040, 0x2000
_METRICS = (
    "clock_offset_ns", "clock_frequency_ppb", "clock_max_error_ns", "clock_unsynchronized", "clock_tai_offset_s"
)  # fmt: skip


class _Timex(ctypes.Structure):
    """``struct timex`` of <sys/timex.h>, 64 bit."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("time", ctypes.c_long * 2),
        ("tick", ctypes.c_long),
        ("ppsfreq", ctypes.c_long),
        ("jitter", ctypes.c_long),
        ("shift", ctypes.c_int),
        ("stabil", ctypes.c_long),
        ("jitcnt", ctypes.c_long),
        ("calcnt", ctypes.c_long),
        ("errcnt", ctypes.c_long),
        ("stbcnt", ctypes.c_long),
        ("tai", ctypes.c_int),
        ("rest", ctypes.c_int * 11),
    )


class KernelClock:
    """Offset, frequency, error bound, TAI less UTC, and whether anything disciplines the clock.

    Reads only (``modes = 0``).
    """

    name = "adjtimex"

    def __init__(self, host: str) -> None:
        label = {"source": "kernel"}
        self._keys = [SeriesKey.of(host, m, **label) for m in _METRICS]
        self._timex = _Timex()
        self._call = ctypes.CDLL(None, use_errno=True).adjtimex

    @property
    def tai_s(self) -> int:
        """TAI less UTC in seconds, or 0 where the kernel has not been told."""
        try:
            return int(self._read().tai)
        except OSError:
            return 0

    def discover(self) -> Sequence[SeriesKey]:
        self._read()
        return self._keys

    def read(self, out: Int64) -> bool:
        t = self._read()
        out[0] = t.offset if t.status & _NANO else t.offset * 1000
        out[1] = t.freq * 1000 // 65536  # parts per million, 16 bits of fraction
        out[2] = t.maxerror * 1000
        out[3] = 1 if t.status & _UNSYNC else 0
        out[4] = t.tai  # 0: nobody has told the kernel
        return True

    def close(self) -> None:
        return

    def _read(self) -> _Timex:
        self._timex.modes = 0
        if self._call(ctypes.byref(self._timex)) < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return self._timex
