"""Small budgets: what may speak where fewer false alerts are wanted than a history can vouch for.

One false alert a week on rows of a minute is a probability that no history of a few thousand rows supports. So a row
must agree with its neighbours (the median of the last five values is scored, not the value), and it must matter (5 %
away from a slow reference, else its evidence shrinks). In return a level that has crept away from the slow reference
speaks, which views that follow cannot see.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from telemetry.types import Float64

__all__ = ["MEMO", "creep", "middle", "weigh"]

MEMO = 12
"""Numbers of memory a channel."""

_REFERENCE, _GAP, _SMOOTH, _TOLD, _AGE, _QUIET, _TIME = range(5, 12)
_MATTERS = 0.05
_RATIO = 8.0
_GAIN = 0.0005
_PACE_NS = 1.2e14
"""The reference's time constant is 2,000 rows or a day and a third, whichever is longer."""
_OLD = 0.3
_REST = 200.0
_SURE = 1.5
_LEVEL = 4.0
"""A series that is often as far as this share of its level from it has none that could creep."""


@njit(cache=True, nogil=True)
def middle(x: float, seen: int, memo: Float64) -> float:
    """Median of the last five values."""
    if seen == 0:
        memo[:5] = x
    memo[seen % 5] = x
    return float(np.sort(memo[:5])[2])


@njit(cache=True, nogil=True)
def weigh(x: float, evidence: float, memo: Float64) -> float:
    """Evidence of a row under a small budget: less where it hardly matters.

    Parameters
    ----------
    x : float
        The median of the last five values.
    evidence : float
        What the views say of `x`.
    memo : (MEMO,) float64
        Its reference is `creep`'s.
    """
    matters = _MATTERS * abs(memo[_REFERENCE])
    away = abs(x - memo[_REFERENCE])
    if away < matters:
        evidence *= (away / matters) ** 2
    return evidence


@njit(cache=True, nogil=True)
def creep(x: float, seen: int, time_ns: float, need: float, evidence: float, memo: Float64) -> float:
    """Evidence of a row, enough where the level has just left the slow reference by far; then learn it.

    The reference learns only clipped distances: a level that moves on slowly cannot take it along. It is told once, and
    not if the views have just spoken; `time_ns` is NaN where rows have no time.
    """
    if seen == 0:
        memo[_REFERENCE] = memo[_SMOOTH] = x
        memo[_GAP] = memo[_TOLD] = memo[_AGE] = 0.0
        memo[_QUIET] = _REST
        memo[_TIME] = time_ns
    elapsed = time_ns - memo[_TIME]
    pace = min(max(elapsed / _PACE_NS, 0.0), _GAIN) if np.isfinite(elapsed) else _GAIN
    memo[_TIME] = time_ns
    memo[_AGE] += pace
    memo[_SMOOTH] += max(0.08, 1.0 / (seen + 1.0)) * (x - memo[_SMOOTH])
    distance = memo[_SMOOTH] - memo[_REFERENCE]
    limit = np.inf
    if memo[_AGE] > _OLD:
        level = abs(memo[_REFERENCE]) > _LEVEL * memo[_GAP]
        ratio = abs(distance) / (memo[_GAP] + 1e-12 * abs(memo[_REFERENCE]) + 1e-300)
        if memo[_TOLD] == 0.0 and level and ratio > _RATIO and abs(distance) > _MATTERS * abs(memo[_REFERENCE]):
            memo[_TOLD] = 1.0
            if memo[_QUIET] >= _REST:
                evidence = max(evidence, _SURE * need)
        elif memo[_TOLD] > 0.0 and ratio < 0.5 * _RATIO:
            memo[_TOLD] = 0.0
        limit = 4.0 * memo[_GAP]
    gain = max(pace, 1.0 / (seen + 1.0))
    memo[_REFERENCE] += gain * min(max(distance, -limit), limit)
    memo[_GAP] += gain * (min(abs(distance), limit) - memo[_GAP])
    memo[_QUIET] = 0.0 if evidence >= need else memo[_QUIET] + 1.0
    return evidence
