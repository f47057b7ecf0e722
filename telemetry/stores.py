"""Many hosts, a store each (in one folder, or anywhere), read as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Protocol

from telemetry.errors import StoreError
from telemetry.selectors import Select
from telemetry.source import merge
from telemetry.storage.published import published_at
from telemetry.store import Store
from telemetry.types import Events, Nanos, SeriesKey

__all__ = ["Stores", "open_stores"]


class _Readable(Protocol):
    def read(
        self,
        seen_from_ns: Nanos,
        seen_to_ns: Nanos,
        *,
        select: Select = None,
        time_from_ns: Nanos | None = None,
        time_to_ns: Nanos | None = None,
    ) -> Iterator[Events]: ...
    def hosts(self) -> list[str]: ...
    def keys(self, select: Select = None) -> list[SeriesKey]: ...
    def last_seen_ns(self, host: str | None = None) -> Nanos | None: ...


class Stores:
    """Several stores as one `telemetry.source.Source`, merged in (seen_ns, store) order.

    Memory is one batch a store. A row that lies in two of them is read twice: give each host one store.
    """

    def __init__(self, stores: Sequence[_Readable]) -> None:
        self.stores = tuple(stores)

    def read(
        self,
        seen_from_ns: Nanos,
        seen_to_ns: Nanos,
        *,
        select: Select = None,
        time_from_ns: Nanos | None = None,
        time_to_ns: Nanos | None = None,
    ) -> Iterator[Events]:
        """As `telemetry.store.Store.read`."""
        times = {"time_from_ns": time_from_ns, "time_to_ns": time_to_ns}
        yield from merge([s.read(seen_from_ns, seen_to_ns, select=select, **times) for s in self.stores])

    def hosts(self) -> list[str]:
        """The hosts of all, sorted."""
        return sorted(set(chain.from_iterable(s.hosts() for s in self.stores)))

    def keys(self, select: Select = None) -> list[SeriesKey]:
        """The series of all, sorted."""
        return sorted(set(chain.from_iterable(s.keys(select) for s in self.stores)))

    def last_seen_ns(self, host: str | None = None) -> Nanos | None:
        """The largest seen_ns of all, or None."""
        return max((n for s in self.stores if (n := s.last_seen_ns(host)) is not None), default=None)


def open_stores(places: Sequence[str]) -> Stores:
    """Open stores by path or URI; a folder (also one at a URI) that holds stores stands for all of them.

    Raises
    ------
    StoreError
        If a place is no store and holds none.
    """
    out: list[_Readable] = []
    for place in places:
        if "://" in place:
            out += published_at(place)
            continue
        path = Path(place)
        inner = sorted(p.parent for p in path.glob("*/store.json"))
        if (path / "store.json").exists() or not inner:
            out.append(Store(path, create=False))
        else:
            out += [Store(p, create=False) for p in inner]
    if not out:
        raise StoreError("expected at least one store, got none")
    return Stores(out)
