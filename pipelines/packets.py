"""Packets as Parquet: what people read."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from pipelines.addresses import Addresses
from pipelines.packet_rows import ROWS, SCHEMA, RowGroup, parquet
from pipelines.rowgroups import RowGroupFile
from telemetry.capture.fileset import captures_in
from telemetry.capture.packets import CaptureStats, Packets, read_packets
from telemetry.errors import ConfigError, StoreError

__all__ = ["PacketWriter", "convert"]


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
        self._addresses = Addresses(ROWS)
        self._group = RowGroup(self._addresses)
        self._free = [RowGroup(self._addresses) for _ in range(threads)] if threads > 1 else []
        self._files: list[str] = []
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._pending: deque[tuple[Future[pa.Buffer], RowGroup]] = deque()
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
                    self._add(parquet(SCHEMA.empty_table()))
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
            group.fill(batch, slice(start, start + count), slice(group.n, group.n + count))
            group.n += count
            start += count
            if group.n == ROWS:
                self._flush()
        self.rows += batch.n

    def _flush(self) -> None:
        group = self._group
        if not group.n:
            return
        group.texts = self._addresses.take()
        group.files = list(self._files)
        if self._pool is None:
            self._add(group.encode())
        else:
            self._pending.append((self._pool.submit(group.encode), group))
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
