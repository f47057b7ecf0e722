"""Series that repeat themselves or follow from what was, with a cycle or points that do not; made by a seed, nothing is
tuned on them.

Heart beats, breathing, heaps that fill and are collected, batch jobs, two cycles at once, any smooth shape; periods of
16 to 400 rows that have nothing to do with the time of day. One anomaly in the second half, as in the UCR archive (Wu &
Keogh, TKDE 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from telemetry.types import Float64

__all__ = ["ODD", "LonePoints", "OddCycle", "lone_points", "odd_cycle"]

BASES = ("beats", "breath", "heap", "jobs", "two", "smooth")
ODD = (
    *("missing", "doubled", "late", "early", "backward", "lower", "higher", "blurred", "noisy", "plateau"),
    *("bump", "foreign"),
)


@dataclass(frozen=True, slots=True)
class OddCycle:
    """A series, the rows ``[first, last)`` that are not like the others, and the usual period in rows."""

    values: Float64
    first: int
    last: int
    period: int
    base: str
    odd: str


def _shapes(rng: Generator, base: str) -> tuple[Float64, Float64]:
    """One cycle on a grid of 1,000, and a foreign one as high."""
    u = np.arange(1000) / 1000

    def smooth(harmonics: int) -> Float64:
        weights = rng.normal(size=(harmonics, 2)) / np.arange(1, harmonics + 1)[:, None]
        angles = 2 * np.pi * np.arange(1, harmonics + 1)[:, None] * u
        return np.asarray(weights[:, 0] @ np.cos(angles) + weights[:, 1] @ np.sin(angles))

    if base == "beats":
        bumps = int(rng.integers(2, 5))
        at, width, height = rng.uniform(0.1, 0.9, bumps), rng.uniform(0.015, 0.08, bumps), rng.normal(0, 1, bumps)
        height[0] = 2.5
        cycle = (height[:, None] * np.exp(-(((u - at[:, None]) / width[:, None]) ** 2))).sum(axis=0)
    elif base == "breath":
        cycle = np.sin(2 * np.pi * u ** rng.uniform(0.6, 1.6))
    elif base == "heap":
        fall = rng.uniform(0.7, 0.95)
        cycle = np.where(u < fall, (u / fall) ** rng.uniform(0.7, 1.5), np.maximum(1 - (u - fall) / 0.03, 0.0))
    elif base == "jobs":
        a, b = rng.uniform(0.1, 0.4), rng.uniform(0.5, 0.9)
        cycle = np.clip(np.minimum((u - a) / 0.03, (b - u) / 0.06), 0, 1) + 0.3 * (u > 0.95)
    else:
        cycle = smooth(3 if base == "two" else 7)
    foreign = smooth(4)
    return (cycle - cycle.mean()) / cycle.std(), (foreign - foreign.mean()) / foreign.std()


def odd_cycle(seed: int) -> OddCycle:
    """A series of 60 to 130 cycles (3,000 to 20,000 rows), and one that is odd."""
    rng = np.random.default_rng(9_000 + seed)
    base, odd = BASES[seed % len(BASES)], ODD[(seed // len(BASES) + seed) % len(ODD)]
    period = int(rng.choice([16, 25, 40, 64, 90, 128, 200, 288, 400]))
    target = int(np.clip(period * rng.integers(60, 130), 3_000, 20_000))
    cycle, foreign = _shapes(rng, base)
    pace, height = float(rng.choice([0.0, 0.01, 0.03])), float(rng.choice([0.0, 0.05, 0.1]))
    where = int(rng.uniform(0.55, 0.95) * target)
    pieces: list[Float64] = []
    rows, first, last = 0, 0, 0
    while rows < target:
        n = max(8, round(period * (1 + pace * rng.normal())))
        unusual = last == 0 and rows >= where
        if unusual:
            n = {"late": int(1.5 * n), "early": max(6, int(0.6 * n))}.get(odd, n)
        u = np.arange(n) / n
        piece = (1 + height * rng.normal()) * np.interp(u, np.arange(1000) / 1000, cycle)
        if unusual:
            piece = _spoil(rng, odd, piece, foreign, u)
            first, last = rows, rows + n
        pieces.append(piece)
        rows += n
    x = np.concatenate(pieces)
    n = len(x)
    if base == "two":
        x = x + 0.7 * np.sin(2 * np.pi * np.arange(n) / (period * 3.37))
    wander = np.cumsum(rng.normal(size=n))
    x = x + float(rng.choice([0.0, 0.2, 0.4])) * (wander - wander.mean()) / wander.std()
    x = x + float(rng.choice([0.02, 0.06, 0.15])) * rng.normal(size=n)
    return OddCycle(float(rng.choice([1.0, 40.0])) * x + 100.0, first, last, period, base, odd)


def _spoil(rng: Generator, odd: str, piece: Float64, foreign: Float64, u: Float64) -> Float64:
    n = len(piece)
    if odd == "missing":
        return np.full(n, piece[0])
    if odd == "doubled":
        return np.asarray(piece[(2 * np.arange(n)) % n])
    if odd == "backward":
        return piece[::-1]
    if odd == "lower":
        return 0.5 * piece
    if odd == "higher":
        return 1.6 * piece
    if odd == "blurred":
        return np.convolve(np.pad(piece, n // 3, mode="edge"), np.ones(n // 3) / (n // 3), "same")[n // 3 : n // 3 + n]
    if odd == "noisy":
        return piece + 0.4 * rng.normal(size=n)
    if odd == "plateau":
        a = int(rng.integers(0, n // 2))
        out = piece.copy()
        out[a : a + n // 2] = piece[a]
        return out
    if odd == "bump":
        return piece + 1.2 * np.exp(-(((u - rng.uniform(0.2, 0.8)) / 0.12) ** 2))
    if odd == "foreign":
        return np.asarray(np.interp(u, np.arange(1000) / 1000, foreign))
    return piece


@dataclass(frozen=True, slots=True)
class LonePoints:
    """A series and the rows of its outliers."""

    values: Float64
    rows: list[int]


def lone_points(seed: int, n: int = 1_680) -> LonePoints:
    """Hourly values that follow from those before (a trend and three seasons; two cycles; a smooth wander) with noise,
    and 1 to 5 single values that are off by 6 to 15 times the noise: small against the range of the series."""
    rng = np.random.default_rng(20_000 + seed)
    t = np.arange(n)
    if seed % 3 == 0:
        x = rng.uniform(-0.5, 0.5) * t
        for period in (12, 24, 168):
            x = x + rng.uniform(50, 300) * np.sin(2 * np.pi * (t / period + rng.uniform()))
    elif seed % 3 == 1:
        x = np.zeros(n)
        for low, high in ((10, 60), (60, 200)):
            x = x + rng.uniform(50, 300) * np.sin(2 * np.pi * (t / rng.uniform(low, high) + rng.uniform()))
    else:
        x = np.cumsum(np.cumsum(rng.normal(size=n)))
        x = 200 * (x - x.mean()) / x.std()
    noise = rng.uniform(5, 30)
    x = x + noise * rng.normal(size=n)
    rows = np.sort(rng.choice(np.arange(400, n - 30), int(rng.integers(1, 6)), replace=False))
    x[rows] += rng.choice([-1, 1], len(rows)) * noise * rng.uniform(6, 15, len(rows))
    return LonePoints(x, rows.tolist())
