"""State that follows the series: rows of arrays are channels, (key, column) in key-major order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from telemetry.errors import ConfigError, StoreError
from telemetry.types import Int64, Panel, SeriesKey, State

__all__ = ["ChannelState", "pack_names", "rows_before", "rows_that_stay", "unpack_names", "within"]


def pack_names(keys: Sequence[SeriesKey], columns: Sequence[str]) -> dict[str, NDArray[np.str_]]:
    """Keys and columns as arrays, for a snapshot."""
    return {
        "keys": np.array([str(k) for k in keys], dtype=np.str_),
        "columns": np.array(list(columns), dtype=np.str_),
    }


def unpack_names(state: State) -> tuple[tuple[SeriesKey, ...], tuple[str, ...]]:
    """Read what `pack_names` wrote."""
    return tuple(SeriesKey.parse(str(k)) for k in state["keys"]), tuple(str(c) for c in state["columns"])


def rows_before(old: Sequence[SeriesKey], new: Sequence[SeriesKey], width: int) -> Int64:
    """Row that each row of `new` had in `old`, -1 for those that are new.

    Parameters
    ----------
    width : int
        Columns (rows a key).
    """
    if new[: len(old)] == old:  # the usual change: series are added at the end
        rows = np.arange(len(new) * width)
        rows[len(old) * width :] = -1
        return rows
    where = {k: i for i, k in enumerate(old)}
    keys = np.array([where.get(k, -1) for k in new], np.int64)[:, None]
    return np.where(keys < 0, -1, keys * width + np.arange(width)).ravel()


def rows_that_stay(old: Sequence[SeriesKey], new: Sequence[SeriesKey], width: int) -> tuple[Int64, Int64]:
    """Rows of `new` that were in `old`, and their rows there: ``fresh[to] = before[at]``."""
    before = rows_before(old, new, width)
    to = np.flatnonzero(before >= 0)
    return to, before[to]


class ChannelState:
    """Arrays with a row a channel, that follow the series as they come and go.

    Parameters
    ----------
    kind : str
        The model's name, for messages.
    fresh : callable
        Arrays of that many channels that have seen nothing.

    Attributes
    ----------
    keys : tuple of SeriesKey
    columns : tuple of str
        Those of the first panel; empty before it.
    rows : mapping of str to array
        The arrays, each (channels, ...), C-contiguous.
    """

    def __init__(self, kind: str, fresh: Callable[[int], dict[str, NDArray[Any]]]) -> None:
        self._kind, self._fresh = kind, fresh
        self.keys: tuple[SeriesKey, ...] = ()
        self.columns: tuple[str, ...] = ()
        self.rows: Mapping[str, NDArray[Any]] = fresh(0)
        self._room, self._capacity = self.rows, 0

    def settle(self, panel: Panel) -> Int64:
        """Take the columns of the first panel, then `align` to its keys.

        Raises
        ------
        ConfigError
            If the columns are not those of the first panel.
        """
        if not self.columns:
            self.keys, self.columns = (), panel.channels
            self.rows = self._room = self._fresh(0)  # of what the model knows of the panel by now (slots of a clock)
        elif panel.channels != self.columns:
            raise ConfigError(f"{self._kind}: learnt columns {self.columns}, got {panel.channels}")
        return self.align(panel.keys)

    def align(self, keys: Sequence[SeriesKey]) -> Int64:
        """Let the rows follow the keys; returns those that are new."""
        old, self.keys = self.keys, tuple(keys)
        if self.keys == old:
            return _NONE
        width = len(self.columns)
        channels, had = len(self.keys) * width, len(old) * width
        before = rows_before(old, self.keys, width)
        new = np.flatnonzero(before < 0)
        added = channels - len(new) == had == np.count_nonzero(before[:had] == np.arange(had))
        if not added or channels > self._capacity:
            self._capacity = max(channels, 2 * had) if added else channels  # so that growing copies a row a few times
            room = self._fresh(self._capacity)
            stay = np.flatnonzero(before >= 0)
            if len(stay):
                for name, array in room.items():
                    array[stay] = self.rows[name][before[stay]]
            self._room = room
        self.rows = {name: array[:channels] for name, array in self._room.items()}
        return new

    def pack(self) -> State:
        """Copies for a snapshot."""
        return {**pack_names(self.keys, self.columns), **{name: array.copy() for name, array in self.rows.items()}}

    def unpack(self, state: State) -> None:
        """Take what `pack` gave.

        Raises
        ------
        StoreError
            If an array is of another shape.
        """
        keys, columns = unpack_names(state)
        room = self._fresh(len(keys) * len(columns))
        for name, array in room.items():
            if state[name].shape != array.shape:
                raise StoreError(f"{self._kind}: {name} of shape {state[name].shape}, expected {array.shape}")
            array[:] = state[name]
        self.keys, self.columns = keys, columns
        self.rows, self._room, self._capacity = room, room, len(keys) * len(columns)


_NONE = np.empty(0, np.int64)


def within(kind: str, *limits: tuple[str, float, float, float]) -> None:
    """Check parameters, each (name, value, low, high).

    Raises
    ------
    ConfigError
        The first that is not in [low, high].
    """
    for name, value, low, high in limits:
        if not low <= value <= high:
            raise ConfigError(f"{kind}: {name} must be in [{low}, {high}], got {value}")
