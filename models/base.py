"""What a model is: windows in, surprise out, no I/O, no clock of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from telemetry.types import Panel, Scores, SeriesKey, State

__all__ = ["Model"]


@runtime_checkable
class Model(Protocol):
    """Scores each window by what it learnt from the windows before: score first, then learn.

    - NaN values, and windows before a series' first finite value, change nothing in the state.
    - Surprise is -log10 of a tail probability, calibrated per channel; NaN while warming up.
    - A series' scores do not depend on which other series are in the panel (joint models excepted).
    """

    def fit(self, history: Panel) -> None:
        """Learn from history, where there is something to fit; a no-op for purely online models."""
        ...

    def align(self, keys: Sequence[SeriesKey]) -> None:
        """Series come and go; state follows the key. New series start cold."""
        ...

    def advance(self, panel: Panel, *, explain: bool = False) -> Scores:
        """Score then learn, window by window. The panel's keys are those last aligned to."""
        ...

    def snapshot(self) -> State: ...
    def restore(self, state: State) -> None: ...
