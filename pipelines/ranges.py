"""Time ranges as people type them."""

from __future__ import annotations

from telemetry.labels import parse_time
from telemetry.types import Nanos

__all__ = ["BEGINNING", "END", "time_range"]

BEGINNING, END = 0, 2**62


def time_range(start: str | None, stop: str | None) -> tuple[Nanos, Nanos]:
    """Read ``--from`` and ``--to`` (a date alone is midnight UTC); open ends where they are not given."""
    return _one(start, "--from", BEGINNING), _one(stop, "--to", END)


def _one(text: str | None, where: str, default: Nanos) -> Nanos:
    if not text:
        return default
    if len(text) == 10 and text[4] == "-":
        text += "T00:00:00Z"
    return parse_time(text, where)
