"""Slow and plain versions of the feature kernels, straight from their definitions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from telemetry.types import Events, SeriesKey

Sample = tuple[int, float]


def watermarks(events: Events, lateness: int, idle: int, ahead: int) -> tuple[list[bool], list[int]]:
    """Whether each event is kept, and the watermark after it (None before any: a very small number)."""
    newest: dict[str, int] = {}
    mark, kept, marks = -(1 << 62), [], []
    for s, t, seen in zip(events.series.tolist(), events.time_ns.tolist(), events.seen_ns.tolist(), strict=True):
        if t > seen + ahead:
            kept.append(False)
        else:
            kept.append(t >= mark)
            host = events.keys[s].host
            newest[host] = max(newest.get(host, t), t)
            mark = max(mark, max(min(newest.values()), max(newest.values()) - idle) - lateness)
        marks.append(mark)
    return kept, marks


def by_series(events: Events, kept: Sequence[bool]) -> dict[SeriesKey, list[Sample]]:
    """Admitted samples of each series in arrival order; NaN left out."""
    found: dict[SeriesKey, list[Sample]] = {}
    for ok, s, t, v in zip(kept, events.series.tolist(), events.time_ns.tolist(), events.value.tolist(), strict=True):
        if ok and v == v:
            found.setdefault(events.keys[s], []).append((t, v))
    return found


def in_window(samples: Sequence[Sample], start: int, end: int) -> list[Sample]:
    return sorted((x for x in samples if start <= x[0] < end), key=lambda x: x[0])


PLAIN: dict[str, Callable[[np.ndarray], float]] = {
    "count": len,
    "sum": lambda v: math.fsum(v),
    "mean": lambda v: float(np.mean(v)),
    "min": lambda v: float(np.min(v)),
    "max": lambda v: float(np.max(v)),
    "var": lambda v: float(np.var(v, ddof=1)) if len(v) > 1 else math.nan,
    "std": lambda v: float(np.std(v, ddof=1)) if len(v) > 1 else math.nan,
    "p50": lambda v: float(np.quantile(v, 0.5)),
    "p90": lambda v: float(np.quantile(v, 0.9)),
    "p99": lambda v: float(np.quantile(v, 0.99)),
    "last": lambda v: float(v[-1]),
}


def time_weighted(samples: Sequence[Sample], start: int, end: int, hold: int, q: float) -> float:
    """Quantile of the step function that holds each value until the next one (at most `hold`)."""
    before = [x for x in sorted(samples, key=lambda x: x[0]) if x[0] < start]
    inside = in_window(samples, start, end)
    steps = before[-1:] + inside
    held: list[tuple[float, int]] = []
    for i, (t, v) in enumerate(steps):
        until = min(steps[i + 1][0] if i + 1 < len(steps) else end, t + hold, end)
        held.append((v, max(0, until - max(t, start))))
    whole = sum(w for _, w in held)
    mass = 0
    for v, w in sorted(held):
        mass += w
        if w and mass >= q * whole:
            return v
    return math.nan


def increments(
    samples: Sequence[Sample], gap: int, wrap32: bool, boots: Sequence[int]
) -> list[tuple[int, float | None, int]]:
    """(time of the later sample, increment or None if reset, nanoseconds) of consecutive samples not too far apart."""
    found: list[tuple[int, float | None, int]] = []
    ordered = sorted(samples, key=lambda x: x[0])
    for (t0, v0), (t1, v1) in itertools.pairwise(ordered):
        d: float | None = v1 - v0
        if wrap32 and v1 < v0 and 2**31 <= v0 < 2**32 and v1 - v0 + 2**32 < 2**31:
            d = v1 - v0 + 2**32
        if (d is not None and d < 0) or any(t0 < b <= t1 for b in boots):
            found.append((t1, None, t1 - t0))
        elif t1 - t0 <= gap:
            found.append((t1, d, t1 - t0))
    return found


def rate(pairs: Sequence[tuple[int, float | None, int]], start: int, end: int) -> tuple[float, float]:
    """(rate per second, increment) of a window."""
    mine = [p for p in pairs if start <= p[0] < end]
    if not mine or any(d is None for _, d, _ in mine):
        return math.nan, math.nan
    up, span = sum(d for _, d, _ in mine if d is not None), sum(n for _, _, n in mine)
    return (up / (span * 1e-9) if span else math.nan), up


def shape(values: Sequence[float]) -> dict[str, float]:
    """Concentration of one group in one window."""
    x = np.array([v for v in values if v >= 0])
    if not len(x):
        return dict.fromkeys(("total", "top_share", "entropy", "gini", "imbalance", "active"), math.nan)
    out = {"total": float(x.sum()), "active": float((x > 0).sum())}
    if x.sum() == 0:
        return out | dict.fromkeys(("top_share", "entropy", "gini", "imbalance"), math.nan)
    p = x / x.sum()
    positive = p[p > 0]
    out["top_share"] = float(p.max())
    out["entropy"] = float(-(positive * np.log(positive)).sum() / np.log(len(p))) if len(p) > 1 else 0.0
    out["gini"] = float(np.abs(p[:, None] - p[None, :]).sum() / (2 * len(p)))
    out["imbalance"] = float(p.max() * len(p))
    return out


def dispersion(times: Sequence[int], start: int, end: int, span: int) -> tuple[float, float]:
    """(peak over mean, variance over mean) of the counts of the window's spans."""
    counts = np.bincount((np.array(times) - start) // span, minlength=(end - start) // span)
    return float(counts.max() / counts.mean()), float(counts.var() / counts.mean())
