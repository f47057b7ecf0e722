"""Report an event once: the policy for anyone's series, where a row is a sample and a budget is a share of rows.

Works on evidence as the full model means it. A row speaks only if its evidence is 1.4 times what was mentioned last, or
2.5 times what alerted last; that bar stands for 50 rows and then fades by 1 % a row. Each alert raises what the next
needs, until the budget has paid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numba import njit

from detectors.policy import ALERT, EVIDENCE, Decision
from models.ensemble import evidence_of
from telemetry.errors import ConfigError, StoreError
from telemetry.types import Float64, Int8, Int64, Nanos, SeriesKey, State

__all__ = ["RowsPolicy", "needed"]

THRESHOLD = 1.25
"""Evidence that alerts at a budget of one alert in 1,000 rows."""
USUAL = 0.001
BUDGET_POWER = 0.24
LARGE_POWER = 0.4
"""Threshold and powers are read off series without anomalies (`benchmarks/quality_honest.py`): below USUAL the evidence
that as few rows show grows slowly, above it what was told last is in the way of the next."""
RATIO = 1.4
AGAIN = 2.5
"""What alerted alerts again only if its evidence has grown by this."""
KEEP = 50
FADE = 0.99
COST = 0.07
REPAID = 0.5
"""Share of the budget by which the debt of alerts is paid off."""
SILENT = 0.35
_BAR, _AGE, _DEBT, _ROWS, _FIRST, _LAST = range(6)
_FIELDS = 6


@njit(cache=True, nogil=True)
def needed(budget: float) -> float:
    """Evidence that alerts at a budget of so many alerts a row."""
    return float(THRESHOLD * (USUAL / budget) ** (BUDGET_POWER if budget < USUAL else LARGE_POWER))


@njit(cache=True, nogil=True)
def _decide(
    end_ns: Int64,
    evidence: Float64,
    per_row: float,
    per_ns: float,
    cells: Float64,
    score: Float64,
    grade: Int8,
) -> None:
    for c in range(evidence.shape[1]):
        k = cells[c]
        for w in range(evidence.shape[0]):
            value = evidence[w, c]
            if not np.isfinite(value):
                continue
            if k[_ROWS] == 0.0:
                k[_FIRST] = k[_LAST] = float(end_ns[w])
            k[_LAST] = max(k[_LAST], float(end_ns[w]))
            k[_ROWS] += 1.0
            budget = per_row
            if per_ns > 0.0 and k[_ROWS] > 1.0:
                budget = per_ns * max(k[_LAST] - k[_FIRST], 1.0) / (k[_ROWS] - 1.0)
            budget = min(max(budget, 1e-9), 0.02)
            need = needed(budget)
            most = math.log(2.0) + max(0.5 * math.log(USUAL / budget), 0.0)
            if k[_AGE] > KEEP:
                k[_BAR] *= FADE
            k[_AGE] += 1.0
            said = value * math.exp(-k[_DEBT])
            # what was only mentioned must not make the alert harder
            ratio = 1.0 if said >= need else RATIO
            if k[_BAR] >= need:
                ratio = AGAIN
            if said > ratio * k[_BAR] and said > SILENT * need:
                score[w, c] = said / (said + need)
                grade[w, c] = EVIDENCE
                k[_BAR], k[_AGE] = said, 0.0
                if said >= need:
                    grade[w, c] = ALERT
                    k[_DEBT] = min(k[_DEBT] + COST, most)
            k[_DEBT] = max(k[_DEBT] - REPAID * COST * budget, 0.0)


class RowsPolicy:
    """Alerts within a budget of false ones in 1,000 rows, or in a time.

    Parameters
    ----------
    per_1000 : float
        False alerts in 1,000 rows that the user accepts.
    per_day : float, optional
        The budget in days instead; rows are counted by the spacing seen so far.

    Notes
    -----
    `score` is 0 where nothing new is said, 0.5 at the threshold, below 1 always; so one threshold on it means the same
    on every series. Nothing of the length of a series is used.
    """

    def __init__(self, per_1000: float = 1.0, per_day: float | None = None) -> None:
        for name, value in (("per_1000", per_1000), ("per_day", per_day)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"policy rows: {name} must be above 0, got {value!r}")
        self._per_row = per_1000 / 1000.0
        self._per_ns = 0.0 if per_day is None else per_day / 86_400e9
        self._names: list[str] = []
        self._shape = (0, 0)
        self._cells = np.zeros((0, _FIELDS))

    def align(self, keys: Sequence[SeriesKey], columns: Sequence[str]) -> None:
        """Follow the panel's channels; a channel's state stays with its name."""
        names = [f"{k}\x1f{c}" for k in keys for c in columns]
        self._shape = (len(keys), len(columns))
        if names == self._names:
            return
        at = {name: i for i, name in enumerate(self._names)}
        cells = np.zeros((len(names), _FIELDS))
        for i, name in enumerate(names):
            if name in at:
                cells[i] = self._cells[at[name]]
        self._names, self._cells = names, cells

    def decide(self, end_ns: Int64, window_ns: Nanos, surprise: Float64) -> Decision:
        """Score, grade and onset of each (window, series, column)."""
        windows = len(end_ns)
        flat = np.ascontiguousarray(evidence_of(surprise).reshape(windows, len(self._names)))
        score, grade = np.zeros(flat.shape), np.zeros(flat.shape, np.int8)
        _decide(np.asarray(end_ns, np.int64), flat, self._per_row, self._per_ns, self._cells, score, grade)
        shape = (windows, *self._shape)
        onset = np.broadcast_to((np.asarray(end_ns, np.int64) - window_ns)[:, None, None], shape).copy()
        return Decision(score.reshape(shape), grade.reshape(shape), onset)

    def snapshot(self) -> State:
        return {"names": np.array(self._names, np.str_), "cells": self._cells.copy()}

    def restore(self, state: State) -> None:
        """Continue exactly where `snapshot` was taken; call `align` before deciding.

        Raises
        ------
        StoreError
            If the state is not one of this policy.
        """
        cells = np.array(state["cells"], np.float64)
        if cells.ndim != 2 or cells.shape[1] != _FIELDS or len(cells) != len(state["names"]):
            raise StoreError(f"policy rows: state of shape {cells.shape}, expected (channels, {_FIELDS})")
        self._names = [str(n) for n in state["names"]]
        self._cells = cells
        self._shape = (len(self._names), 1)
