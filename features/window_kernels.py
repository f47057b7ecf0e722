"""Kernels of ``window``: one pass over the cells (window, series) that a partition brought together."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np
from numba import njit

from features.sketch import EXACT, SORTED, quantiles_exact, quantiles_sketch, sort_with, summary

__all__ = ["by_time", "fill"]


@njit(cache=True, nogil=True)
def fill(
    offset, values, first, windows, alive, born, want, level, exact, probs, spot, hist, edge, blank, out
):  # fmt: skip
    """Fill out[first + w, s, :] from the cells of `windows` windows; where `blank`, with NaN before all.

    `want[f]` is the column of field f (count sum mean min max var std exceed) or -1.
    """
    bits, edge_bits = values.view(np.int64), edge.view(np.int64)
    width = out.shape[1]
    found = np.empty(probs.shape[0])
    spread = want[5] >= 0 or want[6] >= 0
    same = np.empty(out.shape[2], np.int64)  # columns that are the value itself where there is one
    alike = 0
    for f in (3, 4):
        if want[f] >= 0:
            same[alike] = want[f]
            alike += 1
    for p in range(probs.shape[0]):
        same[alike] = spot[p]
        alike += 1
    others = want[0] >= 0 or want[1] >= 0 or want[2] >= 0 or want[7] >= 0
    if blank and windows == 1 and values.shape[0] == width and not others and not spread:
        one = True  # as of a sampler's sweep
        for s in range(width):
            one &= offset[s] == s
        if one:
            born[:width] = True
            for k in range(alike):
                out[first, :, same[k]] = values
            return
    if blank:
        out[first : first + windows] = np.nan
    for w in range(first, first + windows):
        for s in range(width):
            a = offset[(w - first) * width + s]
            b = offset[(w - first) * width + s + 1]
            n = b - a
            if n == 0:
                if born[s] and alive[w, s]:
                    if want[0] >= 0:
                        out[w, s, want[0]] = 0.0
                    if want[1] >= 0:
                        out[w, s, want[1]] = 0.0
                    if want[7] >= 0:
                        out[w, s, want[7]] = 0.0
                continue
            born[s] = True
            if n == 1:  # as of a gauge: everything is the value
                x = values[a]
                for k in range(alike):
                    out[w, s, same[k]] = x
                if others:
                    if want[0] >= 0:
                        out[w, s, want[0]] = 1.0
                    if want[1] >= 0:
                        out[w, s, want[1]] = 0.0 + x
                    if want[2] >= 0:
                        out[w, s, want[2]] = min(max(0.0 + x, x), x)
                    if want[7] >= 0:
                        out[w, s, want[7]] = 1.0 if x > level else 0.0
                continue
            row = out[w, s]
            v = values[a:b]
            counted = probs.shape[0] > 0 and n > (SORTED if exact else EXACT)
            total, low, high, over = summary(v, bits[a:b], level, hist, counted)
            if want[0] >= 0:
                row[want[0]] = n
            if want[1] >= 0:
                row[want[1]] = total
            if want[2] >= 0:
                row[want[2]] = min(max(total / n, low), high)
            if want[3] >= 0:
                row[want[3]] = low
            if want[4] >= 0:
                row[want[4]] = high
            if spread:
                # Around the first value: stable where the spread is small beside the level.
                one = v[0]
                d1 = 0.0
                d2 = 0.0
                for i in range(n):
                    d = v[i] - one
                    d1 += d
                    d2 += d * d
                var = max(d2 - d1 * d1 / n, 0.0) / (n - 1)
                if want[5] >= 0:
                    row[want[5]] = var
                if want[6] >= 0:
                    row[want[6]] = np.sqrt(var)
            if want[7] >= 0:
                row[want[7]] = over
            if probs.shape[0]:
                if exact or n <= EXACT:
                    quantiles_exact(v, bits[a:b], low, high, probs, hist, edge, edge_bits, found)
                else:
                    quantiles_sketch(v, bits[a:b], low, high, probs, hist, edge, edge_bits, found)
                for p in range(probs.shape[0]):
                    row[spot[p]] = found[p]


@njit(cache=True, nogil=True)
def by_time(
    offset,
    values,
    times,
    first_end,
    step,
    window,
    width,
    alive,
    held_t,
    held_v,
    hold,
    last,
    gaps,
    probs,
    spot,
    spans,
    peak,
    iod,
    out,
):
    """What depends on the events' times: leaves each cell in order of time (stable).

    Columns: `last`, `gaps` (variation of the times between events), time-weighted quantiles, and for each of `spans`
    the peak and the index of dispersion of the counts of events (all -1 if not wanted).
    """
    for w in range(out.shape[0]):
        end = first_end + w * step
        start = end - window
        for s in range(width):
            a = offset[w * width + s]
            b = offset[w * width + s + 1]
            row = out[w, s]
            if a == b:
                if alive[w, s] and held_t[s] >= start - hold:
                    for p in range(probs.shape[0]):
                        row[spot[p]] = held_v[s]
                continue
            for i in range(a + 1, b):
                t = times[i]
                if t < times[i - 1]:
                    x = values[i]
                    j = i - 1
                    while j >= a and times[j] > t:
                        times[j + 1] = times[j]
                        values[j + 1] = values[j]
                        j -= 1
                    times[j + 1] = t
                    values[j + 1] = x
            if last >= 0:
                row[last] = values[b - 1]
            if gaps >= 0 and b - a > 2:
                mean = (times[b - 1] - times[a]) / (b - a - 1)
                square = 0.0
                for i in range(a + 1, b):
                    d = times[i] - times[i - 1] - mean
                    square += d * d
                if mean > 0.0:
                    row[gaps] = np.sqrt(square / (b - a - 2)) / mean
            for k in range(spans.shape[0]):
                mean = (b - a) * spans[k] / window
                most = 0
                square = 0.0
                count = 0
                until = start
                for i in range(a, b):
                    if times[i] >= until:
                        square += count * count
                        most = max(most, count)
                        count = 0
                        until = start + ((times[i] - start) // spans[k] + 1) * spans[k]
                    count += 1
                square += count * count
                most = max(most, count)
                if peak[k] >= 0:
                    row[peak[k]] = most / mean
                if iod[k] >= 0:
                    row[iod[k]] = square * spans[k] / window / mean - mean
            if probs.shape[0]:
                _time_weighted(values, times, a, b, start, end, held_t[s], held_v[s], hold, probs, spot, row)
            if step == window or times[b - 1] < end - window + step:
                held_t[s] = times[b - 1]
                held_v[s] = values[b - 1]
            else:  # sliding: the next window begins a step later
                for i in range(a, b):
                    if times[i] < start + step:
                        held_t[s] = times[i]
                        held_v[s] = values[i]


@njit(cache=True, nogil=True)
def _time_weighted(values, times, a, b, start, end, held_t, held_v, hold, probs, spot, row):
    """Each value counts for as long as it was the newest one (at most `hold`), the carried-in one first."""
    n = b - a
    v = np.empty(n + 1)
    weight = np.empty(n + 1)
    v[0] = held_v
    weight[0] = max(min(times[a], held_t + hold) - start, 0) if held_t >= start - hold else 0.0
    whole = weight[0]
    for i in range(n):
        until = times[a + i + 1] if i + 1 < n else end
        v[i + 1] = values[a + i]
        weight[i + 1] = min(until - times[a + i], hold)
        whole += weight[i + 1]
    first = 0 if weight[0] > 0.0 else 1  # the carried-in value may be none (NaN)
    sort_with(v, weight, first, n + 1)
    p = 0
    mass = 0.0
    for k in range(first, n + 1):
        mass += weight[k]
        while p < probs.shape[0] and mass >= probs[p] * whole and (weight[k] > 0.0 or whole == 0.0):
            row[spot[p]] = v[k]
            p += 1
    while p < probs.shape[0]:  # rounding of the last sums
        row[spot[p]] = v[n]
        p += 1
