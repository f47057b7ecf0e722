"""Surprise: -log10 of a tail probability, calibrated online from a channel's own past.

Peaks over threshold on a sliding window: the threshold is the window's 95 % quantile, excesses over it
follow a generalised Pareto law fitted by moments (Siffer et al., KDD 2017; Hosking & Wallis 1987), and what
has happened before is never called rarer than it was (the *precedent rule*).

The window's largest values are kept sorted, so a step costs two binary searches on a few hundred numbers
instead of a sort of thousands. All arrays are plain and can be stored as they are.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from telemetry.types import Float64, Int8, State

__all__ = [
    "FIT",
    "Calibrator",
    "gpd_surprise",
    "tail_drop",
    "tail_insert",
    "tail_refit",
    "tail_refresh",
    "tail_score",
]

FIT = 4
"""Columns of a fit: threshold, shape, scale, log10 of the rate of excesses."""

TAIL_SHARE = 0.05
SHAPE_MAX = 0.4
SCALE_FLOOR = 0.02
REFIT_EVERY = 40
WARM_UP = 128


@njit(cache=True, nogil=True)
def gpd_surprise(value: float, threshold: float, shape: float, scale: float, log_rate: float) -> float:
    """-log10 P(X > value) for a value over the threshold; `log_rate` = log10 P(X > threshold)."""
    z = (value - threshold) / scale
    if shape < 1e-3:
        return float(z * 0.4342944819032518 - log_rate)
    return float(np.log10(1.0 + shape * z) / shape - log_rate)


@njit(cache=True, nogil=True)
def _first_not_below(top: NDArray[np.float32], n: int, value: float) -> int:
    """Index of the first of the `n` ascending values that is >= `value` (`n` if none is)."""
    lo, hi = 0, n
    while lo < hi:
        mid = (lo + hi) >> 1
        if top[mid] < value:
            lo = mid + 1
        else:
            hi = mid
    return lo


@njit(cache=True, nogil=True)
def tail_insert(top: NDArray[np.float32], n: int, held_all: bool, value: float) -> int:
    """Put a new value of the window among its largest ones, kept ascending in ``top[:n]``.

    `held_all` says that the window had no values outside of `top`. Returns the new `n`.
    """
    size = len(top)
    if n < size:
        if not held_all and n > 0 and value < top[0]:
            return n
        if not held_all and n == 0:
            return 0
        at = _first_not_below(top, n, value)
        for j in range(n, at, -1):
            top[j] = top[j - 1]
        top[at] = value
        return n + 1
    if value <= top[0]:
        return n
    at = _first_not_below(top, n, value) - 1
    for j in range(at):
        top[j] = top[j + 1]
    top[at] = value
    return n


@njit(cache=True, nogil=True)
def tail_drop(top: NDArray[np.float32], n: int, value: float) -> int:
    """Take a value that left the window out of its largest ones, if it was among them. Returns the new `n`."""
    if n == 0 or value < top[0]:
        return n
    at = _first_not_below(top, n, value)
    if at == n or top[at] != value:
        return n
    for j in range(at, n - 1):
        top[j] = top[j + 1]
    return n - 1


@njit(cache=True, nogil=True)
def tail_refresh(top: NDArray[np.float32], window: NDArray[np.float32], count: int, sign: float) -> int:
    """Gather the largest values of ``sign * window[:count]`` anew (rare: the old ones have aged out)."""
    ordered = np.sort(np.float32(sign) * window[:count])
    n = min(len(top), count)
    top[:n] = ordered[count - n :]
    return n


@njit(cache=True, nogil=True)
def tail_refit(top: NDArray[np.float32], n: int, count: int, spread: float, fit: NDArray[np.float64]) -> None:
    """Fit threshold and generalised Pareto law to the largest values of a window of `count`.

    The scale is floored at 2 % of `spread`, so that a constant series does not make all change infinite.
    """
    k = min(n - 1, max(int(TAIL_SHARE * count), 1))
    if k < 1:
        return
    t = float(top[n - 1 - k])
    over, total, square = 0, 0.0, 0.0
    for j in range(n - k, n):
        e = float(top[j]) - t
        if e > 0.0:
            over += 1
            total += e
            square += e * e
    shape, scale = 0.0, 0.0
    if over > 0:
        mean = total / over
        var = square / over - mean * mean
        if var > 1e-12 * mean * mean and over > 2:
            ratio = mean * mean / var
            shape = min(max(0.5 * (1.0 - ratio), 0.0), SHAPE_MAX)
        scale = mean * (1.0 - shape)
    floor = max(SCALE_FLOOR * spread, 1e-9 * abs(t), 1e-12)
    fit[0] = t
    fit[1] = shape
    fit[2] = max(scale, floor)
    fit[3] = np.log10((over + 1.0) / (count + 1.0))


@njit(cache=True, nogil=True)
def tail_score(
    value: float, top: NDArray[np.float32], n: int, count: int, seen: int, fit: NDArray[np.float64]
) -> float:
    """Surprise of a value over the threshold, 0 below it.

    Precedent rule: if some of the window reached 80 % of the way from the threshold to this value, the
    tail probability is at least their share. Never more than 1.5 log10 of the values seen, as no history
    supports more.
    """
    t = fit[0]
    if not value > t:
        return 0.0
    s = gpd_surprise(value, t, fit[1], fit[2], fit[3])
    before = n - _first_not_below(top, n, t + 0.8 * (value - t))
    if before > 0:
        s = min(s, -np.log10((before + 1.0) / (count + 1.0)))
    return max(min(s, 1.5 * np.log10(seen + 1.0)), 0.0)


@njit(cache=True, nogil=True)
def _calibrate(
    raw: Float64,
    both: bool,
    window: NDArray[np.float32],
    top: NDArray[np.float32],
    held: NDArray[np.int64],
    seen: NDArray[np.int64],
    fit: Float64,
    surprise: Float64,
    side: Int8,
) -> None:
    size = window.shape[1]
    for c in range(raw.shape[1]):
        for w in range(raw.shape[0]):
            x = raw[w, c]
            if not np.isfinite(x):
                continue
            count = min(seen[c], size)
            if seen[c] >= WARM_UP:
                best = tail_score(x, top[c, 0], held[c, 0], count, seen[c], fit[c, 0])
                where = 1 if best > 0.0 else 0
                if both:
                    low = tail_score(-x, top[c, 1], held[c, 1], count, seen[c], fit[c, 1])
                    if low > best:
                        best, where = low, -1
                    best = max(best - 0.3010299956639812, 0.0)
                surprise[w, c] = best
                side[w, c] = where
            _learn(float(np.float32(x)), c, both, window, top, held, seen, fit)


@njit(cache=True, nogil=True)
def _learn(
    value: float,
    c: int,
    both: bool,
    window: NDArray[np.float32],
    top: NDArray[np.float32],
    held: NDArray[np.int64],
    seen: NDArray[np.int64],
    fit: Float64,
) -> None:
    size = window.shape[1]
    at = seen[c] % size
    full = seen[c] >= size
    old = float(window[c, at])
    window[c, at] = value
    seen[c] += 1
    count = min(seen[c], size)
    refit = seen[c] >= WARM_UP and seen[c] % REFIT_EVERY == WARM_UP % REFIT_EVERY
    spread = 0.0
    for s in range(2 if both else 1):
        sign = 1.0 - 2.0 * s
        n = held[c, s]
        before = count if full else count - 1
        all_held = n == before
        if full:
            n = tail_drop(top[c, s], n, sign * old)
            all_held = n == count - 1
        n = tail_insert(top[c, s], n, all_held, sign * value)
        if n < min(count, int(TAIL_SHARE * count) + 2):
            n = tail_refresh(top[c, s], window[c], count, sign)
        held[c, s] = n
    if refit:
        spread = float(np.std(window[c, :count]))
        for s in range(2 if both else 1):
            tail_refit(top[c, s], held[c, s], count, spread, fit[c, s])


class Calibrator:
    """Turns raw scores of many channels into surprise, each by its own past.

    Parameters
    ----------
    channels : int
    both : bool
        Whether low values surprise too (then the two tails share the probability).
    window : int
        How many past values a channel is compared with.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(500, 1)); x[-1] = 9.0
    >>> surprise, side = Calibrator(1).advance(x)
    >>> bool(np.isnan(surprise[0, 0])), bool(surprise[-1, 0] > 3.5), int(side[-1, 0])
    (True, True, 1)
    """

    def __init__(self, channels: int, *, both: bool = False, window: int = 3000) -> None:
        self.both = bool(both)
        keep = max(int(2 * TAIL_SHARE * window), 16)
        sides = 2 if both else 1
        self._window = np.zeros((channels, window), np.float32)
        self._top = np.zeros((channels, sides, keep), np.float32)
        self._held = np.zeros((channels, sides), np.int64)
        self._seen = np.zeros(channels, np.int64)
        self._fit = np.zeros((channels, sides, FIT))

    def advance(self, raw: Float64) -> tuple[Float64, Int8]:
        """Score then learn, row by row.

        Parameters
        ----------
        raw : (W, channels) float64
            NaN is missing: no score, nothing learnt.

        Returns
        -------
        surprise : (W, channels) float64
            NaN where missing and for the first 128 values of a channel.
        side : (W, channels) int8
        """
        raw = np.ascontiguousarray(raw, dtype=np.float64)
        surprise = np.full(raw.shape, np.nan)
        side = np.zeros(raw.shape, np.int8)
        _calibrate(raw, self.both, self._window, self._top, self._held, self._seen, self._fit, surprise, side)
        return surprise, side

    def take(self, source: NDArray[np.int64]) -> None:
        """Reorder the channels: channel i becomes old channel ``source[i]``, or a cold one where that is -1."""
        source = np.asarray(source, np.int64)
        for name in ("_window", "_top", "_held", "_seen", "_fit"):
            old = getattr(self, name)
            new = np.zeros((len(source), *old.shape[1:]), old.dtype)
            new[source >= 0] = old[source[source >= 0]]
            setattr(self, name, new)

    def snapshot(self) -> State:
        return {
            "window": self._window.copy(),
            "top": self._top.copy(),
            "held": self._held.copy(),
            "seen": self._seen.copy(),
            "fit": self._fit.copy(),
        }

    def restore(self, state: State) -> None:
        for name in ("window", "top", "held", "seen", "fit"):
            setattr(self, "_" + name, np.array(state[name]))
