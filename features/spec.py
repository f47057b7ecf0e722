"""Declared features: parts (kind and parameters) to one builder. One explicit table resolves the kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from features.calendar import Clock
from features.feature_set import FeatureSet, Pipeline
from features.params import Params, unknown
from features.rates import RateBase
from features.window import WindowBase
from telemetry.errors import ConfigError
from telemetry.types import Nanos, Part

__all__ = ["KINDS", "build_features"]

Maker = Callable[[Params, str], Pipeline]


def _base(make: Callable[[Params], WindowBase | RateBase]) -> Maker:
    def build(params: Params, name: str) -> Pipeline:
        return Pipeline(name, make(params))

    return build


KINDS: dict[str, Maker] = {
    "window": _base(WindowBase),
    "rate": _base(RateBase),
}


def build_features(
    parts: Sequence[Part],
    *,
    lateness_ns: Nanos = 0,
    idle_timeout_ns: Nanos = 5_000_000_000,
    max_ahead_ns: Nanos | None = None,
    max_gap_ns: Nanos | None = None,
    calendar: str | None = None,
) -> FeatureSet:
    """Build what `parts` declare, cold.

    Parameters
    ----------
    parts : sequence of Part
        Kinds of `KINDS`. Each takes ``select`` (a selector), ``window`` ("100ms", "1s", ...), ``columns``, ...
    lateness_ns, idle_timeout_ns, max_ahead_ns
        Of the watermark (``telemetry/watermark.py``).
    max_gap_ns : int, optional
        After so long a silence of everybody no windows are made until data comes again; default 1000 windows.
    calendar : str, optional
        Adds the clock's columns.

    Raises
    ------
    ConfigError
        Unknown kind, column or parameter (with near matches), or a value out of range.

    Examples
    --------
    >>> from telemetry.types import Part
    >>> part = Part("window", {"select": "wire_latency_ns", "window": "1s", "columns": ["p99"]})
    >>> build_features([part]).watermark_ns < 0
    True
    """
    if not parts:
        raise ConfigError("features: expected at least one part, got none")
    pipelines = []
    for i, part in enumerate(parts):
        where = f"features[{i}]"
        if part.kind not in KINDS:
            raise unknown("kind", part.kind, KINDS, where)
        params = Params(part.params, f"{where} ({part.kind})")
        most = params.integer("max_series", 100_000)
        pipeline = KINDS[part.kind](params, f"{i}-{part.kind}")
        pipeline.max_series = most
        params.done()
        pipelines.append(pipeline)
    steps: dict[Nanos, Nanos] = {}
    for p in pipelines:
        if steps.setdefault(p.base.window_ns, p.base.step_ns) != p.base.step_ns:
            raise ConfigError(f"features: expected one step for the window of {p.base.window_ns} ns, got two")
    setting = {"lateness_ns": lateness_ns, "idle_timeout_ns": idle_timeout_ns, "max_ahead_ns": max_ahead_ns}
    return FeatureSet(pipelines, setting, max_gap_ns, (Clock(calendar),) if calendar else ())
