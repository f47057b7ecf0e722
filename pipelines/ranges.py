"""Times as people type them."""

from __future__ import annotations

from datetime import UTC, datetime

from telemetry.errors import ConfigError
from telemetry.types import Nanos

__all__ = ["parse_time", "show_time"]


def parse_time(text: str | None, default: Nanos) -> Nanos:
    """Read ISO 8601 (UTC unless it says otherwise) or whole nanoseconds since the epoch.

    Fractions of a second are kept to the nanosecond.

    Raises
    ------
    ConfigError
        Neither.
    """
    if text is None or text == "":
        return default
    if text.lstrip("-").isdigit() and len(text.lstrip("-")) > 8:
        return int(text)
    head, dot, tail = text.partition(".")
    digits = ""
    if dot:
        digits = tail[: len(tail) - len(tail.lstrip("0123456789"))]
        tail = tail[len(digits) :]
    try:
        when = datetime.fromisoformat(head + tail)
    except ValueError:
        raise ConfigError(f"time: expected ISO 8601 (2026-11-17T09:30:05) or nanoseconds, got {text!r}") from None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return int(when.timestamp()) * 1_000_000_000 + int(digits[:9].ljust(9, "0") or 0)


def show_time(ns: Nanos) -> str:
    """``2026-11-17 09:30:05.123`` UTC."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{rest // 1_000_000:03d}"
