"""Counts: how surprising is this many, or this few, where events are rare, bursty or have never been seen.

The rate is a gamma posterior with forgetting, so that the next count is negative binomial (wider where little was seen:
the first event after n silent windows has probability of about 1 / n); where counts scatter more than Poisson's, the
measured overdispersion widens it further. Exact tail sums, nothing approximated by a normal law, up to counts whose
sums would be of some 100,000 terms; those are as good as continuous, by a gamma law of the same mean and variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit

from models.keyed import ChannelState, within
from models.light import quantum_of
from telemetry.errors import StoreError
from telemetry.types import Panel, Scores, SeriesKey, State

__all__ = ["CountModel", "negative_binomial_surprise"]

_VERSION = 1
_FIELDS = ("age", "sum", "weight", "square", "flagged")
AGE, SUM, WEIGHT, SQUARE, FLAGGED = range(5)
_LN10 = math.log(10.0)
_TERMS = 100_000
_SMOOTH = 1e4


@njit(cache=True, nogil=True)
def _gamma_surprise(x: float, shape: float, above: bool) -> float:
    """-log10 of the upper or lower tail of a gamma law of scale 1: series, continued fraction, or Wilson & Hilferty."""
    if x <= 0.0:
        return 0.0 if above else 300.0
    if shape > _SMOOTH:
        z = 3.0 * math.sqrt(shape) * ((x / shape) ** (1.0 / 3.0) - 1.0 + 1.0 / (9.0 * shape))
        z = min(z if above else -z, 37.0)
        return -math.log10(0.5 * math.erfc(z / math.sqrt(2.0)))
    log_mass = shape * math.log(x) - x - math.lgamma(shape)
    if above and x > shape + 1.0:
        b = x + 1.0 - shape
        c, d = 1e300, 1.0 / b
        h = d
        for i in range(1, _TERMS):
            a = -i * (i - shape)
            b += 2.0
            d = 1.0 / (a * d + b)
            c = b + a / c
            h *= d * c
            if abs(d * c - 1.0) < 1e-12:
                break
        return -(log_mass + math.log(h)) / _LN10
    term = 1.0 / shape
    total = term
    k = shape
    for _ in range(_TERMS):
        k += 1.0
        term *= x / k
        total += term
        if term < 1e-12 * total:
            break
    log_below = log_mass + math.log(total)
    return -math.log(max(-math.expm1(log_below), 1e-300)) / _LN10 if above else -log_below / _LN10


@njit(cache=True, nogil=True)
def negative_binomial_surprise(count: float, size: float, mean: float, above: bool) -> float:
    """-log10 P(X >= count), or P(X <= count), of a negative binomial law.

    Parameters
    ----------
    count : float
        A whole number, not negative.
    size, mean : float
        Dispersion (Poisson as it grows) and mean, above 0.
    above : bool
    """
    if above and count <= 0.0:
        return 0.0
    spread = math.sqrt(mean + mean * mean / size)
    reach = 8.0 * spread + 28.0 * mean / size
    if reach > 2.0 * _TERMS and (above or count > _TERMS):  # too many terms to be summed
        shape = (mean / spread) ** 2
        edge = count - 0.5 if above else count + 0.5
        return max(0.0, _gamma_surprise(edge / mean * shape, shape, above))
    log_stay = math.log(mean / (size + mean))
    log_mass = (
        math.lgamma(count + size)
        - math.lgamma(size)
        - math.lgamma(count + 1.0)
        + size * math.log(size / (size + mean))
        + count * log_stay
    )
    stay = mean / (size + mean)
    total = 1.0
    term = 1.0
    k = count
    if above:
        for _ in range(_TERMS):  # terms fall geometrically beyond the mode
            term *= (k + size) / (k + 1.0) * stay
            k += 1.0
            total += term
            if term < 1e-12 * total:
                break
    else:
        for _ in range(_TERMS):
            if k <= 0.0:
                break
            term *= k / ((k - 1.0 + size) * stay)
            k -= 1.0
            total += term
            if term < 1e-12 * total:
                break
    return max(0.0, -(log_mass + math.log(total)) / _LN10)


@njit(cache=True, nogil=True)
def _advance(values: Any, unit: Any, prm: Any, r: Any, surprise: Any, side: Any, band: Any) -> None:
    warmup, memory, flag = prm[0], prm[1], prm[2]
    keep = 1.0 - 1.0 / memory
    columns = unit.shape[0]
    explain = band.shape[0] > 0
    for w in range(values.shape[0]):
        for n in range(values.shape[1]):
            surprise[w, n] = math.nan
            side[w, n] = 0
            x = values[w, n]
            if explain:
                band[0, w, n] = math.nan
            if not math.isfinite(x) or x < 0.0:
                continue
            u = unit[n % columns]
            count = math.floor(x / u + 0.5)
            age = r[n, AGE]
            shape = r[n, SUM] + 0.5
            rate = r[n, WEIGHT] + 0.5
            mean = shape / rate
            size = shape  # of the gamma-Poisson predictive law
            s = 0.0
            which = 0
            if age > 0.0:
                # measured scatter beyond Poisson's, in units of its own mean
                own = r[n, SUM] / r[n, WEIGHT]
                var = r[n, SQUARE] / r[n, WEIGHT] - own * own
                if own > 4.0 * rate * rate:  # the prior's half a window would move it by more than it scatters
                    mean = own
                if own > 0.0 and var > own:
                    size = min(size, own * own / (var - own))
                size = max(size, 1e-3)
                if count >= mean:
                    s = negative_binomial_surprise(count, size, mean, True) - 0.30103
                    which = 1
                else:
                    s = negative_binomial_surprise(count, size, mean, False) - 0.30103
                    which = -1
                s = min(max(s, 0.0), 1.5 * math.log10(age + 1.0))
            if explain:
                band[0, w, n] = mean * u
            if age >= warmup:
                surprise[w, n] = s
                side[w, n] = which
            mass = 0.05 if age >= warmup and s > flag and r[n, FLAGGED] > 0.0 else 1.0
            r[n, FLAGGED] = 1.0 if s > flag else 0.0
            r[n, SUM] = keep * r[n, SUM] + mass * count
            r[n, WEIGHT] = keep * r[n, WEIGHT] + mass
            r[n, SQUARE] = keep * r[n, SQUARE] + mass * count * count
            r[n, AGE] = age + 1.0


class CountModel:
    """Negative binomial surprise of every channel; values are counts, or rates per second that come from counts.

    Parameters
    ----------
    warmup : int
        Windows before the first score.
    memory : int
        Windows that the rate remembers.
    flag : float
        Surprise from which a lasting excess teaches twenty times less (its first window teaches in full).

    Examples
    --------
    >>> import numpy as np
    >>> key = SeriesKey("a", "udp_socket_drops_total")
    >>> x = np.zeros((1000, 1, 1)); x[-2:] = [[[1.0]], [[40.0]]]
    >>> model = CountModel()
    >>> model.align([key])
    >>> s = model.advance(Panel((key,), ("count",), 10**9, np.arange(1000) * 10**9, x)).surprise
    >>> bool(2.3 < s[-2, 0, 0] < 3.5), bool(s[-1, 0, 0] > 4.0)
    (True, True)
    """

    def __init__(self, *, warmup: int = 20, memory: int = 10_000, flag: float = 3.0) -> None:
        within(
            "counts",
            ("warmup", warmup, 1, 10**9),
            ("memory", memory, 10, 10**9),
            ("flag", flag, 0, 99),
        )
        self._prm = np.array([warmup, memory, flag], np.float64)
        self._state = ChannelState("counts", lambda channels: {"registers": np.zeros((channels, len(_FIELDS)))})

    def fit(self, history: Panel) -> None:
        """Learn from history by passing over it once."""
        self.align(history.keys)
        self.advance(history)

    def align(self, keys: Sequence[SeriesKey]) -> None:
        """Let the state follow the keys; new ones start cold."""
        self._state.align(keys)

    def advance(self, panel: Panel, *, explain: bool = False) -> Scores:
        """Score then learn; a negative or missing value changes nothing."""
        self._state.settle(panel)
        values = panel.channel_values()
        flat = values.reshape(len(values), values.shape[1] * values.shape[2])
        window = panel.window_ns
        unit = np.array([quantum_of(c, window) if c.startswith("rate") else 1.0 for c in panel.channels])
        surprise, side = np.empty(flat.shape), np.empty(flat.shape, np.int8)
        band = np.empty((1, *flat.shape) if explain else (0, 0, 0))
        _advance(flat, unit, self._prm, self._state.rows["registers"], surprise, side, band)
        expected = band[0].reshape(values.shape) if explain else None
        return Scores(
            panel.keys,
            panel.channels,
            panel.end_ns,
            surprise.reshape(values.shape),
            side.reshape(values.shape),
            expected,
        )

    def snapshot(self) -> State:
        """All memory as plain arrays."""
        return {"version": np.array([_VERSION]), **self._state.pack()}

    def restore(self, state: State) -> None:
        """Continue exactly where `snapshot` was taken.

        Raises
        ------
        StoreError
            If it is of another version.
        """
        if int(state["version"][0]) != _VERSION:
            raise StoreError(f"counts: expected state version {_VERSION}, got {int(state['version'][0])}")
        self._state.unpack(state)
