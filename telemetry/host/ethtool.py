"""Counters of a NIC's driver (``ethtool -S``), by the ioctl. Names differ per driver."""

from __future__ import annotations

import ctypes
import fcntl
import re
import socket
import struct
from collections.abc import Sequence

import numpy as np

from telemetry.host.tables import named
from telemetry.types import Int64, SeriesKey

__all__ = ["DriverStats", "series_of"]

_SIOCETHTOOL = 0x8946
_GSTRINGS, _GSTATS, _GSSET_INFO = 0x1B, 0x1D, 0x37
_SS_STATS = 1
_MOST = 8192
_QUEUE = re.compile(
    r"\[?(?:(rx|tx)[-_]?(?:queue[-_]?|ring[-_]?)?(\d+)|(?:queue[-_]?)(\d+)[-_](rx|tx))\]?[-_.: ]+(\w.*)$"
)


def series_of(host: str, device: str, name: str) -> SeriesKey:
    """The series of a driver's counter.

    Examples
    --------
    >>> str(series_of("h", "eth0", "rx_queue_3_packets"))
    'nic_queue_rx_packets_total{host="h",device="eth0",queue="3"}'
    >>> str(series_of("h", "eth0", "rx_nodesc_drop_cnt"))
    'ethtool_rx_nodesc_drop_cnt_total{host="h",device="eth0"}'
    """
    m = _QUEUE.match(name)
    if m is not None:
        side, queue = (m[1], m[2]) if m[1] else (m[4], m[3])
        return SeriesKey.of(host, f"nic_queue_{side}_{named(m[5])}_total", device=device, queue=queue)
    return SeriesKey.of(host, f"ethtool_{named(name)}_total", device=device)


class DriverStats:
    """All counters of one device of our own network namespace."""

    def __init__(self, device: str, host: str) -> None:
        self.name = f"ethtool:{device}"
        self._device, self._host = device, host
        self._socket: socket.socket | None = None
        self._names: list[str] = []
        self._buffer = ctypes.create_string_buffer(8)

    def discover(self) -> Sequence[SeriesKey]:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._names = self._strings()
        self._buffer = ctypes.create_string_buffer(8 + 8 * len(self._names))
        return [series_of(self._host, self._device, n) for n in self._unique()]

    def read(self, out: Int64) -> bool:
        n = len(self._names)
        if not n:
            return True
        struct.pack_into("=II", self._buffer, 0, _GSTATS, n)
        self._ioctl(self._buffer)
        if struct.unpack_from("=I", self._buffer, 4)[0] != n:
            return False
        out[:] = np.frombuffer(memoryview(self._buffer), np.int64, n, 8)
        return True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _unique(self) -> list[str]:
        """Some drivers give a name twice."""
        seen: dict[str, int] = {}
        out = []
        for name in self._names:
            key = str(series_of("", "", name))
            seen[key] = seen.get(key, 0) + 1
            out.append(name if seen[key] == 1 else f"{name}_{seen[key]}")
        return out

    def _strings(self) -> list[str]:
        head = ctypes.create_string_buffer(struct.pack("=IIQI", _GSSET_INFO, 0, 1 << _SS_STATS, 0), 20)
        self._ioctl(head)
        mask, count = struct.unpack_from("=QI", head, 8)
        if not mask or not count:
            return []
        count = min(count, _MOST)
        text = ctypes.create_string_buffer(12 + 32 * count)
        struct.pack_into("=III", text, 0, _GSTRINGS, _SS_STATS, count)
        self._ioctl(text)
        raw = text.raw[12:]
        return [raw[32 * i : 32 * i + 32].split(b"\0")[0].decode("ascii", "replace") for i in range(count)]

    def _ioctl(self, buffer: ctypes.Array[ctypes.c_char]) -> None:
        if self._socket is None:
            raise OSError(9, "not open")
        request = struct.pack("16sP", self._device.encode()[:15], ctypes.addressof(buffer))
        fcntl.ioctl(self._socket, _SIOCETHTOOL, request)
