"""What a channel of the light model remembers, and the paths that are rarely taken: slots, refits, relearning."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from models.light_tail import reaches, refit_tail

__all__ = ["FIELDS", "PARAMS", "ROOM", "UNSEEN", "enter_slot", "follow_clock", "refit", "start", "watch_run"]

Array = Any  # numba takes its types from the arguments

UNSEEN = 0xFFFF
"""Code of a slot that was never visited."""

FIELDS = (
    *("age", "level", "long_scale", "scale", "move", "follow", "miss", "flagged"),
    *("profile", "before", "like", "unlike", "centre", "trend_free", "slow", "cusum_up"),
    *("cusum_down", "band_up", "band_down", "weight", "run", "refit_at", "hot_at", "hots"),
    *("again", "slow_dev", "cusum_size", "slow_weight", "ref", "creep_dev", "creep_run", "told"),
    *("slot", "slot_sum", "slot_count", "slot_miss", "offset", "profile_dev", "anchor", "stagger"),
    *("candidate", "candidate_dev"),
)
"""A line of eight is a cache line: three for every window, one for every fourth, one for a clock, one for a run."""
PARAMS = (
    *("alpha", "beta", "clip", "warmup", "memory", "refit", "relearn", "creep_relearn"),
    *("creep_step", "creep_gain", "creep_unit", "flag", "slot_gain", "claim"),
)

(AGE, LEVEL, LONG, SCALE, MOVE, FOLLOW, MISS, FLAGGED) = range(8)
(PROF, BEFORE, LIKE, UNLIKE, CENTRE, FREE, SLOW, CUP) = range(8, 16)
(CDOWN, BANDUP, BANDDOWN, WEIGHT, RUN, REFIT, HOTAT, HOTS) = range(16, 24)
(AGAIN, SLOWDEV, CSIZE, SWEIGHT, REF, CREEP, CRUN, TOLD) = range(24, 32)
(SLOT, SSUM, SCOUNT, SMISS, OFF, PDEV, ANCHOR, STAGGER) = range(32, 40)
(CAND, CDEV) = range(40, 42)
ROOM = 48
"""Numbers a channel: its fields in whole cache lines."""

_BAND = 3.0


@njit(cache=True, nogil=True)
def _pack(x: float) -> int:
    """16 bits of a number: sign, 6 of exponent (2^-31 to 2^31), 9 of mantissa; smaller ones are 0."""
    bits = np.float64(abs(x)).view(np.int64) + (1 << 42)
    code = (((bits >> 52) - 1023 + 32) << 9) | ((bits >> 43) & 0x1FF)
    if code < 512:
        return 0
    if code > 0x7FFE:
        code = np.int64(0x7FFE)
    return int(code | (0x8000 if x < 0.0 else 0))


@njit(cache=True, nogil=True)
def _unpack(code: int) -> float:
    low = code & 0x7FFF
    if low < 512:
        return 0.0
    x = math.ldexp(1.0 + (low & 0x1FF) / 512.0, (low >> 9) - 32)
    return -x if code & 0x8000 else x


@njit(cache=True, nogil=True)
def enter_slot(r: Array, n: int, slot: int, profile: Array, gain: float) -> None:
    """Leave one slot of the clock (learn its mean and spread) and enter another (read them once)."""
    old = int(r[n, SLOT])
    count = r[n, SCOUNT]
    if old >= 0 and count > 0.0:
        mean = r[n, SSUM] / count - r[n, ANCHOR]
        code = int(profile[n, old, 0])
        if code == UNSEEN:
            profile[n, old, 0] = _pack(mean)
            profile[n, old, 1] = 0
        else:
            known = _unpack(code)
            dev = _unpack(int(profile[n, old, 1]))
            miss = r[n, SMISS] / count
            d = mean - known
            if dev > 0.0:
                miss = min(miss, 4.0 * dev)
                d = min(max(d, -4.0 * dev), 4.0 * dev)
                miss = dev + gain * (miss - dev)
            profile[n, old, 0] = _pack(known + gain * d)
            profile[n, old, 1] = _pack(miss)
    r[n, SLOT] = slot
    r[n, SSUM] = 0.0
    r[n, SMISS] = 0.0
    r[n, SCOUNT] = 0.0
    now = math.nan
    if slot >= 0 and profile[n, slot, 0] != UNSEEN:
        now = _unpack(int(profile[n, slot, 0])) + r[n, ANCHOR]
        spread = _unpack(int(profile[n, slot, 1]))
        around = 0.0  # a slot of few windows knows its spread badly: its neighbours lend theirs
        if slot > 0 and profile[n, slot - 1, 0] != UNSEEN:
            around += 0.5 * _unpack(int(profile[n, slot - 1, 1]))
        if slot + 1 < profile.shape[1] and profile[n, slot + 1, 0] != UNSEEN:
            around += 0.5 * _unpack(int(profile[n, slot + 1, 1]))
        r[n, PDEV] = max(spread, around)
    if math.isnan(r[n, PROF]) != math.isnan(now):  # the slow views go on from where they were
        r[n, CENTRE] = r[n, FREE] - r[n, LEVEL] + (0.0 if math.isnan(now) else now)
        if not math.isnan(now):
            r[n, OFF] = r[n, LEVEL] - now
    r[n, PROF] = now


@njit(cache=True, nogil=True)
def refit(r: Array, n: int, tails: Array, memory: float, period: float) -> None:
    """Refit a channel's tails and say when next: often while young, then once a period, staggered over series."""
    refit_tail(tails, n, 0, r[n, WEIGHT], memory)
    refit_tail(tails, n, 1, r[n, WEIGHT], memory)
    refit_tail(tails, n, 2, r[n, SWEIGHT], memory)
    r[n, WEIGHT] = min(r[n, WEIGHT], memory)
    r[n, SWEIGHT] = min(r[n, SWEIGHT], memory)
    r[n, BANDUP] = reaches(tails, n, 0, _BAND)
    r[n, BANDDOWN] = reaches(tails, n, 1, _BAND)
    wait = int(min(max(8.0, 0.25 * r[n, AGE]), period))
    r[n, REFIT] = r[n, AGE] + wait + (int(r[n, STAGGER]) % wait) // 2


@njit(cache=True, nogil=True)
def _relearn(r: Array, n: int) -> None:
    """Take the level since the deviation began as the new normal, for every view."""
    level = r[n, CAND]
    r[n, LEVEL] = level
    r[n, SCALE] = max(r[n, SCALE], 1.25 * r[n, CDEV])
    free = level + r[n, CENTRE]
    if not math.isnan(r[n, PROF]):
        r[n, OFF] = level - r[n, PROF]
        free -= r[n, PROF]
    r[n, FREE] = free
    r[n, SLOW] = free
    r[n, REF] = free
    r[n, CUP] = 0.0
    r[n, CDOWN] = 0.0
    r[n, RUN] = 0.0
    r[n, MISS] = 0.0


@njit(cache=True, nogil=True)
def watch_run(r: Array, n: int, x: float, up: bool, relearn: float) -> None:
    """Follow the level of a run of flagged windows on one side."""
    run = r[n, RUN]
    if run != 0.0 and up == (run > 0.0):
        run += 1.0 if up else -1.0
        r[n, CAND] += 0.1 * (x - r[n, CAND])
        r[n, CDEV] += 0.1 * (abs(x - r[n, CAND]) - r[n, CDEV])
    else:
        run = 1.0 if up else -1.0
        r[n, CAND] = x
        r[n, CDEV] = 0.0
    r[n, RUN] = run
    if abs(run) >= relearn:
        _relearn(r, n)


@njit(cache=True, nogil=True)
def follow_clock(r: Array, n: int, x: float) -> None:
    """A window that the clock says is like no other: the level follows, nothing else learns."""
    r[n, LEVEL] += 0.1 * (x - r[n, LEVEL])
    r[n, CENTRE] = r[n, FREE] - r[n, LEVEL]
    r[n, BEFORE] = x
    r[n, MISS] = 0.0
    r[n, RUN] = 0.0
    r[n, FLAGGED] = 0.0


@njit(cache=True, nogil=True)
def start(r: Array, n: int, x: float) -> None:
    for k in (LEVEL, FREE, SLOW, REF, ANCHOR, CAND, BEFORE):
        r[n, k] = x
    r[n, SLOT] = -1.0
    r[n, PROF] = math.nan
    r[n, REFIT] = 16.0
