"""The full model's views of one series: causal residuals that each see another kind of change.

Level, predictors, seasonal residual and its means at several scales, ranks, variance, sameness, novelty. One step
takes one finite value; nothing here knows how long the series is. Windows are rings; running sums are taken afresh
each time a ring comes round, so that rounding does not gather.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.novelty import LAG, MEMORIES, SCALES, nearest
from models.rolling import RING, back, median, ordered_add, ordered_swap, place, roll, roll_square
from models.seasonal_slots import learn_slot, predict_slot
from telemetry.types import Float64

__all__ = ["DIRECTED", "LARGEST", "ORIGIN", "RANKS", "REGISTERS", "RLS", "VIEWS", "step_views"]

VIEWS = (
    *("ewma", "median", "mean_of_3", "difference", "autoregression", "local_residual", "local_difference"),
    *("season_6", "season_12", "season_24", "season_72", "season_144", "rank_8", "rank_32", "rank_128"),
    *("variance_ratio", "rms_6", "spread_12", "rank_spread", "unchanged", "novelty", "novel_shape", "novel_hour"),
    *("mean_12", "mean_48", "slow_level", "max_12"),
)
"""Names of the views, in the order of `step_views`' output."""

DIRECTED = tuple(i for i, v in enumerate(VIEWS) if i < 15 or v.startswith(("mean_", "slow", "max_")))
"""Views whose sign says whether the series is high or low."""

RANKS = 1000
ORDER = 6
RLS = ORDER + 2
REGISTERS = 41
_N, ORIGIN, _LEVEL, _LEVEL02, _LEVEL005, _LEVEL002, _VAR002, _R02, _R002, _D02, _D002, _GAP, _GAPS = range(13)
_ERR0, _ERR1, _ERR2, _X48, _Z24, _Z72, _Z144, _K32, _K128, _K24, _KK24, _R24, _RR24, _R288, _RR288 = range(13, 28)
_SAME, _UNIT, _RUN, _EQUALS, _ARERR, LARGEST, _V0 = range(28, 35)
_MOST = 25.0
_SURE = 50
"""After so many rows a miss counts as at most 25 times the usual square."""
_LO = (0, 1, 2, 4, 8, 16, 32)
_HI = (0, 1, 3, 7, 15, 31, 63)


@njit(cache=True, nogil=True)
def _autoregress(
    i: int, x: float, prediction: float, reg: Float64, ring: Float64, resid: Float64, weights: Float64, cov: Float64
) -> float:
    """Residual of a recursive least squares predictor of order 6 with the seasonal prediction as its origin."""
    if i < ORDER:
        reg[_UNIT] += abs(x + reg[ORIGIN]) / ORDER
        return 0.0
    if reg[_UNIT] == 0.0:
        reg[_UNIT] = 1.0
    unit = reg[_UNIT]
    u = np.empty(RLS)
    mean = 0.0
    for k in range(ORDER):
        u[k] = (ring[(i - 1 - k) % RING] - prediction) / unit
        mean += resid[(i - 1 - k) % RING]
    u[ORDER] = mean / (unit * ORDER)
    u[ORDER + 1] = 1.0
    error = (x - prediction) / unit
    for k in range(RLS):
        error -= weights[k] * u[k]
    pu = np.zeros(RLS)
    g = 0.999
    for a in range(RLS):
        for b in range(RLS):
            pu[a] += cov[a, b] * u[b]
        g += u[a] * pu[a]
    trace = 0.0
    for a in range(RLS):
        share = pu[a] / g
        weights[a] += share * error
        for b in range(RLS):
            cov[a, b] = (cov[a, b] - share * pu[b]) * (1.0 / 0.999)
        trace += cov[a, a]
    if not trace < 1e6 * RLS:
        cov[:] = 0.0
        for a in range(RLS):
            cov[a, a] = 100.0
            if not np.isfinite(weights[a]) or not np.isfinite(trace):
                weights[a] = 1.0 if a == 0 else 0.0
    return error * unit if np.isfinite(error) else 0.0


@njit(cache=True, nogil=True)
def _stretch(i: int, reg: Float64, ring: Float64, query: NDArray[np.float32]) -> None:
    """Means over the last 1, 1, 2, 4, 8, 16 and 32 samples, newest first, and their mean."""
    mean = 0.0
    value = 0.0
    for k in range(SCALES):
        lo, hi = _LO[k], _HI[k]
        if k < 4 or i % RING == 0:
            total = back(ring, i, lo, hi)
        else:
            total = reg[_V0 + k]
            if i >= lo:
                total += ring[(i - lo) % RING]
            if i > hi:
                total -= ring[(i - hi - 1) % RING]
        reg[_V0 + k] = total
        if i >= lo:
            value = total / (min(hi, i) - lo + 1)
        query[k] = value
        mean += value
    query[SCALES] = mean / SCALES


@njit(cache=True, nogil=True)
def _stuck(i: int, equal: bool, reg: Float64) -> float:
    """-log10 of how likely the present run of equal values is, by how often neighbours were equal before it."""
    share = (reg[_EQUALS] * min(i, 2000) + 1.0) / (min(i, 2000) + 2.0)
    reg[_RUN] = reg[_RUN] + 1.0 if equal else 0.0
    if reg[_RUN] <= 3.0 or share > 0.2 or reg[_RUN] > 2000.0:  # a long run is not counted against itself at once
        reg[_EQUALS] += max(0.0005, 1.0 / (i + 1.0)) * ((1.0 if equal else 0.0) - reg[_EQUALS])
    return -reg[_RUN] * np.log10(share)


@njit(cache=True, nogil=True)
def step_views(
    raw: float,
    slot: int,
    other: int,
    angle_cos: float,
    angle_sin: float,
    reg: Float64,
    rings: Float64,
    medians: Float64,
    ranks: Float64,
    profile: Float64,
    weights: Float64,
    cov: Float64,
    memory: NDArray[np.float32],
    waiting: NDArray[np.float32],
    out: Float64,
    band: Float64,
) -> None:
    """One finite value: write its views to `out` (scored against the past only), then learn it.

    Parameters
    ----------
    raw : float
    slot, other : int
        Slot of the day; 1 if this is no working day.
    angle_cos, angle_sin : float
        The time of day as a point on a circle.
    reg : (REGISTERS,) float64
        All 0 at first, but for the origin, from which values are measured.
    rings : (4, RING) float64
        Last values (less the first one), seasonal residuals, scaled seasonal residuals, ranks.
    medians : (2, 144) float64
        Last 48 and last 144 values, ascending.
    ranks : (2, RANKS) float64
        Last residuals: as a ring, and ascending.
    profile : (PROFILE, slots) float64
    weights, cov : (RLS,) and (RLS, RLS) float64
    memory : (STRETCH, MEMORIES) float32
    waiting : (LAG, STRETCH) float32
        Stretches too young to be compared with.
    out : (len(VIEWS),) float64
    band : (5,) float64
        Written: the seasonal prediction, its deviation, and how much the season leaves unexplained: the largest scaled
        residual of the last 12 (0 explained; infinite where a level predicts better than any season); then -log10 of
        the probability of the present run of equal values; then what autoregression usually leaves, as a share of what
        a slow level does.
    """
    i = int(reg[_N])
    if i == 0:
        weights[:] = 0.0
        weights[0] = 1.0
        cov[:] = 0.0
        for a in range(RLS):
            cov[a, a] = 100.0
        for k in range(SCALES):  # far from anything, plain and centred, until filled
            memory[k] = np.float32(1e30 if k & 1 else -1e30)
    x = raw - reg[ORIGIN]
    ring, resid, scaled, rank = rings[0], rings[1], rings[2], rings[3]
    at = i % RING
    before = ring[(i - 1) % RING] if i > 0 else x
    high = before
    for b in range(1, min(12, i) + 1):
        high = max(high, ring[(i - b) % RING])
    ring[at] = x
    age = 1.0 / (i + 1.0)

    # level
    level = reg[_LEVEL]
    out[0] = x - level
    n48, n144 = min(i, 48), min(i, 144)
    out[1] = x - median(medians[0], n48) if i > 0 else 0.0
    out[2] = back(ring, i, 0, 2) / min(i + 1, 3) - (median(medians[1], n144) if i > 0 else x)

    # season
    p = np.empty(7)
    predict_slot(profile, slot, other, level, reg[_ERR0 : _ERR2 + 1], p)
    r = x - p[3]
    common = reg[_GAP] / reg[_GAPS] if reg[_GAPS] > 0.0 else abs(r)
    scale = max((p[4] + 2.0 * common) / (p[5] + 2.0), 0.1 * common)
    z = r / (scale + 1e-12 * (1.0 + abs(raw))) if scale > 0.0 else 0.0
    band[0] = p[3] + reg[ORIGIN]
    band[1] = scale
    reg[_GAPS] = reg[_GAPS] * 0.999 + 1.0
    reg[_GAP] = reg[_GAP] * 0.999 + abs(r)
    learn_slot(profile, slot, other, x, p, reg[_ERR0 : _ERR2 + 1], i)

    # predictors
    d = x - before
    out[3] = d
    out[4] = _autoregress(i, x, p[3], reg, ring, resid, weights, cov)
    rr, dd = r * r, d * d
    if i == 0:
        reg[_R02] = reg[_R002] = rr
        reg[_D02] = reg[_D002] = dd
    out[5] = r / (np.sqrt(reg[_R02]) + 0.1 * np.sqrt(reg[_R002]) + 1e-12)
    out[6] = d / (np.sqrt(reg[_D02]) + 0.1 * np.sqrt(reg[_D002]) + 1e-12)
    quiet = 1e-4 * reg[_R002] + 1e-18
    reg[_R02] += max(0.02, age) * (rr - reg[_R02])
    reg[_R002] += max(0.002, age) * (rr - reg[_R002])
    reg[_D02] += max(0.02, age) * (dd - reg[_D02])
    reg[_D002] += max(0.002, age) * (dd - reg[_D002])

    # means of the seasonal residual
    resid[at], scaled[at] = r, z
    reg[_Z24] = roll(scaled, i, 24, reg[_Z24])
    reg[_Z72] = roll(scaled, i, 72, reg[_Z72])
    reg[_Z144] = roll(scaled, i, 144, reg[_Z144])
    six, twelve, square6, square12, sum12 = 0.0, 0.0, 0.0, 0.0, 0.0
    odd: float = 0.0
    for b in range(min(12, i + 1)):
        v = scaled[(i - b) % RING]
        twelve += v
        odd = max(odd, abs(v))
        if b < 6:
            six += v
            square6 += v * v
        v = ring[(i - b) % RING]
        sum12 += v
    band[2] = odd if p[6] > 0.0 else np.inf
    n12 = min(i + 1, 12)
    mean12 = sum12 / n12
    for b in range(n12):
        square12 += (ring[(i - b) % RING] - mean12) ** 2
    out[7] = six / min(i + 1, 6)
    out[8] = twelve / n12
    out[9] = reg[_Z24] / min(i + 1, 24)
    out[10] = reg[_Z72] / min(i + 1, 72)
    out[11] = reg[_Z144] / min(i + 1, 144)

    # ranks
    held = min(i, RANKS)
    standing: float = 0.0
    if held > 0:
        lo = place(ranks[1], held, r)
        hi = lo
        while hi < held and ranks[1, hi] == r:
            hi += 1
        standing = 0.5 * (lo + hi + 1) / (held + 1.0) - 0.5
    if held == RANKS:
        ordered_swap(ranks[1], held, ranks[0, i % RANKS], r)
    else:
        ordered_add(ranks[1], held, r)
    ranks[0, i % RANKS] = r
    rank[at] = standing
    reg[_K32] = roll(rank, i, 32, reg[_K32])
    reg[_K128] = roll(rank, i, 128, reg[_K128])
    reg[_K24] = roll(rank, i, 24, reg[_K24])
    reg[_KK24] = roll_square(rank, i, 24, reg[_KK24])
    out[12] = back(rank, i, 0, 7) / min(i + 1, 8)
    out[13] = reg[_K32] / min(i + 1, 32)
    out[14] = reg[_K128] / min(i + 1, 128)

    # spread
    reg[_R24] = roll(resid, i, 24, reg[_R24])
    reg[_RR24] = roll_square(resid, i, 24, reg[_RR24])
    reg[_R288] = roll(resid, i, 288, reg[_R288])
    reg[_RR288] = roll_square(resid, i, 288, reg[_RR288])
    n24, n288 = min(i + 1, 24), min(i + 1, 288)
    short = max(reg[_RR24] / n24 - (reg[_R24] / n24) ** 2, 0.0) + quiet
    long = max(reg[_RR288] / n288 - (reg[_R288] / n288) ** 2, 0.0) + quiet
    out[15] = np.log(short / long)
    out[16] = np.sqrt(square6 / min(i + 1, 6))
    out[17] = np.sqrt(square12 / n12)
    out[18] = np.sqrt(max(reg[_KK24] / n24 - (reg[_K24] / n24) ** 2, 0.0))
    if i > 0:
        reg[_SAME] += x == before
        if i > 24:
            reg[_SAME] -= ring[(i - 24) % RING] == ring[(i - 25) % RING]
        band[3] = _stuck(i, x == before, reg)
    out[19] = reg[_SAME] / 24.0

    # novelty
    query = np.empty(SCALES + 3, np.float32)
    _stretch(i, reg, ring, query)
    query[SCALES + 1], query[SCALES + 2] = angle_cos, angle_sin
    old = i - LAG
    if old >= 0:
        memory[:, old % MEMORIES] = waiting[i % LAG]
    waiting[i % LAG] = query
    nearest(query, memory, min(max(old + 1, 0), MEMORIES), 2.0 * np.sqrt(reg[_VAR002]), out[20:23])
    off = x - reg[_LEVEL005]
    if i == 0:
        reg[_VAR002] = off * off
    band[4] = np.sqrt(reg[_ARERR] / reg[_VAR002]) if reg[_VAR002] > 0.0 else 1.0
    missed = out[4] * out[4]
    if i > _SURE:
        missed = min(missed, _MOST * reg[_ARERR])
    reg[_ARERR] += max(0.002, age) * (missed - reg[_ARERR])
    reg[_VAR002] += max(0.002, age) * (off * off - reg[_VAR002])

    # where it is
    reg[_X48] = roll(ring, i, 48, reg[_X48])
    out[23] = mean12
    out[24] = reg[_X48] / min(i + 1, 48)
    out[25] = reg[_LEVEL02] - reg[_LEVEL002]
    out[26] = high

    # learn
    reg[_LEVEL] += max(0.05, age) * (x - level)
    reg[_LEVEL02] += max(0.02, age) * (x - reg[_LEVEL02])
    reg[_LEVEL005] += max(0.005, age) * (x - reg[_LEVEL005])
    reg[_LEVEL002] += max(0.002, age) * (x - reg[_LEVEL002])
    if n48 == 48:
        ordered_swap(medians[0], 48, ring[(i - 48) % RING], x)
    else:
        ordered_add(medians[0], n48, x)
    if n144 == 144:
        ordered_swap(medians[1], 144, ring[(i - 144) % RING], x)
    else:
        ordered_add(medians[1], n144, x)
    reg[_N] = i + 1.0
