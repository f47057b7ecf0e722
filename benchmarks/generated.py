"""Series made by a seed: without anomalies, and imitations of public families with them. Nothing is tuned on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from telemetry.types import Float64, Int64

__all__ = ["Labelled", "ad_prices", "anomaly_free", "copies", "road_sensor", "tweet_counts"]

_DAY_S = 86_400
_SECOND = 10**9


@dataclass(frozen=True, slots=True)
class Labelled:
    """A series with label windows as (first, last) rows."""

    values: Float64
    time_ns: Int64
    windows: list[tuple[int, int]]


def _ar(rng: Generator, n: int, phi: float, heavy: bool = False) -> Float64:
    from scipy.signal import lfilter

    noise = rng.standard_t(3, n) if heavy else rng.normal(size=n)
    return np.asarray(lfilter([np.sqrt(1.0 - phi * phi)], [1.0, -phi], noise))


def _garch(rng: Generator, n: int) -> Float64:
    out, variance = np.zeros(n), 1.0
    for i, z in enumerate(rng.normal(size=n).tolist()):
        out[i] = np.sqrt(variance) * z
        variance = 0.02 + 0.1 * out[i] ** 2 + 0.88 * variance
    return out


def anomaly_free(seed: int, n: int) -> dict[str, Float64]:
    """Light and heavy tails, counts, zeros, autocorrelation, volatility, seasons; 288 rows a day."""
    rng = np.random.default_rng(seed * 7919 + n)
    day = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / 288)
    return {
        "normal": rng.normal(size=n),
        "uniform": rng.random(n),
        "student_3": rng.standard_t(3, n),
        "student_2.5": rng.standard_t(2.5, n),
        "lognormal": np.exp(rng.normal(size=n)),
        "ar_0.9": _ar(rng, n, 0.9),
        "ar_0.99": _ar(rng, n, 0.99),
        "ar_0.99_student_3": _ar(rng, n, 0.99, heavy=True),
        "random_walk": np.cumsum(rng.normal(size=n)),
        "garch": _garch(rng, n),
        "poisson_2": rng.poisson(2.0, n).astype(float),
        "poisson_0.05": rng.poisson(0.05, n).astype(float),
        "zero_inflated": (rng.poisson(0.05, n) * rng.geometric(0.3, n)).astype(float),
        "zero_with_bursts": ((_ar(rng, n, 0.97) > 1.6) * rng.geometric(0.2, n)).astype(float),
        "overdispersed": rng.negative_binomial(0.5, 0.05, n).astype(float),
        "seasonal": 10 * day + rng.normal(size=n),
        "season_times_noise": (1 + 5 * day) * np.exp(0.3 * _ar(rng, n, 0.5)),
        "daily_counts": rng.negative_binomial(3, 3 / (4 + 20 * day)).astype(float),
        "few_values": np.round(1.2 * _ar(rng, n, 0.9)),
        "latency": 100 * np.exp(0.05 * _ar(rng, n, 0.95) + rng.exponential(0.03, n)),
        "heavy_on_bursts": np.exp(_ar(rng, n, 0.95)) * (1 + 0.2 * rng.pareto(2.0, n)),
    }


def _windows(n: int, points: list[int]) -> list[tuple[int, int]]:
    """A tenth of the series, shared by the anomalies, around each: as NAB does it."""
    half = int(0.1 * n / len(points)) // 2
    out: list[tuple[int, int]] = []
    for p in points:
        first = max(p - half, 0, out[-1][1] + 1 if out else 0)
        out.append((first, min(p + half, n - 1)))
    return out


def _points(rng: Generator, n: int, k: int) -> list[int]:
    while True:
        at = np.sort(rng.integers(int(0.18 * n), int(0.97 * n), k))
        if k == 1 or np.diff(at).min() > 0.08 * n:
            return [int(p) for p in at]


def _clock(time_s: Int64) -> tuple[Float64, Float64]:
    """Share of the day that is over, and 1 on Saturdays and Sundays."""
    return (time_s % _DAY_S) / _DAY_S, ((time_s // _DAY_S + 3) % 7 >= 5).astype(float)


def tweet_counts(seed: int, n: int = 15_900) -> Labelled:
    """Counts in five minutes: negative binomial around a daily season, with bursts of heavy-tailed size that fade
    slowly; half of them also excite themselves. Labelled: bursts above all usual ones, long ones, silences."""
    rng = np.random.default_rng(1_000 + seed)
    time_s = 1_424_900_000 // 300 * 300 + 300 * (int(rng.integers(0, 2_000)) + np.arange(n))
    of_day, weekend = _clock(time_s)
    depth, phase = rng.uniform(0.3, 1.0), rng.uniform()
    log_rate = rng.uniform(2.0, 5.0) + depth * np.sin(2 * np.pi * (of_day - phase))
    log_rate += weekend * np.log(rng.uniform(0.5, 0.9)) + rng.uniform(0.15, 0.35) * _ar(rng, n, 0.997)
    times = np.ones(n)

    def burst(at: int, size: float, rows: float, power: float) -> None:
        since = np.arange(min(600, n - at))
        times[at : at + len(since)] += size * (1 + since / rows) ** -power

    usual = rng.poisson(n / 288 * rng.uniform(0.4, 2.0)) + 1
    sizes = np.minimum(0.5 * (1 + rng.pareto(rng.uniform(1.3, 2.2), usual)), 12.0)
    for at, size in zip(rng.integers(0, n, usual).tolist(), sizes.tolist(), strict=True):
        burst(at, size, float(np.exp(rng.uniform(-1.0, 2.5))), rng.uniform(1.0, 1.8))
    points = _points(rng, n, int(rng.integers(2, 5)))
    for p in points:
        kind = rng.uniform()
        if kind < 0.6:
            burst(p, max(float(sizes.max()), 2.0) * rng.uniform(1.2, 3.0), float(np.exp(rng.uniform(0.0, 3.0))), 1.25)
        elif kind < 0.85:
            rows = min(int(rng.integers(60, 250)), n - p)
            times[p : p + rows] += rng.uniform(1.5, 3.5) * np.exp(-np.linspace(0.0, 1.5, rows))
        else:
            times[p : p + int(rng.integers(12, 100))] *= 0.02
    rate, scatter = np.exp(log_rate) * times, rng.uniform(3.0, 15.0)
    noise = rng.gamma(scatter, 1.0 / scatter, n)
    if seed % 2 == 0:
        return Labelled(rng.poisson(rate * noise).astype(float), time_s * _SECOND, _windows(n, points))
    share, kernel = rng.uniform(0.3, 0.7), (1.0 + np.arange(12)) ** -1.3
    kernel /= kernel.sum()
    x = np.zeros(n + 12)
    for i in range(n):
        x[i + 12] = rng.poisson(((1 - share) * rate[i] + share * float(kernel @ x[i : i + 12][::-1])) * noise[i])
    return Labelled(x[12:], time_s * _SECOND, _windows(n, points))


def road_sensor(seed: int) -> Labelled:
    """Occupancy, speed or travel time with rush hours, about five minutes apart, with gaps. Labelled: jams outside of
    hours, a stuck sensor, lasting shifts."""
    rng = np.random.default_rng(2_000 + seed)
    n = int(rng.integers(1_100, 4_500))
    gap_s = 300.0 + rng.integers(-60, 61, n)
    gap_s *= np.where(rng.random(n) < 0.08, rng.integers(2, 6, n), 1)
    gap_s += np.where(rng.random(n) < 3 / n, rng.uniform(2.0, 30.0, n) * 3_600, 0.0)
    time_s = (1_436_000_000 + np.cumsum(gap_s)).astype(np.int64)
    of_day, weekend = _clock(time_s)
    hour, day = 24.0 * of_day, (time_s // _DAY_S - time_s[0] // _DAY_S).astype(np.int64)
    rush = np.zeros(n)
    for centre, width, height in ((8.0, 1.0, 0.8), (17.5, 1.3, 1.0)):
        at = centre + rng.normal(0.0, 0.25, day[-1] + 1)
        wide, high = width * rng.lognormal(0, 0.2, day[-1] + 1), height * rng.lognormal(-0.05, 0.35, day[-1] + 1)
        rush += high[day] * np.exp(-0.5 * ((hour - at[day]) / wide[day]) ** 2) * (1 - 0.9 * weekend)
    flow = np.exp(-0.5 * ((hour - 14.0) / 5.0) ** 2) * (1 - 0.2 * weekend)
    slow = _ar(rng, n, 0.9)
    jam, shift, stuck = np.zeros(n), np.zeros(n), []
    points = _points(rng, n, int(rng.integers(1, 4)))
    for p in points:
        kind = rng.uniform()
        if kind < 0.6:
            rows = min(int(rng.integers(4, 40)), n - p)
            jam[p : p + rows] = rng.uniform(1.3, 2.5) * np.maximum(np.hanning(2 * rows)[rows // 2 :][:rows], 0.4)
        elif kind < 0.8:
            stuck.append((p, int(rng.integers(40, 150))))
        else:
            shift[p:] += rng.choice([-1, 1]) * rng.uniform(0.25, 0.45)
    if seed % 3 == 0:
        x = (1 + 7 * flow + 8 * (rush + 1.5 * jam)) * np.exp(0.25 * slow + 0.25 * rng.normal(size=n)) * (1 + shift)
        x = np.clip(np.round(x, 2), 0, 100)
    elif seed % 3 == 1:
        x = rng.uniform(60, 75) - 25 * np.minimum(rush + jam, 2.0) + 2 * slow + rng.normal(0, rng.uniform(1.5, 4.0), n)
        x = np.clip(np.round(x + 30 * shift), 3, 95)
    else:
        x = rng.uniform(80, 300) * (1 + 0.15 * flow + 0.7 * rush + 2 * jam + np.maximum(shift, -0.3))
        x = np.round(x * np.exp(0.05 * slow + rng.uniform(0.03, 0.12) * np.clip(rng.standard_t(3, n), -4, 12)))
    for p, rows in stuck:
        x[p : p + rows] = x[p]
    return Labelled(x, time_s * _SECOND, _windows(n, points))


def ad_prices(seed: int, n: int = 1_624) -> Labelled:
    """Hourly prices with a noisy daily season and unlabelled small spikes. Labelled: larger spikes of 1 to 3 rows, and
    drops."""
    rng = np.random.default_rng(3_000 + seed)
    time_s = 1_309_478_400 + 3_600 * np.arange(n) + int(rng.integers(0, _DAY_S))
    of_day, _ = _clock(time_s)
    log_x = rng.uniform(0.05, 0.5) * np.sin(2 * np.pi * (of_day - rng.uniform())) + rng.uniform(0.05, 0.2) * _ar(
        rng, n, 0.7
    )
    x = float(rng.choice([0.08, 0.3, 0.7])) * np.exp(
        log_x + rng.uniform(0.05, 0.25) * np.clip(rng.standard_t(4, n), -5, 8)
    )
    x[rng.integers(0, n, rng.poisson(6))] *= rng.uniform(1.3, 2.2)
    points, top = _points(rng, n, int(rng.integers(1, 4))), float(np.quantile(x, 0.999))
    for p in points:
        if rng.uniform() < 0.75:
            x[p : p + int(rng.integers(1, 4))] = top * rng.uniform(1.1, 3.0)
        else:
            x[p : p + int(rng.integers(2, 12))] *= rng.uniform(0.05, 0.3)
    return Labelled(x, time_s * _SECOND, _windows(n, points))


def _mirrored(time_ns: Int64) -> Int64:
    """Times of the reversed series, shifted so that hours mirror at midnight and weekends stay weekends."""
    day = _DAY_S * _SECOND
    about = (2 + 4) * day  # a Saturday and a Monday, 00:00
    about += (int(time_ns.max()) + int(time_ns.min()) - about) // (7 * day) * 7 * day
    return (about - time_ns)[::-1].copy()


def copies(series: Labelled, seed: int) -> dict[str, Labelled]:
    """Reversed, sign-flipped, every second row, log1p, square, noise of 5 % of the interquartile range, late start."""
    rng = np.random.default_rng(seed)
    x, t, w = series.values, series.time_ns, series.windows
    n, finite = len(x), x[np.isfinite(x)]
    spread = float(np.subtract(*np.percentile(finite, [75, 25]))) or 0.3 * float(finite.std())
    cut = int(rng.uniform(0.05, 0.3) * n)
    return {
        "reversed": Labelled(x[::-1].copy(), _mirrored(t), [(n - 1 - b, n - 1 - a) for a, b in reversed(w)]),
        "flipped": Labelled(-x, t, w),
        "halved": Labelled(x[::2].copy(), t[::2].copy(), [(a // 2, min(b // 2, (n + 1) // 2 - 1)) for a, b in w]),
        "log": Labelled(np.sign(x) * np.log1p(np.abs(x)), t, w),
        "square": Labelled(np.sign(x) * x * x, t, w),
        "noise": Labelled(x + rng.normal(0.0, 0.05 * spread, n), t, w),
        "late": Labelled(x[cut:].copy(), t[cut:].copy(), [(a - cut, b - cut) for a, b in w if a > cut]),
    }
