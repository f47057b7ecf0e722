"""How far the kernel believes its clock to be off: ``adjtimex(2)``, which any NTP or PTP daemon disciplines."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

from telemetry.types import Int64, SeriesKey

__all__ = ["KernelClock"]

_UNSYNC, _NANO = 0x0040, 0x2000


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
        ("rest", ctypes.c_long * 16),
    )


class KernelClock:
    """Offset, frequency, error bound and whether anything disciplines the clock. Reads only (``modes = 0``)."""

    name = "adjtimex"

    def __init__(self, host: str) -> None:
        label = {"source": "kernel"}
        metrics = ("clock_offset_ns", "clock_frequency_ppb", "clock_max_error_ns", "clock_unsynchronized")
        self._keys = [SeriesKey.of(host, m, **label) for m in metrics]
        self._timex = _Timex()
        self._call = ctypes.CDLL(None, use_errno=True).adjtimex

    def discover(self) -> Sequence[SeriesKey]:
        self._read()
        return self._keys

    def read(self, out: Int64) -> bool:
        t = self._read()
        out[0] = t.offset if t.status & _NANO else t.offset * 1000
        out[1] = t.freq * 1000 // 65536  # parts per million, 16 bits of fraction
        out[2] = t.maxerror * 1000
        out[3] = 1 if t.status & _UNSYNC else 0
        return True

    def close(self) -> None:
        return

    def _read(self) -> _Timex:
        self._timex.modes = 0
        if self._call(ctypes.byref(self._timex)) < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return self._timex
