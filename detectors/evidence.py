"""What was seen of each piece of evidence: when it began, how it goes on, how strong it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

from detectors.signature import Evidence
from telemetry.types import Alert, Nanos, SeriesKey

__all__ = ["Track", "Waterfall", "pack_alert", "shaped", "unpack_alert", "waterfall"]

KEPT = 64
"""Deviating windows whose times and values a track keeps, the oldest (for the shape) and the newest (for the hold)."""


def pack_alert(a: Alert) -> dict[str, Any]:
    """JSON-able; `unpack_alert` reads it back to an equal alert."""
    return {f.name: getattr(a, f.name) for f in fields(Alert)} | {"series": str(a.series)}


def unpack_alert(row: Mapping[str, Any]) -> Alert:
    return Alert(**{**row, "series": SeriesKey.parse(row["series"])})


@dataclass(slots=True)
class Track:
    """One channel that deviates as one piece of evidence wants it.

    `count` windows deviated since `first_ns`; `bursts` are the starts of its runs; `early` the first values.
    `held_ns` is when the evidence's k of m windows were first met, 0 before, `fresh_ns` when they last were,
    `began_ns` the start of the first of the k windows.
    """

    series: SeriesKey
    column: str
    window_ns: Nanos
    first_ns: Nanos = 0
    last_ns: Nanos = 0
    count: int = 0
    held_ns: Nanos = 0
    fresh_ns: Nanos = 0
    began_ns: Nanos = 0
    strongest: Alert | None = None
    total: float = 0.0
    recent: list[Nanos] = field(default_factory=list)
    bursts: list[Nanos] = field(default_factory=list)
    early: list[float] = field(default_factory=list)

    def add(self, alert: Alert, item: Evidence) -> None:
        """Take in one deviating window (in time order)."""
        end, k, m = alert.end_ns, *item.hold
        if self.count and end == self.last_ns:
            return  # another detector saw the same window of the same channel
        if not self.count:
            self.first_ns = end
        if not self.bursts or end - self.last_ns > 3 * self.window_ns:
            self.bursts = [*self.bursts[-KEPT + 1 :], end]
        self.last_ns, self.count = end, self.count + 1
        self.recent = [*self.recent[-k + 1 :], end] if k > 1 else [end]
        if len(self.early) < KEPT:
            self.early.append(alert.value)
        delta = _delta(alert)
        self.total += delta
        if self.strongest is None or delta > _delta(self.strongest):
            self.strongest = alert
        if len(self.recent) == k and end - self.recent[0] < m * self.window_ns:
            if not self.held_ns:
                self.held_ns, self.began_ns = end, self.recent[0] - self.window_ns
            self.fresh_ns = end

    @property
    def duty(self) -> float:
        """Share of the windows between the first and the last deviation that deviated."""
        return self.count * self.window_ns / (self.last_ns - self.first_ns + self.window_ns)

    def pack(self) -> dict[str, Any]:
        best = pack_alert(self.strongest) if self.strongest is not None else None
        row = {f.name: getattr(self, f.name) for f in fields(Track)}
        return row | {"series": str(self.series), "strongest": best}

    @staticmethod
    def unpack(row: Mapping[str, Any]) -> Track:
        best = unpack_alert(row["strongest"]) if row["strongest"] is not None else None
        lists = {name: list(row[name]) for name in ("recent", "bursts", "early")}
        return Track(**{**row, **lists, "series": SeriesKey.parse(row["series"]), "strongest": best})


def _delta(alert: Alert) -> float:
    return abs(alert.value - alert.expected) if alert.expected == alert.expected else abs(alert.value)


def shaped(track: Track, item: Evidence) -> bool:
    """Whether what was seen has the shape that the evidence asks for."""
    if item.shape == "spike":
        return track.count > 0
    if item.shape == "bursts":
        return track.held_ns > 0 and len(track.bursts) >= 2 and track.duty < 0.5
    if item.shape == "periodic":
        return _periodic(track.bursts)
    if not track.held_ns:
        return False
    if item.shape == "step":
        return track.duty >= 0.5
    if item.shape == "ramp":
        third = len(track.early) // 3
        return third >= 2 and sum(track.early[-third:]) > 1.5 * sum(track.early[:third])
    return True


def _periodic(starts: list[Nanos]) -> bool:
    """At least four bursts, and three in four of their distances within a fifth of the median."""
    if len(starts) < 4:
        return False
    gaps = sorted(b - a for a, b in pairwise(starts))
    middle = gaps[len(gaps) // 2]
    near = sum(abs(g - middle) <= middle / 5 for g in gaps)
    return near >= max(3, 0.75 * len(gaps))


@dataclass(frozen=True, slots=True)
class Waterfall:
    """Where messages went missing between two taps, the device, the stack and the application.

    `lost[i]` is what stage i had and stage i + 1 did not; `at` names the step that lost most ("" if none did);
    `adds_up` is whether the counted drops explain the loss inside the host to within `slack`.
    """

    stages: tuple[str, ...]
    counts: tuple[int, ...]
    lost: tuple[int, ...]
    at: str
    adds_up: bool


def waterfall(counts: Mapping[str, int], drops: Iterable[int] = (), slack: int = 2) -> Waterfall:
    """Balance message counts along the path.

    Parameters
    ----------
    counts : mapping of stage to messages, in the order of the path
        For example tap A, tap B, device, Ip.InReceives, Udp.InDatagrams, application; leave out what nobody counted.
    drops : iterable of int
        What the host's own counters say was dropped (socket, backlog, device).
    slack : int
        Messages under way when the counters were read.
    """
    stages, numbers = tuple(counts), tuple(counts.values())
    lost = tuple(a - b for a, b in pairwise(numbers))
    worst = max(range(len(lost)), key=lambda i: lost[i], default=-1)
    at = f"{stages[worst]} > {stages[worst + 1]}" if worst >= 0 and lost[worst] > slack else ""
    inside = sum(lost[1:]) if len(lost) > 1 else sum(lost)
    return Waterfall(stages, numbers, lost, at, abs(inside - sum(drops)) <= slack)
