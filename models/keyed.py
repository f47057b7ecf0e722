"""State that follows the series: rows of arrays are channels, (key, column) in key-major order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from telemetry.errors import ConfigError
from telemetry.types import Int64, SeriesKey, State

__all__ = ["pack_names", "rows_that_stay", "unpack_names", "within"]


def pack_names(keys: Sequence[SeriesKey], columns: Sequence[str]) -> dict[str, NDArray[np.str_]]:
    """Keys and columns as arrays, for a snapshot."""
    return {
        "keys": np.array([str(k) for k in keys], dtype=np.str_),
        "columns": np.array(list(columns), dtype=np.str_),
    }


def unpack_names(state: State) -> tuple[tuple[SeriesKey, ...], tuple[str, ...]]:
    """Read what `pack_names` wrote."""
    return tuple(SeriesKey.parse(str(k)) for k in state["keys"]), tuple(str(c) for c in state["columns"])


def rows_that_stay(old: Sequence[SeriesKey], new: Sequence[SeriesKey], width: int) -> tuple[Int64, Int64]:
    """Rows of `new` whose key was in `old`, and their rows there: ``fresh[to] = before[at]``.

    Parameters
    ----------
    width : int
        Columns (rows a key).
    """
    where = {k: i for i, k in enumerate(old)}
    known = [(i, where[k]) for i, k in enumerate(new) if k in where]
    pairs = np.array(known, np.int64).reshape(-1, 2)
    rows = pairs[:, None, :] * width + np.arange(width)[None, :, None]
    return rows[:, :, 0].ravel(), rows[:, :, 1].ravel()


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
