"""A file of numbers kept open, and what a source of samples is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from telemetry.errors import InputError
from telemetry.host.fields import Parser
from telemetry.host.scan import Field, lines, scan_fields
from telemetry.types import Int64, SeriesKey

__all__ = ["HostSource", "TextFile"]

_MAX_BYTES = 64 << 20


class HostSource(Protocol):
    """Some series that are read together."""

    name: str

    def discover(self) -> Sequence[SeriesKey]:
        """Open, read the names; returns the series in the order of the values.

        Raises
        ------
        OSError, InputError
            If there is nothing to read, or it is not what it should be.
        """
        ...

    def read(self, out: Int64) -> bool:
        """Fill in the values; False if the series are no longer the same (then `discover` again)."""
        ...

    def close(self) -> None: ...


class TextFile:
    """A file of /proc or /sys whose numbers are series. The descriptor stays open.

    Parameters
    ----------
    path : path
    host : str
    parser : from the file's words to fields
    hexa : bool
        Numbers are hexadecimal.
    """

    def __init__(self, path: str | Path, host: str, parser: Parser, *, hexa: bool = False) -> None:
        self.name = str(path)
        self.malformed = 0
        self._host = host
        self._parser = parser
        self.hexa = hexa
        self.fd = -1
        self.reads = 1
        self.size = 0
        self._buffer = bytearray(16_384)
        self._view = memoryview(self._buffer)
        self._bytes = np.frombuffer(self._buffer, np.uint8)
        self._numbers = np.empty(0, np.int64)
        self.pick = self.scale = np.empty(0, np.int64)
        self.expected = (-1, 0)

    def discover(self) -> Sequence[SeriesKey]:
        if self.fd < 0:
            self.fd = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC)
        size = self.size = self._fill(1 << 30)
        text = bytes(self._view[:size])
        fields: list[Field] = self._parser(lines(text, hexa=self.hexa))
        self._numbers = np.zeros(size // 2 + 2, np.int64)
        self.pick = np.array([f.number for f in fields], np.int64)
        self.scale = np.array([f.scale for f in fields], np.int64)
        out = np.empty(len(fields), np.int64)
        self.expected = scan_fields(self._bytes, size, self.hexa, self._numbers, self.pick, self.scale, out)
        return [SeriesKey(self._host, f.metric, f.labels) for f in fields]

    def read(self, out: Int64) -> bool:
        for reads in (self.reads, 1 << 30):
            size = self.size = self._fill(reads)
            found = scan_fields(self._bytes, size, self.hexa, self._numbers, self.pick, self.scale, out)
            if found == self.expected:
                return True
        return False

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _fill(self, reads: int) -> int:
        """Read the file from its start; with `reads` as many times as it took to get all of it the last time."""
        size = done = 0
        while done < reads:
            got = os.preadv(self.fd, (self._view[size:],), size)
            if got == 0:
                break
            done += 1
            size += got
            if size == len(self._buffer):
                self._grow()
        self.reads = done
        return size

    def _grow(self) -> None:
        if len(self._buffer) >= _MAX_BYTES:
            raise InputError(f"{self.name}: expected at most {_MAX_BYTES >> 20} MB, got more")
        self._buffer = self._buffer + bytearray(len(self._buffer))
        self._view = memoryview(self._buffer)
        self._bytes = np.frombuffer(self._buffer, np.uint8)
