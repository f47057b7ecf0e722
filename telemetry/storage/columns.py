"""Rows in memory, as columns, and the series that a reading has met."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from telemetry.types import Float64, Int64, SeriesKey

__all__ = ["COLUMNS", "Columns", "KeyTable"]

COLUMNS: Final = ("code", "time_ns", "seen_ns", "arrival", "value")


class Columns:
    """Rows in the order of arrival: `code` indexes `keys`."""

    __slots__ = ("arrival", "code", "seen_ns", "time_ns", "value")

    def __init__(
        self, code: NDArray[np.int32], time_ns: Int64, seen_ns: Int64, arrival: Int64, value: Int64 | Float64
    ) -> None:
        self.code = code
        self.time_ns = time_ns
        self.seen_ns = seen_ns
        self.arrival = arrival
        self.value = value

    def __len__(self) -> int:
        return len(self.code)

    def __getitem__(self, at: Any) -> Columns:
        return Columns(self.code[at], self.time_ns[at], self.seen_ns[at], self.arrival[at], self.value[at])

    @staticmethod
    def concat(parts: Sequence[Columns]) -> Columns:
        if len(parts) == 1:
            return parts[0]
        return Columns(*(np.concatenate([getattr(p, n) for p in parts]) for n in COLUMNS))


class KeyTable:
    """Series met in one reading: `code` numbers them; -1 stands for those not asked for."""

    __slots__ = ("_codes", "_wanted", "keys")

    def __init__(self, wanted: Callable[[SeriesKey], bool] | None = None) -> None:
        self.keys: list[SeriesKey] = []
        self._codes: dict[SeriesKey, int] = {}
        self._wanted = wanted

    def code(self, key: SeriesKey) -> int:
        found = self._codes.get(key)
        if found is None:
            if self._wanted is not None and not self._wanted(key):
                found = -1
            else:
                found = len(self.keys)
                self.keys.append(key)
            self._codes[key] = found
        return found
