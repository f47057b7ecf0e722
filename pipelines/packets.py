"""Packets as Parquet: what people read."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numba import njit
from numpy.typing import NDArray

from pipelines.rowgroups import RowGroupFile
from telemetry.capture.columns import HAS_HW, HAS_TCP, HAS_TUNNEL, HAS_VLAN
from telemetry.capture.fileset import captures_in
from telemetry.capture.packets import NULL, TUNNELS, CaptureStats, Packets, read_packets
from telemetry.errors import ConfigError, StoreError

__all__ = ["COLUMNS", "PacketWriter", "address_text", "convert"]

ROWS: Final = 1 << 17  # of a row group

# (name in the file, name in a batch, type in the file, sparse group or 0)
_PLAIN: Final[tuple[tuple[str, str, Any, int], ...]] = (
    ("time_ns", "time_ns", pa.int64(), 0),
    ("hw_time_ns", "hw_time_ns", pa.int64(), HAS_HW),
    ("hw_sub_ns", "hw_sub_ns", pa.float32(), HAS_HW),
    ("hw_device", "hw_device", pa.int32(), HAS_HW),
    ("hw_port", "hw_port", pa.int32(), HAS_HW),
    ("interface", "interface", pa.int32(), 0),
    ("link_type", "linktype", pa.int32(), 0),
    ("cap_len", "cap_len", pa.int32(), 0),
    ("wire_len", "wire_len", pa.int32(), 0),
    ("ether_type", "ether_type", pa.int32(), 0),
    ("vlan", "vlan", pa.int32(), HAS_VLAN),
    ("vlan_inner", "vlan_inner", pa.int32(), HAS_VLAN),
    ("src_port", "src_port", pa.int32(), 0),
    ("dst_port", "dst_port", pa.int32(), 0),
    ("protocol", "protocol", pa.int16(), 0),
    ("ttl", "ttl", pa.int16(), 0),
    ("ip_id", "ip_id", pa.int32(), 0),
    ("tcp_seq", "tcp_seq", pa.int64(), HAS_TCP),
    ("tcp_ack", "tcp_ack", pa.int64(), HAS_TCP),
    ("tcp_flags", "tcp_flags", pa.int16(), HAS_TCP),
    ("tcp_window", "tcp_window", pa.int32(), HAS_TCP),
    ("payload_len", "payload_len", pa.int32(), 0),
    ("tunnel_id", "tunnel_id", pa.int64(), HAS_TUNNEL),
)
_ADDRESSES: Final = (
    ("src", "src_hi", "src_lo", "ip_version", 0),
    ("dst", "dst_hi", "dst_lo", "ip_version", 0),
    ("outer_src", "outer_src_hi", "outer_src_lo", "outer_version", HAS_TUNNEL),
    ("outer_dst", "outer_dst_hi", "outer_dst_lo", "outer_version", HAS_TUNNEL),
)
COLUMNS: Final = (
    "time_ns", "hw_time_ns", "hw_sub_ns", "hw_device", "hw_port", "interface", "link_type", "cap_len", "wire_len",
    "ether_type", "vlan", "vlan_inner", "src", "dst", "src_port", "dst_port", "protocol", "ttl", "ip_id", "tcp_seq",
    "tcp_ack", "tcp_flags", "tcp_window", "payload_len", "outer_src", "outer_dst", "tunnel", "tunnel_id", "recovered",
    "file",
)  # fmt: skip
_SMALL: Final = (  # a few bits a row once they are coded: compressing them costs more than it gains
    "hw_sub_ns", "hw_device", "hw_port", "interface", "link_type", "ether_type", "vlan", "vlan_inner", "protocol",
    "ttl", "tcp_flags", "tcp_window", "tunnel", "recovered", "file",
)  # fmt: skip
_NULLS: Final[dict[str, Any]] = {
    name: NULL if name == "hw_time_ns" else np.nan if name == "hw_sub_ns" else -1 for name, *_ in _PLAIN
}
_TEXT: Final = pa.dictionary(pa.int32(), pa.string())
_ALWAYS: Final = ("interface", "link_type", "cap_len", "wire_len", "recovered", "file")
_DELTA: Final = ("time_ns", "hw_time_ns", "ip_id", "tcp_seq", "tcp_ack", "tunnel_id")


def _schema() -> pa.Schema:
    types = {name: kind for name, _, kind, _ in _PLAIN}
    types["recovered"] = pa.bool_()
    return pa.schema([pa.field(name, types.get(name, _TEXT), name not in _ALWAYS) for name in COLUMNS])


def address_text(version: int, hi: int, lo: int) -> str:
    """An address as people write it."""
    if version == 4:
        return socket.inet_ntop(socket.AF_INET, lo.to_bytes(4, "big"))
    return socket.inet_ntop(socket.AF_INET6, ((hi << 64) | lo).to_bytes(16, "big"))


@njit(cache=True, nogil=True)
def _codes(
    hi: Any, lo: Any, version: Any, n: int, slots: Any, key_hi: Any, key_lo: Any, key_version: Any, known: int, out: Any
) -> int:
    """Number addresses in order of appearance (open addressing); returns how many are known now.

    `slots` has a power-of-two length of more than twice the addresses that can come.
    """
    mask = len(slots) - 1
    last = -1
    for i in range(n):
        v = version[i]
        if v == 0:
            out[i] = -1
            continue
        h = hi[i]
        w = lo[i]
        if last >= 0 and key_lo[last] == w and key_hi[last] == h and key_version[last] == v:
            out[i] = last
            continue
        mixed = (h ^ (w * np.uint64(0x9E3779B97F4A7C15))) + np.uint64(v)
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
        at = np.int64(mixed >> np.uint64(33)) & mask
        while True:
            code = slots[at]
            if code < 0:
                code = known
                key_hi[known] = h
                key_lo[known] = w
                key_version[known] = v
                slots[at] = known
                known += 1
                break
            if key_lo[code] == w and key_hi[code] == h and key_version[code] == v:
                break
            at = (at + 1) & mask
        out[i] = code
        last = code
    return known


class _Addresses:
    """The distinct addresses of a row group."""

    def __init__(self, rows: int) -> None:
        most = 4 * rows
        self._slots = np.full(1 << (2 * most - 1).bit_length(), -1, np.int32)
        self._hi, self._lo = np.zeros(most, np.uint64), np.zeros(most, np.uint64)
        self._version = np.zeros(most, np.uint8)
        self._known = 0

    def codes(self, hi: Any, lo: Any, version: Any, out: NDArray[np.int32]) -> None:
        self._known = _codes(
            hi, lo, version, len(hi), self._slots, self._hi, self._lo, self._version, self._known, out
        )  # fmt: skip

    def take(self) -> list[str]:
        """Their texts, and start anew."""
        keys = zip(self._version[: self._known], self._hi[: self._known], self._lo[: self._known], strict=True)
        texts = [address_text(int(v), int(hi), int(lo)) for v, hi, lo in keys]
        self._slots.fill(-1)
        self._known = 0
        return texts


class _Group:
    """A row group being filled."""

    def __init__(self, rows: int) -> None:
        self.n = 0
        self.has = 0
        self.plain = {name: np.empty(rows, kind.to_pandas_dtype()) for name, _, kind, _ in _PLAIN}
        self.address = {name: np.empty(rows, np.int32) for name, *_ in _ADDRESSES}
        self.tunnel = np.empty(rows, np.uint8)
        self.recovered = np.empty(rows, np.uint8)
        self.file = np.empty(rows, np.int32)
        self.texts: list[str] = []
        self.files: list[str] = []


class PacketWriter:
    """Write batches of packets to a Parquet file that appears only when it is whole.

    Use as a context manager; on an exception nothing is left behind.

    Parameters
    ----------
    path : path
    threads : int
        1 encodes in the caller's thread; so many others encode row groups while the next is being filled.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 1) -> None:
        self._path = Path(path)
        self._part = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        if not self._path.absolute().parent.is_dir():
            raise StoreError(f"{self._path}: cannot be written: there is no folder {self._path.absolute().parent}")
        try:
            self._out = RowGroupFile(self._part)
        except OSError as error:
            raise StoreError(f"{self._path}: cannot be written: {error}") from error
        self._schema = _schema()
        self._addresses = _Addresses(ROWS)
        self._group = _Group(ROWS)
        self._free = [_Group(ROWS) for _ in range(threads)] if threads > 1 else []
        self._files: list[str] = []
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._pending: deque[tuple[Future[pa.Buffer], _Group]] = deque()
        self.rows = 0

    def __enter__(self) -> PacketWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                self._flush()
                while self._pending:
                    self._take()
                if not self.rows:
                    self._add(_parquet(self._schema.empty_table()))
                self._out.close()
                os.replace(self._part, self._path)
        except OSError as failure:
            kind = StoreError
            raise StoreError(f"{self._path}: cannot be written: {failure}") from failure
        except BaseException:
            kind = BaseException
            raise
        finally:
            if self._pool is not None:
                self._pool.shutdown(wait=True, cancel_futures=True)
            if kind is not None:
                self._out.abandon()
                self._part.unlink(missing_ok=True)

    def write(self, batch: Packets) -> None:
        """Add a batch (its arrays may be overwritten afterwards)."""
        while batch.file >= len(self._files):
            self._files.append("")
        self._files[batch.file] = batch.source
        start = 0
        while start < batch.n:
            group = self._group
            count = min(batch.n - start, ROWS - group.n)
            self._fill(group, batch, slice(start, start + count), slice(group.n, group.n + count))
            group.n += count
            start += count
            if group.n == ROWS:
                self._flush()
        self.rows += batch.n

    def _fill(self, group: _Group, batch: Packets, source: slice, into: slice) -> None:
        fresh = batch.has & ~group.has  # first values of a sparse column in this row group
        group.has |= batch.has
        for name, field, _, sparse in _PLAIN:
            column = group.plain[name]
            if sparse & fresh:
                column[: into.start] = _NULLS[name]
            if sparse & batch.has or not sparse:
                column[into] = getattr(batch, field)[source]
            elif sparse & group.has:
                column[into] = _NULLS[name]
        for name, hi, lo, version, sparse in _ADDRESSES:
            column = group.address[name]
            if sparse & fresh:
                column[: into.start] = -1
            if sparse & batch.has or not sparse:
                self._addresses.codes(
                    getattr(batch, hi)[source], getattr(batch, lo)[source], getattr(batch, version)[source],
                    column[into],
                )  # fmt: skip
            elif sparse & group.has:
                column[into] = -1
        group.tunnel[into] = batch.tunnel[source]
        group.recovered[into] = batch.recovered[source]
        group.file[into] = batch.file

    def _flush(self) -> None:
        group = self._group
        if not group.n:
            return
        group.texts = self._addresses.take()
        group.files = list(self._files)
        if self._pool is None:
            self._add(self._encode(group))
        else:
            self._pending.append((self._pool.submit(self._encode, group), group))
            if not self._free:
                self._take()
            self._group = self._free.pop()
        self._group.n = self._group.has = 0

    def _take(self) -> None:
        """Wait for the oldest row group that is being encoded."""
        future, group = self._pending.popleft()
        self._add(future.result())
        self._free.append(group)

    def _add(self, part: pa.Buffer) -> None:
        try:
            self._out.add(memoryview(part))
        except OSError as error:
            raise StoreError(f"{self._path}: cannot be written: {error}") from error

    def _encode(self, group: _Group) -> pa.Buffer:
        n = group.n
        arrays: dict[str, pa.Array] = {}
        for name, _, kind, sparse in _PLAIN:
            absent = sparse and not sparse & group.has
            values = group.plain[name][:n]
            if name in _ALWAYS:
                arrays[name] = pa.Array.from_buffers(kind, n, [None, pa.py_buffer(values)])
            else:
                arrays[name] = pa.nulls(n, kind) if absent else _nullable(values, kind)
        texts = pa.array(group.texts, pa.string())
        for name, *_, sparse in _ADDRESSES:
            absent = sparse and not sparse & group.has
            arrays[name] = pa.nulls(n, _TEXT) if absent else _dictionary(group.address[name][:n], texts)
        tunnels = pa.array(TUNNELS[1:], pa.string())
        if group.has & HAS_TUNNEL:
            arrays["tunnel"] = _dictionary(group.tunnel[:n].astype(np.int32) - 1, tunnels)
        else:
            arrays["tunnel"] = pa.nulls(n, _TEXT)
        arrays["recovered"] = _bits(group.recovered[:n])
        arrays["file"] = _dictionary(group.file[:n], pa.array(group.files, pa.string()))
        return _parquet(pa.table([arrays[name] for name in COLUMNS], schema=self._schema))


def _parquet(table: pa.Table) -> pa.Buffer:
    """One row group as a Parquet file in memory."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=max(len(table), 1),
        compression={name: "none" if name in _SMALL else "lz4" for name in COLUMNS},
        use_dictionary=[name for name in COLUMNS if name not in (*_DELTA, "hw_sub_ns")],
        column_encoding=dict.fromkeys(_DELTA, "DELTA_BINARY_PACKED"),
        write_statistics=["time_ns", "hw_time_ns"],
        data_page_size=1 << 20,
    )
    return sink.getvalue()


def convert(
    files: Sequence[str],
    out: str | os.PathLike[str],
    *,
    threads: int = 1,
    hardware: bool = True,
    stamps: str | None = None,
    follow_s: float | None = None,
    tell: Callable[[CaptureStats], None] | None = None,
) -> CaptureStats:
    """Decode captures into one Parquet file, which appears when it is whole; returns what was met.

    Parameters
    ----------
    files, hardware, stamps, follow_s
        See `telemetry.capture.packets.read_packets`. A folder or glob stands for the captures in it.
    out : path
    threads : int
        See `PacketWriter`.
    tell : callable, optional
        Called with the figures so far after each batch.

    Raises
    ------
    InputError
        If a file is no capture. Nothing is written then.
    StoreError
        If `out` cannot be written.
    ConfigError
        If `out` is one of the files.
    """
    files = [file for name in files for file in captures_in(name)]
    target = os.path.realpath(out)
    for name in files:
        if name != "-" and os.path.realpath(name) == target:
            raise ConfigError(f"{out}: expected another file to write than the one that is read")
    stats = CaptureStats()
    batches = read_packets(list(files), hardware=hardware, stamps=stamps, follow_s=follow_s, stats=stats)
    with PacketWriter(out, threads=threads) as writer:
        for batch in batches:
            writer.write(batch)
            if tell is not None:
                tell(stats)
    return stats


def _validity(valid: NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(valid, bitorder="little"))


def _nullable(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
    """Arrow over the same memory, with the batch's nulls (NULL, -1, NaN) as nulls."""
    if values.dtype.kind == "f":
        valid = _validity(values == values)
    else:
        least = values.min()
        valid = None
        if least < 0:
            if values.max() < 0:
                return pa.nulls(len(values), kind)
            # only times can be below -1: then NULL is what is missing
            valid = _validity(values != NULL if least < -1 else values != -1)
    return pa.Array.from_buffers(kind, len(values), [valid, pa.py_buffer(values)])


def _dictionary(codes: NDArray[np.int32], texts: pa.Array) -> pa.Array:
    valid = None
    if codes.min() < 0:
        if codes.max() < 0:
            return pa.nulls(len(codes), _TEXT)
        valid = _validity(codes >= 0)
    indices = pa.Array.from_buffers(pa.int32(), len(codes), [valid, pa.py_buffer(codes)])
    return pa.DictionaryArray.from_arrays(indices, texts, safe=False)  # the codes are ours: in range


def _bits(values: NDArray[np.uint8]) -> pa.Array:
    return pa.Array.from_buffers(
        pa.bool_(), len(values), [None, pa.py_buffer(np.packbits(values != 0, bitorder="little"))]
    )
