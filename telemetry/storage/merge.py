"""Many streams, each in the order of arrival, become one: by whole batches, not by rows.

The order is total: (seen_ns, arrival, host, family, order of writing), so it does not depend on where the rows
happen to lie. Rows equal in all of these and in series, time and value are one row written twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from telemetry.storage.columns import Columns, KeyTable
from telemetry.storage.layout import family_of
from telemetry.types import Int64, Nanos

__all__ = ["Stream", "merge_streams", "sort_rows"]

_Real = NDArray[np.bool_]


class Stream:
    """Rows in the order of arrival. `seen_min` is known before the first batch is loaded.

    Batches are pairs of columns, whose values are the bits as int64, and which of the rows are float64.
    """

    __slots__ = ("batch", "done", "rows", "seen_min", "unopened")

    def __init__(self, seen_min: Nanos, rows: Iterator[tuple[Columns, _Real]]) -> None:
        self.seen_min = seen_min
        self.rows = rows
        self.batch: tuple[Columns, _Real] | None = None
        self.done = False
        self.unopened = True

    def load(self) -> None:
        """Get one batch more, behind what is left of the last."""
        self.unopened = False
        more = next((m for m in self.rows if len(m[0])), None)
        if more is None:
            self.done = True
        elif self.batch is None:
            self.batch = more
        else:
            self.batch = (Columns.concat([self.batch[0], more[0]]), np.concatenate([self.batch[1], more[1]]))

    def take(self, count: int) -> tuple[Columns, _Real] | None:
        """Remove and return the first rows."""
        if self.batch is None or count == 0:
            return None
        rows, real = self.batch
        if count == len(rows):
            self.batch = None
            return rows, real
        self.batch = (rows[count:], real[count:])
        return rows[:count], real[:count]


def merge_streams(streams: Sequence[Stream], table: KeyTable) -> Iterator[tuple[Columns, _Real, int]]:
    """Merge; yields rows, which of them are float64, and how many duplicates were dropped."""
    waiting = sorted(streams, key=lambda s: s.seen_min, reverse=True)
    active: list[Stream] = []
    while waiting or active:
        if not active:
            active.append(waiting.pop())
        for stream in active:
            while stream.batch is None and not stream.done:
                stream.load()
        active = [s for s in active if s.batch is not None]
        horizon = _horizon(active, waiting)
        while waiting and horizon is not None and waiting[-1].seen_min <= horizon[0]:
            opened = waiting.pop()
            while opened.batch is None and not opened.done:
                opened.load()
            if opened.batch is not None:
                active.append(opened)
            horizon = _horizon(active, waiting)
        if not active:
            continue
        parts = []
        for stream in active:
            part = stream.take(len(stream.batch[0]) if horizon is None and stream.batch else _before(stream, horizon))
            if part is not None:
                parts.append(part)
        if parts:
            yield _join(parts, table)
            continue
        for stream in active:  # nothing lies before the horizon: look further where it is
            if not stream.done:
                stream.load()


def sort_rows(rows: Columns, groups: Int64 | None = None) -> Int64 | None:
    """The permutation into order, or None if the rows lie so already."""
    seen, arrival = rows.seen_ns, rows.arrival
    ascending = (seen[1:] > seen[:-1]) | ((seen[1:] == seen[:-1]) & (arrival[1:] > arrival[:-1]))
    if ascending.all():
        return None
    if groups is not None:
        return np.lexsort((groups, arrival, seen)).astype(np.int64)
    base, top = int(seen.min()), int(seen.max())
    bits = int(arrival.max()).bit_length()
    if (top - base).bit_length() + bits < 63:
        return np.argsort(((seen - base) << bits) | arrival, kind="stable")
    return np.lexsort((arrival, seen)).astype(np.int64)


def _horizon(active: Sequence[Stream], waiting: Sequence[Stream]) -> tuple[Nanos, int] | None:
    """Rows before this (seen_ns, arrival) are complete; None if nothing more can come."""
    found = [(int(s.batch[0].seen_ns[-1]), int(s.batch[0].arrival[-1])) for s in active if s.batch and not s.done]
    if waiting:
        found.append((waiting[-1].seen_min, 0))
    return min(found, default=None)


def _before(stream: Stream, horizon: tuple[Nanos, int] | None) -> int:
    if stream.batch is None or horizon is None:
        return 0
    rows = stream.batch[0]
    lo, hi = np.searchsorted(rows.seen_ns, horizon[0], "left"), np.searchsorted(rows.seen_ns, horizon[0], "right")
    return int(lo + np.searchsorted(rows.arrival[lo:hi], horizon[1], "left"))


def _join(parts: list[tuple[Columns, _Real]], table: KeyTable) -> tuple[Columns, _Real, int]:
    rows = Columns.concat([p[0] for p in parts])
    real = parts[0][1] if len(parts) == 1 else np.concatenate([p[1] for p in parts])
    order = sort_rows(rows)
    if order is None:
        return rows, real, 0
    rows, real = rows[order], real[order]
    ties = (rows.seen_ns[1:] == rows.seen_ns[:-1]) & (rows.arrival[1:] == rows.arrival[:-1])
    if not ties.any():
        return rows, real, 0
    order = np.lexsort((rows.value, rows.time_ns, rows.code, _groups(rows, real, table), rows.arrival, rows.seen_ns))
    rows, real = rows[order], real[order]
    same = real[1:] == real[:-1]
    for name in ("seen_ns", "arrival", "code", "time_ns", "value"):
        column = getattr(rows, name)
        same &= column[1:] == column[:-1]
    if not same.any():
        return rows, real, 0
    keep = np.concatenate(([True], ~same))
    return rows[keep], real[keep], int(same.sum())


def _groups(rows: Columns, real: _Real, table: KeyTable) -> Int64:
    """Rank of each row's (host, family), from the names alone."""
    pairs = rows.code.astype(np.int64) * 2 + real
    present, inverse = np.unique(pairs, return_inverse=True)
    names = []
    for pair in present.tolist():
        key = table.keys[pair // 2]
        names.append((key.host, family_of(key.metric, "float64" if pair % 2 else "int64"), key.metric, key.labels))
    rank = {name: i for i, name in enumerate(sorted(names))}
    return np.array([rank[n] for n in names], np.int64)[inverse]
