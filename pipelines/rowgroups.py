"""Row groups that were encoded apart, each as a Parquet file in memory, become one file.

Encoding is most of the work of writing Parquet, and one writer does it in one thread. Here any number of threads
encode, and their results are put one behind the other. Only the footer says where column chunks lie: it is walked
in Thrift's compact protocol, the offsets in it are moved, and all else is copied as it stands.

Sources: parquet-format's parquet.thrift, thrift-compact-protocol.md.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Final

__all__ = ["RowGroupFile"]

_MAGIC: Final = b"PAR1"
_DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(7, 13)  # Thrift's types; below are booleans and integers
_BOOLEANS: Final = (1, 2)
_BYTE: Final = 3

_Change = Callable[[bytes, int], tuple[bytes, int]]
"""From (footer, where the value begins) to (what stands instead, where the value ends)."""


class RowGroupFile:
    """One Parquet file from parts of the same schema, in the order in which they are added.

    Parameters
    ----------
    path : path
        Written over.

    Examples
    --------
    >>> file = RowGroupFile("x.parquet")                                 # doctest: +SKIP
    >>> for part in parts:                                               # doctest: +SKIP
    ...     file.add(part)
    >>> file.close()                                                     # doctest: +SKIP
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = open(path, "wb")  # noqa: SIM115 - closed by `close`
        self._at = self._file.write(_MAGIC)
        self._footer = b""  # of the first part
        self._groups: list[bytes] = []
        self._rows = 0

    def add(self, part: memoryview) -> None:
        """Append the row groups of a whole Parquet file."""
        end = len(part) - 8 - int.from_bytes(part[-8:-4], "little")
        footer = bytes(part[end:-8])
        self._footer = self._footer or footer
        shift = self._at - len(_MAGIC)

        def moved(data: bytes, at: int) -> tuple[bytes, int]:
            value, after = _integer(data, at)
            return (_varint_bytes(2 * (value + shift)), after) if value > 0 else (data[at:after], after)

        def count(data: bytes, at: int) -> tuple[bytes, int]:
            rows, after = _integer(data, at)
            self._rows += rows
            return b"", after

        def ordinal(data: bytes, at: int) -> tuple[bytes, int]:
            return _varint_bytes(2 * len(self._groups)), _integer(data, at)[1]

        def column(data: bytes, at: int) -> tuple[bytes, int]:
            return _struct(data, at, {2: moved, 3: chunk, 4: moved, 6: moved})

        def chunk(data: bytes, at: int) -> tuple[bytes, int]:
            return _struct(data, at, {9: moved, 10: moved, 11: moved, 14: moved})

        def columns(data: bytes, at: int) -> tuple[bytes, int]:
            head = at
            size, at = _list_head(data, at)
            out = [data[head:at]]
            for _ in range(size):
                one, at = column(data, at)
                out.append(one)
            return b"".join(out), at

        def groups(data: bytes, at: int) -> tuple[bytes, int]:
            size, at = _list_head(data, at)
            for _ in range(size):
                group, at = _struct(data, at, {1: columns, 5: moved, 7: ordinal})
                self._groups.append(group)
            return b"", at

        _struct(footer, 0, {3: count, 4: groups})
        self._at += self._file.write(part[len(_MAGIC) : end])

    def close(self) -> None:
        """Write the footer."""

        def rows(data: bytes, at: int) -> tuple[bytes, int]:
            return _varint_bytes(2 * self._rows), _integer(data, at)[1]

        def groups(data: bytes, at: int) -> tuple[bytes, int]:
            size = len(self._groups)
            head = bytes([size << 4 | _STRUCT]) if size < 15 else bytes([0xF0 | _STRUCT]) + _varint_bytes(size)
            return head + b"".join(self._groups), _skip(data, at, _LIST)

        with self._file:
            footer, _ = _struct(self._footer, 0, {3: rows, 4: groups})
            self._file.write(footer + len(footer).to_bytes(4, "little") + _MAGIC)

    def abandon(self) -> None:
        """Close without a footer: what lies there is no Parquet file."""
        with contextlib.suppress(OSError):
            self._file.close()


def _struct(data: bytes, at: int, changes: Mapping[int, _Change]) -> tuple[bytes, int]:
    """Copy a struct with some of its fields changed; return it and where it ends."""
    out: list[bytes] = []
    copied, field = at, 0
    while head := data[at]:
        at += 1
        if head >> 4:
            field += head >> 4
        else:
            field, at = _integer(data, at)
        change = changes.get(field)
        if change is None:
            at = _skip(data, at, head & 15)
        else:
            out.append(data[copied:at])
            instead, at = change(data, at)
            out.append(instead)
            copied = at
    out.append(data[copied : at + 1])
    return b"".join(out), at + 1


def _skip(data: bytes, at: int, kind: int) -> int:
    """Where a value of a type ends."""
    if kind in _BOOLEANS:
        return at  # a field's boolean lies in its type
    if kind == _BYTE:
        return at + 1
    if kind < _DOUBLE:
        while data[at] & 0x80:
            at += 1
        return at + 1
    if kind == _DOUBLE:
        return at + 8
    if kind == _BINARY:
        size, at = _varint(data, at)
        return at + size
    if kind in (_LIST, _SET):
        kind = data[at] & 15
        size, at = _list_head(data, at)
        for _ in range(size):
            at = at + 1 if kind in _BOOLEANS else _skip(data, at, kind)
        return at
    if kind == _STRUCT:
        return _struct(data, at, {})[1]
    raise ValueError(f"Parquet footer: type {kind} at byte {at} is not used in it")


def _list_head(data: bytes, at: int) -> tuple[int, int]:
    size = data[at] >> 4
    return (size, at + 1) if size < 15 else _varint(data, at + 1)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _integer(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
