"""Where bytes come from: files, pipes and standard input, plain or compressed."""

from __future__ import annotations

import io
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, TypeAlias

from telemetry.errors import InputError

__all__ = ["CaptureInput", "Raw", "Stream", "StreamDamage", "open_stream"]

CaptureInput: TypeAlias = "str | os.PathLike[str] | BinaryIO"


class StreamDamage(Exception):
    """The compressed stream is broken; what came before it has been handed out."""


class Stream(Protocol):
    """Bytes, in order; ``readinto`` returns 0 at the end of what there is now."""

    name: str
    size: int
    """Bytes of the file on disk, or -1."""
    compressed: bool

    def readinto(self, into: memoryview) -> int: ...
    def consumed(self) -> int:
        """Bytes taken from the file on disk so far."""
        ...

    def skip(self, count: int) -> None:
        """Go on `count` bytes further (of the uncompressed stream)."""
        ...

    def close(self) -> None: ...


_READ: Final = 1 << 18


class Raw:
    """An unbuffered file, with the bytes that were peeked at put back in front."""

    compressed = False

    def __init__(self, file: Any, name: str, size: int, head: bytes, own: bool) -> None:
        self._file, self.name, self.size, self._head, self._own = file, name, size, head, own
        self._count = 0

    @property
    def fd(self) -> int:
        """Descriptor of a regular file, for reading from where it stands (tell `took` how much); else -1."""
        return int(self._file.fileno()) if self.size >= 0 and not self._head else -1

    def took(self, count: int) -> None:
        """Count bytes that were read from `fd`."""
        self._count += count

    def readinto(self, into: memoryview) -> int:
        if self._head:
            n = min(len(self._head), len(into))
            into[:n] = self._head[:n]
            self._head = self._head[n:]
        elif hasattr(self._file, "readinto"):
            n = self._file.readinto(into) or 0
        else:
            chunk = self._file.read(len(into)) or b""
            n = len(chunk)
            into[:n] = chunk
        self._count += n
        return n

    def read(self, count: int) -> bytes:
        into = bytearray(count)
        return bytes(into[: self.readinto(memoryview(into))])

    def consumed(self) -> int:
        return self._count

    def skip(self, count: int) -> None:
        if self.size >= 0 and self._file.seekable():
            self._file.seek(count - len(self._head), io.SEEK_CUR)
            self._head = b""
            self._count += count
            return
        _read_over(self, count)

    def close(self) -> None:
        if self._own:
            self._file.close()


def _read_over(stream: Any, count: int) -> None:
    into = memoryview(bytearray(_READ))
    while count > 0:
        n = stream.readinto(into[: min(count, _READ)])
        if n == 0:
            raise InputError(f"{stream.name}: expected {count} more bytes to skip, got the end of the file")
        count -= n


class _Inflated:
    """A decompressor over a raw file: gzip (several members), zstd or lz4 (several frames), xz, bzip2."""

    compressed = True

    def __init__(self, raw: Raw, kind: str) -> None:
        self._raw, self._kind = raw, kind
        self.name, self.size = raw.name, raw.size
        self._new = _decompressors(kind)
        self._codec = self._new()
        self._input = b""
        self._started = False  # inside a member: an end of file here is damage

    def readinto(self, into: memoryview) -> int:
        while True:
            if not self._input and self._needs_input():
                self._input = self._raw.read(_READ)
                if not self._input:
                    if self._started:
                        self._started = False
                        raise StreamDamage(f"{self._kind} ends early at its byte {self._raw.consumed()}")
                    return 0
            if not self._started and not self._input.strip(b"\0"):
                self._input = b""  # zero padding after the last member
                continue
            at = self._raw.consumed()
            try:
                out = self._codec.decompress(self._input, len(into))
            except Exception as error:
                self._started = False
                self._input = b""
                raise StreamDamage(f"{self._kind} is damaged before its byte {at} ({error})") from error
            self._started = True
            self._input = b""
            if self._codec.eof:
                self._input = self._codec.unused_data
                self._codec = self._new()
                self._started = False
            if out:
                into[: len(out)] = out
                return len(out)

    def _needs_input(self) -> bool:
        return bool(getattr(self._codec, "needs_input", True))

    def consumed(self) -> int:
        return self._raw.consumed()

    def skip(self, count: int) -> None:
        _read_over(self, count)

    def close(self) -> None:
        self._raw.close()


class _Zstd:
    """The bz2 interface (``needs_input``, bounded output) over zstandard: output is kept and handed out in pieces."""

    def __init__(self) -> None:
        import zstandard

        self._codec = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
        self._ready = memoryview(b"")
        self._pending = b""

    def decompress(self, chunk: bytes, limit: int) -> bytes:
        self._pending += chunk
        if not self._ready and self._pending and not self._codec.eof:
            # 4 kB at a time: even an extreme ratio (zstd's blocks are at most 128 kB) stays bounded
            piece, self._pending = self._pending[:4096], self._pending[4096:]
            self._ready = memoryview(self._codec.decompress(piece))
        out = bytes(self._ready[:limit])
        self._ready = self._ready[limit:]
        return out

    @property
    def needs_input(self) -> bool:
        return not self._ready and not self._pending

    @property
    def eof(self) -> bool:
        return bool(self._codec.eof) and not self._ready

    @property
    def unused_data(self) -> bytes:
        return bytes(self._codec.unused_data) + self._pending


class _Lz4:
    def __init__(self) -> None:
        import lz4.frame

        self._codec = lz4.frame.LZ4FrameDecompressor()

    def decompress(self, chunk: bytes, limit: int) -> bytes:
        return bytes(self._codec.decompress(chunk, max_length=limit))

    @property
    def needs_input(self) -> bool:
        return bool(self._codec.needs_input)

    @property
    def eof(self) -> bool:
        return bool(self._codec.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._codec.unused_data or b"")


def _decompressors(kind: str) -> Any:
    if kind == "gzip":
        from isal import igzip_lib

        return partial(igzip_lib.IgzipDecompressor, flag=igzip_lib.DECOMP_GZIP)
    if kind == "zstd":
        return _Zstd
    if kind == "lz4":
        return _Lz4
    if kind == "xz":
        import lzma

        return lzma.LZMADecompressor
    import bz2

    return bz2.BZ2Decompressor


_MAGICS: Final = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
)


def open_stream(source: CaptureInput) -> Stream:
    """Open a path, "-" (standard input) or a binary file object; decompress by its first bytes.

    Raises
    ------
    InputError
        If it cannot be opened or is empty.
    """
    own, size = False, -1
    if isinstance(source, (str, os.PathLike)) and os.fspath(source) != "-":
        name = os.fspath(source)
        path = Path(name)
        try:
            if path.is_dir():
                raise InputError(f"{name}: expected a capture file, got a directory")
            file: Any = open(name, "rb", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise InputError(f"{name}: cannot be read: {error.strerror}") from error
        own = True
        if path.is_file():
            size = os.fstat(file.fileno()).st_size
    elif isinstance(source, (str, os.PathLike)):
        name, file = "-", sys.stdin.buffer.raw if hasattr(sys.stdin.buffer, "raw") else sys.stdin.buffer
    else:
        file = source
        name = str(getattr(source, "name", "<stream>"))
    head = b""
    while len(head) < 6:
        more = file.read(6 - len(head))
        if not more:
            break
        head += more
    raw = Raw(file, name, size, head, own)
    for magic, kind in _MAGICS:
        if head.startswith(magic):
            return _Inflated(raw, kind)
    return raw
