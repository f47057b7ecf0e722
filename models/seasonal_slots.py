"""What a slot of the day usually holds, learnt online: three predictors, the best of which is used.

The predictors are the level (no season), the slot's mean over all days, and its mean over days of the same type
(working day or not), each smoothed over two slots either side. The one with the least recent absolute error wins. The
residual is scaled by the slot's own mean deviation, shrunk to that of the whole series.
"""

from __future__ import annotations

from numba import njit

from telemetry.types import Float64

__all__ = ["PROFILE", "learn_slot", "predict_slot"]

PROFILE = 8
"""Rows of a profile: mean and count of all days, of working days, of other days; deviation and its count."""

DAYS = 20.0
ERROR_GAIN = 1.0 - 0.5 ** (1.0 / 288.0)


@njit(cache=True, nogil=True)
def predict_slot(profile: Float64, slot: int, other: int, level: float, errors: Float64, out: Float64) -> None:
    """Predictions of the three predictors and the slot's deviation.

    Parameters
    ----------
    profile : (PROFILE, slots) float64
    slot : int
    other : int
        1 on days that are not working days.
    level : float
        The prediction without season.
    errors : (3,) float64
        Recent mean absolute errors.
    out : (7,) float64
        Written: three predictions, the best one, sum and count of the slot's deviation, which one is best.
    """
    slots = profile.shape[1]
    mean, count, day, days, deviation, held = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    row = 2 + 2 * other
    for k in range(-2, 3):
        at = (slot + k) % slots
        weight = 3.0 - abs(k)
        n = weight * profile[1, at]
        mean += n * profile[0, at]
        count += n
        n = weight * profile[row + 1, at]
        day += n * profile[row, at]
        days += n
        n = weight * profile[7, at]
        deviation += n * profile[6, at]
        held += n
    out[0] = level
    out[1] = mean / count if count > 0.0 else level
    out[2] = day / days if days > 0.0 else out[1]
    best = 0
    for k in range(1, 3):
        if errors[k] < errors[best]:
            best = k
    out[3] = out[best]
    out[4] = deviation
    out[5] = held
    out[6] = best


@njit(cache=True, nogil=True)
def learn_slot(
    profile: Float64, slot: int, other: int, value: float, predictions: Float64, errors: Float64, seen: int
) -> None:
    """Take `value` into its slot and the errors of the predictions made for it."""
    gain = max(ERROR_GAIN, 1.0 / (seen + 1.0))
    for k in range(3):
        errors[k] += gain * (abs(value - predictions[k]) - errors[k])
    for row in (0, 2 + 2 * other):
        n = min(profile[row + 1, slot] + 1.0, DAYS)
        profile[row + 1, slot] = n
        profile[row, slot] += (value - profile[row, slot]) / n
    n = min(profile[7, slot] + 1.0, DAYS)
    profile[7, slot] = n
    profile[6, slot] += (abs(value - predictions[3]) - profile[6, slot]) / n
