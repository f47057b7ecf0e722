"""The light detector looks: how far each lane of a block is from what was expected, and how surprising that is.

Nothing is learnt here. `light_kernels` runs these passes in order; see there for how a block is laid out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from models.light_layout import (
    AGAIN,
    AGE,
    BEFORE,
    BLOCK,
    DUE,
    EXPECT,
    FLAG,
    FLAGGED,
    FOLLOW,
    HIGH,
    HOTAT,
    HOTS,
    INV,
    LEVEL,
    LONG,
    LOW,
    MASS,
    MISS,
    MOVE,
    OFF,
    ON,
    PDEV,
    PROF,
    QUANTUM,
    RISE,
    SAID,
    SCALE,
    SLOT,
    WARM,
    WAS,
    WEIGHT,
    WIDE,
    WIDTH,
    X,
    Z,
)
from models.light_state import enter_slot, follow_clock
from models.light_tail import BUCKETS, MANTISSA, OFFSET

__all__ = ["ages", "copy_off", "follow_slots", "look", "measure", "measure_slots"]

Array = Any  # numba takes its types from the arguments

_HOT = 1.3
_ONE = 1023 << 52  # the bits of 1.0


@njit(cache=True, nogil=True, error_model="numpy")
def follow_slots(
    q: Array, t: Array, first: int, lanes: int, slots: Array, columns: int, profile: Array, gain: float
) -> int:
    """Enter the slots of the clock; how many lanes it says are like no other."""
    off = 0
    for i in range(lanes):
        if t[ON + i] == 0.0:
            continue
        v = slots[(first + i) // columns]
        slot = -1
        if v >= 0.0 and v < profile.shape[1]:
            slot = int(v)
        if slot != int(q[SLOT + i]):
            enter_slot(q, i, first + i, slot, profile, gain)
        if v == -2.0:
            follow_clock(q, i, t[X + i])
            t[ON + i] = 0.0
            off += 1
    return off


@njit(cache=True, nogil=True, error_model="numpy")
def copy_off(t: Array, lanes: int, source: Array, target: Array) -> None:
    """Copy the registers of the lanes without a value, which go along, and get back what they had."""
    for i in range(lanes):
        if t[ON + i] == 0.0:
            for k in range(i, source.shape[0], BLOCK):
                target[k] = source[k]


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def ages(q: Array, t: Array, room: int) -> tuple[bool, bool]:
    """What of a window depends on age; whether a lane has a profile, and whether one has its slow views' turn."""
    young = 0
    seasonal = 0
    slow = 0
    for i in range(room):
        age, prof = q[AGE + i], q[PROF + i]
        due = (t[ON + i] > 0.0) & ((np.floor(age * 0.25) * 4.0 == age) | (age < 64.0))
        t[DUE + i] = 1.0 if due else 0.0
        t[WARM + i] = 0.0
        young += 1 if age < 64.0 else 0
        seasonal += 1 if (t[ON + i] > 0.0) & (prof == prof) else 0
        slow += 1 if due else 0
    if young > 0:
        for i in range(room):
            age = q[AGE + i]
            warm = 1.0 / (age + 1.0)
            t[WARM + i] = warm if age < 64.0 else 0.0
    return seasonal > 0, slow > 0


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def measure(q: Array, t: Array, room: int) -> None:
    """How far each value is from its level, in its scale."""
    for i in range(room):
        level, move = q[LEVEL + i], q[MOVE + i]
        # a series that hardly ever moves is measured by its moves, one that never did by its unit
        unit, floor = max(0.5 * t[QUANTUM + i], 1e-4 * abs(level)), 0.25 * move
        floor = unit if move == 0.0 else floor
        scale = max(q[SCALE + i], 0.5 * q[LONG + i], floor)
        inv = 1.0 / scale
        miss = t[X + i] - level
        ahead = q[FOLLOW + i] * q[MISS + i]
        z, z_plain, expected = (miss - ahead) * inv, miss * inv, level + ahead
        # after a spike: back is normal too
        back = (ahead != 0.0) & (q[FLAGGED + i] > 0.0) & (abs(z_plain) < abs(z))
        t[WAS + i] = level
        t[WIDTH + i] = scale
        t[INV + i] = inv
        t[Z + i] = z_plain if back else z
        t[WIDE + i] = scale
        t[EXPECT + i] = level if back else expected


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def measure_slots(q: Array, t: Array, room: int) -> None:
    """How far from the profile: the nearer of the two counts."""
    for i in range(room):
        x, level, scale = t[X + i], t[WAS + i], t[WIDTH + i]
        z, wide, expected = t[Z + i], t[WIDE + i], t[EXPECT + i]
        usual = q[PROF + i] + q[OFF + i]  # NaN without a profile: nothing is nearer than that
        pdev = 1.25 * q[PDEV + i]
        spare = max(scale, pdev, 0.06 * abs(usual - level))
        more = max(spare, scale * min(usual / level, 20.0))
        spare = more if (usual > 1.2 * level) & (1.2 * level > 0.0) else spare  # what is larger scatters more
        zs = (x - usual) / spare
        near = abs(zs) < abs(z)
        z, wide, expected = zs if near else z, spare if near else wide, usual if near else expected
        # in the middle of a known burst the last window says more than a slot's mean
        last = q[BEFORE + i]
        spare = max(scale, pdev, 0.1 * abs(last - level))
        zs = (x - last) / spare
        near = (abs(usual - level) > 4.0 * scale) & (q[FLAGGED + i] == 0.0) & (abs(zs) < abs(z))
        t[Z + i], t[WIDE + i] = zs if near else z, spare if near else wide
        t[EXPECT + i] = last if near else expected


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def look(
    q: Array, t: Array, at: Array, tails: Array, first: int, room: int, lanes: int, flag: float, clip: float,
    warmup: float,
) -> int:  # fmt: skip
    """Look the deviations up in their tails, and remember them there; how many are flagged."""
    for i in range(lanes):
        z = t[Z + i]
        place = int((np.float64(abs(z)).view(np.int64) >> 50) - OFFSET)
        at[i] = ((first + i) * 3 + (1 if z < 0.0 else 0)) * (2 * BUCKETS) + 2 * min(max(place, 0), BUCKETS - 2)
    for i in range(lanes):  # nothing but the loads: so short that they all wait for memory at once
        k = at[i]
        low, high = tails[k + 1], tails[k + 3]
        t[LOW + i], t[HIGH + i], t[RISE + i] = low, high, high - low
    for i in range(lanes):  # a place within its bucket comes without turning an integer into a number: vectors cannot
        bits = np.float64(abs(t[Z + i])).view(np.int64)
        place = int((bits >> 50) - OFFSET)
        within = np.int64((bits & MANTISSA) | _ONE).view(np.float64) - 1.0
        s = t[LOW + i] + within * 4.0 * t[RISE + i]
        s = t[HIGH + i] if place > BUCKETS - 2 else s
        tall = 1.0 if place >= 0 else 0.0  # 0 below the first bucket
        s *= tall
        t[SAID + i] = s
        t[MASS + i] = tall * t[ON + i]
        at[i] += 2 if place > BUCKETS - 2 else 0
    n = 0
    for i in range(lanes):
        at[BLOCK + n] = i
        n += 1 if t[SAID + i] > _HOT else 0
    some = 0
    for i in range(room):
        age, s = q[AGE + i], t[SAID + i]
        flagged = (s > flag) & (abs(t[Z + i]) > clip) & (age >= warmup)
        mass = 0.05 if flagged & (q[FLAGGED + i] > 0.0) else 1.0  # a deviation is remembered once, not while it lasts
        mass = mass if age >= 12.0 else 0.0
        t[FLAG + i] = 1.0 if flagged else 0.0
        t[MASS + i] *= mass
        q[WEIGHT + i] += mass
        some += 1 if flagged & (t[ON + i] > 0.0) else 0
    for i in range(lanes):
        tails[at[i]] += np.float32(t[MASS + i])
    for k in range(BLOCK, BLOCK + n):
        i = at[k]
        age, s = q[AGE + i], t[SAID + i]
        if age > 16.0:
            # where large deviations come in bursts, those after the first say less
            soon = age - q[HOTAT + i] <= 3.0 and q[HOTS + i] > 0.0
            if soon:
                again = (q[AGAIN + i] + 0.15 * 8.0) / (q[HOTS + i] + 8.0)
                t[SAID + i] = s - min(s, 2.2) * max(0.0, again - 0.2) / 0.8
            q[HOTS + i] = 0.98 * q[HOTS + i] + 1.0
            q[AGAIN + i] = 0.98 * q[AGAIN + i] + (1.0 if soon else 0.0)
            q[HOTAT + i] = age
    return some
