"""The store: what was harvested and measured, as Parquet, with the last minutes in a log.

One folder; any number of processes write and read at once. A writer appends to a log segment of its own (frames
with checksums), from which Parquet is cut; one manifest, replaced as a whole under a lock, says which files
count and which segments no longer do. So a reader sees each row exactly once, whatever a writer is at.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np

from telemetry.selectors import Select, of_host, predicate
from telemetry.storage.columns import KeyTable
from telemetry.storage.cut import adopt, commit_files, empty_trash
from telemetry.storage.index import SegmentIndex
from telemetry.storage.manifest import check_version, locked, read_manifest
from telemetry.storage.reading import Snapshot
from telemetry.storage.writer import CUT_NS, FLUSH_NS, SEGMENT_BYTES, LogWriter
from telemetry.types import Events, Nanos, SeriesKey

__all__ = ["Store"]


class Store(LogWriter):
    """Events on disk; a `telemetry.source.Source`.

    Parameters
    ----------
    path : path of a folder
    create : bool
        Make the store if it is not there; otherwise its absence is an error.
    writer : str, optional
        Name of this writer's segments; unique by default.
    flush_ns : int
        Rows are handed to the kernel when they span this long (of seen_ns): what a kill may lose.
    cut_ns, segment_bytes : int
        A segment becomes Parquet when it spans this long or is this large.
    on_full : {"raise", "drop"}
        On a full disk: StoreError, or count the rows in `dropped` and go on.
    background : bool
        Cut Parquet in a thread, so that a sampler is not held up.

    Raises
    ------
    StoreError
        If the folder is something else, or a store of another version.

    Examples
    --------
    >>> with Store("s") as store:                                        # doctest: +SKIP
    ...     store.append(events)
    ...     for batch in store.read(0, 2**63 - 1, select="irq_total{cpu=3}"):
    ...         ...
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        create: bool = True,
        writer: str | None = None,
        flush_ns: Nanos = FLUSH_NS,
        cut_ns: Nanos = CUT_NS,
        segment_bytes: int = SEGMENT_BYTES,
        on_full: Literal["raise", "drop"] = "raise",
        background: bool = False,
    ) -> None:
        check_version(Path(path), create=create)
        super().__init__(
            Path(path), writer=writer, flush_ns=flush_ns, cut_ns=cut_ns, segment_bytes=segment_bytes, on_full=on_full,
            background=background,
        )  # fmt: skip
        self.duplicates = 0
        """Rows that a reading found written twice."""
        self._known: dict[tuple[str, int], SegmentIndex] = {}

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- reading

    def read(
        self,
        seen_from_ns: Nanos,
        seen_to_ns: Nanos,
        *,
        select: Select = None,
        time_from_ns: Nanos | None = None,
        time_to_ns: Nanos | None = None,
    ) -> Iterator[Events]:
        """Yield all events first seen in ``[seen_from_ns, seen_to_ns)``, in (seen_ns, arrival) order.

        Parameters
        ----------
        select : selector, text, several of them, or a function of the key
        time_from_ns, time_to_ns : int, optional
            Only what happened in ``[time_from_ns, time_to_ns)``.

        Notes
        -----
        Memory is bounded by one row group for each file that overlaps in time. Keys are numbered in the order in
        which they appear; a batch has one value type.
        """
        time = None
        if time_from_ns is not None or time_to_ns is not None:
            time = (
                time_from_ns if time_from_ns is not None else -(2**63),
                time_to_ns if time_to_ns is not None else 2**63 - 1,
            )
        with self._look() as snapshot:
            yield from self._batches(snapshot, select, (seen_from_ns, seen_to_ns), time)

    @contextlib.contextmanager
    def by_host(self, seen_ns: Mapping[str, tuple[Nanos, Nanos]]) -> Iterator[list[Iterator[Events]]]:
        """A stream for each of these hosts, of all its events first seen within its ``[from, to)``; at one look.

        (A look holds every segment open: one for each of many hosts would be more files than a process may have.)
        """
        with self._look() as snapshot:
            yield [self._batches(snapshot, of_host(host), seen, None) for host, seen in seen_ns.items()]

    def _batches(
        self, snapshot: Snapshot, select: Select, seen: tuple[Nanos, Nanos], time: tuple[Nanos, Nanos] | None
    ) -> Iterator[Events]:
        wanted, selectors = predicate(select)
        for batch, twice in snapshot.read(KeyTable(wanted), selectors, seen, time):
            self.duplicates += twice
            if len(batch):
                yield batch

    def hosts(self) -> list[str]:
        """The hosts that the store knows, sorted."""
        with self._look() as snapshot:
            return sorted(snapshot.hosts())

    def keys(self, select: Select = None) -> list[SeriesKey]:
        """The series that the store knows, sorted."""
        wanted, selectors = predicate(select)
        with self._look() as snapshot:
            return sorted(k for k in snapshot.keys(selectors) if wanted is None or wanted(k))

    def last_seen_ns(self, host: str | None = None) -> Nanos | None:
        """The largest seen_ns (of a host), or None if there is nothing. Reads no rows."""
        with self._look() as snapshot:
            return snapshot.last_seen(host)

    def newest(self) -> dict[str, Nanos]:
        """The largest seen_ns of each host. Reads no rows."""
        with self._look() as snapshot:
            return snapshot.newest()

    def first_seen_ns(self) -> Nanos | None:
        """The least seen_ns, or None if there is nothing. Reads no rows."""
        with self._look() as snapshot:
            return snapshot.first_seen()

    def digest(self, seen_from_ns: Nanos, seen_to_ns: Nanos, *, select: Select = None) -> str:
        """Digest of the rows of a range: the same however they lie on disk."""
        hasher, names = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
        named = 0
        for b in self.read(seen_from_ns, seen_to_ns, select=select):
            for key in b.keys[named:]:
                names.update(f"{key}\n".encode("utf-8", "surrogatepass"))
            named = len(b.keys)
            rows = np.empty(
                len(b), [("series", "<i8"), ("time", "<i8"), ("seen", "<i8"), ("real", "<i8"), ("v", "<i8")]
            )
            rows["series"], rows["time"], rows["seen"] = b.series, b.time_ns, b.seen_ns
            rows["real"], rows["v"] = b.value.dtype.kind == "f", b.value.view(np.int64)
            hasher.update(rows.tobytes())
        hasher.update(names.digest())
        return hasher.hexdigest()

    # -- care

    def compact(self, *, rows: int = 16_000_000) -> int:
        """Join small files (up to `rows` each); return how many files fewer there are. Readers are not disturbed."""
        from telemetry.storage.compact import compact

        self.flush()
        self.torn_bytes += adopt(self.path)
        return compact(self.path, rows)

    def trim(self, *, seen_before_ns: Nanos | None = None, max_bytes: int | None = None) -> int:
        """Remove files all of whose rows were seen before a time, and the oldest until at most `max_bytes` remain.

        Returns
        -------
        int
            Rows removed.
        """
        with locked(self.path):
            manifest = read_manifest(self.path)
            files = sorted(manifest.files, key=lambda f: f.seen_max)
            total = sum(f.size for f in files)
            gone = []
            for f in files:
                old = seen_before_ns is not None and f.seen_max < seen_before_ns
                if old or (max_bytes is not None and total > max_bytes):
                    gone.append(f)
                    total -= f.size
            if gone:
                commit_files(self.path, manifest, remove=gone)
            empty_trash(self.path)
        return sum(f.rows for f in gone)

    # -- inside

    def _look(self) -> Snapshot:
        with self._lock:
            self._flush()
            return Snapshot(self.path, self._known)
