"""The light detector's arithmetic: one compiled pass over (windows, channels), time-major.

A channel's memory is a row of registers, a log histogram of its deviation on either side with the table of
surprise fitted to it, a shared one of its slow views, and (with a clock) a profile of slots.
Every sum runs in one fixed order; nothing depends on how windows are split over calls.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from telemetry.types import Float64, Int8

__all__ = ["BUCKETS", "DEV_GROUP", "FIELDS", "PARAMS", "advance_light", "refit_tail"]

BUCKETS = 64
"""Buckets of a tail histogram: four an octave, from 1/8 to 8,192 deviations."""
DEV_GROUP = 16
"""Neighbouring slots that share one spread."""

_FIELDS = (
    "age level scale slow_scale deseasoned slow slow_dev ref creep_dev cusum_up cusum_down cusum_size weight slow_weight"
    " refit_at run candidate candidate_dev slot slot_sum slot_count profile profile_dev offset anchor quantum centre"
    " creep_run flagged stagger last"
).split()
FIELDS = tuple(_FIELDS)
PARAMS = (
    "alpha beta clip warmup memory refit relearn creep_relearn creep_step creep_gain creep_unit flag slot_gain"
).split()

(AGE, LEVEL, SCALE, LONG, DES, SLOW, SLOWDEV, REF, CREEP, CUP, CDOWN, CSIZE, WEIGHT, SWEIGHT) = range(14)
(REFIT, RUN, CAND, CDEV, SLOT, SSUM, SCOUNT, PROF, PDEV, OFF, ANCHOR, QUANT, CENTRE) = range(14, 27)
(CRUN, FLAGGED, STAGGER, LAST) = range(27, 31)

_OFFSET = (1023 - 3) * 4
_TINY = 0.125
_HALF = math.log10(2.0)
_SLOW_EVERY = 16


@njit(cache=True, nogil=True)
def _bucket(t: float) -> int:
    b = (np.float64(t).view(np.int64) >> 50) - _OFFSET
    if b > BUCKETS - 1:
        return BUCKETS - 1
    return b


@njit(cache=True, nogil=True)
def _edge(b: int) -> float:
    return math.ldexp(1.0 + 0.25 * (b & 3), (b >> 2) - 3)


@njit(cache=True, nogil=True)
def _look_up(t: float, n: int, j: int, table: Float64) -> float:
    """Surprise of a deviation `t`, linear between the edges of its bucket."""
    if t < _TINY:
        return 0.0
    b = _bucket(t)
    if b >= BUCKETS - 1:
        return float(table[n, j, BUCKETS - 1])
    lo = _edge(b)
    f = (t - lo) / (_edge(b + 1) - lo)
    return float(table[n, j, b]) + f * (float(table[n, j, b + 1]) - float(table[n, j, b]))


@njit(cache=True, nogil=True)
def refit_tail(hist: Float64, n: int, j: int, weight: float, memory: float, table: Float64) -> None:
    """Fit a generalised Pareto tail to the excesses over the 95 % quantile and tabulate -log10 p at each edge.

    Moments shrunk towards a prior while excesses are few (Hosking and Wallis 1987; Siffer et al., KDD 2017). Where as
    large a value has been seen before, the surprise is at most what its frequency says (the precedent rule).
    """
    if weight > memory:
        f = np.float32(memory / weight)
        for b in range(BUCKETS):
            hist[n, j, b] *= f
        weight = memory
    allowed = 0.05 * weight
    total = 0.0
    at = BUCKETS
    while at > 0 and total + hist[n, j, at - 1] <= allowed:
        at -= 1
        total += hist[n, j, at]
    if at == BUCKETS:
        at = BUCKETS - 1
        total = float(hist[n, j, at])
    t = _edge(at)
    m1 = 0.0
    m2 = 0.0
    for b in range(at, BUCKETS):
        c = float(hist[n, j, b])
        if c > 0.0:
            y = 0.5 * (_edge(b) + _edge(b + 1)) - t
            m1 += c * y
            m2 += c * y * y
    prior_mean = max(0.25 * t + 0.1, 2.0 / (1.0 + total))
    mean = (m1 + 4.0 * prior_mean) / (total + 4.0)
    shape = 0.0
    if total > 0.0 and m1 > 0.0:
        own = m1 / total
        var = m2 / total - own * own
        if var > 0.0:
            shape = min(0.5, max(0.0, 0.5 * (1.0 - own * own / var)))
    shape = (shape * total + 0.25 * 10.0) / (total + 10.0)
    size = mean * (1.0 - shape)
    above = math.log10((weight + 1.0) / (total + 1.0))
    cum = 0.0
    for b in range(BUCKETS - 1, -1, -1):
        cum += float(hist[n, j, b])
        seen = math.log10((weight + 1.0) / (cum + 1.0))
        if b < at:
            table[n, j, b] = seen
            continue
        s = above + math.log10(1.0 + shape * (_edge(b) - t) / size) / shape
        if cum >= 0.99 and seen < s:
            s = seen
        table[n, j, b] = s


@njit(cache=True, nogil=True)
def _enter_slot(r: Float64, n: int, slot: int, profile: Float64, spread: Float64, gain: float) -> None:
    """Leave one slot of the clock (learn its mean) and enter another (read its profile once)."""
    old = int(r[n, SLOT])
    if old >= 0 and r[n, SCOUNT] > 0.0:
        mean = r[n, SSUM] / r[n, SCOUNT] - r[n, ANCHOR]
        known = float(profile[n, old])
        if math.isnan(known):
            profile[n, old] = mean
        else:
            d = mean - known
            g = old // DEV_GROUP
            dev = float(spread[n, g])
            size = abs(d)
            if dev > 0.0 and size > 4.0 * dev:
                size = 4.0 * dev
                d = size if d > 0.0 else -size
            spread[n, g] = size if dev == 0.0 else dev + 0.1 * (size - dev)
            profile[n, old] = known + gain * d
    r[n, SLOT] = slot
    r[n, SSUM] = 0.0
    r[n, SCOUNT] = 0.0
    value = math.nan
    if slot >= 0:
        value = float(profile[n, slot])
        r[n, PDEV] = float(spread[n, slot // DEV_GROUP])
    before = r[n, PROF]
    now = value + r[n, ANCHOR]
    if math.isnan(before) != math.isnan(now):
        r[n, CENTRE] = r[n, DES] - r[n, LEVEL] + (0.0 if math.isnan(now) else now)
        if not math.isnan(now):
            r[n, OFF] = r[n, LEVEL] - now
    r[n, PROF] = now


@njit(cache=True, nogil=True)
def advance_light(
    values: Float64,
    slots: Float64,
    prm: Float64,
    quanta: Float64,
    r: Float64,
    hist: Float64,
    table: Float64,
    profile: Float64,
    spread: Float64,
    surprise: Float64,
    side: Int8,
    band: Float64,
) -> None:
    """Score, then learn, window by window.

    Parameters
    ----------
    values : (W, N) float64
        Channels of one panel; not finite is missing and changes nothing.
    slots : (W, N / C) float64 or (0, 0)
        Slot of the clock, NaN or negative for none.
    prm : (len(PARAMS),) float64
    quanta : (C,) float64
        Smallest step that means something, per column.
    r : (N, len(FIELDS)) float64
    hist, table : (N, 3, BUCKETS) float32
        Above, below, slow views.
    profile : (N, slots) float32
    spread : (N, slots / DEV_GROUP) float32
    surprise : (W, N) float64, out
    side : (W, N) int8, out
    band : (W, N, 3) float64, out, or (0, 0, 0)
        Expected, low, high.
    """
    windows, channels = values.shape
    columns = quanta.shape[0]
    has_slots = slots.shape[0] > 0
    explain = band.shape[0] > 0
    alpha, beta, clip, warmup, memory = prm[0], prm[1], prm[2], prm[3], prm[4]
    period, relearn, creep_relearn = prm[5], prm[6], prm[7]
    creep_step, creep_gain, creep_unit, flag, slot_gain = prm[8], prm[9], prm[10], prm[11], prm[12]
    for w in range(windows):
        for n in range(channels):
            x = values[w, n]
            if not math.isfinite(x):
                surprise[w, n] = math.nan
                side[w, n] = 0
                if explain:
                    band[w, n, 0] = math.nan
                    band[w, n, 1] = math.nan
                    band[w, n, 2] = math.nan
                continue
            age = r[n, AGE]
            if age == 0.0:
                r[n, LEVEL] = x
                r[n, DES] = x
                r[n, SLOW] = x
                r[n, REF] = x
                r[n, ANCHOR] = x
                r[n, CAND] = x
                r[n, LAST] = x
                r[n, SLOT] = -1.0
                r[n, PROF] = math.nan
                r[n, REFIT] = 16.0
            if has_slots:
                v = slots[w, n // columns]
                slot = -1
                if v >= 0.0 and v < profile.shape[1]:
                    slot = int(v)
                if slot != int(r[n, SLOT]):
                    _enter_slot(r, n, slot, profile, spread, slot_gain)
            level = r[n, LEVEL]
            floor = max(0.5 * quanta[n % columns], 1e-4 * abs(level))
            if r[n, LONG] > 0.0 and floor > 0.25 * r[n, LONG]:
                floor = 0.25 * r[n, LONG]
            scale = max(r[n, SCALE], 0.5 * r[n, LONG], floor)
            off_level = x - level
            z = off_level / scale
            expected = level
            prof = r[n, PROF]
            seasonal = not math.isnan(prof)
            if seasonal:
                e = x - prof - r[n, OFF]
                wide = max(scale, 1.25 * r[n, PDEV])
                zs = e / wide
                if abs(zs) < abs(z):
                    z = zs
                    expected = prof + r[n, OFF]
            # the slow views: level against slower level, and the cumulative sum of small deviations
            sdev = max(r[n, SLOWDEV], 0.1 * scale)
            fs = (r[n, DES] - r[n, SLOW]) / sdev
            cs = 3.0 + r[n, CSIZE]
            up = max(fs, r[n, CUP] / cs)
            down = max(-fs, r[n, CDOWN] / cs)
            slow_t = max(up, down)
            slow_side = 1 if up >= down else -1
            creep = r[n, SLOW] - r[n, REF]
            cdev = max(r[n, CREEP], 0.02 * abs(r[n, REF]), 0.5 * sdev)
            s_creep = 0.0
            if abs(creep) > cdev:
                s_creep = 0.434 * abs(creep) / cdev
                most = 1.5 * math.log10(1.0 + age / creep_unit)
                if s_creep > most:
                    s_creep = most
            # surprise
            s_fast = 0.0
            if z > 0.0:
                s_fast = _look_up(z, n, 0, table)
            elif z < 0.0:
                s_fast = _look_up(-z, n, 1, table)
            s_slow = _look_up(slow_t, n, 2, table)
            s = max(s_fast, s_slow) - _HALF
            which = 1 if z > 0.0 else (-1 if z < 0.0 else 0)
            if s_slow > s_fast:
                which = slow_side
            if s_creep > s:
                s = s_creep
                which = 1 if creep > 0.0 else -1
            if s > 2.0:
                most = 1.5 * math.log10(age + 1.0)
                if s > most:
                    s = most
            if s < 0.0:
                s = 0.0
            if age < warmup:
                surprise[w, n] = math.nan
                side[w, n] = 0
            else:
                surprise[w, n] = s
                side[w, n] = which
            if explain:
                band[w, n, 0] = expected
                wide = scale
                if seasonal and expected != level:
                    wide = max(scale, 1.25 * r[n, PDEV])
                for j in range(2):
                    b = 0
                    while b < BUCKETS - 1 and table[n, j, b] < 3.0:
                        b += 1
                    band[w, n, 2 - j] = expected + (1.0 - 2.0 * j) * wide * _edge(b)
            # learn: what it flags moves it ten times slower; a deviation that lasts becomes the new normal
            flagged = age >= warmup and s_fast > flag and abs(z) > clip
            slowly = 0.1 if flagged else 1.0
            warm = 1.0 / (age + 1.0)
            step = clip * scale
            clipped = off_level
            if age >= 8.0:
                clipped = min(max(off_level, -step), step)
            r[n, LEVEL] = level + max(alpha, warm) * slowly * clipped
            size = 1.25 * (min(abs(z), clip) * scale if age >= 8.0 else abs(off_level))
            r[n, SCALE] += max(beta, warm) * slowly * (size - r[n, SCALE])
            r[n, LONG] += max(0.05 * beta, warm) * slowly * (size - r[n, LONG])
            y = x + r[n, CENTRE]
            if seasonal:
                y -= prof
                r[n, OFF] += alpha * slowly * min(max(x - prof - r[n, OFF], -step), step)
            yd = y - r[n, DES]
            if age >= 8.0:
                yd = min(max(yd, -step), step)
            r[n, DES] += max(alpha, warm) * slowly * yd
            gap = r[n, DES] - r[n, SLOW]
            most = clip * max(r[n, SLOWDEV], 0.1 * scale)
            if age >= 8.0:
                gap = min(max(gap, -most), most)
            r[n, SLOW] += max(0.08 * alpha, warm) * gap
            r[n, SLOWDEV] += max(0.05 * alpha, warm) * (1.25 * abs(gap) - r[n, SLOWDEV])
            zc = min(max((y - r[n, SLOW]) / scale, -4.0), 4.0)
            r[n, CUP] = min(max(0.0, r[n, CUP] + zc - 0.5), 200.0)
            r[n, CDOWN] = min(max(0.0, r[n, CDOWN] - zc - 0.5), 200.0)
            r[n, CSIZE] += max(0.02 * alpha, warm) * (min(max(r[n, CUP], r[n, CDOWN]), 3.0 * cs) - r[n, CSIZE])
            most = creep_step * abs(r[n, REF])
            if age < 4.0 * warmup:
                r[n, REF] = r[n, SLOW]
            else:
                r[n, REF] += min(max(creep, -most), most)
                r[n, CREEP] += max(creep_gain, warm) * (abs(creep) - r[n, CREEP])
            if has_slots and r[n, SLOT] >= 0.0:
                keep = x
                if seasonal and flagged:
                    keep = expected
                r[n, SSUM] += keep
                r[n, SCOUNT] += 1.0
            # the tails remember each deviation once, not once a window while it lasts
            if age >= 12.0:
                mass = 1.0
                if flagged and r[n, FLAGGED] > 0.0:
                    mass = 0.05
                r[n, WEIGHT] += mass
                if abs(z) >= _TINY:
                    j = 0 if z > 0.0 else 1
                    hist[n, j, _bucket(abs(z))] += np.float32(mass)
                if (int(age) + int(r[n, STAGGER])) % _SLOW_EVERY == 0:
                    if s_slow <= flag:
                        r[n, SWEIGHT] += 1.0
                        mass = 1.0
                    else:
                        r[n, SWEIGHT] += 0.1
                        mass = 0.1
                    if slow_t >= _TINY:
                        hist[n, 2, _bucket(slow_t)] += np.float32(mass)
            r[n, FLAGGED] = 1.0 if flagged else 0.0
            run = r[n, RUN]
            if flagged:
                if (z > 0.0) == (run > 0.0) and run != 0.0:
                    run += 1.0 if z > 0.0 else -1.0
                    r[n, CAND] += 0.1 * (x - r[n, CAND])
                    r[n, CDEV] += 0.1 * (abs(x - r[n, CAND]) - r[n, CDEV])
                else:
                    run = 1.0 if z > 0.0 else -1.0
                    r[n, CAND] = x
                    r[n, CDEV] = 0.0
                if abs(run) >= relearn:
                    r[n, LEVEL] = r[n, CAND]
                    r[n, SCALE] = max(r[n, SCALE], 1.25 * r[n, CDEV])
                    r[n, OFF] = r[n, CAND] - prof if seasonal else 0.0
                    shift = r[n, CAND] - (prof if seasonal else 0.0) + r[n, CENTRE]
                    r[n, DES] = shift
                    r[n, SLOW] = shift
                    r[n, REF] = shift
                    r[n, CUP] = 0.0
                    r[n, CDOWN] = 0.0
                    run = 0.0
            elif run > 0.0:
                run -= 1.0
            elif run < 0.0:
                run += 1.0
            r[n, RUN] = run
            if s_creep > flag:
                r[n, CRUN] += 1.0
                if r[n, CRUN] >= creep_relearn:
                    r[n, REF] = r[n, SLOW]
                    r[n, CRUN] = 0.0
            else:
                r[n, CRUN] = 0.0
            r[n, AGE] = age + 1.0
            if age + 1.0 >= r[n, REFIT]:
                refit_tail(hist, n, 0, r[n, WEIGHT], memory, table)
                refit_tail(hist, n, 1, r[n, WEIGHT], memory, table)
                refit_tail(hist, n, 2, r[n, SWEIGHT], memory, table)
                r[n, WEIGHT] = min(r[n, WEIGHT], memory)
                r[n, SWEIGHT] = min(r[n, SWEIGHT], memory)
                wait = min(max(8.0, 0.25 * age), period)
                r[n, REFIT] = age + 1.0 + wait + (int(r[n, STAGGER]) % int(wait)) // 2
            r[n, LAST] = x
