"""The light detector's arithmetic: one compiled pass over (windows, channels), time-major in blocks of channels.

A channel's memory is a lane of a block's registers, log histograms of its deviations (above, below, and of its slow
views) with the surprise fitted to them, and (with a clock) a profile of slots. A window goes over the lanes of a block
in a few short loops: those of plain arithmetic become vector instructions, those that look something up overlap their
waits for memory. A lane whose value is missing goes along and is left as it was. Every sum runs in one fixed order;
nothing depends on how windows are split over calls.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from models.light_layout import (
    AGE,
    BANDDOWN,
    BANDUP,
    BEFORE,
    BLOCK,
    CDOWN,
    CENTRE,
    CUP,
    EXPECT,
    FIELDS,
    FLAG,
    FLAGGED,
    FREE,
    INV,
    LEVEL,
    LIKE,
    MISS,
    MOVE,
    OFF,
    ON,
    PARAMS,
    PROF,
    QUANTUM,
    REFIT,
    RUN,
    SAID,
    SCALE,
    SCOUNT,
    SCRATCH,
    SIDE,
    SIZE,
    SLOT,
    SLOW,
    SMISS,
    SSUM,
    UNLIKE,
    WARM,
    WAS,
    WIDE,
    WIDTH,
    X,
    Z,
)
from models.light_look import ages, copy_off, follow_slots, look, measure, measure_slots
from models.light_slow import TWO, slow_views
from models.light_state import UNSEEN, refit, start, watch_run
from models.light_tail import BUCKETS, refit_tail
from telemetry.wire.prefetch import prefetch

__all__ = ["BUCKETS", "FIELDS", "PARAMS", "UNSEEN", "advance_light", "refit_tail"]

Array = Any  # numba takes its types from the arguments

_LARGEST = 1e150
"""What is larger would overflow where it is squared, and stands for "none": it is missing, as infinity is."""


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _learn(q: Array, t: Array, room: int, alpha: float, beta: float, clip: float, seasonal: bool) -> None:
    """Learn the window: what it flags moves it ten times slower.

    What some lanes only may learn is added to all, to the others as -0.0, which changes nothing: a vector instruction
    that stores some lanes takes many times as long as one that stores them all.
    """
    if seasonal:
        for i in range(room):
            prof, off, step = q[PROF + i], q[OFF + i], clip * t[WIDTH + i]
            slowly = 0.1 if t[FLAG + i] > 0.0 else 1.0
            more = alpha * slowly * min(max(t[X + i] - prof - off, -step), step)
            q[OFF + i] = off + (more if prof == prof else -0.0)
    for i in range(room):
        flag, old = t[FLAG + i], q[AGE + i] >= 8.0
        x, level, scale, inv, warm = t[X + i], t[WAS + i], t[WIDTH + i], t[INV + i], t[WARM + i]
        slowly = 0.1 if flag > 0.0 else 1.0
        move, like, unlike = q[MOVE + i], q[LIKE + i], q[UNLIKE + i]
        moved = abs(x - q[BEFORE + i])
        still = move == 0.0
        most, most_still = 4.0 * move, 4.0 * max(0.5 * t[QUANTUM + i], 1e-4 * abs(level))
        cut = min(moved, most_still if still else most)
        cut = cut if old else moved
        more = 0.0625 * (cut - move)
        more = cut if still else more
        q[MOVE + i] = move + (more if moved > 0.0 else -0.0)
        q[BEFORE + i] = x
        # how much of a deviation stays until the next window
        miss = x - level
        d = miss * inv
        gain = max(0.25 * beta, warm)
        more_like, more_unlike = gain * (d * q[MISS + i] * inv - like), gain * (d * d - unlike)
        q[LIKE + i] = like + (more_like if flag == 0.0 else -0.0)
        q[UNLIKE + i] = unlike + (more_unlike if flag == 0.0 else -0.0)
        q[MISS + i] = miss
        a = max(alpha, warm) * slowly
        step = clip * scale
        free, prof, own = q[FREE + i], q[PROF + i], q[SCALE + i]
        y = x + q[CENTRE + i]
        y_slot = y - prof
        y = y_slot if prof == prof else y
        z = t[Z + i]
        size, size_new = 1.25 * min(abs(z), clip) * scale, 1.25 * abs(miss)
        size = size if old else size_new
        up = min(max(miss, -step), step)
        gap = y - free
        up_free = min(max(gap, -step), step)
        q[LEVEL + i] = level + a * (up if old else miss)
        q[FREE + i] = free + a * (up_free if old else gap)
        q[SCALE + i] = own + max(beta, warm) * slowly * (size - own)
        t[SIZE + i] = size
        t[SIDE + i] = -1.0 if z < 0.0 else 1.0
        zc = min(max((y - q[SLOW + i]) * inv, -4.0), 4.0)
        q[CUP + i] = min(max(0.0, q[CUP + i] + zc - 0.5), 200.0)
        q[CDOWN + i] = min(max(0.0, q[CDOWN + i] - zc - 0.5), 200.0)


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _say(q: Array, t: Array, room: int, lanes: int, surprise: Array, side: Array, warmup: float, claim: float) -> None:
    """Write what the window said."""
    loud = 0
    for i in range(room):
        said = t[SAID + i] - TWO
        t[SAID + i] = said
        loud += 1 if said > 2.0 else 0
    if loud > 0:
        for i in range(lanes):
            if t[SAID + i] > 2.0:
                t[SAID + i] = min(t[SAID + i], claim * math.log10(q[AGE + i] + 1.0))
    for i in range(lanes):
        on = (t[ON + i] > 0.0) & (q[AGE + i] >= warmup)
        s, which = max(t[SAID + i], 0.0), t[SIDE + i]
        surprise[i] = s if on else math.nan
        which = which if on else 0.0
        side[i] = np.int8(np.int32(which))


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _say_band(q: Array, t: Array, lanes: int, expected: Array, low: Array, high: Array) -> None:
    """Write what was expected, and the band around it."""
    for i in range(lanes):
        on, middle, wide = t[ON + i] > 0.0, t[EXPECT + i], t[WIDE + i]
        bottom, top = middle - wide * q[BANDDOWN + i], middle + wide * q[BANDUP + i]
        expected[i] = middle if on else math.nan
        low[i] = bottom if on else math.nan
        high[i] = top if on else math.nan


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _end(q: Array, t: Array, room: int, lanes: int, has_slots: bool, flagged: int, relearn: float) -> int:
    """A window more for every lane that had a value; how many are due to be refitted."""
    if has_slots:
        for i in range(room):
            x, expected, prof = t[X + i], t[EXPECT + i], q[PROF + i]
            inside = q[SLOT + i] >= 0.0
            x_miss = abs(x - expected)
            x = expected if (prof == prof) & (t[FLAG + i] > 0.0) else x
            q[SSUM + i] += x if inside else -0.0
            q[SMISS + i] += x_miss if inside else -0.0
            q[SCOUNT + i] += 1.0 if inside else -0.0
    due = 0
    for i in range(room):
        flag, run, age = t[FLAG + i], q[RUN + i], q[AGE + i] + 1.0
        back = max(min(-run, 1.0), -1.0)  # a step towards none
        q[RUN + i] = run + (back if flag == 0.0 else -0.0)
        q[FLAGGED + i] = flag
        q[AGE + i] = age
        due += 1 if (age >= q[REFIT + i]) & (t[ON + i] > 0.0) else 0
    if flagged > 0:
        for i in range(lanes):
            if t[ON + i] > 0.0 and t[FLAG + i] > 0.0:
                watch_run(q, i, t[X + i], t[Z + i] > 0.0, relearn)
    return due


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _block(
    values: Array,
    slots: Array,
    prm: Array,
    quanta: Array,
    q: Array,
    t: Array,
    kept: Array,
    at: Array,
    tails: Array,
    flat: Array,
    profile: Array,
    said: Array,
    side: Array,
    first: int,
    lanes: int,
) -> None:
    columns = quanta.shape[0]
    has_slots = slots.shape[0] > 0
    explain = said.shape[0] > 1
    alpha, beta, clip, warmup, memory = prm[0], prm[1], prm[2], prm[3], prm[4]
    period, relearn, flag, slot_gain, claim = prm[5], prm[6], prm[11], prm[12], prm[13]
    last = first + lanes
    room = (lanes + 3) & -4 if lanes > 1 else 1
    for i in range(room):
        t[X + i] = 0.0
        t[ON + i] = 0.0
    column = first % columns
    for i in range(lanes):
        t[QUANTUM + i] = quanta[column]
        column = column + 1 if column + 1 < columns else 0
    for w in range(values.shape[0]):
        here = values[w, first:last]
        if lanes > 1 and w + 1 < values.shape[0]:  # rows lie too far apart for the processor to foresee the next one
            for i in range(0, lanes, 8):
                prefetch(values[w + 1], first + i)
                prefetch(said[0, w + 1], first + i)
            prefetch(side[w + 1], first)
        off = 0
        new = 0
        for i in range(lanes):
            x = here[i]
            good = abs(x) <= _LARGEST
            t[X + i] = x if good else 0.0
            t[ON + i] = 1.0 if good else 0.0
            off += 0 if good else 1
            new += 1 if q[AGE + i] == 0.0 else 0
        if new > 0:
            for i in range(lanes):
                if q[AGE + i] == 0.0 and t[ON + i] > 0.0:
                    start(q, i, t[X + i])
        if has_slots:
            off += follow_slots(q, t, first, lanes, slots[w], columns, profile, slot_gain)
        if off > 0:
            copy_off(t, lanes, q, kept)
        seasonal, slow = ages(q, t, room)
        measure(q, t, room)
        if seasonal:
            measure_slots(q, t, room)
        flagged = look(q, t, at, flat, first, room, lanes, flag, clip, warmup)
        _learn(q, t, room, alpha, beta, clip, seasonal)
        if slow:
            slow_views(q, t, flat, first, room, lanes, prm)
        _say(q, t, room, lanes, said[0, w, first:last], side[w, first:last], warmup, claim)
        if explain:
            _say_band(q, t, lanes, said[1, w, first:last], said[2, w, first:last], said[3, w, first:last])
        due = _end(q, t, room, lanes, has_slots, flagged, relearn)
        if off > 0:
            copy_off(t, lanes, kept, q)
        if due > 0:
            for i in range(lanes):
                if t[ON + i] > 0.0 and q[AGE + i] >= q[REFIT + i]:
                    refit(q, i, first + i, tails, memory, period)


@njit(cache=True, nogil=True, error_model="numpy")
def advance_light(
    values: Array,
    slots: Array,
    prm: Array,
    quanta: Array,
    r: Array,
    tails: Array,
    profile: Array,
    said: Array,
    side: Array,
    alone: Array,
) -> None:
    """Score, then learn, window by window.

    Parameters
    ----------
    values : (W, S, C) float64
        Channels of one panel, N = S * C of them; what is not finite, or beyond 1e150, is missing and changes nothing.
    slots : (W, S) float64 or (0, 0)
        Slot of the clock, NaN or negative for none; -2: learn the level, do not score.
    prm : (len(PARAMS),) float64
    quanta : (C,) float64
        Smallest step that means something, per column; above 0.
    r : (blocks, len(FIELDS) * BLOCK) float64
        Registers of the channels, block by block: see `light_layout`.
    tails : (N, 3, BUCKETS, 2) float32
        Above, below, slow views: mass and surprise.
    profile : (N, slots, 2) uint16
        Mean (from the first value) and spread of each slot, packed.
    said : (4, W, S, C) float64, out, or (1, W, S, C)
        Surprise; expected, low, high.
    side : (W, S, C) int8, out
    alone : True or None
        True if there is one channel: a type of its own, for which loops over lanes are compiled to none.
    """
    windows, channels = values.shape[0], values.shape[1] * values.shape[2]
    rows, sides = values.reshape((windows, channels)), side.reshape((windows, channels))
    all_said = said.reshape((said.shape[0], windows, channels))
    t, kept = np.zeros(SCRATCH), np.empty(r.shape[1])
    at, flat = np.zeros(2 * BLOCK + 1, np.int64), tails.reshape(-1)
    for b in range(r.shape[0]):
        first = b * BLOCK
        if alone is None:
            lanes = min(channels - first, BLOCK)
        else:
            lanes = 1
        _block(
            rows, slots, prm, quanta, r[b], t, kept, at, tails, flat, profile, all_said, sides, first, lanes
        )  # fmt: skip
