"""Standard input or a named pipe, read without waiting for what has not come yet."""

from __future__ import annotations

import os
import select
import stat
import sys
from typing import Final

from telemetry.errors import InputError

__all__ = ["Pipe"]

_PEEK: Final = 6  # bytes by which a compression is told


class Pipe:
    """Standard input or a named pipe, read without waiting."""

    def __init__(self, fd: int, name: str, own: bool) -> None:
        self._fd, self.name, self._own = fd, name, own
        self._held = b""
        self.closed = False
        self.waits = False

    @classmethod
    def at(cls, source: str) -> Pipe | None:
        """The pipe at a path or "-"; None if it is something else."""
        if source == "-":
            return cls(sys.stdin.buffer.fileno(), "-", False)
        try:
            if not stat.S_ISFIFO(os.stat(source).st_mode):
                return None
            return cls(os.open(source, os.O_RDONLY | os.O_NONBLOCK), source, True)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"{source}: cannot be read: {error.strerror}") from error

    def ready(self, last: bool) -> bool:
        """Whether enough has come to tell what it is."""
        while len(self._held) < _PEEK and not self.closed:
            more = self._take(1 << 16)
            if not more:
                break
            self._held += more
        return len(self._held) >= _PEEK or self.closed or last

    def _take(self, count: int) -> bytes:
        if self.closed or not select.select([self._fd], [], [], None if self.waits else 0)[0]:
            return b""
        try:
            chunk = os.read(self._fd, count)
        except BlockingIOError:
            return b""
        self.closed = not chunk
        return chunk

    def read(self, count: int) -> bytes:
        if not self._held:
            return self._take(count)
        out, self._held = self._held[:count], self._held[count:]
        return out

    def readinto(self, into: memoryview) -> int:
        chunk = self.read(len(into))
        into[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        if self._own and self._fd >= 0:
            os.close(self._fd)
            self._fd, self.closed = -1, True
