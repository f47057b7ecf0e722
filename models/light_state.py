"""The light model's paths that are rarely taken: slots, refits, relearning. Lane i of registers q is channel n."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from models.light_layout import (
    AGE,
    ANCHOR,
    BANDDOWN,
    BANDUP,
    BEFORE,
    CAND,
    CDEV,
    CDOWN,
    CENTRE,
    CUP,
    FLAGGED,
    FREE,
    LEVEL,
    MISS,
    OFF,
    PDEV,
    PROF,
    REF,
    REFIT,
    RUN,
    SCALE,
    SCOUNT,
    SLOT,
    SLOW,
    SMISS,
    SSUM,
    STAGGER,
    SWEIGHT,
    WEIGHT,
)
from models.light_tail import reaches, refit_tail

__all__ = ["UNSEEN", "enter_slot", "follow_clock", "refit", "start", "watch_run"]

Array = Any  # numba takes its types from the arguments

UNSEEN = 0xFFFF
"""Code of a slot that was never visited."""

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
def enter_slot(q: Array, i: int, n: int, slot: int, profile: Array, gain: float) -> None:
    """Leave one slot of the clock (learn its mean and spread) and enter another (read them once)."""
    old = int(q[SLOT + i])
    count = q[SCOUNT + i]
    if old >= 0 and count > 0.0:
        mean = q[SSUM + i] / count - q[ANCHOR + i]
        code = int(profile[n, old, 0])
        if code == UNSEEN:
            profile[n, old, 0] = _pack(mean)
            profile[n, old, 1] = 0
        else:
            known = _unpack(code)
            dev = _unpack(int(profile[n, old, 1]))
            miss = q[SMISS + i] / count
            d = mean - known
            if dev > 0.0:
                miss = min(miss, 4.0 * dev)
                d = min(max(d, -4.0 * dev), 4.0 * dev)
                miss = dev + gain * (miss - dev)
            profile[n, old, 0] = _pack(known + gain * d)
            profile[n, old, 1] = _pack(miss)
    q[SLOT + i] = slot
    q[SSUM + i] = 0.0
    q[SMISS + i] = 0.0
    q[SCOUNT + i] = 0.0
    now = math.nan
    if slot >= 0 and profile[n, slot, 0] != UNSEEN:
        now = _unpack(int(profile[n, slot, 0])) + q[ANCHOR + i]
        spread = _unpack(int(profile[n, slot, 1]))
        around = 0.0  # a slot of few windows knows its spread badly: its neighbours lend theirs
        if slot > 0 and profile[n, slot - 1, 0] != UNSEEN:
            around += 0.5 * _unpack(int(profile[n, slot - 1, 1]))
        if slot + 1 < profile.shape[1] and profile[n, slot + 1, 0] != UNSEEN:
            around += 0.5 * _unpack(int(profile[n, slot + 1, 1]))
        q[PDEV + i] = max(spread, around)
    if math.isnan(q[PROF + i]) != math.isnan(now):  # the slow views go on from where they were
        q[CENTRE + i] = q[FREE + i] - q[LEVEL + i] + (0.0 if math.isnan(now) else now)
        if not math.isnan(now):
            q[OFF + i] = q[LEVEL + i] - now
    q[PROF + i] = now


@njit(cache=True, nogil=True)
def refit(q: Array, i: int, n: int, tails: Array, memory: float, period: float) -> None:
    """Refit a channel's tails and say when next: often while young, then once a period, staggered over series."""
    refit_tail(tails, n, 0, q[WEIGHT + i], memory)
    refit_tail(tails, n, 1, q[WEIGHT + i], memory)
    refit_tail(tails, n, 2, q[SWEIGHT + i], memory)
    q[WEIGHT + i] = min(q[WEIGHT + i], memory)
    q[SWEIGHT + i] = min(q[SWEIGHT + i], memory)
    q[BANDUP + i] = reaches(tails, n, 0, _BAND)
    q[BANDDOWN + i] = reaches(tails, n, 1, _BAND)
    wait = int(min(max(8.0, 0.25 * q[AGE + i]), period))
    q[REFIT + i] = q[AGE + i] + wait + (int(q[STAGGER + i]) % wait) // 2


@njit(cache=True, nogil=True)
def _relearn(q: Array, i: int) -> None:
    """Take the level since the deviation began as the new normal, for every view."""
    level = q[CAND + i]
    q[LEVEL + i] = level
    q[SCALE + i] = max(q[SCALE + i], 1.25 * q[CDEV + i])
    free = level + q[CENTRE + i]
    if not math.isnan(q[PROF + i]):
        q[OFF + i] = level - q[PROF + i]
        free -= q[PROF + i]
    q[FREE + i] = free
    q[SLOW + i] = free
    q[REF + i] = free
    q[CUP + i] = 0.0
    q[CDOWN + i] = 0.0
    q[RUN + i] = 0.0
    q[MISS + i] = 0.0


@njit(cache=True, nogil=True)
def watch_run(q: Array, i: int, x: float, up: bool, relearn: float) -> None:
    """Follow the level of a run of flagged windows on one side."""
    run = q[RUN + i]
    if run != 0.0 and up == (run > 0.0):
        run += 1.0 if up else -1.0
        q[CAND + i] += 0.1 * (x - q[CAND + i])
        q[CDEV + i] += 0.1 * (abs(x - q[CAND + i]) - q[CDEV + i])
    else:
        run = 1.0 if up else -1.0
        q[CAND + i] = x
        q[CDEV + i] = 0.0
    q[RUN + i] = run
    if abs(run) >= relearn:
        _relearn(q, i)


@njit(cache=True, nogil=True)
def follow_clock(q: Array, i: int, x: float) -> None:
    """A window that the clock says is like no other: the level follows, nothing else learns."""
    q[LEVEL + i] += 0.1 * (x - q[LEVEL + i])
    q[CENTRE + i] = q[FREE + i] - q[LEVEL + i]
    q[BEFORE + i] = x
    q[MISS + i] = 0.0
    q[RUN + i] = 0.0
    q[FLAGGED + i] = 0.0


@njit(cache=True, nogil=True)
def start(q: Array, i: int, x: float) -> None:
    for k in (LEVEL, FREE, SLOW, REF, ANCHOR, CAND, BEFORE):
        q[k + i] = x
    q[SLOT + i] = -1.0
    q[PROF + i] = math.nan
    q[REFIT + i] = 16.0
