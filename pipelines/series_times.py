"""Columns of times as people write them, to nanoseconds since the epoch."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial

import numpy as np

from telemetry.types import Int64

__all__ = ["first_unreadable", "from_epoch", "parse_times", "plausible"]

_UNITS = (10**9, 10**6, 10**3, 1)
"""Nanoseconds of a second, millisecond, microsecond, nanosecond."""
_LIMIT = 9.2e18
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
_PATTERNS = (
    *(f"{d}{s}{m}{s}{y}{clock}"
      for d, m in (("%d", "%m"), ("%m", "%d"))
      for s, y in (("/", "%Y"), (".", "%Y"), ("-", "%Y"), ("/", "%y"), (".", "%y"))
      for clock in _CLOCKS),
    *(f"%Y/%m/%d{clock}" for clock in _CLOCKS),
    *(f"%Y-%m-%d %H:%M:%S{fine} {zone}" for fine in ("", ".%f") for zone in ("UTC", "%z")),
    "%Y%m%d %H:%M:%S", "%b %d %Y %H:%M:%S",
)  # fmt: skip
_COMPACT = {8: "%Y%m%d", 14: "%Y%m%d%H%M%S"}
_BEYOND_US = re.compile(r"[.,]\d{6}(\d{1,3})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SENSIBLE = (datetime(1990, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))

Reader = Callable[[str], int]


def from_epoch(cells: Sequence[str]) -> Int64 | None:
    """Numbers as seconds, ms, us or ns since the epoch, told by the largest; small ones as seconds."""
    try:
        numbers = np.array([float(c) for c in cells])
    except ValueError:
        return None
    largest = float(np.abs(numbers).max()) if len(numbers) else 0.0
    unit = next((u for u in _UNITS if largest * u < _LIMIT), 0)  # false for NaN and infinity
    if not unit:
        return None
    return np.array([round(Decimal(c) * unit) for c in cells], np.int64)  # floats lose 238 ns at today's epoch


def _nanos(moment: datetime) -> int:
    since = (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000


def _iso(cell: str) -> int:
    beyond = _BEYOND_US.search(cell)  # which Python cuts off
    return _nanos(datetime.fromisoformat(cell)) + (int(beyond[1].ljust(3, "0")) if beyond else 0)


def _by_pattern(cell: str, pattern: str) -> int:
    return _nanos(datetime.strptime(cell, pattern))


def _readers(cell: str) -> list[Reader]:
    """Ways to read a column that can read this cell of it."""
    if not any(ch.isdigit() for ch in cell):
        return []
    ways: list[Reader] = [_iso, *(partial(_by_pattern, pattern=p) for p in _PATTERNS)]
    return [way for way in ways if _read((cell,), way) is not None]


def _read(cells: Sequence[str], way: Reader) -> Int64 | None:
    try:
        return np.array([way(c) for c in cells], np.int64)
    except (ValueError, OverflowError):
        return None


def parse_times(cells: Sequence[str]) -> Int64 | None:
    """Nanoseconds of a whole column of times, or None if some cell is not one.

    Numbers since the epoch, ISO 8601, and day/month orders; where both orders fit all cells, the one whose times run
    forward more often is taken. 20260105 and 20260105093000 are dates.
    """
    cells = [c.strip() for c in cells]
    if not cells or not cells[0]:
        return None
    if cells[0].isdecimal() and (compact := _COMPACT.get(len(cells[0]))):
        times = _read(cells, partial(_by_pattern, pattern=compact))
        if times is not None:
            return times
    times = from_epoch(cells)
    if times is not None:
        return times
    found = [t for way in _readers(cells[0]) if (t := _read(cells, way)) is not None]
    return min(found, key=lambda t: int((np.diff(t) <= 0).sum())) if found else None


def plausible(times: Int64) -> bool:
    """Whether numbers may well be times although nothing says so: of our years, and nearly always running forward."""
    first, last = (_nanos(t) for t in _SENSIBLE)
    forward = len(times) < 2 or float((np.diff(times) >= 0).mean()) >= 0.9
    return bool(forward and len(times) and times.min() >= first and times.max() < last)


def first_unreadable(cells: Sequence[str]) -> int | None:
    """The first cell of a column that cannot be read as its first can, or None."""
    cells = [c.strip() for c in cells]
    ways = _readers(cells[0]) if cells else []
    if not ways:
        return next((i for i, c in enumerate(cells) if from_epoch([c]) is None), None)
    return next((i for i, c in enumerate(cells) if all(_read((c,), way) is None for way in ways)), None)
