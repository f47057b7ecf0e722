"""Alerts, incidents and labels as JSON and back. NaN is null."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from telemetry.types import Alert, Incident, IncidentChange

__all__ = ["decode_alert", "decode_incident", "encode", "plain"]

T = TypeVar("T")
_FLOATS = ("surprise", "score", "value", "expected", "lo", "hi")


def encode(value: Alert | Incident | IncidentChange) -> str:
    """JSON text; NaN becomes null."""
    return msgspec.json.encode(value).decode()


def plain(value: Any) -> Any:
    """JSON types (dicts, lists, text, numbers, None) of a dataclass; NaN becomes None."""
    return msgspec.json.decode(msgspec.json.encode(value))


def _mend(alert: dict[str, Any]) -> dict[str, Any]:
    return {k: (float("nan") if v is None and k in _FLOATS else v) for k, v in alert.items()}


def decode_alert(text: str | bytes | Mapping[str, Any]) -> Alert:
    raw = dict(text) if isinstance(text, Mapping) else msgspec.json.decode(text)
    return msgspec.convert(_mend(raw), Alert)


def decode_incident(text: str | bytes) -> Incident:
    raw = msgspec.json.decode(text)
    raw["alerts"] = [_mend(a) for a in raw["alerts"]]
    return msgspec.convert(raw, Incident)
