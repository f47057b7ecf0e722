"""Counters of a NIC's driver (``ethtool -S``; names differ per driver) and its settings, by the ioctl."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import re
import socket
import struct
from collections.abc import Callable, Collection, Sequence

import numpy as np

from telemetry.host.fields import named
from telemetry.types import Int64, SeriesKey

__all__ = ["DriverStats", "series_of", "settings"]

_SIOCETHTOOL = 0x8946
_GSTRINGS, _GSTATS, _GSSET_INFO = 0x1B, 0x1D, 0x37
_SS_STATS = 1
_MOST = 8192
_SETTINGS: tuple[tuple[int, int, dict[str, int]], ...] = (
    # command, words of its struct, name and place of what we look at
    (0x0E, 23, {"rx_usecs": 1, "rx_frames": 2, "tx_usecs": 5, "tx_frames": 6, "adaptive_rx": 10, "adaptive_tx": 11}),
    (0x10, 9, {"ring_rx": 5, "ring_tx": 8}),
    (0x12, 4, {"pause_rx": 2, "pause_tx": 3}),
    (0x3C, 9, {"channels_rx": 5, "channels_tx": 6, "channels_combined": 8}),
    (0x2B, 2, {"gro": 1}),
    (0x23, 2, {"gso": 1}),
    (0x1E, 2, {"tso": 1}),
)
_GFLAGS, _LRO = 0x25, 1 << 15
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


def settings(device: str) -> dict[str, int]:
    """Interrupt coalescing, ring sizes, channels, pause frames and offloads, as far as the driver has them."""
    out: dict[str, int] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for command, words, places in _SETTINGS:
            buffer = ctypes.create_string_buffer(4 * words)
            struct.pack_into("=I", buffer, 0, command)
            with contextlib.suppress(OSError):
                _ioctl(asking, device, buffer)
                out |= {name: struct.unpack_from("=I", buffer, 4 * at)[0] for name, at in places.items()}
        buffer = ctypes.create_string_buffer(struct.pack("=II", _GFLAGS, 0), 8)
        with contextlib.suppress(OSError):
            _ioctl(asking, device, buffer)
            out["lro"] = int(bool(struct.unpack_from("=I", buffer, 4)[0] & _LRO))
    return out


def _ioctl(asking: socket.socket, device: str, buffer: ctypes.Array[ctypes.c_char]) -> None:
    request = struct.pack("16sP", device.encode()[:15], ctypes.addressof(buffer))
    fcntl.ioctl(asking, _SIOCETHTOOL, request)


class DriverStats:
    """All counters of one device of our own network namespace.

    Parameters
    ----------
    given : function to the series that another source gives
        These are left out here, so that no series is there twice.
    """

    def __init__(self, device: str, host: str, given: Callable[[], Collection[SeriesKey]] = tuple) -> None:
        self.name = f"ethtool:{device}"
        self._device, self._host, self._given = device, host, given
        self._kept: Int64 = np.empty(0, np.int64)
        self._socket: socket.socket | None = None
        self._names: list[str] = []
        self._buffer = ctypes.create_string_buffer(8)

    def discover(self) -> Sequence[SeriesKey]:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._names = self._strings()
        self._buffer = ctypes.create_string_buffer(8 + 8 * len(self._names))
        keys = [series_of(self._host, self._device, n) for n in self._unique()]
        given = set(self._given())
        self._kept = np.array([i for i, k in enumerate(keys) if k not in given], np.int64)
        return [keys[i] for i in self._kept]

    def read(self, out: Int64) -> bool:
        n = len(self._names)
        if not n:
            return True
        struct.pack_into("=II", self._buffer, 0, _GSTATS, n)
        self._ioctl(self._buffer)
        if struct.unpack_from("=I", self._buffer, 4)[0] != n:
            return False
        out[:] = np.frombuffer(memoryview(self._buffer), np.int64, n, 8)[self._kept]
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
        _ioctl(self._socket, self._device, buffer)
