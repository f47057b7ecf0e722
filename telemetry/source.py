"""Where events come from, and how several sources become one stream in seen order."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from telemetry.types import Events, Int64, Nanos, SeriesKey

__all__ = ["ArraySource", "Source", "merge"]


class Source(Protocol):
    """Something that can be read again and gives the same events in the same order."""

    def read(self, seen_from_ns: Nanos, seen_to_ns: Nanos) -> Iterator[Events]:
        """Yield all events first seen in ``[seen_from_ns, seen_to_ns)``, in (seen_ns, arrival) order."""
        ...


class ArraySource:
    """Events held in memory (tests, notebooks, `detect`); sorted by seen time, stable."""

    def __init__(self, *batches: Events, rows: int = 65_536) -> None:
        whole = [b[np.argsort(b.seen_ns, kind="stable")] for b in batches]
        self._batches = whole
        self._rows = rows

    def read(self, seen_from_ns: Nanos, seen_to_ns: Nanos) -> Iterator[Events]:
        yield from merge([self._cut(b, seen_from_ns, seen_to_ns) for b in self._batches])

    def _cut(self, b: Events, lo: Nanos, hi: Nanos) -> Iterator[Events]:
        start, stop = np.searchsorted(b.seen_ns, [lo, hi])
        for at in range(int(start), int(stop), self._rows):
            yield b[at : min(at + self._rows, int(stop))]


def merge(streams: Sequence[Iterator[Events]], *, rows: int = 8192) -> Iterator[Events]:
    """Merge streams, each in seen order, into one in (seen_ns, stream, arrival) order.

    Batches are cut where another stream has something earlier, so memory stays at one batch a stream; the pieces are
    joined again, up to `rows` of one value type, because a push of eight events costs as much as one of thousands.
    """
    index: dict[SeriesKey, int] = {}
    keys: tuple[SeriesKey, ...] = ()  # the same object while nothing new comes, so that builders know it
    waiting: list[tuple[Events, Int64]] = []
    held = 0
    maps: dict[int, tuple[tuple[SeriesKey, ...], Int64]] = {}

    def joined() -> Events:
        nonlocal keys, held
        if len(keys) != len(index):
            keys = tuple(index)
        parts = [b for b, _ in waiting]
        whole = Events(
            keys,
            np.concatenate([to[b.series] for b, to in waiting]),
            np.concatenate([b.time_ns for b in parts]),
            np.concatenate([b.seen_ns for b in parts]),
            np.concatenate([b.value for b in parts]),
        )
        waiting.clear()
        held = 0
        return whole

    for piece in _pieces(streams):
        if waiting and waiting[0][0].value.dtype != piece.value.dtype:
            yield joined()
        known = maps.get(id(piece.keys))
        if known is None:
            if len(maps) > 1024:
                maps.clear()
            known = piece.keys, np.array([index.setdefault(k, len(index)) for k in piece.keys], np.int64)
            maps[id(piece.keys)] = known  # holds the tuple, so that its id stays its own
        waiting.append((piece, known[1]))
        held += len(piece)
        if held >= rows:
            yield joined()
    if waiting:
        yield joined()


def _pieces(streams: Sequence[Iterator[Events]]) -> Iterator[Events]:
    heads: list[tuple[Nanos, int, Events]] = []

    def refill(i: int) -> None:
        for batch in streams[i]:
            if len(batch):
                heapq.heappush(heads, (int(batch.seen_ns[0]), i, batch))
                return

    for i in range(len(streams)):
        refill(i)
    while heads:
        _, i, batch = heapq.heappop(heads)
        if heads:
            seen, other, _ = heads[0]
            up_to = seen + 1 if i < other else seen
            cut = max(1, int(np.searchsorted(batch.seen_ns, up_to)))
        else:
            cut = len(batch)
        yield batch[:cut]
        if cut < len(batch):
            heapq.heappush(heads, (int(batch.seen_ns[cut]), i, batch[cut:]))
        else:
            refill(i)
