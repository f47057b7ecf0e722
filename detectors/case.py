"""What one group of hosts shows at present: evidence in the making, and the incident it has become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from detectors.causes import Facts, label_of, matchers, place_of, rank_facts
from detectors.changes import fill_all, fill_text
from detectors.evidence import Track, pack_alert, unpack_alert
from detectors.sentence import quantity, sentence
from detectors.signature import Signature
from telemetry.selectors import Selector
from telemetry.types import Alert, Cause, Change, Incident, Nanos, SeriesKey

__all__ = ["Case", "impact_of"]

MOST_ALERTS = 200
SLACK = 8
"""Windows for which evidence that waits for the rest of its signature is kept at least."""
LASTING = 3
"""Windows of a latency three times as long as usual that make an incident critical."""
_LOSS = [Selector.parse('metric=~"app_lost_messages|feed_gap_packets|wire_lost_packets|.*_(drops|RcvbufErrors)_total"')]
_LATENCY = [
    Selector.parse('metric=~"(wire|app)_latency_ns|tick_to_trade_ns|tcp_rtt_ns|feed_delay_ns|ab_skew_ns"'),
]


def impact_of(alert: Alert) -> Literal["loss", "latency", ""]:
    """Whether a deviation is one that users of the platform feel."""
    if alert.side < 0:
        return ""
    if any(s.matches(alert.series) for s in _LOSS):
        return "loss"
    return "latency" if any(s.matches(alert.series) for s in _LATENCY) else ""


@dataclass(slots=True)
class Case:
    """Evidence of a group of hosts, and its incident once one is open."""

    hosts: list[str]
    tracks: dict[tuple[int, int, str], Track] = field(default_factory=dict)
    alerts: dict[str, Alert] = field(default_factory=dict)
    graded_ns: Nanos = 0
    ranked_ns: Nanos = 0
    opened_ns: Nanos = 0
    doubts: dict[str, Nanos] = field(default_factory=dict)
    bypassed: bool = False
    kernel_path: bool = False
    incident: Incident | None = None

    def keep(self, alert: Alert) -> None:
        """Keep the first and the strongest deviation of a channel (and no more than `MOST_ALERTS`)."""
        name = f"{alert.series}\x1f{alert.column}"
        for slot, better in (("first", False), ("most", True)):
            held = self.alerts.get(f"{slot}\x1f{name}")
            if held is None:
                if len(self.alerts) < MOST_ALERTS:
                    self.alerts[f"{slot}\x1f{name}"] = alert
            elif better and (alert.grade, -alert.surprise) < (held.grade, -held.surprise):
                self.alerts[f"{slot}\x1f{name}"] = alert

    def slowest(self) -> Nanos:
        """The longest of the windows by which its evidence comes."""
        return max((t.window_ns for t in self.tracks.values()), default=0)

    def forget(self, now_ns: Nanos, memory_ns: Nanos) -> None:
        """Drop what has not been seen for `memory_ns` (or for some windows of a slow series)."""
        self.tracks = {
            k: t for k, t in self.tracks.items() if t.last_ns >= now_ns - max(memory_ns, SLACK * t.window_ns)
        }
        before_ns = now_ns - max(memory_ns, SLACK * self.slowest())
        self.alerts = {k: a for k, a in self.alerts.items() if a.end_ns >= before_ns}
        self.doubts = {k: t for k, t in self.doubts.items() if t >= before_ns}

    def ready(self, signatures: tuple[Signature, ...], now_ns: Nanos) -> list[int]:
        """Signatures of which an opening piece of evidence holds just now."""
        out = []
        for (s, i, _), track in self.tracks.items():
            item = signatures[s].evidence[i]
            if item.opens and track.fresh_ns == now_ns and s not in out:
                out.append(s)
        return out

    def live(self, signatures: tuple[Signature, ...]) -> Nanos:
        """When the required evidence of the incident's kind (of any kind while there is no cause) last held."""
        kind = self.incident.kind if self.incident else "unknown"
        last = 0
        for (s, i, _), track in self.tracks.items():
            item = signatures[s].evidence[i]
            if (item.role == "required" or item.opens) and kind in ("unknown", signatures[s].kind):
                last = max(last, track.last_ns if item.shape == "spike" else track.fresh_ns)
        return last or (self.incident.updated_ns if self.incident else 0)

    def after(self, since_ns: Nanos) -> Case:
        """A case of what has been seen since a time: what follows upon an incident."""
        tracks = {k: t for k, t in self.tracks.items() if t.last_ns > since_ns}
        alerts = {k: a for k, a in self.alerts.items() if a.end_ns > since_ns}
        doubts = {k: t for k, t in self.doubts.items() if t > since_ns}
        return Case(list(self.hosts), tracks, alerts, self.graded_ns, 0, 0, doubts, self.bypassed, self.kernel_path)

    def rank(
        self, signatures: tuple[Signature, ...], known: Mapping[tuple[int, int], Nanos], now_ns: Nanos
    ) -> tuple[Cause, ...]:
        """Causes as of `now_ns`."""
        opened = self.opened_ns if self.incident else 0
        facts = Facts(
            self.tracks, known, opened, now_ns, self.bypassed and not self.kernel_path, frozenset(self.doubts)
        )
        return rank_facts(signatures, facts)

    def onset(self, signatures: tuple[Signature, ...], s: int | None) -> Nanos:
        """When it began: the first window of the earliest required evidence that held (of signature `s`, if any)."""
        began = [
            t.began_ns or t.first_ns - t.window_ns
            for (a, i, _), t in self.tracks.items()
            if (s is None or a == s)
            and (t.held_ns or signatures[a].evidence[i].shape in ("spike", "periodic"))
            and (signatures[a].evidence[i].role == "required" or signatures[a].evidence[i].opens)
        ]
        return min(began, default=self.ranked_ns)

    def build(
        self,
        signatures: tuple[Signature, ...],
        causes: tuple[Cause, ...],
        facts: Mapping[str, str],
        now_ns: Nanos,
    ) -> Incident:
        """The incident as it stands at `now_ns`."""
        top = causes[0]
        by: dict[tuple[int, int], list[Track]] = {}
        for (s, i, _), track in self.tracks.items():
            by.setdefault((s, i), []).append(track)
        chosen = next((s for s, x in enumerate(signatures) if x.kind == top.kind), None)
        place = {"host": "|".join(sorted(h for h in self.hosts if h))}
        title = "deviation without a known signature"
        changes: tuple[Change, ...] = ()
        if chosen is not None:
            place |= place_of(signatures[chosen], chosen, by)
        if chosen is not None and top.kind != "unknown":
            title = fill_text(signatures[chosen].title, place)
            changes = fill_all(signatures[chosen], place, facts)
        elif top.kind == "unknown":
            place |= self._common()
        alerts = sorted({a.id: a for a in self.alerts.values()}.values(), key=lambda a: (a.end_ns, a.id))
        severity, impact = self._impact()
        where = matchers(place)
        causes = tuple(replace(c, place=matchers({"host": place["host"]} | _pairs(c.place))) for c in causes)
        old = self.incident
        onset = self.onset(signatures, chosen)
        first = old.id if old else alerts[0].id
        return Incident(
            id=first,
            state="open",
            kind=top.kind,
            severity=severity,
            place=where,
            onset_ns=onset,
            opened_ns=old.opened_ns if old else now_ns,
            updated_ns=now_ns,
            resolved_ns=None,
            title=sentence(onset, where, top, title, impact, changes),
            alerts=tuple(alerts),
            causes=causes,
            changes=changes,
        )

    def _common(self) -> dict[str, str]:
        """Labels that all strong deviations share."""
        strong = [a for a in self.alerts.values() if a.grade == "alert"] or list(self.alerts.values())
        out = {}
        for label in ("hop", "flow", "feed", "process", "netns", "device", "cpu"):
            values = {label_of(a.series, label) for a in strong}
            if len(values) == 1 and "" not in values:
                out[label] = values.pop()
        return out

    def _impact(self) -> tuple[Literal["info", "warning", "critical"], str]:
        """Severity and what users feel: loss before latency before counters."""
        felt = [(impact_of(a), a) for a in self.alerts.values() if impact_of(a)]
        lost = [a for kind, a in felt if kind == "loss"]
        slow = [a for kind, a in felt if kind == "latency"]
        counts: dict[tuple[SeriesKey, str], int] = {}
        for t in self.tracks.values():
            counts[t.series, t.column] = max(counts.get((t.series, t.column), 0), t.count)
        if slow:
            worst = max(slow, key=lambda a: (_ratio(a), a.id))
            name = f"{worst.series.metric.removesuffix('_ns')} {worst.column}"
            change = f"{quantity(worst.expected, worst.series.metric)} -> {quantity(worst.value, worst.series.metric)}"
            text = f"{name} {change}"
            if lost:
                text = f"messages lost; {text}"
            lasting = any(_ratio(a) >= 3.0 and counts.get((a.series, a.column), 0) >= LASTING for a in slow)
            return ("critical" if lost or lasting else "warning"), text
        if lost:
            return "critical", "messages lost"
        return "info", ""

    def pack(self) -> dict[str, Any]:
        inc = self.incident
        return {
            "hosts": self.hosts,
            "tracks": [[s, i, t.pack()] for (s, i, _), t in self.tracks.items()],
            "alerts": [[k, pack_alert(a)] for k, a in self.alerts.items()],
            "ns": [self.graded_ns, self.ranked_ns, self.opened_ns],
            "doubts": self.doubts,
            "flags": [self.bypassed, self.kernel_path],
            "incident": pack_incident(inc) if inc else None,
        }

    @staticmethod
    def unpack(row: Mapping[str, Any]) -> Case:
        tracks = {}
        for s, i, packed in row["tracks"]:
            track = Track.unpack(packed)
            tracks[(s, i, f"{track.series}\x1f{track.column}")] = track
        alerts = {k: unpack_alert(a) for k, a in row["alerts"]}
        inc = unpack_incident(row["incident"]) if row["incident"] else None
        graded, ranked, opened = row["ns"]
        bypassed, kernel_path = row["flags"]
        return Case(
            list(row["hosts"]), tracks, alerts, graded, ranked, opened, dict(row["doubts"]), bypassed, kernel_path, inc
        )


def _ratio(alert: Alert) -> float:
    return alert.value / alert.expected if alert.expected > 0 else 1.0


def _pairs(place: str) -> dict[str, str]:
    return dict(p.split("=", 1) for p in place.split(",") if "=" in p)


def pack_incident(x: Incident) -> dict[str, Any]:
    """JSON-able; `unpack_incident` reads it back to an equal incident."""
    row = {f.name: getattr(x, f.name) for f in fields(Incident)}
    return row | {
        "alerts": [pack_alert(a) for a in x.alerts],
        "causes": [asdict(c) for c in x.causes],
        "changes": [asdict(c) for c in x.changes],
    }


def unpack_incident(row: Mapping[str, Any]) -> Incident:
    causes = tuple(
        Cause(**{**c, "because": tuple(c["because"]), "against": tuple(c["against"])}) for c in row["causes"]
    )
    alerts = tuple(unpack_alert(a) for a in row["alerts"])
    return Incident(
        **{**row, "alerts": alerts, "causes": causes, "changes": tuple(Change(**c) for c in row["changes"])}
    )
