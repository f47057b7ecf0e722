"""The joint model's arithmetic: ridge regression on all channels' past, smoothed residuals, a tail each, the top few.

Plain loops in one fixed order (no BLAS), so scores are equal bit for bit on every machine and for any split of windows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from models.joint_parts import EDGE_BITS, SHAPE, STEPS, lasting, refit_views, solve_ridge, widen
from models.light_tail import refit_tail

__all__ = ["MARKS", "VIEWS", "advance_joint"]

Array = Any  # numba takes its types from the arguments

VIEWS = 3
"""Smoothed residual, smoothed step, distance of the recent from the usual level."""

MARKS = ("rows", "weight", "refit_at", "solve_at", "hold", "tail_weight", "tail_at", "trust")
(ROWS, WEIGHT, REFIT, SOLVE, HOLD, TWEIGHT, TAILAT, TRUST) = range(8)

_OFFSET = (1023 - EDGE_BITS) * 4
_TAIL_OFFSET = (1023 - 3) * 4
_MANTISSA = (1 << 50) - 1
_UNIT = 2.0**-50
_NOTABLE = 1.5
_HOME = 0.84
"""What fades of a reported surprise in a window once its channel is back where it was."""


@njit(cache=True, nogil=True)
def _surprise(x: float, tail: Array, table: Array) -> float:
    if x < tail:
        return 0.0
    bits = np.float64(x).view(np.int64)
    b = int((bits >> 50) - _TAIL_OFFSET)
    if b < 0:
        return 0.0
    if b >= 63:
        return float(table[0, 0, 63, 1])
    at = float(table[0, 0, b, 1])
    return at + (bits & _MANTISSA) * _UNIT * (float(table[0, 0, b + 1, 1]) - at)


@njit(cache=True, nogil=True)
def advance_joint(
    values: Array,
    prm: Array,
    group: int,
    order: int,
    low: Array,
    size: Array,
    last: Array,
    least: Array,
    most: Array,
    lags: Array,
    gram: Array,
    cross: Array,
    weights: Array,
    work: Array,
    smooth: Array,
    away: Array,
    hist: Array,
    tails: Array,
    table: Array,
    marks: Array,
    surprise: Array,
    side: Array,
    parts: Array,
    expected: Array,
) -> None:
    """Score, then learn, window by window.

    Parameters
    ----------
    values : (W, D) float64
        NaN is missing; it is taken as predicted, and scores nothing.
    prm : float64
        warmup, ridge, smoothing gain, tail share, memory, growth, hold, top, flag, weight of steps, weight of levels,
        cap, settle, pace.
    group, order : int
        Channels regressed on each other, and lags.
    low, size, last, least, most : (D,) float64
        Origin and unit of a channel, its last value, and its range so far.
    lags : (order, D) float64
        Past rows, scaled, newest first.
    gram : (groups, P, P), cross, weights : (groups, P, group), work : (P, P) float64
    smooth : (4, D) float64
        Smoothed residual, step, fast and slow level.
    away : (3, D) float64
        1 where a channel that told most is away, -1 until its slow level has come back too; the level that it left; how
        far it went.
    hist : (VIEWS, D, STEPS), tails : (VIEWS, D, 2) float64
    table : (1, 1, BUCKETS, 2) float32
        Tail of the joint evidence.
    marks : (len(MARKS),) float64
    surprise : (W,) out
    side : (W, D) int8, out
    parts, expected : (W, D), out
    """
    windows, channels = values.shape
    warmup, ridge, gain, share, memory, growth = prm[0], prm[1], prm[2], prm[3], prm[4], prm[5]
    hold, top, flag, steps, levels, cap = prm[6], int(prm[7]), prm[8], prm[9], prm[10], prm[11]
    groups = gram.shape[0]
    width = gram.shape[1]
    base = -math.log10(share)
    z = np.empty(channels)
    y = np.empty(channels)
    x = np.empty(width)
    best = np.empty(top)
    for w in range(windows):
        present = 0
        for c in range(channels):
            if math.isfinite(values[w, c]):
                present += 1
        if present == 0:
            surprise[w] = math.nan
            for c in range(channels):
                side[w, c] = 0
                parts[w, c] = math.nan
                expected[w, c] = math.nan
            continue
        rows = marks[ROWS]
        young = rows < warmup
        for k in range(top):
            best[k] = 0.0
        where = -1
        for g in range(groups):
            first = g * group
            count = min(group, channels - first)
            used = order * count + 1
            for k in range(order):
                for i in range(count):
                    x[k * count + i] = lags[k, first + i]
            x[used - 1] = 1.0
            for i in range(count):
                y[first + i] = 0.0
            for p in range(used):
                f = x[p]
                if f != 0.0:
                    for i in range(count):
                        y[first + i] += f * weights[g, p, i]
        for c in range(channels):
            v = values[w, c]
            if not math.isfinite(v):
                z[c] = y[c]
                parts[w, c] = math.nan
                side[w, c] = 0
                expected[w, c] = low[c] + size[c] * y[c]
                continue
            if not math.isfinite(last[c]):
                last[c] = v
                if not math.isfinite(low[c]):
                    low[c] = v
                start = (v - low[c]) / size[c] if size[c] > 0.0 else 0.0
                smooth[2, c] = start
                smooth[3, c] = start
                for k in range(order):
                    lags[k, c] = start
                y[c] = start
            if size[c] == 0.0 and v != last[c]:  # a constant that moves: its first move is its unit
                size[c] = max(abs(v - last[c]), 1e-12)
                if abs(low[c]) > size[c] and rows >= warmup:
                    size[c] = max(size[c], 0.01 * abs(low[c]))
            s = (v - low[c]) / size[c] if size[c] > 0.0 else 0.0
            s = min(max(s, -4.0), 5.0)
            before = (last[c] - low[c]) / size[c] if size[c] > 0.0 else 0.0
            before = min(max(before, -4.0), 5.0)
            least[c] = min(v, least[c])
            most[c] = max(v, most[c])
            z[c] = s
            expected[w, c] = low[c] + size[c] * y[c]
            miss = s - y[c]
            smooth[0, c] += gain * (abs(miss) - smooth[0, c])
            smooth[1, c] += gain * (abs(s - before) - smooth[1, c])
            smooth[2, c] += 0.5 * (s - smooth[2, c])
            smooth[3, c] += max(1.0 / 150.0, 1.0 / (rows + 1.0)) * (s - smooth[3, c])
            last[c] = v
            total = 0.0
            for k in range(3):
                view = smooth[k, c] if k < 2 else abs(smooth[2, c] - smooth[3, c])
                t = tails[k, c, 0]
                if not young and view > t:
                    e = base + math.log10(1.0 + SHAPE * (view - t) / tails[k, c, 1]) / SHAPE
                    total += min(e, cap) * (1.0 if k == 0 else (steps if k == 1 else levels))
            parts[w, c] = total
            side[w, c] = 1 if miss > 0.0 else (-1 if miss < 0.0 else 0)
            if total > best[0]:
                where = c
            if total > best[top - 1]:
                j = top - 1
                while j > 0 and best[j - 1] < total:
                    best[j] = best[j - 1]
                    j -= 1
                best[j] = total
        evidence = 0.0
        for k in range(top):
            evidence += best[k]
        evidence /= min(top, channels)
        s = 0.0 if young else _surprise(evidence, 0.125, table)
        limit = 1.5 * math.log10(rows + 1.0)
        knee = 0.7 * limit
        if s > knee and limit > 0.0:  # little history cannot claim much, but order stays
            over = (s - knee) / (limit - knee)
            s = knee + (limit - knee) * over / (1.0 + over)
        # an incident is one while the channel that told most is away; then it fades soon
        if not (s > _NOTABLE and s >= 0.8 * marks[HOLD]):
            where = -1
        fade = hold if lasting(values[w], where, smooth, away) else min(hold, _HOME)
        marks[HOLD] = max(s, fade * marks[HOLD])
        surprise[w] = math.nan if young else marks[HOLD]
        # learn; what is flagged teaches little
        flagged = not young and s > flag
        mass = 0.05 if flagged else 1.0
        row = 1.0  # after history that was given to learn from, live windows teach at a slower pace
        if marks[TRUST] > 0.0:
            row = prm[13]
        elif marks[TRUST] == 0.0:
            row = max(prm[13], min(1.0, prm[12] / (rows + 1.0)))
        row *= mass
        mass = row
        for c in range(channels):
            if not math.isfinite(values[w, c]):
                continue
            for k in range(3):
                view = smooth[k, c] if k < 2 else abs(smooth[2, c] - smooth[3, c])
                b = int((np.float64(max(view, 1e-300)).view(np.int64) >> 50) - _OFFSET)
                b = min(max(b, 0), STEPS - 1)
                hist[k, c, b] += row
        if not young:
            marks[TWEIGHT] += mass
            b = int((np.float64(max(evidence, 1e-300)).view(np.int64) >> 50) - _TAIL_OFFSET)
            if b >= 0:
                table[0, 0, min(b, 63), 0] += np.float32(mass)
        keep = 1.0 - row / memory
        for g in range(groups):
            first = g * group
            count = min(group, channels - first)
            used = order * count + 1
            for k in range(order):
                for i in range(count):
                    x[k * count + i] = lags[k, first + i]
            x[used - 1] = 1.0
            if rows >= order:
                for p in range(used):
                    f = row * x[p]
                    for q in range(p + 1):
                        gram[g, p, q] = keep * gram[g, p, q] + f * x[q]
                    for i in range(count):
                        cross[g, p, i] = keep * cross[g, p, i] + f * z[first + i]
        for k in range(order - 1, 0, -1):
            for c in range(channels):
                lags[k, c] = lags[k - 1, c]
        for c in range(channels):
            lags[0, c] = z[c]
        marks[ROWS] = rows + 1.0
        marks[WEIGHT] = keep * marks[WEIGHT] + row
        if rows + 1.0 >= marks[SOLVE] and rows >= 16.0:
            for c in range(channels if marks[TRUST] == 0.0 else 0):
                widen(
                    c, order, group, channels, low, size, least, most, lags, gram, cross, smooth, away, hist, tails
                )  # fmt: skip
            for g in range(groups):
                count = min(group, channels - g * group)
                solve_ridge(gram[g], cross[g], ridge, order * count + 1, count, work, weights[g])
            marks[SOLVE] = rows + 1.0 + max(16.0, math.floor(growth * (rows + 1.0)))
        if rows + 1.0 >= marks[REFIT]:
            refit_views(hist, tails, share, memory)
            marks[REFIT] = rows + 1.0 + min(max(16.0, math.floor(0.1 * rows)), 200.0)
        if not young and rows + 1.0 >= marks[TAILAT]:
            refit_tail(table, 0, 0, marks[TWEIGHT], memory)
            marks[TWEIGHT] = min(marks[TWEIGHT], memory)
            marks[TAILAT] = rows + 1.0 + min(max(16.0, math.floor(0.1 * rows)), 200.0)
