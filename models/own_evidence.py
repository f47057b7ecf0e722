"""A series whose evidence is lighter than usual is held to its own: so that a budget means the same on all.

How evidence is spread on series without anomalies differs: noise with light tails, and series that a season explains
well, never reach what heavy tails reach every day. The largest evidence of every 50 rows is therefore watched: how
often it is over a level, and by how much it then is, each as a running mean that starts at what is usual. Where both
together say that a row is rarer here than usual, its evidence is raised to that of a row as rare elsewhere. It is
lowered only for small budgets: a series of many anomalies would vouch for them.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from telemetry.types import Float64

__all__ = ["OWN", "compare"]

OWN = 6
"""Numbers of memory a channel."""

_SHARE, _EXCESS, _BLOCKS, _PEAKS, _TOP, _ROWS = range(OWN)
_BLOCK = 50
_LEVEL = 0.7
_USUAL_SHARE = 0.3
_USUAL_EXCESS = 0.38
_LARGEST = 1.5
"""An excess is learnt as at most this: one incident is one."""
_SHARE_WEIGHT = 20.0
_EXCESS_WEIGHT = 8.0
_MEMORY = 400.0
_FIRST = 200.0
"""Rows before anything is learnt: the tails of the views are still those of a few values."""


@njit(cache=True, nogil=True)
def compare(evidence: float, both: bool, own: Float64) -> float:
    """Evidence as it would be on a usual series; then learn it.

    Parameters
    ----------
    evidence : float
        Of the next row; NaN is neither changed nor learnt.
    both : bool
        Whether it may also become less.
    own : (OWN,) float64
        All 0 at first.
    """
    if not np.isfinite(evidence):
        return evidence
    if own[_ROWS] == 0.0:
        own[_SHARE], own[_EXCESS] = _USUAL_SHARE, _USUAL_EXCESS
    out = evidence
    if evidence > 0.0:
        share = max(own[_SHARE], 1.0 / _MEMORY)  # no memory vouches for less
        level = max(_LEVEL - _USUAL_EXCESS * math.log(share / _USUAL_SHARE), 0.1)
        if evidence > _LEVEL:
            out = level + (evidence - _LEVEL) * _USUAL_EXCESS / own[_EXCESS]
        else:
            out = evidence * level / _LEVEL
        if not both:
            out = max(out, evidence)
    own[_TOP] = max(own[_TOP], evidence)
    own[_ROWS] += 1.0
    if own[_ROWS] % _BLOCK == 0.0:
        if own[_ROWS] >= _FIRST:
            top = own[_TOP]
            own[_BLOCKS] += 1.0
            own[_SHARE] += ((1.0 if top > _LEVEL else 0.0) - own[_SHARE]) / min(own[_BLOCKS] + _SHARE_WEIGHT, _MEMORY)
            if top > _LEVEL:
                own[_PEAKS] += 1.0
                gain = 1.0 / min(own[_PEAKS] + _EXCESS_WEIGHT, _MEMORY)
                own[_EXCESS] += gain * (min(top - _LEVEL, _LARGEST) - own[_EXCESS])
        own[_TOP] = 0.0
    return out
