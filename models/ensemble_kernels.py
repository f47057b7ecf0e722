"""The full detector's arithmetic: views of a row, their evidence, then all that weighs it; score first, then learn."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.careful import creep, middle, weigh
from models.count_scale import EARLY, counts_in, from_root, origin_of, to_root
from models.discord import step_discords
from models.own_evidence import compare
from models.surprise import FAR, GENERATION, GENERATIONS, KEEP, WARM_UP, refit_every, tail_put, tail_refit, tail_score
from models.views import LARGEST, ORIGIN, VIEWS, step_views
from telemetry.types import Float64, Int8, Int64

__all__ = ["advance_full"]

_PRECEDENT = 0.8
_YOUNG = 1000.0
_FORGET = 0.9998
"""Share of the largest distance from the origin that is still remembered a value later."""
_PREDICTOR = VIEWS.index("autoregression")
_FORESEEN, _UNFORESEEN = 0.3, 0.4
"""What autoregression leaves as a share of what a level does: up to which a miss is evidence in itself, from which not.
"""
_MISS = 0.2
_EXPLAINED = 4.0
_LEAST_SHARE = 0.5
_STUCK = 60.0
_STUCK_EVIDENCE = 2.5
_ENOUGH = 2.0


@njit(cache=True, nogil=True)
def _score_views(
    views: Float64,
    directed: NDArray[np.bool_],
    seen: int,
    counts: Int64,
    top: NDArray[np.float32],
    held: NDArray[np.int32],
    moments: Float64,
    fit: Float64,
) -> tuple[float, int, float]:
    """Evidence of a row of views, its side, and that of the predictor alone; then the tails learn it. NaN at first."""
    evidence: float = 0.0
    lean: float = 0.0
    miss: float = 0.0
    total = counts.sum()
    g = (seen // GENERATION) % GENERATIONS
    if seen % GENERATION == 0:
        counts[g] = 0
        held[:, :, g] = 0
    counts[g] += 1
    gain = max(1.0 / (seen + 1.0), 1.0 / GENERATION)
    every = refit_every(seen)
    for v in range(len(views)):
        x = float(np.float32(views[v]))
        if not np.isfinite(x):
            x = 0.0
        if seen >= WARM_UP:
            high: float = 0.0  # rows of arrays cost atomic counts: only the few values that need them
            low: float = 0.0
            if x > fit[v, 0, 0]:
                high = tail_score(x, top[v, 0], held[v, 0], total, seen, fit[v, 0], _PRECEDENT)
            if -x > fit[v, 1, 0]:
                low = tail_score(-x, top[v, 1], held[v, 1], total, seen, fit[v, 1], _PRECEDENT)
            best = max(high, low)
            if best > 0.0:
                best *= np.sqrt(best)
                evidence += best
                if v == _PREDICTOR:
                    miss = best
                if directed[v]:
                    lean += best if high >= low else -best
        d = x - moments[v, 0]
        moments[v, 0] += gain * d
        moments[v, 1] += gain * (d * d * (1.0 - gain) - moments[v, 1])
        if held[v, 0, g] < KEEP or x > top[v, 0, g, 0]:
            held[v, 0, g] = tail_put(top[v, 0, g], held[v, 0, g], x)
        if held[v, 1, g] < KEEP or -x > top[v, 1, g, 0]:
            held[v, 1, g] = tail_put(top[v, 1, g], held[v, 1, g], -x)
        if seen + 1 == WARM_UP or (seen >= WARM_UP and (seen + 7 * v) % every == 0):
            spread = np.sqrt(max(moments[v, 1], 0.0))
            tail_refit(top[v, 0], held[v, 0], counts, spread, fit[v, 0])
            tail_refit(top[v, 1], held[v, 1], counts, spread, fit[v, 1])
    if seen < WARM_UP:
        return np.nan, 0, 0.0
    return evidence / len(views), int(np.sign(lean)), miss


@njit(cache=True, nogil=True)
def _bounded(v: float, reg: Float64) -> float:
    """A value as the views see it: `FAR` times further from the origin than any before is what stands for none.

    It would otherwise be all that they remember. How far it was is learnt.
    """
    off = v - reg[ORIGIN]
    limit = FAR * reg[LARGEST]
    if abs(off) > limit > 0.0:
        off = limit if off > 0.0 else -limit
        v = reg[ORIGIN] + off
    reg[LARGEST] = max(abs(off), _FORGET * reg[LARGEST])
    return v


@njit(cache=True, nogil=True)
def advance_full(
    values: Float64,
    width: int,
    slots: NDArray[np.int32],
    others: Int8,
    angles: Float64,
    directed: NDArray[np.bool_],
    end_ns: Int64,
    need: float,
    creeps: bool,
    reg: Float64,
    rings: Float64,
    medians: Float64,
    ranks: Float64,
    profile: Float64,
    weights: Float64,
    cov: Float64,
    memory: NDArray[np.float32],
    waiting: NDArray[np.float32],
    counts: Int64,
    top: NDArray[np.float32],
    held: NDArray[np.int32],
    moments: Float64,
    fit: Float64,
    memo: Float64,
    early: Float64,
    begun: Int64,
    own: Float64,
    shape_reg: Float64,
    shape_ring: NDArray[np.float32],
    shape_middle: NDArray[np.float32],
    shape_gap: Float64,
    shape_counts: Int64,
    shape_top: NDArray[np.float32],
    shape_held: NDArray[np.int32],
    shape_fit: Float64,
    evidence: Float64,
    side: Int8,
    bands: Float64,
) -> None:
    views = np.zeros(len(directed))
    band = np.zeros(5)
    novel, miss = 0.0, 0.0
    for c in range(values.shape[1]):
        clock = (c // width) % slots.shape[1]
        for w in range(values.shape[0]):
            x = values[w, c]
            if not np.isfinite(x):
                continue
            seen = int(begun[c, 0])
            begun[c, 0] += 1
            if need > 0.0:
                x = middle(x, seen, memo[c])
            if seen < EARLY:  # they wait, until it is clear what kind of series this is
                row = early[c, seen]
                row[0], row[1], row[2] = x, slots[w, clock], others[w, clock]
                row[3], row[4] = angles[w, 0], angles[w, 1]
                if creeps:
                    time_ns = float(end_ns[w]) if len(end_ns) else np.nan
                    creep(x, seen, time_ns, max(need, _ENOUGH), 0.0, memo[c])
                if seen + 1 < EARLY:
                    continue
                begun[c, 1] = 1 if counts_in(early[c]) else 0
                first = origin_of(early[c])
                reg[c, ORIGIN] = to_root(first) if begun[c, 1] else first
            for k in range(0 if seen + 1 == EARLY else EARLY - 1, EARLY):
                if seen + 1 > EARLY:
                    v, slot, other, cosine, sine = x, slots[w, clock], others[w, clock], angles[w, 0], angles[w, 1]
                else:
                    v, cosine, sine = early[c, k, 0], early[c, k, 3], early[c, k, 4]
                    slot, other = int(early[c, k, 1]), int(early[c, k, 2])
                v = _bounded(to_root(v) if begun[c, 1] else v, reg[c])
                novel = step_discords(
                    v - reg[c, ORIGIN],
                    shape_reg[c],
                    shape_ring[c],
                    shape_middle[c],
                    shape_gap[c],
                    shape_counts[c],
                    shape_top[c],
                    shape_held[c],
                    shape_fit[c],
                )
                step_views(
                    v,
                    slot,
                    other,
                    cosine,
                    sine,
                    reg[c],
                    rings[c],
                    medians[c],
                    ranks[c],
                    profile[c],
                    weights[c],
                    cov[c],
                    memory[c],
                    waiting[c],
                    views,
                    band,
                )
                at = seen if seen + 1 > EARLY else k
                evidence[w, c], side[w, c], miss = _score_views(
                    views, directed, at, counts[c], top[c], held[c], moments[c], fit[c]
                )
            if seen < EARLY:
                continue
            evidence[w, c] *= min(max(band[2] / _EXPLAINED, _LEAST_SHARE), 1.0)
            evidence[w, c] = compare(evidence[w, c], need > 0.0, own[c])
            foreseen = min(max((_UNFORESEEN - band[4]) / (_UNFORESEEN - _FORESEEN), 0.0), 1.0)
            novel = max(novel, _MISS * foreseen * miss)
            if evidence[w, c] < novel:  # NaN while warming up stays
                evidence[w, c] = novel
            if seen < _YOUNG:  # tails of few values promise too much
                evidence[w, c] *= np.sqrt(seen / _YOUNG)
            if need > 0.0:
                evidence[w, c] = weigh(x, evidence[w, c], memo[c])
            least = max(_STUCK_EVIDENCE, need)
            if band[3] >= _STUCK and evidence[w, c] < least:
                evidence[w, c] = least
            if creeps:
                time_ns = float(end_ns[w]) if len(end_ns) else np.nan
                evidence[w, c] = creep(x, seen, time_ns, max(need, _ENOUGH), evidence[w, c], memo[c])
            if len(bands) > 0:
                for k in range(3):
                    edge = band[0] + (0.0, -3.0, 3.0)[k] * band[1]
                    bands[k, w, c] = from_root(edge) if begun[c, 1] else edge
