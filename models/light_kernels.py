"""The light detector's arithmetic: one compiled pass over (windows, channels), time-major in blocks of channels.

A channel's memory is a row of registers, log histograms of its deviations (above, below, and of its slow views) with
the surprise fitted to them, and (with a clock) a profile of slots. Every sum runs in one fixed order; nothing depends
on how windows are split over calls.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from models.light_state import (
    AGAIN,
    AGE,
    BANDDOWN,
    BANDUP,
    BEFORE,
    CDOWN,
    CENTRE,
    CREEP,
    CRUN,
    CSIZE,
    CUP,
    FIELDS,
    FLAGGED,
    FOLLOW,
    FREE,
    HOTAT,
    HOTS,
    LEVEL,
    LIKE,
    LONG,
    MISS,
    MOVE,
    OFF,
    PARAMS,
    PDEV,
    PROF,
    REF,
    REFIT,
    RUN,
    SCALE,
    SCOUNT,
    SLOT,
    SLOW,
    SLOWDEV,
    SMISS,
    SSUM,
    SWEIGHT,
    TOLD,
    UNLIKE,
    UNSEEN,
    WEIGHT,
    enter_slot,
    follow_clock,
    refit,
    start,
    watch_run,
)
from models.light_tail import BUCKETS, MANTISSA, OFFSET, UNIT, refit_tail

__all__ = ["BUCKETS", "FIELDS", "PARAMS", "UNSEEN", "advance_light", "refit_tail"]

Array = Any  # numba takes its types from the arguments

BLOCK = 32
"""Channels that go through all windows together, so that their memory stays in the cache."""

_TWO = math.log10(2.0)
_HOT = 1.3
_SIXTEEN = math.log10(16.0)


@njit(cache=True, nogil=True, error_model="numpy")
def _block(
    values: Array,
    slots: Array,
    prm: Array,
    quanta: Array,
    r: Array,
    tails: Array,
    profile: Array,
    surprise: Array,
    side: Array,
    band: Array,
    first: int,
    last: int,
) -> None:
    windows = values.shape[0]
    columns = quanta.shape[0]
    has_slots = slots.shape[0] > 0
    explain = band.shape[0] > 0
    alpha, beta, clip, warmup, memory = prm[0], prm[1], prm[2], prm[3], prm[4]
    period, relearn, creep_relearn = prm[5], prm[6], prm[7]
    creep_step, creep_gain, creep_unit, flag, slot_gain = prm[8], prm[9], prm[10], prm[11], prm[12]
    claim = prm[13]
    for w in range(windows):
        column = first % columns - 1
        for n in range(first, last):
            column = column + 1 if column + 1 < columns else 0
            x = values[w, n]
            if not math.isfinite(x):
                surprise[w, n] = math.nan
                side[w, n] = 0
                if explain:
                    band[0, w, n] = math.nan
                    band[1, w, n] = math.nan
                    band[2, w, n] = math.nan
                continue
            age = r[n, AGE]
            if age == 0.0:
                start(r, n, x)
            if has_slots:
                v = slots[w, n // columns]
                slot = -1
                if v >= 0.0 and v < profile.shape[1]:
                    slot = int(v)
                if slot != int(r[n, SLOT]):
                    enter_slot(r, n, slot, profile, slot_gain)
                if v == -2.0:
                    follow_clock(r, n, x)
                    surprise[w, n] = math.nan
                    side[w, n] = 0
                    if explain:
                        band[0, w, n] = math.nan
                        band[1, w, n] = math.nan
                        band[2, w, n] = math.nan
                    continue
            # how far from the level, and from the profile: the nearer of the two counts
            level = r[n, LEVEL]
            long_scale = r[n, LONG]
            own = r[n, SCALE]
            # a series that hardly ever moves is measured by its moves, one that never did by its unit
            move = r[n, MOVE]
            floor = 0.25 * move
            if move == 0.0:
                floor = max(0.5 * quanta[column], 1e-4 * abs(level))
            scale = max(own, 0.5 * long_scale, floor)
            inv = 1.0 / scale
            miss = x - level
            follow = r[n, FOLLOW]
            ahead = follow * r[n, MISS]
            z = (miss - ahead) * inv
            expected = level + ahead
            wide = scale
            if ahead != 0.0 and r[n, FLAGGED] > 0.0 and abs(miss) * inv < abs(z):  # after a spike: back is normal too
                z = miss * inv
                expected = level
            prof = r[n, PROF]
            seasonal = not math.isnan(prof)
            if seasonal:
                usual = prof + r[n, OFF]
                spare = max(scale, 1.25 * r[n, PDEV], 0.06 * abs(usual - level))
                if usual > 1.2 * level > 0.0:  # what is larger scatters more
                    spare = max(spare, scale * min(usual / level, 20.0))
                zs = (x - usual) / spare
                if abs(zs) < abs(z):
                    z = zs
                    wide = spare
                    expected = usual
                if abs(usual - level) > 4.0 * scale and r[n, FLAGGED] == 0.0:
                    # in the middle of a known burst the last window says more than a slot's mean
                    last_x = r[n, BEFORE]
                    spare = max(scale, 1.25 * r[n, PDEV], 0.1 * abs(last_x - level))
                    zs = (x - last_x) / spare
                    if abs(zs) < abs(z):
                        z = zs
                        wide = spare
                        expected = last_x
            j = 1 if z < 0.0 else 0
            az = abs(z)
            bits = np.float64(az).view(np.int64)
            bucket = int((bits >> 50) - OFFSET)
            s_fast = 0.0
            if bucket >= BUCKETS - 1:
                bucket = BUCKETS - 1
                s_fast = float(tails[n, j, bucket, 1])
            elif bucket >= 0:
                at = float(tails[n, j, bucket, 1])
                s_fast = at + (bits & MANTISSA) * UNIT * (float(tails[n, j, bucket + 1, 1]) - at)
            which = 1 - 2 * j
            said = s_fast
            if s_fast > _HOT and age > 16.0:
                # where large deviations come in bursts, those after the first say less
                soon = age - r[n, HOTAT] <= 3.0 and r[n, HOTS] > 0.0
                if soon:
                    again = (r[n, AGAIN] + 0.15 * 8.0) / (r[n, HOTS] + 8.0)
                    said = s_fast - min(s_fast, 2.2) * max(0.0, again - 0.2) / 0.8
                r[n, HOTS] = 0.98 * r[n, HOTS] + 1.0
                r[n, AGAIN] = 0.98 * r[n, AGAIN] + (1.0 if soon else 0.0)
                r[n, HOTAT] = age
            moved = abs(x - r[n, BEFORE])
            if moved > 0.0:
                r[n, BEFORE] = x
                most = 4.0 * (floor if move == 0.0 else move)
                if age >= 8.0:
                    moved = min(moved, most)
                r[n, MOVE] = moved if move == 0.0 else move + 0.0625 * (moved - move)
            # learn: what it flags moves it ten times slower
            young = age < 64.0
            warm = 1.0 / (age + 1.0) if young else 0.0
            flagged = s_fast > flag and az > clip and age >= warmup
            slowly = 0.1 if flagged else 1.0
            if not flagged:
                # how much of a deviation stays until the next window
                d = miss * inv
                gain = max(0.25 * beta, warm)
                r[n, LIKE] += gain * (d * r[n, MISS] * inv - r[n, LIKE])
                r[n, UNLIKE] += gain * (d * d - r[n, UNLIKE])
            r[n, MISS] = miss
            a = max(alpha, warm) * slowly
            step = clip * scale
            y = x + r[n, CENTRE]
            free = r[n, FREE]
            if seasonal:
                y -= prof
                r[n, OFF] += alpha * slowly * min(max(x - prof - r[n, OFF], -step), step)
            if age >= 8.0:
                size = 1.25 * min(az, clip) * scale
                r[n, LEVEL] = level + a * min(max(miss, -step), step)
                free += a * min(max(y - free, -step), step)
            else:
                size = 1.25 * abs(miss)
                r[n, LEVEL] = level + a * miss
                free += a * (y - free)
            r[n, FREE] = free
            r[n, SCALE] = own + max(beta, warm) * slowly * (size - own)
            slow = r[n, SLOW]
            zc = min(max((y - slow) * inv, -4.0), 4.0)
            r[n, CUP] = min(max(0.0, r[n, CUP] + zc - 0.5), 200.0)
            r[n, CDOWN] = min(max(0.0, r[n, CDOWN] - zc - 0.5), 200.0)
            # the slow views, every fourth window: level against slower level, cumulative sums, creep
            if young or int(age) & 3 == 0:
                often = 1.0 if young else 4.0
                r[n, LONG] = long_scale + max(0.05 * beta * often, warm) * slowly * (size - long_scale)
                sdev = max(r[n, SLOWDEV], 0.25 * scale)
                most = clip * sdev
                gap = free - slow
                per = 1.0 / (3.0 + r[n, CSIZE])
                up = max(gap / sdev, r[n, CUP] * per)
                down = max(-gap / sdev, r[n, CDOWN] * per)
                slow_t = max(up, down)
                s_slow = 0.0
                bits = np.float64(slow_t).view(np.int64)
                b = int((bits >> 50) - OFFSET)
                if b >= BUCKETS - 1:
                    b = BUCKETS - 1
                    s_slow = float(tails[n, 2, b, 1])
                elif b >= 0:
                    at = float(tails[n, 2, b, 1])
                    s_slow = at + (bits & MANTISSA) * UNIT * (float(tails[n, 2, b + 1, 1]) - at)
                if int(age) & 15 == 0 and age > 12.0:
                    mass = 1.0 if s_slow <= flag else 0.1
                    r[n, SWEIGHT] += mass
                    if b >= 0:
                        tails[n, 2, b, 0] += np.float32(mass)
                if age >= 8.0:
                    gap = min(max(gap, -most), most)
                slow += max(0.08 * alpha * often, warm) * gap
                r[n, SLOW] = slow
                r[n, SLOWDEV] += max(0.05 * alpha * often, warm) * (1.25 * abs(gap) - r[n, SLOWDEV])
                csize = min(max(r[n, CUP], r[n, CDOWN]), 9.0 + 3.0 * r[n, CSIZE])
                r[n, CSIZE] += max(0.02 * alpha * often, warm) * (csize - r[n, CSIZE])
                ratio = r[n, LIKE] / (r[n, UNLIKE] + 1e-9)
                r[n, FOLLOW] = min(ratio, 0.98) if ratio > 0.25 else 0.0
                held = s_slow - _TWO
                held_side = 1 if up >= down else -1
                ref = r[n, REF]
                creep = slow - ref
                if age < 4.0 * warmup:
                    r[n, REF] = slow
                else:
                    cdev = max(r[n, CREEP], 0.02 * max(abs(ref), abs(level)), 0.5 * sdev)
                    if abs(creep) > cdev:
                        s_creep = min(0.5 * abs(creep) / cdev, claim * math.log10(1.0 + age / creep_unit))
                        if s_creep > held:
                            held = s_creep
                            held_side = 1 if creep > 0.0 else -1
                        if s_creep > flag:
                            r[n, CRUN] += 4.0
                        else:
                            r[n, CRUN] = 0.0
                    else:
                        r[n, CRUN] = 0.0
                    most = creep_step * abs(ref) * often
                    r[n, REF] = ref + min(max(creep, -most), most)
                    r[n, CREEP] += max(creep_gain * often, 4.0 / (age + 4.0)) * (abs(creep) - r[n, CREEP])
                    if r[n, CRUN] >= creep_relearn:
                        r[n, REF] = slow
                        r[n, CRUN] = 0.0
                # a slow view speaks once in 16 windows, for all of them
                if int(age) & 15 == 0:
                    r[n, TOLD] *= 0.999
                    if held > max(0.5, r[n, TOLD] + 0.3) and held + _SIXTEEN > said - _TWO:
                        r[n, TOLD] = held
                        said = held + _SIXTEEN + _TWO
                        which = held_side
            s = said - _TWO
            if s > 2.0:
                s = min(s, claim * math.log10(age + 1.0))
            if age >= warmup:
                surprise[w, n] = max(s, 0.0)
                side[w, n] = which
            else:
                surprise[w, n] = math.nan
                side[w, n] = 0
            if explain:
                band[0, w, n] = expected
                band[1, w, n] = expected - wide * r[n, BANDDOWN]
                band[2, w, n] = expected + wide * r[n, BANDUP]
            if has_slots and r[n, SLOT] >= 0.0:
                r[n, SSUM] += expected if seasonal and flagged else x
                r[n, SMISS] += abs(x - expected)
                r[n, SCOUNT] += 1.0
            # the tails remember a deviation once, not once a window while it lasts
            if age >= 12.0:
                mass = 0.05 if flagged and r[n, FLAGGED] > 0.0 else 1.0
                r[n, WEIGHT] += mass
                if bucket >= 0:
                    tails[n, j, bucket, 0] += np.float32(mass)
            r[n, FLAGGED] = 1.0 if flagged else 0.0
            if flagged:
                watch_run(r, n, x, z > 0.0, relearn)
            elif r[n, RUN] != 0.0:
                r[n, RUN] += 1.0 if r[n, RUN] < 0.0 else -1.0
            r[n, AGE] = age + 1.0
            if age + 1.0 >= r[n, REFIT]:
                refit(r, n, tails, memory, period)


@njit(cache=True, nogil=True, error_model="numpy")
def advance_light(
    values: Array,
    slots: Array,
    prm: Array,
    quanta: Array,
    r: Array,
    tails: Array,
    profile: Array,
    surprise: Array,
    side: Array,
    band: Array,
) -> None:
    """Score, then learn, window by window.

    Parameters
    ----------
    values : (W, N) float64
        Channels of one panel; not finite is missing and changes nothing.
    slots : (W, N / C) float64 or (0, 0)
        Slot of the clock, NaN or negative for none; -2: learn the level, do not score.
    prm : (len(PARAMS),) float64
    quanta : (C,) float64
        Smallest step that means something, per column; above 0.
    r : (N, len(FIELDS) or more) float64
        Best if each row begins a cache line.
    tails : (N, 3, BUCKETS, 2) float32
        Above, below, slow views: mass and surprise.
    profile : (N, slots, 2) uint16
        Mean (from the first value) and spread of each slot, packed.
    surprise : (W, N) float64, out
    side : (W, N) int8, out
    band : (3, W, N) float64, out, or (0, 0, 0)
        Expected, low, high.
    """
    channels = values.shape[1]
    for first in range(0, channels, BLOCK):
        last = min(first + BLOCK, channels)
        _block(
            values, slots, prm, quanta, r, tails, profile, surprise, side, band, first, last
        )  # fmt: skip
