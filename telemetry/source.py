"""Where events come from, and how several sources become one stream in seen order."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from telemetry.types import Events, Nanos

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


def merge(streams: Sequence[Iterator[Events]]) -> Iterator[Events]:
    """Merge streams, each in seen order, into one in (seen_ns, stream, arrival) order.

    Batches are cut where another stream has something earlier, so memory stays at one batch a stream.
    """
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
