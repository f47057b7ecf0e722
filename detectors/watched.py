"""What the signatures can see: which series are watched, since when, and how often their windows come."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from detectors.signature import Signature
from telemetry.types import Alert, Nanos, Panel, SeriesKey

__all__ = ["Watched"]

SAMPLED = ("rate", "max", "last")
"""Columns of what is sampled, not of what happens: their windows come as often as the sampler does."""
PACED = 16
"""Windows from which the pace of a series is told."""


class Watched:
    """The series that were seen, by the pieces of evidence that select them.

    Attributes
    ----------
    known : dict of (signature, evidence) to time
        Since when a series that this piece of evidence selects is watched (its quiet is evidence from then on).
    """

    def __init__(self, signatures: Sequence[Signature]) -> None:
        self._signatures = signatures
        self.known: dict[tuple[int, int], Nanos] = {}
        self._seen: set[SeriesKey] = set()
        self._pacing: dict[SeriesKey, list[Nanos]] = {}
        self._pace: dict[SeriesKey, tuple[Nanos, Nanos]] = {}
        self._matches: dict[tuple[SeriesKey, str], tuple[tuple[int, int], ...]] = {}
        self._possible: dict[tuple[str, str], tuple[tuple[int, int], ...]] = {}

    def watch(self, panel: Panel) -> None:
        """Learn which series are watched, and how often (exact in event time)."""
        self._measure(panel)
        fresh = [i for i, k in enumerate(panel.keys) if k not in self._seen]
        if not fresh or not len(panel.end_ns):
            return
        live = np.asarray(np.isfinite(panel.values[:, fresh, :]).any(axis=2))
        for column, i in enumerate(fresh):
            if live[:, column].any():
                first = int(panel.end_ns[int(np.argmax(live[:, column]))])
                self.know(panel.keys[i], panel.columns, first)

    def know(self, key: SeriesKey, columns: Iterable[str], since_ns: Nanos) -> None:
        """Say that a series is watched since a time."""
        self._seen.add(key)
        for column in columns:
            for at in self.items(key, column):
                self.known[at] = min(self.known.get(at, since_ns), since_ns)

    def items(self, key: SeriesKey, column: str) -> tuple[tuple[int, int], ...]:
        """The pieces of evidence, as (signature, evidence), that select a channel."""
        found = self._matches.get((key, column))
        if found is None:
            found = tuple(
                (s, i)
                for s, i in self._candidates(key.metric, column)
                if self._signatures[s].evidence[i].selects(key, column)
            )
            self._matches[(key, column)] = found
        return found

    def _candidates(self, metric: str, column: str) -> tuple[tuple[int, int], ...]:
        """What could select a channel of this metric: thousands of flows share a few answers."""
        found = self._possible.get((metric, column))
        if found is None:
            found = tuple(
                (s, i)
                for s, signature in enumerate(self._signatures)
                for i, item in enumerate(signature.evidence)
                if item.may_select(metric, column)
            )
            self._possible[(metric, column)] = found
        return found

    def cpus(self, host: str) -> list[str]:
        """Numbers of a host's CPUs that series tell of, sorted as text."""
        found = {k.label("cpu") for k in self._seen if k.host == host}
        return sorted(c for c in found if c.isdigit())

    def window_of(self, alert: Alert) -> Nanos:
        """The window of a channel that counts when k of m are asked for."""
        since, pace = self._pace.get(alert.series, (0, 0))
        slow = alert.column in SAMPLED and alert.end_ns > since
        return max(pace, alert.window_ns) if slow else alert.window_ns

    def _measure(self, panel: Panel) -> None:
        """How far apart the windows of a sampled series are: a slow sampler leaves some of them empty."""
        fresh = [i for i, k in enumerate(panel.keys) if k not in self._pace]
        columns = [c for c, name in enumerate(panel.columns) if name in SAMPLED]
        if not fresh or not columns or not len(panel.end_ns):
            return
        live = np.asarray(np.isfinite(panel.values[:, fresh][:, :, columns]).any(axis=2))
        for column, i in enumerate(fresh):
            name = panel.keys[i]
            ends = self._pacing.setdefault(name, [])
            ends += panel.end_ns[live[:, column]][: PACED - len(ends)].tolist()
            if len(ends) >= PACED:
                gaps = sorted(b - a for a, b in itertools.pairwise(ends))
                self._pace[name] = (ends[-1], max(gaps[len(gaps) // 2], panel.window_ns))
                del self._pacing[name]

    def pack(self) -> dict[str, Any]:
        """JSON-able; `unpack` reads it back."""
        return {
            "known": [[s, i, t] for (s, i), t in sorted(self.known.items())],
            "seen": sorted(map(str, self._seen)),
            "pacing": sorted((str(k), v) for k, v in self._pacing.items()),
            "pace": sorted((str(k), *v) for k, v in self._pace.items()),
        }

    def unpack(self, body: Mapping[str, Any], *, same: bool) -> None:
        """Go on from `pack`; `same`: it was of the same signatures (else what they can see is asked anew)."""
        self.known = {(s, i): t for s, i, t in body["known"]} if same else {}
        self._seen = {SeriesKey.parse(k) for k in body["seen"]} if same else set()
        self._pacing = {SeriesKey.parse(k): list(v) for k, v in body.get("pacing", ())}
        self._pace = {SeriesKey.parse(k): (since, pace) for k, since, pace in body.get("pace", ())}
