"""Surprise: -log10 of a tail probability, calibrated online from a channel's own past.

Peaks over threshold: the threshold is the 95 % quantile of the past, excesses over it follow a generalised Pareto
law fitted by its first two L-moments, which heavy tails do not upset (Siffer et al., KDD 2017; Hosking & Wallis,
Technometrics 1987), and what has happened before is never called rarer than it was (the *precedent rule*).

The past is the generation of 5,000 values that is being filled and the one before it. Of each only the largest values
are kept, sorted: a step costs a comparison, rarely an insertion, instead of a sort of thousands, and an incident is
forgotten when its generation is. All arrays are plain and can be stored as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.rolling import place
from telemetry.errors import StoreError
from telemetry.types import Float64, Int8, Int64, State

__all__ = [
    "FAR",
    "FIT",
    "GENERATION",
    "GENERATIONS",
    "KEEP",
    "REFIT_EVERY",
    "WARM_UP",
    "Calibrator",
    "gpd_surprise",
    "refit_every",
    "tail_put",
    "tail_refit",
    "tail_score",
]

FIT = 4
"""Numbers of a fit: threshold, shape, scale, log10 of the rate of excesses."""

GENERATION = 5_000
GENERATIONS = 2
KEEP = 320
TAIL_SHARE = 0.05
SHAPE_MAX = 0.6
SCALE_FLOOR = 0.02
PRECEDENT = 1.0
FAR = 100.0
"""A value is learnt as at most so many times the largest before: one that stands for none must not hide the others."""
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
def refit_every(seen: int) -> int:
    """Values between two fits of a tail that has seen so many: what is known well changes slowly."""
    if seen < 1_000:
        return REFIT_EVERY
    return (2 if seen < GENERATION else 6) * REFIT_EVERY


@njit(cache=True, nogil=True)
def tail_put(top: NDArray[np.float32], n: int, value: float) -> int:
    """Keep a value if it is among the largest of its generation (``top[:n]``, ascending). Returns the new `n`."""
    size = len(top)
    if n < size:
        at = place(top, n, value)
        for j in range(n, at, -1):
            top[j] = top[j - 1]
        top[at] = value
        return n + 1
    if value > top[0]:
        at = place(top, n, value) - 1
        for j in range(at):
            top[j] = top[j + 1]
        top[at] = value
    return n


@njit(cache=True, nogil=True)
def tail_refit(
    top: NDArray[np.float32], held: NDArray[np.int32], counts: Int64, spread: float, fit: NDArray[np.float64]
) -> None:
    """Fit threshold and generalised Pareto law to the largest values of all generations.

    The threshold is never below what every full generation still knows completely. The scale is floored at 2 % of
    `spread`, so that a nearly constant series does not make every change infinite.

    Parameters
    ----------
    top : (generations, KEEP) float32
    held : (generations,) int32
    counts : (generations,) int64
        Values that each generation has seen.
    spread : float
        Standard deviation of the values.
    fit : (FIT,) float64
        Written.
    """
    total, known = 0, -np.inf
    for g in range(len(counts)):
        total += counts[g]
        if counts[g] > held[g] > 0:
            known = max(known, float(top[g, 0]))
    at = held.copy()
    t = 0.0
    over, alike = 0, 0
    first, ranked = 0.0, 0.0
    for _ in range(max(int(TAIL_SHARE * total), 1) + 1):
        best = -1
        for g in range(len(counts)):
            if at[g] > 0 and (best < 0 or top[g, at[g] - 1] > top[best, at[best] - 1]):
                best = g
        if best < 0:
            break
        at[best] -= 1
        value = float(top[best, at[best]])
        if alike == 0 or value < t:  # those before are above the threshold, wherever it will be
            first += alike * t
            ranked += t * alike * (over + 0.5 * (alike - 1))
            over += alike
            alike = 0
            t = max(value, known)
        if value <= known:
            break
        alike += 1
    shape, scale = 0.0, 0.0
    if over > 0:
        mean = first / over - t
        if over > 2:
            second = mean - 2.0 * (ranked / (over * (over - 1.0)) - 0.5 * t)
            if second > 1e-6 * mean:
                shape = min(max(2.0 - mean / second, 0.0), SHAPE_MAX)
        scale = mean * (1.0 - shape)
    fit[0] = t
    fit[1] = shape
    fit[2] = max(scale, SCALE_FLOOR * spread, 1e-9 * abs(t), 1e-12)
    fit[3] = np.log10((over + 1.0) / (total + 1.0))


@njit(cache=True, nogil=True)
def tail_score(
    value: float,
    top: NDArray[np.float32],
    held: NDArray[np.int32],
    total: int,
    seen: int,
    fit: NDArray[np.float64],
    precedent: float,
) -> float:
    """Surprise of a value over the threshold, 0 below it.

    Precedent rule: if some past values reached the share `precedent` of the way from the threshold to this one, the
    tail probability is at least their share. Never more than 1.5 log10 of the values seen, as no history supports more.
    """
    t = fit[0]
    if not value > t:
        return 0.0
    s = gpd_surprise(value, t, fit[1], fit[2], fit[3])
    bar = t + precedent * (value - t)
    before = 0
    for g in range(len(held)):
        before += held[g] - place(top[g], held[g], bar)
    if before > 0:
        s = min(s, -np.log10((before + 1.0) / (total + 1.0)))
    return max(min(s, 1.5 * np.log10(seen + 1.0)), 0.0)


@njit(cache=True, nogil=True)
def _largest(top: NDArray[np.float32], held: NDArray[np.int32]) -> float:
    """The largest value of either side that is remembered, 0 if there is none."""
    out = 0.0
    for s in range(held.shape[0]):
        for g in range(held.shape[1]):
            if held[s, g] > 0:
                out = max(out, top[s, g, held[s, g] - 1])
    return out


@njit(cache=True, nogil=True)
def _calibrate(
    raw: Float64,
    generation: int,
    top: NDArray[np.float32],
    held: NDArray[np.int32],
    counts: Int64,
    seen: Int64,
    moments: Float64,
    fit: Float64,
    surprise: Float64,
    side: Int8,
) -> None:
    sides = top.shape[1]
    for c in range(raw.shape[1]):
        for w in range(raw.shape[0]):
            x = raw[w, c]
            if not np.isfinite(x):
                continue
            if seen[c] >= WARM_UP:
                total = counts[c].sum()
                best: float = 0.0
                if x > fit[c, 0, 0]:  # rows of arrays cost atomic counts: only the few values that need them
                    best = tail_score(x, top[c, 0], held[c, 0], total, seen[c], fit[c, 0], PRECEDENT)
                where = 1 if best > 0.0 else 0
                if sides > 1:
                    low: float = 0.0
                    if -x > fit[c, 1, 0]:
                        low = tail_score(-x, top[c, 1], held[c, 1], total, seen[c], fit[c, 1], PRECEDENT)
                    if low > best:
                        best, where = low, -1
                    best = max(best - 0.3010299956639812, 0.0)
                surprise[w, c] = best
                side[w, c] = where
            if seen[c] >= WARM_UP:
                limit = FAR * _largest(top[c], held[c])
                if abs(x) > limit > 0.0:
                    x = limit if x > 0.0 else -limit
            g = (seen[c] // generation) % GENERATIONS
            if seen[c] % generation == 0:
                counts[c, g] = 0
                held[c, :, g] = 0
            counts[c, g] += 1
            seen[c] += 1
            gain = max(1.0 / seen[c], 1.0 / generation)
            d = x - moments[c, 0]
            moments[c, 0] += gain * d
            moments[c, 1] += gain * (d * d * (1.0 - gain) - moments[c, 1])
            for s in range(sides):
                held[c, s, g] = tail_put(top[c, s, g], held[c, s, g], x if s == 0 else -x)
            if seen[c] >= WARM_UP and (seen[c] - WARM_UP) % REFIT_EVERY == 0:
                for s in range(sides):
                    tail_refit(top[c, s], held[c, s], counts[c], np.sqrt(max(moments[c, 1], 0.0)), fit[c, s])


class Calibrator:
    """Turns raw scores of many channels into surprise, each by its own past.

    Parameters
    ----------
    channels : int
    both : bool
        Whether low values surprise too (then the two tails share the probability).
    generation : int
        A value is remembered for one to two generations.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(500, 1)); x[-1] = 9.0
    >>> surprise, side = Calibrator(1).advance(x)
    >>> bool(np.isnan(surprise[0, 0])), bool(surprise[-1, 0] > 3.5), int(side[-1, 0])
    (True, True, 1)
    """

    _FIELDS = ("top", "held", "counts", "seen", "moments", "fit")

    def __init__(self, channels: int, *, both: bool = False, generation: int = GENERATION) -> None:
        sides = 2 if both else 1
        self._generation = int(generation)
        self._state: dict[str, Any] = {
            "top": np.zeros((channels, sides, GENERATIONS, KEEP), np.float32),
            "held": np.zeros((channels, sides, GENERATIONS), np.int32),
            "counts": np.zeros((channels, GENERATIONS), np.int64),
            "seen": np.zeros(channels, np.int64),
            "moments": np.zeros((channels, 2)),
            "fit": np.zeros((channels, sides, FIT)),
        }

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
        k = self._state
        _calibrate(
            raw,
            self._generation,
            k["top"],
            k["held"],
            k["counts"],
            k["seen"],
            k["moments"],
            k["fit"],
            surprise,
            side,
        )
        return surprise, side

    def take(self, source: Int64) -> None:
        """Reorder the channels: channel i becomes old channel ``source[i]``, or a cold one where that is -1."""
        source = np.asarray(source, np.int64)
        for name, old in self._state.items():
            new = np.zeros((len(source), *old.shape[1:]), old.dtype)
            new[source >= 0] = old[source[source >= 0]]
            self._state[name] = new

    def snapshot(self) -> State:
        return {name: self._state[name].copy() for name in self._FIELDS}

    def restore(self, state: State) -> None:
        """Continue exactly where `snapshot` was taken.

        Raises
        ------
        StoreError
            If the shapes are not those of this calibrator.
        """
        for name in self._FIELDS:
            if state[name].shape[1:] != self._state[name].shape[1:]:
                raise StoreError(
                    f"calibrator: {name} of shape {state[name].shape}, expected (n, {self._state[name].shape[1:]})"
                )
            self._state[name] = np.array(state[name], self._state[name].dtype)
