"""Bulk loading of a store: one unit of input (a capture, a lab run) goes in whole, once, or not at all.

The unit's rows are written as Parquet beside the store's own files and become part of it in one change of
the manifest, together with a token that names the unit. A run that is killed before leaves nothing that a
reader sees; a unit whose token is there is not read again.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np

from telemetry.errors import StoreError
from telemetry.storage.columns import Columns
from telemetry.storage.cut import commit_files
from telemetry.storage.manifest import check_version, locked, read_manifest
from telemetry.storage.partition import PartitionWriter
from telemetry.types import Events, Nanos, SeriesKey

__all__ = ["BulkLoad", "holds_part", "loaded"]

_PREFIX: Final = "unit"


def loaded(store: str | os.PathLike[str], unit: str) -> str | None:
    """Return the content digest with which a unit was loaded, or None if it was not."""
    root = Path(store)
    if not (root / "manifest.json").exists():
        return None
    head = f"{_PREFIX} {_digest(unit)} "
    return next((t[len(head) :] for t in read_manifest(root).tokens if t.startswith(head)), None)


def holds_part(store: str | os.PathLike[str], unit: str, part: str) -> bool:
    """Whether a part of a unit is still a file of its own, so that it can be replaced."""
    stem = f"{_PREFIX}-{_digest(unit)}-{part}"
    return any(Path(f.path).stem.startswith(stem) for f in read_manifest(Path(store)).files)


class BulkLoad:
    """Loads one unit.

    Parameters
    ----------
    store : path of the store's folder (made if it is not there)
    unit : str
        What is loaded: the same text names the same unit.
    content : str
        Digest of its content.
    part : str, optional
        The unit comes in parts, each committed on its own: the name of this one.

    Examples
    --------
    >>> with BulkLoad("s", "capture day.pcap", digest) as load:          # doctest: +SKIP
    ...     for events in batches:
    ...         load.append(events)
    ...     load.commit()
    """

    def __init__(self, store: str | os.PathLike[str], unit: str, content: str, part: str | None = None) -> None:
        self._root = Path(store)
        check_version(self._root, create=True)
        self._stem = f"unit-{_digest(unit)}" + ("" if part is None else f"-{part}")
        self._token = f"{_PREFIX} {_digest(unit)} "
        self._content = content
        self._keys: list[SeriesKey] = []
        self._codes: dict[SeriesKey, int] = {}
        self._batch_keys: tuple[SeriesKey, ...] = ()
        self._batch_codes = np.empty(0, np.int32)
        self._same: dict[int, int] = {}  # id of a key that is kept -> code: the same objects come again and again
        self._writer = PartitionWriter(self._root, self._stem, self._keys)
        self._last = (int(np.iinfo(np.int64).min), 0)
        self.rows = 0

    def __enter__(self) -> BulkLoad:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    @property
    def last_seen_ns(self) -> Nanos:
        """seen_ns of the last row so far."""
        return self._last[0]

    def append(self, events: Events) -> None:
        """Take in a batch; batches come in seen order.

        Raises
        ------
        StoreError
            If the disk is full or not writable.
        """
        if not len(events):
            return
        if events.keys is not self._batch_keys:
            known = len(self._batch_keys)
            if events.keys[:known] != self._batch_keys:  # usually they only grow at the end
                known = 0
            fresh = np.array([self._code(k) for k in events.keys[known:]], np.int32)
            self._batch_codes = np.concatenate([self._batch_codes[:known], fresh])
            self._batch_keys = events.keys
        code = self._batch_codes[events.series]
        rows = Columns(code, events.time_ns, events.seen_ns, self._arrival(events), events.value.view(np.int64))
        try:
            self._writer.write(rows, events.value.dtype.kind == "f")
        except OSError as error:
            raise StoreError(f"{self._root}: cannot write: {error.strerror or error}") from error
        self.rows += len(events)

    def commit(self, content: str | None = None, replace: str | None = None) -> bool:
        """Make the unit part of the store; False if another run did so meanwhile.

        Rows that an earlier content of the same unit left (a capture that has grown since) are replaced.

        Parameters
        ----------
        content : str, optional
            What the unit's content is with this part.
        replace : str, optional
            Of a unit that comes in parts, only the part of this name is replaced.

        Raises
        ------
        StoreError
            If they cannot be told apart any more, or the disk is full.
        """
        try:
            files = self._writer.finish()
            self._content = self._content if content is None else content
            stem = self._stem if replace is None else self._stem.rpartition("-")[0] + f"-{replace}"
            with locked(self._root):
                manifest = read_manifest(self._root)
                before = [t for t in manifest.tokens if t.startswith(self._token)]
                if before == [self._token + self._content]:
                    return False
                old = [f for f in manifest.files if Path(f.path).stem.startswith(stem)]
                if before and not old and replace is None:
                    raise StoreError(
                        f"{self._root}: this input was loaded before with other content, and its rows have been "
                        "joined with others since: load it into a new store"
                    )
                manifest.tokens = [t for t in manifest.tokens if t not in before] + [self._token + self._content]
                commit_files(self._root, manifest, add=files, remove=old)
        except OSError as error:
            raise StoreError(f"{self._root}: cannot write: {error.strerror or error}") from error
        return True

    def _code(self, key: SeriesKey) -> int:
        same = self._same.get(id(key))
        if same is not None and self._keys[same] is key:
            return same
        code = self._codes.setdefault(key, len(self._keys))
        if code == len(self._keys):
            self._keys.append(key)
            self._same[id(key)] = code
        return code

    def _arrival(self, events: Events) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Rank among rows of equal seen_ns, over batches."""
        seen = events.seen_ns
        starts = np.flatnonzero(np.concatenate(([True], seen[1:] != seen[:-1])))
        place = np.arange(len(seen), dtype=np.int64)
        rank = place - np.repeat(starts, np.diff(np.append(starts, len(seen))))
        if int(seen[0]) == self._last[0]:
            first = starts[1] if len(starts) > 1 else len(seen)
            rank[:first] += self._last[1] + 1
        self._last = (int(seen[-1]), int(rank[-1]))
        return rank


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
