"""Fitting that is handed out: by pieces where a model offers it, by series where they are independent."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from models.base import Model
from telemetry.types import Panel, State

__all__ = ["ONE_PIECE", "PER_SERIES", "FitsOver", "Spread", "fit_by_series"]

Spread: TypeAlias = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]
"""Runs a function on each item, wherever; results in the order of the items."""

PER_SERIES = frozenset({"full", "reference", "shift"})
"""Kinds whose series do not know of each other, with a state of plain arrays: a row a channel, see `models.keyed`.

So are `light` and `counts`, but they pass over a value faster than it is handed to another process.
"""

ONE_PIECE = dict.fromkeys(("joint", "subspace", "sklearn"), "it looks at all series together")
ONE_PIECE["river"] = "its state is pickled as a whole"
"""Kinds that are slow to fit and cannot be split, and why."""

_PARTS = 64  # more than processes, so that they end together; the result does not depend on it
_SHARED = ("version", "params", "columns")  # what a state says of the model, not of its channels


@runtime_checkable
class FitsOver(Protocol):
    """A model that hands its own work out."""

    def fit_over(self, history: Panel, spread: Spread) -> None:
        """Do what `Model.fit` does, its pieces run by `spread`."""
        ...


def _fit(job: tuple[Model, Panel]) -> State:
    model, history = job
    model.fit(history)
    return model.snapshot()


def fit_by_series(model: Model, history: Panel, spread: Spread) -> None:
    """Fit a model of one of the kinds `PER_SERIES`: parts of the series by `spread`, their states joined again.

    The result is that of ``model.fit(history)``, bit for bit. The state is held twice for a moment.
    """
    size = -(-len(history.keys) // _PARTS)
    if len(history.keys) < 2:
        model.fit(history)
        return
    jobs = []
    for at in range(0, len(history.keys), size):
        part, keys = copy.deepcopy(model), history.keys[at : at + size]
        part.align(keys)
        values = np.ascontiguousarray(history.values[:, at : at + size])
        jobs.append((part, Panel(keys, history.columns, history.window_ns, history.end_ns, values)))
    states = spread(_fit, jobs)
    model.restore({name: _join([s[name] for s in states], name) for name in states[0]})


def _join(arrays: Sequence[np.ndarray], name: str) -> np.ndarray:
    return arrays[0] if name in _SHARED or not arrays[0].ndim else np.concatenate(arrays)
