"""The light model's slow views, every fourth window: level against slower level, cumulative sums, creep."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from models.light_layout import (
    AGE,
    BEYOND,
    CDOWN,
    CREEP,
    CRUN,
    CSIZE,
    CUP,
    DRIFT,
    DUE,
    FLAG,
    FOLLOW,
    FREE,
    HELDSIDE,
    HIGH,
    LIKE,
    LONG,
    LONGER,
    LOW,
    NEWDEV,
    NEWREF,
    NEWSIZE,
    REF,
    RISE,
    SAID,
    SDEV,
    SIDE,
    SIZE,
    SLOW,
    SLOWDEV,
    SLOWER,
    STAYS,
    SWEIGHT,
    TALL,
    TOLD,
    UNLIKE,
    WARM,
    WAS,
    WIDTH,
)
from models.light_tail import BUCKETS, MANTISSA, OFFSET, UNIT

__all__ = ["TWO", "slow_views"]

Array = Any  # numba takes its types from the arguments

TWO = math.log10(2.0)
_SIXTEEN = math.log10(16.0)


@njit(cache=True, nogil=True, error_model="numpy")
def slow_views(q: Array, t: Array, tails: Array, first: int, room: int, lanes: int, prm: Array) -> None:
    """Score, then learn, the slow views of the lanes whose turn it is."""
    alpha, beta, clip, warmup, creep_relearn = prm[0], prm[1], prm[2], prm[3], prm[7]
    creep_step, creep_gain, creep_unit, flag, claim = prm[8], prm[9], prm[10], prm[11], prm[13]
    for i in range(room):
        age, warm, scale, size = q[AGE + i], t[WARM + i], t[WIDTH + i], t[SIZE + i]
        slowly = 0.1 if t[FLAG + i] > 0.0 else 1.0
        often = 1.0 if age < 64.0 else 4.0
        long_scale, slow, csize = q[LONG + i], q[SLOW + i], q[CSIZE + i]
        t[LONGER + i] = long_scale + max(0.05 * beta * often, warm) * slowly * (size - long_scale)
        sdev = max(q[SLOWDEV + i], 0.25 * scale)
        gap, most = q[FREE + i] - slow, clip * sdev
        per = 1.0 / (3.0 + csize)
        up, down = max(gap / sdev, q[CUP + i] * per), max(-gap / sdev, q[CDOWN + i] * per)
        t[TALL + i] = max(up, down)
        t[HELDSIDE + i] = 1.0 if up >= down else -1.0
        cut = min(max(gap, -most), most)
        gap = cut if age >= 8.0 else gap
        slow_dev = q[SLOWDEV + i]
        t[SLOWER + i] = slow + max(0.08 * alpha * often, warm) * gap
        t[SDEV + i] = sdev
        t[NEWDEV + i] = slow_dev + max(0.05 * alpha * often, warm) * (1.25 * abs(gap) - slow_dev)
        sums = min(max(q[CUP + i], q[CDOWN + i]), 9.0 + 3.0 * csize)
        t[NEWSIZE + i] = csize + max(0.02 * alpha * often, warm) * (sums - csize)
    for i in range(room):
        age, level, ref, drift, slow = q[AGE + i], t[WAS + i], q[REF + i], q[CREEP + i], t[SLOWER + i]
        often = 1.0 if age < 64.0 else 4.0
        ratio = q[LIKE + i] / (q[UNLIKE + i] + 1e-9)
        less = min(ratio, 0.98)
        t[STAYS + i] = less if ratio > 0.25 else 0.0
        # the reference creeps after the slow level
        creep = slow - ref
        cdev = max(drift, 0.02 * max(abs(ref), abs(level)), 0.5 * t[SDEV + i])
        grown = age >= 4.0 * warmup
        most = creep_step * abs(ref) * often
        new_ref = ref + min(max(creep, -most), most)
        t[NEWREF + i] = new_ref if grown else slow
        new_drift = drift + max(creep_gain * often, 4.0 / (age + 4.0)) * (abs(creep) - drift)
        t[DRIFT + i] = new_drift if grown else drift
        beyond = 0.5 * abs(creep) / cdev
        t[BEYOND + i] = beyond if grown & (abs(creep) > cdev) else 0.0
    for i in range(lanes):  # nothing but the loads: so short that they all wait for memory at once
        if t[DUE + i] > 0.0:
            place = int((np.float64(t[TALL + i]).view(np.int64) >> 50) - OFFSET)
            k = ((first + i) * 3 + 2) * (2 * BUCKETS) + 2 * min(max(place, 0), BUCKETS - 2)
            low, high = tails[k + 1], tails[k + 3]
            t[LOW + i], t[HIGH + i], t[RISE + i] = low, high, high - low
    for i in range(lanes):
        if t[DUE + i] == 0.0:
            continue
        age = q[AGE + i]
        bits = np.float64(t[TALL + i]).view(np.int64)
        place = int((bits >> 50) - OFFSET)
        k = ((first + i) * 3 + 2) * (2 * BUCKETS) + 2 * min(max(place, 0), BUCKETS - 2)
        s_slow = t[LOW + i] + (bits & MANTISSA) * UNIT * t[RISE + i]
        s_slow = t[HIGH + i] if place > BUCKETS - 2 else s_slow
        s_slow = 0.0 if place < 0 else s_slow
        held, held_side = s_slow - TWO, t[HELDSIDE + i]
        if age >= 4.0 * warmup:
            run = 0.0
            if t[BEYOND + i] > 0.0:
                s_creep = min(t[BEYOND + i], claim * math.log10(1.0 + age / creep_unit))
                if s_creep > held:
                    held = s_creep
                    held_side = 1.0 if t[SLOWER + i] > q[REF + i] else -1.0
                if s_creep > flag:
                    run = q[CRUN + i] + 4.0
                if run >= creep_relearn:
                    run = 0.0
                    t[NEWREF + i] = t[SLOWER + i]
            q[CRUN + i] = run
        q[LONG + i], q[SLOW + i], q[SLOWDEV + i] = t[LONGER + i], t[SLOWER + i], t[NEWDEV + i]
        q[CSIZE + i], q[FOLLOW + i], q[REF + i] = t[NEWSIZE + i], t[STAYS + i], t[NEWREF + i]
        q[CREEP + i] = t[DRIFT + i]
        # a slow view remembers and speaks once in 16 windows, for all of them
        if int(age) & 15 == 0:
            if age > 12.0:
                mass = 1.0 if s_slow <= flag else 0.1
                q[SWEIGHT + i] += mass
                tails[k + 2 if place > BUCKETS - 2 else k] += np.float32(0.0 if place < 0 else mass)
            q[TOLD + i] *= 0.999
            if held > max(0.5, q[TOLD + i] + 0.3) and held + _SIXTEEN > t[SAID + i] - TWO:
                q[TOLD + i] = held
                t[SAID + i] = held + _SIXTEEN + TWO
                t[SIDE + i] = held_side
