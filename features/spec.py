"""Declared features: parts (kind and parameters) to one builder. Explicit tables resolve the kinds."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from features.calendar import Calendar, Clock, ScheduledEvent, parse_schedule
from features.dynamics import Dynamics
from features.feature_set import FeatureSet
from features.grid import duration_text
from features.mixed import base_for
from features.params import AnyOf, Params, unknown
from features.pipeline import Pipeline
from features.rates import RateBase
from features.ratio import Join, Ratio
from features.shape import Shape
from features.stage import Base, Stage
from features.window import WindowBase
from telemetry.errors import ConfigError
from telemetry.selectors import Selector
from telemetry.types import Nanos, Part

__all__ = ["KINDS", "STAGES", "build_features", "digest", "parts_from_toml"]

Maker = Callable[[Params, str], Pipeline]
VERSION = 1
"""Of the meaning of the kinds; part of every digest."""

BASES: dict[str, Callable[[Params], Base]] = {"window": WindowBase, "rate": RateBase}

STAGES: dict[str, Callable[[Params, tuple[str, ...]], Stage]] = {
    "shape": Shape,
    "ratio": Ratio,
    "dynamics": Dynamics,
    "join": Join,
}
_INPUT = {"shape": "amount", "ratio": "amount", "dynamics": "value", "join": "value"}
"""The base column that a stage reads when its part does not say ``of``."""


def _base(kind: str) -> Maker:
    def build(params: Params, name: str) -> Pipeline:
        return Pipeline(name, BASES[kind](params))

    return build


def _stage(kind: str) -> Maker:
    """A stage on a base of its own: ``of`` names the base's columns."""

    def build(params: Params, name: str) -> Pipeline:
        columns = params.names("of", (_INPUT[kind],))
        select: Any = params.raw("select", "")
        if kind == "ratio" and not params.has("select"):
            select = Ratio.selects(params)
        elif kind == "join":
            select = Join.selects(params)
        base = base_for(params.given(select=select), columns)
        of = columns if kind == "dynamics" else columns[0]
        stage = STAGES[kind](params.given(of=of, step=base.step_ns), base.columns)
        return Pipeline(name, base, (stage,))

    return build


def _compose(params: Params, name: str) -> Pipeline:
    """A chain: the first of ``steps`` makes windows of events, each other one works on the panel before it."""
    steps = params.raw("steps")
    if not isinstance(steps, (list, tuple)) or not steps or not all(isinstance(s, Mapping) for s in steps):
        raise ConfigError(f"{params.where}: steps: expected a list of tables with a key 'kind', got {steps!r}")
    common = {k: params.raw(k) for k in ("select", "window", "step") if params.has(k)}
    base: Base | None = None
    stages: list[Stage] = []
    columns: tuple[str, ...] = ()
    for i, step in enumerate(steps):
        where = f"{params.where}: steps[{i}]"
        kind = step.get("kind")
        table: Mapping[str, Any] = STAGES if i else BASES
        if kind not in table:
            raise unknown("kind", kind, table, where)
        mine = Params({**common, **{k: v for k, v in step.items() if k != "kind"}}, f"{where} ({kind})")
        for k in common:
            mine.raw(k)
        if base is None:
            base = BASES[kind](mine)
            columns = base.columns
        else:
            stage = STAGES[kind](mine.given(window=base.window_ns, step=base.step_ns), columns)
            stages.append(stage)
            columns = stage.columns
        mine.done()
    assert base is not None
    return Pipeline(name, base, stages)


KINDS: dict[str, Maker] = {
    "window": _base("window"),
    "rate": _base("rate"),
    "shape": _stage("shape"),
    "ratio": _stage("ratio"),
    "dynamics": _stage("dynamics"),
    "join": _stage("join"),
    "compose": _compose,
}
CLOCK = "clock"
"""The one kind that reads no events: it adds the clock's columns to every panel."""


def build_features(
    parts: Sequence[Part],
    *,
    lateness_ns: Nanos = 0,
    idle_timeout_ns: Nanos = 5_000_000_000,
    max_ahead_ns: Nanos | None = None,
    max_gap_ns: Nanos | None = None,
    calendar: str | Calendar | None = None,
) -> FeatureSet:
    """Build what `parts` declare, cold.

    Parameters
    ----------
    parts : sequence of Part
        Kinds of `KINDS`, and ``clock``. Each takes ``select`` (a selector), ``window`` ("100ms", "1s", ...),
        ``columns``, ``max_series`` and what its class says.
    lateness_ns, idle_timeout_ns, max_ahead_ns
        Of the watermark (``telemetry/watermark.py``).
    max_gap_ns : int, optional
        After so long a silence of everybody no windows are made until data comes again; default 1000 windows.
    calendar : str or Calendar, optional
        A time zone or an exchange: adds the clock's columns for every series that no part ``clock`` means.

    Raises
    ------
    ConfigError
        Unknown kind, column or parameter (with near matches), or a value out of range.

    Examples
    --------
    >>> part = Part("window", {"select": "wire_latency_ns", "window": "1s", "columns": ["p99"]})
    >>> build_features([part]).watermark_ns < 0
    True
    """
    pipelines: list[Pipeline] = []
    calendars: list[tuple[Selector | AnyOf | None, Calendar]] = []
    schedule: list[ScheduledEvent] = []
    for i, part in enumerate(parts):
        where = f"features[{i}]"
        params = Params(part.params, f"{where} ({part.kind})")
        if part.kind == CLOCK:
            fine = params.names("fine") if params.has("fine") else None
            calendars.append((params.select("select"), Calendar(params.text("calendar", "UTC"), fine)))
            schedule += parse_schedule("\n".join(params.raw("schedule", ())), f"{params.where}: schedule")
        elif part.kind in KINDS:
            most = params.integer("max_series", 100_000)
            pipeline = KINDS[part.kind](params, f"{i}-{part.kind}")
            pipeline.max_series = most
            pipelines.append(pipeline)
        else:
            raise unknown("kind", part.kind, (*KINDS, CLOCK), where)
        params.done()
    if not pipelines:
        raise ConfigError(f"features: expected at least one part of {', '.join(KINDS)}, got none")
    steps: dict[Nanos, Nanos] = {}
    for p in pipelines:
        if steps.setdefault(p.base.window_ns, p.base.step_ns) != p.base.step_ns:
            raise ConfigError(f"features: expected one step for windows of {duration_text(p.base.window_ns)}, got two")
    if calendar is not None:
        calendars.append((None, calendar if isinstance(calendar, Calendar) else Calendar(calendar)))
    setting = {"lateness_ns": lateness_ns, "idle_timeout_ns": idle_timeout_ns, "max_ahead_ns": max_ahead_ns}

    def again() -> FeatureSet:
        return build_features(
            parts,
            lateness_ns=lateness_ns,
            idle_timeout_ns=idle_timeout_ns,
            max_ahead_ns=max_ahead_ns,
            max_gap_ns=max_gap_ns,
            calendar=calendar,
        )

    clock = Clock(calendars, sorted(schedule, key=_when)) if calendars else None
    return FeatureSet(pipelines, setting, max_gap_ns, clock, again)


def _when(event: ScheduledEvent) -> Nanos:
    return event.time_ns


def parts_from_toml(text: str, where: str = "spec") -> tuple[Part, ...]:
    """Read ``[[features]]`` tables, each with a key ``kind``.

    Raises
    ------
    ConfigError
        If it is not TOML or there are none.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: not TOML: {error}") from None
    tables = data.get("detector", data).get("features")
    if not isinstance(tables, list) or not tables:
        raise ConfigError(f"{where}: expected at least one [[features]] table, got {tables!r}")
    for i, table in enumerate(tables):
        if not isinstance(table, dict) or not isinstance(table.get("kind"), str):
            raise ConfigError(f"{where}: features[{i}]: expected a table with a key 'kind', got {table!r}")
    return tuple(Part(t["kind"], {k: v for k, v in t.items() if k != "kind"}) for t in tables)


def digest(parts: Sequence[Part]) -> str:
    """Of the parts and the version of the kinds: equal features, equal digests."""
    data = [VERSION, [[p.kind, dict(p.params)] for p in parts]]
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
