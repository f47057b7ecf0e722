"""Seasonal baselines of one series, fitted with statsmodels on a regular grid and kept as small tables.

Incidents of the past are replaced by what their phase usually holds before anything is fitted; what fails to fit, or
has too little history, falls back to a simpler baseline and says so.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np

from telemetry.types import Float64, Int64

__all__ = ["KINDS", "Fitted", "fit_series"]

KINDS = ("stl", "mstl", "fourier", "ets", "median", "level")
_NEEDS = {"stl": 2.0, "mstl": 2.0, "fourier": 2.0, "ets": 2.0, "median": 1.0, "level": 0.0}
_SIMPLER = {"mstl": "stl", "stl": "median", "ets": "fourier", "fourier": "median", "median": "level"}
_ETS_MOST = 300  # seasonal states; more do not finish


@dataclass(frozen=True, slots=True)
class Fitted:
    """Tables of one series: expected value is ``level + profile[phase]``.

    `spread` is the deviation per phase, `drift` how far the level moves in a day (one standard deviation), `used` the
    baseline that was fitted, `note` why it is not the one asked for.
    """

    level: float
    profile: Float64
    spread: Float64
    drift: float
    used: str
    note: str


def _by_phase(values: Float64, phase: Int64, phases: int, what: str) -> Float64:
    """Median or mean absolute value of each phase's values; NaN where a phase has none."""
    out = np.full(phases, np.nan)
    order = np.argsort(phase, kind="stable")
    edges = np.searchsorted(phase[order], np.arange(phases + 1))
    for p in range(phases):
        mine = values[order[edges[p] : edges[p + 1]]]
        mine = mine[np.isfinite(mine)]
        if len(mine):
            out[p] = np.median(mine) if what == "median" else np.mean(np.abs(mine))
    return out


def _fill(profile: Float64, fallback: float) -> Float64:
    known = np.flatnonzero(np.isfinite(profile))
    if not len(known):
        return np.full(len(profile), fallback)
    n = len(profile)
    return np.interp(np.arange(n), known, profile[known], period=n)


def _clean(y: Float64, phase: Int64, phases: int, period: int) -> Float64:
    """Gaps filled and past incidents replaced: what is over 5 robust deviations from its phase (and day) is masked."""
    usual = _fill(_by_phase(y, phase, phases, "median"), float(np.nanmedian(y)))[phase]
    away = y - usual
    days = np.arange(len(y)) // max(period, 1)
    shift = _fill(_by_phase(away, days, int(days[-1]) + 1, "median"), 0.0)[days]
    miss = away - shift
    unit = 1.4826 * float(np.nanmedian(np.abs(miss)))
    floor = max(1e-3 * float(np.nanmedian(np.abs(y))), 1e-12)
    own = _fill(_by_phase(np.abs(miss), phase, phases, "median"), unit)[phase] * 1.4826
    bad = ~np.isfinite(y) | (np.abs(miss) > 5.0 * np.maximum(np.maximum(unit, own), floor))
    return np.where(bad, usual + shift, y)


def _stl(y: Float64, period: int, week: int) -> Float64:
    from statsmodels.tsa.seasonal import STL

    jump = max(1, period // 10)
    found = STL(y, period=period, robust=False, seasonal_jump=1, trend_jump=jump, low_pass_jump=jump).fit()
    return np.asarray(found.trend, np.float64)


def _mstl(y: Float64, period: int, week: int) -> Float64:
    from statsmodels.tsa.seasonal import MSTL

    jump = max(1, period // 10)
    found = MSTL(y, periods=(period, week), stl_kwargs={"trend_jump": jump, "low_pass_jump": jump}).fit()
    return np.asarray(found.trend, np.float64)


def _fourier(y: Float64, period: int, week: int) -> tuple[Float64, Float64]:
    """Robust regression on Fourier terms: (trend, seasonal)."""
    import statsmodels.api as sm

    t = np.arange(len(y))
    waves = [f(2.0 * math.pi * k * t / period) for k in range(1, min(12, period // 2) + 1) for f in (np.sin, np.cos)]
    if len(y) >= 2 * week > 0:
        waves += [f(2.0 * math.pi * k * t / week) for k in range(1, 4) for f in (np.sin, np.cos)]
    x = np.column_stack([np.ones(len(y)), t / len(y), *waves])
    found = sm.OLS(y, x).fit()
    miss = np.asarray(found.resid)
    unit = 1.4826 * np.median(np.abs(miss)) + 1e-12
    found = sm.WLS(y, x, weights=1.0 / np.maximum(1.0, np.abs(miss) / (1.345 * unit))).fit()
    beta = np.asarray(found.params, np.float64)
    return x[:, :2] @ beta[:2], x[:, 2:] @ beta[2:]


def _ets(y: Float64, period: int) -> Float64:
    """The last season of additive exponential smoothing."""
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    if period > _ETS_MOST:
        raise ValueError(f"{period} seasonal states; at most {_ETS_MOST} finish")
    made = ExponentialSmoothing(y, seasonal="add", seasonal_periods=period, initialization_method="heuristic")
    found = made.fit(optimized=True, use_brute=False)
    season = np.asarray(found.season, np.float64)[-period:]
    if not np.isfinite(season).all():
        raise ValueError("it did not converge")
    return season


def fit_series(
    y: Float64, phase: Int64, phases: int, period: int, kind: str, usual: np.ndarray | None = None
) -> Fitted:
    """Fit a baseline; never fails.

    Parameters
    ----------
    y : (n,) float64
        On a regular grid, oldest first; NaN is missing.
    phase : (n,) int64
        Where in the profile each value belongs (a clock's slot, or time modulo the period).
    phases : int
    period : int
        Grid steps of a day.
    kind : str
        One of `KINDS`.
    usual : (n,) bool, optional
        False where the day is no ordinary one (holidays): not part of the profile.
    """
    note = ""
    y = np.where(np.isfinite(y), y, np.nan)
    if usual is not None and usual.any():
        y = np.where(usual, y, np.nan)
    if not np.isfinite(y).any():
        return Fitted(math.nan, np.zeros(phases), np.ones(phases), 0.0, "none", "no value in history")
    have = np.isfinite(y).sum() / max(period, 1)
    clean = _clean(y, phase, phases, period)
    week = 7 * period
    used = kind
    while True:
        need = 14.0 if used == "mstl" else _NEEDS[used]
        try:
            if have < need:
                raise ValueError(f"{have:.1f} days of history, it needs {need:.0f}")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                level, profile = _tables(clean, phase, phases, period, week, used)
            if not (math.isfinite(level) and np.isfinite(profile).all()):
                raise ValueError("the result is not finite")
            break
        except Exception as error:  # whatever a solver throws, a simpler baseline is better than none
            note = note or f"{kind}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            used = _SIMPLER[used]
    miss = clean - profile[phase]
    days = np.arange(len(y)) // max(period, 1)
    levels = _by_phase(miss, days, int(days[-1]) + 1, "median")
    steps = np.diff(levels[np.isfinite(levels)])
    drift = float(1.4826 * np.median(np.abs(steps))) if len(steps) >= 2 else float(np.nanstd(clean)) * 0.1
    rest = miss - _fill(levels, 0.0)[days]
    whole = float(np.mean(np.abs(rest)))
    spread = _fill(_by_phase(rest, phase, phases, "mean"), whole)
    if phases > 8:  # neighbours lend their spread: few values a phase
        spread = np.maximum(spread, 0.5 * (np.roll(spread, 1) + np.roll(spread, -1)))
    floor = max(1e-3 * float(np.median(np.abs(clean))), 1e-9)
    return Fitted(level, profile, np.maximum(1.2533 * np.maximum(spread, 0.25 * whole), floor), drift, used, note)


def _tables(y: Float64, phase: Int64, phases: int, period: int, week: int, kind: str) -> tuple[float, Float64]:
    if kind == "level":
        return float(np.median(y)), np.zeros(phases)
    if kind == "median":
        trend = np.full(len(y), np.median(y))
    elif kind == "fourier":
        trend, season = _fourier(y, period, week)
        profile = _fill(_by_phase(season, phase, phases, "median"), 0.0)
        return float(np.median((y - profile[phase])[-week:])), profile
    elif kind == "ets":
        profile = _fill(_by_phase(_ets(y, period), phase[-period:], phases, "median"), 0.0)
        return float(np.median((y - profile[phase])[-week:])), profile
    else:
        trend = (_stl if kind == "stl" else _mstl)(y, period, week)
    profile = _fill(_by_phase(y - trend, phase, phases, "median"), 0.0)
    return float(np.median((y - profile[phase])[-week:])), profile
