"""Kernels of ``features/rates.py``: differences of counters, in windows and sample by sample."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np
from numba import njit

from features.collect import FLOAT_BIT

__all__ = ["INNER", "finish", "rates", "rates_of_samples", "rates_of_sweeps"]

INNER = 5
"""Of a window: increment, exposure in ns, resets, samples, pairs."""
FAR = 1 << 62
"""No counter moves as far in one step: it was past 2^63 (the bits of an int64 are negative then) and began anew."""
UFAR = np.uint64(FAR)


@njit(cache=True, nogil=True)
def rates(
    offset,
    values,
    reals,
    times,
    names,
    width,
    windows,
    held_t,
    held,
    held_float,
    boots,
    boot_from,
    boot_to,
    wrap,
    gap,
    out,
):
    """out[w, s] = increment, exposure in ns, resets, samples, pairs of each cell; samples in time order.

    `values` and `reals` are one buffer seen as int64 and float64, `held` (S, 1) likewise through `held_float`'s flag.
    """
    held_real = held.view(np.float64)
    named = names.shape[0] > 0
    for s in range(width):
        t0 = held_t[s]
        v0 = held[s]
        was_float = held_float[s]
        wraps = wrap[s]
        b = boot_from[s]
        b_end = boot_to[s]
        for w in range(windows):
            lo = offset[w * width + s]
            hi = offset[w * width + s + 1]
            for i in range(lo + 1, hi):  # by time, stable; mostly in order already
                t = times[i]
                if t < times[i - 1]:
                    x = values[i]
                    m = names[i] if named else 0
                    j = i - 1
                    while j >= lo and times[j] > t:
                        times[j + 1] = times[j]
                        values[j + 1] = values[j]
                        if named:
                            names[j + 1] = names[j]
                        j -= 1
                    times[j + 1] = t
                    values[j + 1] = x
                    if named:
                        names[j + 1] = m
            up = 0.0
            ups = 0
            span = 0
            resets = 0
            pairs = 0
            for i in range(lo, hi):
                t = times[i]
                v = values[i]
                is_float = named and names[i] >= FLOAT_BIT
                if t0 > -FAR:
                    if is_float or was_float:
                        held[s] = v0
                        now = reals[i] if is_float else float(v)
                        before = held_real[s] if was_float else float(v0)
                        d = now - before
                    else:
                        whole = v - v0
                        if whole < 0 and wraps and 2147483648 <= v0 < 4294967296 and whole < -2147483648:
                            whole += 4294967296
                        if whole >= FAR:  # no counter does: it was past 2^63, and began anew
                            whole = -1
                        d = float(whole)
                    while b < b_end and boots[b] <= t0:
                        b += 1
                    if d < 0.0 or (b < b_end and boots[b] <= t):
                        resets += 1
                    elif t - t0 <= gap:
                        if is_float or was_float:
                            up += d
                        else:  # whole numbers are added as such: above 2^53 floats would lose some
                            ups += whole
                        span += t - t0
                        pairs += 1
                t0 = t
                v0 = v
                was_float = is_float
            out[w, s, 0] = up + ups
            out[w, s, 1] = span
            out[w, s, 2] = resets
            out[w, s, 3] = hi - lo
            out[w, s, 4] = pairs
        held_t[s] = t0
        held[s] = v0
        held_float[s] = was_float


@njit(cache=True, nogil=True)
def _odd(value, time, before, time_before, gap, odd):
    """Leave odd[k] 0 only where series k went up, within the gap: a shift by 62 leaves 0 of 0 .. FAR - 1 alone."""
    for k in range(odd.shape[0]):
        odd[k] |= (value[k] - before[k]) >> 62 | (gap - (time[k] - time_before[k])) >> 62


@njit(cache=True, nogil=True)
def rates_of_sweeps(values, times, held_t, held, wrap, gap, out):
    """The same of one window, of whole sweeps (sweeps, series) of integers in order of time, without a reboot."""
    sweeps, width = values.shape
    odd = np.zeros(width, np.int64)
    before, time_before = held[:width], held_t[:width]
    for i in range(sweeps):
        _odd(values[i], times[i], before, time_before, gap, odd)
        before, time_before = values[i], times[i]
    for s in range(width):
        t0 = held_t[s]
        v0 = held[s]
        held_t[s] = times[sweeps - 1, s]
        held[s] = values[sweeps - 1, s]
        ups = held[s] - v0
        span = held_t[s] - t0
        resets = 0
        pairs = sweeps
        if odd[s]:
            ups = span = pairs = 0
            wraps = wrap[s]
            for i in range(sweeps):
                t = times[i, s]
                v = values[i, s]
                if t0 > -FAR:
                    d = v - v0
                    if d < 0 and wraps and 2147483648 <= v0 < 4294967296 and d < -2147483648:
                        d += 4294967296
                    if d < 0 or d >= FAR:
                        resets += 1
                    elif t - t0 <= gap:
                        ups += d
                        span += t - t0
                        pairs += 1
                t0 = t
                v0 = v
        out[s, 0] = ups
        out[s, 1] = span
        out[s, 2] = resets
        out[s, 3] = sweeps
        out[s, 4] = pairs


@njit(cache=True, nogil=True, error_model="numpy")
def finish(inner, want, out):
    """Columns `want` (0 rate, 1 increment, 2 exposure in s, 3 resets, 4 samples) of the sums of windows."""
    for c in range(want.shape[0]):
        for w in range(inner.shape[0]):
            for s in range(inner.shape[1]):
                good = (inner[w, s, 4] > 0.0) & (inner[w, s, 2] == 0.0)
                span = inner[w, s, 1] * 1e-9
                if want[c] == 0:
                    out[w, s, c] = inner[w, s, 0] / span if good & (span > 0.0) else np.nan
                elif want[c] == 1:
                    out[w, s, c] = inner[w, s, 0] if good else np.nan
                elif want[c] == 2:
                    out[w, s, c] = span if good else np.nan
                else:
                    out[w, s, c] = inner[w, s, want[c] - 1] if inner[w, s, 3] > 0.0 else np.nan


@njit(cache=True, nogil=True, error_model="numpy")
def _sweep(names, time, at, value, names_before, time_before, at_before, before, per_s, out):
    """Rates of a sweep against the one before it; not 0 if its names, or a time in either, are not as they should."""
    other = np.int64(0)
    for k in range(value.shape[0]):
        d = value[k] - before[k]
        # The shift says 0 <= d < FAR; as uint64 it becomes a float in vectors, which AVX2 has not for int64.
        out[k] = np.uint64(d) * per_s if d >> 62 == 0 else np.nan
        other |= (names[k] ^ names_before[k]) | (time[k] ^ at)
    if time_before.shape[0]:
        for k in range(value.shape[0]):
            other |= time_before[k] ^ at_before
    return other


@njit(cache=True, nogil=True, error_model="numpy")
def rates_of_samples(series, time, value, gap, newest, period, out):
    """`newest` (S,) comes all -1. Where the series repeat with `period`, the sample before is that far back."""
    n = series.shape[0]
    i = 0
    repeats = False  # the last `period` samples are of that many series; `newest` does not know them yet
    even = False  # and all of one time
    while i < n:
        alike = False
        if period and i >= period and i + period <= n:
            j = i - period
            names, names_before = series[i : i + period], series[j:i]
            t0, t1, v0, v1, to = time[j:i], time[i : i + period], value[j:i], value[i : i + period], out[i : i + period]
            span = t1[0] - t0[0]
            if repeats and 0 < span <= gap:  # as of a sampler's sweep: one division for all
                known = t0[:0] if even else t0
                even = _sweep(names, t1, t1[0], v1, names_before, known, t0[0], v0, 1e9 / span, to) == 0
                if even:
                    i += period
                    continue
            even = False
            alike = bool(np.all(names == names_before))
            if alike and not repeats:
                repeats = True
                for k in range(j, i):
                    repeats &= newest[series[k]] == k
        if repeats and alike:
            for k in range(period):
                span = t1[k] - t0[k]
                d = np.uint64(v1[k] - v0[k])
                good = (d < UFAR) & (span > 0) & (span <= gap)
                to[k] = np.int64(d) * (1e9 / span) if good else np.nan
            i += period
            continue
        if repeats:
            repeats = False
            for k in range(i - period, i):
                newest[series[k]] = k
        stop = min(i + max(period, 1), n)
        while i < stop:
            s = series[i]
            out[i] = np.nan
            j = newest[s]
            if j >= 0:
                span = time[i] - time[j]
                d = value[i] - value[j]
                if 0 <= d < FAR and 0 < span <= gap:
                    out[i] = d * (1e9 / span)
            newest[s] = i
            i += 1
