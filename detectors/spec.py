"""A detector, declared: which features, which model, which policy. Plain data with a digest."""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from telemetry.errors import ConfigError
from telemetry.types import Nanos, Part

__all__ = ["DetectorSpec", "duration_ns", "unknown"]

SECOND = 1_000_000_000
_KEYS = ("name", "kind", "features", "model", "policy", "lateness", "idle_timeout", "calendar")


def unknown(what: str, name: str, known: Iterable[str], where: str = "") -> ConfigError:
    """An unknown name, with the near matches."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(names)}"
    return ConfigError(f"{where + ': ' if where else ''}unknown {what} {name!r}; {hint}")


def duration_ns(text: str | int | float, where: str) -> Nanos:
    """Read ``250ms``, ``1s``, ``5m``, ``1h``, ``1d`` or a whole number of nanoseconds."""
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    units = {
        "ns": 1,
        "us": 1_000,
        "ms": 1_000_000,
        "s": SECOND,
        "m": 60 * SECOND,
        "h": 3600 * SECOND,
        "d": 86_400 * SECOND,
    }
    for unit in ("ns", "us", "ms", "s", "m", "h", "d"):
        if isinstance(text, str) and text.endswith(unit):
            try:
                return round(float(text[: -len(unit)]) * units[unit])
            except ValueError:
                continue
    raise ConfigError(f"{where}: expected a duration such as '100ms' or '1s', got {text!r}")


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """What a detector is made of.

    Parameters
    ----------
    name : str
        Identity of its alerts; a new version keeps it.
    kind : str
        The signature it stands for (a slug of the catalogue), or ``unknown``.
    features : tuple of Part
        Kinds of ``features.spec``.
    model, policy : Part
        Kinds of ``detectors.build``.
    lateness_ns : int
        How long after the newest event of its host an event may still come.
    idle_timeout_ns : int
        How long a silent host may hold the watermark back.
    calendar : str
        An exchange calendar (``XNYS``): panels get the clock's columns.
    """

    name: str
    features: tuple[Part, ...]
    model: Part
    policy: Part
    kind: str = "unknown"
    lateness_ns: Nanos = 0
    idle_timeout_ns: Nanos = 5 * SECOND
    calendar: str = ""

    @staticmethod
    def from_dict(data: Mapping[str, Any], where: str = "spec") -> DetectorSpec:
        """Validate and build.

        Raises
        ------
        ConfigError
            Unknown or missing keys, wrong types.
        """
        for key in data:
            if key not in _KEYS:
                raise unknown("key", key, _KEYS, where)
        for key in ("name", "features", "model"):
            if key not in data:
                raise ConfigError(f"{where}: expected a key {key!r}, found {', '.join(sorted(data)) or 'nothing'}")
        raw = data["features"]
        if not isinstance(raw, list) or not raw:
            raise ConfigError(f"{where}.features: expected at least one [[features]] table, got {raw!r}")
        return DetectorSpec(
            name=str(data["name"]),
            kind=str(data.get("kind", "unknown")),
            features=tuple(_part(p, f"{where}.features[{i}]") for i, p in enumerate(raw)),
            model=_part(data["model"], f"{where}.model"),
            policy=_part(data.get("policy", {"kind": "budget"}), f"{where}.policy"),
            lateness_ns=duration_ns(data.get("lateness", 0), f"{where}.lateness"),
            idle_timeout_ns=duration_ns(data.get("idle_timeout", "5s"), f"{where}.idle_timeout"),
            calendar=str(data.get("calendar", "")),
        )

    @staticmethod
    def from_toml(text: str, where: str = "spec") -> DetectorSpec:
        """Read a spec: the whole text, or its ``[detector]`` table."""
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{where}: not TOML: {error}") from None
        return DetectorSpec.from_dict(data.get("detector", data), where)

    @staticmethod
    def from_file(path: str | Path) -> DetectorSpec:
        try:
            return DetectorSpec.from_toml(Path(path).read_text(), str(path))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; ``from_dict`` reads it back to an equal spec."""
        return {
            "name": self.name,
            "kind": self.kind,
            "features": [{"kind": p.kind, **p.params} for p in self.features],
            "model": {"kind": self.model.kind, **self.model.params},
            "policy": {"kind": self.policy.kind, **self.policy.params},
            "lateness": self.lateness_ns,
            "idle_timeout": self.idle_timeout_ns,
            "calendar": self.calendar,
        }

    @property
    def digest(self) -> str:
        """Of the canonical JSON: equal specs, equal digests."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _part(data: object, where: str) -> Part:
    if isinstance(data, str):
        return Part(data)
    if not isinstance(data, Mapping) or not isinstance(data.get("kind"), str):
        raise ConfigError(f"{where}: expected a table with a key 'kind', got {data!r}")
    return Part(data["kind"], {k: v for k, v in data.items() if k != "kind"})
