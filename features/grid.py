"""Window arithmetic: durations as text, and the windows that a watermark closes."""

from __future__ import annotations

import re
from typing import Any

from telemetry.errors import ConfigError
from telemetry.types import Nanos

__all__ = ["UNITS", "duration_ns", "duration_text"]

UNITS: dict[str, Nanos] = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}
_TEXT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ns|us|ms|s|m|h|d)\s*")


def duration_ns(value: Any, where: str = "duration") -> Nanos:
    """Read ``100ms``, ``1s``, ``1.5m``, ``1h``, ``1d`` or whole nanoseconds.

    Raises
    ------
    ConfigError
        If `value` is neither.

    Examples
    --------
    >>> duration_ns("100ms"), duration_ns(5)
    (100000000, 5)
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        m = _TEXT.fullmatch(value)
        if m is not None:
            whole, _, part = m[1].partition(".")
            unit = UNITS[m[2]]
            exact = int(whole + part) * unit
            if exact % 10 ** len(part) == 0:
                return exact // 10 ** len(part)
    raise ConfigError(f"{where}: expected '100ms', '1s', '1m', ... or whole nanoseconds, got {value!r}")


def duration_text(ns: Nanos) -> str:
    """Write a duration with the largest unit that divides it.

    >>> duration_text(90_000_000_000)
    '90s'
    """
    for unit in ("d", "h", "m", "s", "ms", "us"):
        if ns and ns % UNITS[unit] == 0:
            return f"{ns // UNITS[unit]}{unit}"
    return f"{ns}ns"
