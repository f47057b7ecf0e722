"""The captures in a folder or behind a glob, told by the bytes they begin with and ordered by their first packets."""

from __future__ import annotations

import glob
import os
import stat
from dataclasses import dataclass
from typing import Final

from telemetry.capture.columns import NULL, Arena
from telemetry.capture.open import StreamDamage, open_stream
from telemetry.capture.reader import Reader
from telemetry.capture.stats import CaptureStats
from telemetry.errors import InputError

__all__ = ["CaptureFile", "FileSet", "captures_in"]

_HEAD: Final = 256


@dataclass(frozen=True, slots=True)
class CaptureFile:
    """A file of the set: ordered by its first packet (0: it has no time; `NULL`: there is no packet yet)."""

    path: str
    inode: int
    written: tuple[int, int]
    head: bytes
    first_ns: int
    packed: bool

    @property
    def place(self) -> tuple[int, str]:
        return self.first_ns, self.path

    def same(self, other: CaptureFile | None) -> bool:
        """Whether it holds the same packets (one may be the other, compressed)."""
        if other is None or self.first_ns != other.first_ns:
            return False
        n = min(len(self.head), len(other.head))
        return self.head[:n] == other.head[:n]


class FileSet:
    """A file, or the files of a folder or behind a glob, looked at again and again.

    Parameters
    ----------
    source : path of a file or folder, or a glob

    Attributes
    ----------
    many : bool
        It is a folder or glob: what is no capture is left out.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.many = not os.path.isfile(source) and (os.path.isdir(source) or glob.has_magic(source))
        self._files: dict[str, CaptureFile] = {}
        self._strange: dict[str, tuple[int, int]] = {}  # no captures, or not yet: their times and sizes

    def files(self, *, final: bool = False) -> list[CaptureFile]:
        """The captures, in the order of their first packets."""
        if not self.many:
            paths = [self.source]
        elif os.path.isdir(self.source):
            paths = [e.path for e in os.scandir(self.source) if not e.name.startswith(".")]
        else:
            paths = glob.glob(self.source)
        found = {}
        for path in paths:
            try:
                told = os.stat(path)
            except OSError:
                continue  # gone between the listing and now
            known, written = self._files.get(path), (told.st_mtime_ns, told.st_size)
            same = known is not None and known.inode == told.st_ino
            if known is not None and same and (known.written == written or _begins(known)):
                found[path] = known
            elif stat.S_ISREG(told.st_mode) and self._strange.get(path) != written:
                file = self._probe(path, told, final)
                if file is not None:
                    found[path] = file
                elif not final:
                    self._strange[path] = written
        self._files = found
        return sorted(found.values(), key=lambda f: f.place)

    def _probe(self, path: str, told: os.stat_result, final: bool) -> CaptureFile | None:
        """The beginning of a file; None if it is no capture, or not yet."""
        first, packed, head = NULL, False, bytearray(_HEAD)
        try:
            stream = open_stream(path)
            try:
                packed = stream.compressed
                have = 0
                while have < _HEAD and (n := stream.readinto(memoryview(head)[have:])):
                    have += n
            finally:
                stream.close()
            stream = open_stream(path)
            try:
                for batch in Reader(stream, 0, Arena(16), CaptureStats()).batches():
                    times = batch.time_ns[batch.time_ns != NULL]
                    first = int(times[0]) if len(times) else 0
                    break
            finally:
                stream.close()
        except (InputError, StreamDamage):
            if self.many or (told.st_size < _HEAD and not final):
                return None
            raise
        return CaptureFile(path, told.st_ino, (told.st_mtime_ns, told.st_size), bytes(head[:have]), first, packed)


def captures_in(source: str) -> list[str]:
    """Return the captures of a folder or glob in the order of their first packets; anything else is returned as it is.

    Raises
    ------
    InputError
        If there are none.
    """
    if not os.path.isdir(source) and (os.path.exists(source) or not glob.has_magic(source)):
        return [source]
    files = [f.path for f in FileSet(source).files()]
    if not files:
        raise InputError(f"{source}: expected captures, found none")
    return files


def _begins(file: CaptureFile) -> bool:
    """Whether a file that was written to since still begins as it did, and is known well enough."""
    if file.first_ns == NULL or file.packed or len(file.head) < _HEAD:
        return False
    try:
        with open(file.path, "rb") as now:
            return now.read(len(file.head)) == file.head
    except OSError:
        return False
