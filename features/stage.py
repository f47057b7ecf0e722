"""The two halves of a builder: a base makes windows of events, stages make panels of panels."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

from telemetry.types import Bool, Float64, Int64, Nanos, SeriesKey, State

__all__ = ["Base", "Stage"]


class Base(Protocol):
    """Events in, windows out. Series are numbered in the order in which `bind` names them."""

    columns: tuple[str, ...]
    window_ns: Nanos
    step_ns: Nanos

    def selects(self, key: SeriesKey) -> bool: ...

    def bind(self, key: SeriesKey) -> None:
        """Take up one more series."""
        ...

    def append(self, series: Int64, time: Int64, value: NDArray[Any], keep: Bool | None, local: Int64) -> None:
        """Take in admitted events; `local` maps their series to this base's (-1: not selected)."""
        ...

    def close(self, first: int, last: int, alive: Bool) -> Float64:
        """Windows `first` .. `last` (they end at ``(number + 1) * step_ns``), (W, S, C).

        `alive` (W, S): whether the series' host was heard of in or after the window.
        """
        ...

    def snapshot(self) -> State: ...
    def restore(self, state: State) -> None: ...


class Stage(Protocol):
    """Windows in, windows out, one after another; what it remembers are only windows it was given."""

    columns: tuple[str, ...]

    def bind(self, key: SeriesKey) -> list[SeriesKey]:
        """Take up one more input series; return the output series that this adds (in order)."""
        ...

    def advance(self, end_ns: Int64, values: Float64) -> Float64:
        """(W, S in, C in) -> (W, S out, C out). Ends increase; where they jump, windows are missing."""
        ...

    def snapshot(self) -> State: ...
    def restore(self, state: State) -> None: ...
