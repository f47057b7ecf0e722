"""Dumps over netlink, read as often as files are: asked, received and read in one compiled step.

A dump keeps its shape for hours while its numbers move, as a file of /proc does. So it is parsed once, slowly: which
bytes are numbers that are series, which may change unread, and which must stay (lengths, names, handles). Afterwards
the fixed bytes are compared and the numbers picked from their places.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba import njit
from numba.core import types
from numpy.typing import NDArray

from telemetry.errors import InputError
from telemetry.types import Int64, SeriesKey

__all__ = ["DUMP", "Dump", "Layout", "attribute", "attributes", "family", "generic", "messages"]

DUMP = 0x300 | 0x1
"""NLM_F_DUMP | NLM_F_REQUEST"""
DONE, ERROR = 3, 2
HEADER = 16
GENERIC = 4
NETLINK_GENERIC = 16
_CONTROLLER, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2
_ROOM = 1 << 16
_MOST = 1 << 24
_SILENT, _NO_ROOM = -1, -2

_send: Any = types.ExternalFunction("send", types.int64(types.int32, types.uintp, types.uint64, types.int32))
_recv: Any = types.ExternalFunction("recv", types.int64(types.int32, types.uintp, types.uint64, types.int32))


@dataclass(slots=True)
class Layout:
    """Where the numbers of a dump lie: series, offset and width in bytes; and the spans that may change unread."""

    fields: list[tuple[SeriesKey, int, int]] = field(default_factory=list)
    free: list[tuple[int, int]] = field(default_factory=list)


class Dump:
    """A dump whose numbers are series; the socket stays open.

    Parameters
    ----------
    name : str
    protocol : int
        Of netlink.
    ask : function of the socket to the request's bytes
    layout : function of the dump's bytes to its `Layout`
    """

    def __init__(
        self, name: str, protocol: int, ask: Callable[[socket.socket], bytes], layout: Callable[[bytes], Layout]
    ) -> None:
        self.name = name
        self._protocol, self._make, self._layout = protocol, ask, layout
        self._socket: socket.socket | None = None
        self._ask = np.empty(0, np.uint8)
        self._room = np.empty(_ROOM, np.uint8)
        self._expected = np.empty(0, np.uint8)
        self._fixed = np.empty(0, np.bool_)
        self._at = self._width = np.empty(0, np.int64)
        self.keys: list[SeriesKey] = []
        """The series found by the last `discover`."""

    def discover(self) -> Sequence[SeriesKey]:
        self._open()
        data = self._dump()
        layout = self._layout(data)
        self._expected = np.frombuffer(data, np.uint8)
        self._fixed = np.ones(len(data), np.bool_)
        for lo, hi in [*layout.free, *((at, at + width) for _, at, width in layout.fields)]:
            self._fixed[lo:hi] = False
        self._at = np.array([at for _, at, _ in layout.fields], np.int64)
        self._width = np.array([width for _, _, width in layout.fields], np.int64)
        self.keys = [key for key, _, _ in layout.fields]
        return self.keys

    def listing(self) -> bytes:
        """One answer, whole; opens what is not open."""
        self._open()
        return self._dump()

    def read(self, out: Int64) -> bool:
        return self._talk(self._expected, self._fixed, self._at, self._width, out) > 0

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _dump(self) -> bytes:
        none = np.empty(0, np.int64)
        while True:
            size = self._talk(np.empty(0, np.uint8), np.empty(0, np.bool_), none, none, none)
            if size or self._room.size >= _MOST:
                return self._room[: abs(size)].tobytes()
            self._room = np.empty(4 * self._room.size, np.uint8)
            self._open()

    def _open(self) -> None:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, self._protocol)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 200_000))
            self._ask = np.frombuffer(self._make(self._socket), np.uint8)

    def _talk(self, expected: NDArray[np.uint8], fixed: NDArray[np.bool_], at: Int64, width: Int64, out: Int64) -> int:
        """Size of the answer, negative if it has another shape, 0 if there is no room for it."""
        if self._socket is None:
            raise InputError(f"{self.name}: not open")
        size, wrong = _talk(self._socket.fileno(), self._ask, self._room, expected, fixed, at, width, out)
        if wrong:
            self.close()  # the rest of the answer goes with its socket
        if wrong > 0:
            raise OSError(wrong, os.strerror(wrong))
        if wrong == _SILENT:
            raise InputError(f"{self.name}: no answer from the kernel")
        return 0 if wrong == _NO_ROOM else int(size)


def messages(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Type, start and end of each message's body."""
    at = 0
    while at + HEADER <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if length < HEADER or at + length > len(data):
            return
        yield kind, at + HEADER, at + length
        at += (length + 3) & ~3


def attributes(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Type, start and end of each attribute's value."""
    at = start
    while at + 4 <= end:
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4 or at + length > end:
            return
        yield kind & 0x3FFF, at + 4, at + length
        at += (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute, padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def request(kind: int, flags: int, body: bytes) -> bytes:
    """A message. Its sequence is always 1: answers are compared byte by byte."""
    return struct.pack("=IHHII", HEADER + len(body), kind, flags, 1, 0) + body


def generic(kind: int, flags: int, command: int, body: bytes = b"") -> bytes:
    """A message of a generic netlink family."""
    return request(kind, flags, struct.pack("=BBH", command, 1, 0) + body)


def family(asking: socket.socket, name: str) -> int:
    """Number of a generic netlink family.

    Raises
    ------
    InputError
        If this kernel does not have it.
    """
    asking.send(generic(_CONTROLLER, 1, _GET_FAMILY, attribute(_FAMILY_NAME, name.encode() + b"\0")))
    data = asking.recv(1 << 16)
    for kind, start, end in messages(data):
        if kind == _CONTROLLER:
            for what, lo, hi in attributes(data, start + GENERIC, end):
                if what == _FAMILY_ID and hi - lo >= 2:
                    return int(struct.unpack_from("=H", data, lo)[0])
    raise InputError(f"netlink: this kernel has no family {name!r}")


@njit(cache=True, nogil=True)
def _talk(
    fd: int,
    ask: NDArray[np.uint8],
    room: NDArray[np.uint8],
    expected: NDArray[np.uint8],
    fixed: NDArray[np.bool_],
    at: Int64,
    width: Int64,
    out: Int64,
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Size of the answer (negative: of another shape) and 0, an errno, or what is wrong."""
    if _send(np.int32(fd), np.uintp(ask.ctypes.data), np.uint64(len(ask)), np.int32(0)) < 0:
        return 0, _SILENT
    base = np.uintp(room.ctypes.data)
    size = 0
    done = False
    while not done:
        if len(room) - size < 32_768:  # what the kernel puts into one part at most
            return size, _NO_ROOM
        got = _recv(np.int32(fd), base + np.uintp(size), np.uint64(len(room) - size), np.int32(0))
        if got <= 0:
            return size, _SILENT
        end = size + got
        while size + 16 <= end:
            length = np.int64(0)
            for i in range(4):
                length |= np.int64(room[size + i]) << (8 * i)
            kind = room[size + 4] + 256 * room[size + 5]
            if length < 16:
                return size, _SILENT
            if kind == 2:
                code = np.int64(0)
                for i in range(4):
                    code |= np.int64(room[size + 16 + i]) << (8 * i)
                code = (np.int64(1) << 32) - code if code else code
                if code:
                    return size, int(code)
            if kind == 3 or kind == 2:
                done = True
            size += int((length + 3) & ~3)
        size = min(size, end)
    if size != len(expected):
        return -size, 0
    for i in range(size):
        if fixed[i] and room[i] != expected[i]:
            return -size, 0
    for i in range(len(at)):
        value = np.uint64(0)
        for j in range(width[i]):
            value |= np.uint64(room[at[i] + j]) << np.uint64(8 * j)
        out[i] = np.int64(value)
    return size, 0
