"""The clock as columns: time of day, phase of the trading session, holidays, time to the next open."""

from __future__ import annotations

from collections.abc import Sequence
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from telemetry.errors import ConfigError
from telemetry.types import Float64, Int64, SeriesKey

__all__ = ["Clock"]


class Clock:
    """Columns of the clock for windows that start at given times.

    Parameters
    ----------
    name : str
        A time zone ("UTC", "Europe/London").
    """

    names = ("clock_slot", "clock_weekday")

    def __init__(self, name: str) -> None:
        try:
            self._zone = ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError):
            raise ConfigError(f"calendar: expected a time zone, got {name!r}") from None

    def columns(self, start_ns: Int64, keys: Sequence[SeriesKey]) -> Float64:
        """(W, S, len(names)) for windows that start at `start_ns`."""
        from datetime import UTC, datetime

        out = np.empty((len(start_ns), len(keys), len(self.names)))
        for i, t in enumerate((start_ns // 1_000_000_000).tolist()):
            local = datetime.fromtimestamp(t, UTC).astimezone(self._zone)
            out[i, :, 0] = local.hour * 60 + local.minute
            out[i, :, 1] = local.weekday()
        return out
