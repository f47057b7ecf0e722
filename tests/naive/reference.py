"""The reference model, one channel, one window at a time, with lists."""

from __future__ import annotations

import math

__all__ = ["reference"]


def reference(
    values: list[float], quantum: float, warmup: int, memory: int, relearn: int, flag: float, refit: int
) -> list[float]:
    """Surprise of each window."""
    ring: list[float] = []  # where each clean value is kept, to age in the same order
    at = 0
    flags: list[bool] = []
    spare: list[float] = []
    lone = 0
    due = 0
    fit = (0.0, 0.0, 0.0, 0.0, 0.0)
    out = []
    for x in values:
        if math.isnan(x):
            out.append(math.nan)
            continue
        n = len(ring)
        if n < warmup:
            ring.append(x)
            out.append(math.nan)
            if n + 1 == warmup:
                fit, due = _fit(ring, quantum), refit
            continue
        mid, hi, hi_excess, lo, lo_excess = fit
        up = x >= mid
        edge, excess, sign = (hi, hi_excess, 1.0) if up else (lo, lo_excess, -1.0)
        beyond = sign * (x - edge)
        if beyond <= 0:
            width = abs(edge - mid)
            s = -math.log10(0.05) * abs(x - mid) / width if width > 0 else 0.0
        else:
            as_much = sum(sign * (v - x) >= 0 for v in ring)
            s = -math.log10(0.05) + beyond / excess * math.log10(math.e)
            seen = math.log10((n + 1) / (as_much + 1))
            s = min(max(s, seen), 1.5 * math.log10(n + 1)) if as_much == 0 else min(s, seen)
        out.append(s)
        flags.append(s >= flag)
        recent = sum(flags[-10:])
        if recent >= 3:
            spare.append(x)
            if len(spare) >= relearn:
                ring = spare[-min(len(spare), memory, relearn) :]
                at, spare, flags = len(ring) % memory, [], []
                fit, due = _fit(ring, quantum), refit
            continue
        if recent == 0:
            spare = []
        if s >= flag:
            if hi == mid == lo:
                lone += 1
                if lone % 10:
                    continue
            x = edge + sign * min(beyond, 3.0 * excess)
        if n == memory:
            ring[at] = x
            at = (at + 1) % memory
        else:
            ring.append(x)
            at = len(ring) % memory
        due -= 1
        if due <= 0:
            fit = _fit(ring, quantum)
            due = refit if n >= memory // 2 else max(1, refit // 4)
    return out


def _fit(ring: list[float], quantum: float) -> tuple[float, float, float, float, float]:
    x = sorted(ring)
    n = len(x)
    k = max(1, int(0.05 * n))
    mid, hi, lo = x[n // 2], x[n - 1 - k], x[k]
    floor = max(quantum, 0.01 * abs(mid))
    up = sum(v - hi for v in reversed(x[n - k :])) / k
    down = sum(lo - v for v in x[:k]) / k
    return mid, hi, max(up, 0.1 * (hi - mid), floor), lo, max(down, 0.1 * (mid - lo), floor)
