"""Many alerts become few incidents, online: one stage for all hosts, in event time."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from detectors.case import Case, pack_incident, unpack_incident
from detectors.causes import QUALITY
from detectors.evidence import Track, pack_alert, unpack_alert
from detectors.settings import Settings
from detectors.signature import Signature, load_catalogue
from detectors.watched import Watched
from telemetry.labels import matches_scope
from telemetry.selectors import Selector
from telemetry.types import Alert, Cause, Events, Incident, IncidentChange, Label, Nanos, Panel, SeriesKey, State

__all__ = ["Grouper"]

SECOND = 1_000_000_000
LIKELY = 0.45
OVER = 0.5
"""The score at a policy's threshold."""


class Grouper:
    """Alerts in (end_ns, id) order in, steps in the lives of incidents out.

    An alert of grade ``alert`` lets a host's evidence become an incident as soon as what one signature requires
    holds; grade ``evidence`` only ever joins. Alerts of a host belong together in time; hosts join where they
    share a flow, hop or feed, or show the same kind at once (a mass event is one incident).

    Parameters
    ----------
    signatures : sequence of Signature, optional
        The catalogue by default.
    memory_s : float
        How long evidence waits for the rest of its signature before an incident is open.
    quiet_s : float
        An incident is resolved when its required evidence has been quiet for so long.
    reopen_s : float
        Evidence of the same kind, or at the same place, within this time of the end re-opens it (flapping).
    next_s : float
        After so long without its own evidence an incident ends as soon as one of another kind begins.
    fade_s : float
        Evidence that comes later than this after the incident's own no longer changes its causes.
    update_s : float
        Least time between two rankings of one incident.
    bypass : sequence of str
        Selectors of series (flows, processes) whose packets do not pass the kernel's network stack.
    expected : sequence of Label, optional
        Silences and expected events (a deploy, a rollover): an incident that opens within one and at an overlapping
        place is kept, as ``info``, and says what was expected.
    facts : mapping of host to (name to value), optional
        Current settings, to fill in changes (see ``changes.fill``), beside what `note` heard of.
    """

    def __init__(
        self,
        signatures: Sequence[Signature] | None = None,
        *,
        memory_s: float = 10.0,
        quiet_s: float = 15.0,
        reopen_s: float = 60.0,
        next_s: float = 5.0,
        fade_s: float = 2.0,
        update_s: float = 0.5,
        bypass: Sequence[str] = (),
        expected: Sequence[Label] = (),
        facts: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.signatures = tuple(load_catalogue() if signatures is None else signatures)
        text = repr([(x.kind, x.evidence) for x in self.signatures])
        self._digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        self._memory, self._quiet = round(memory_s * SECOND), round(quiet_s * SECOND)
        self._reopen, self._update = round(reopen_s * SECOND), round(update_s * SECOND)
        self._next, self._fade = round(next_s * SECOND), round(fade_s * SECOND)
        self._bypass = [Selector.parse(text) for text in bypass]
        self._expected = sorted(expected, key=lambda x: (x.start_ns, x.id))
        self.facts: dict[str, Mapping[str, str]] = dict(facts or {})
        self.settings = Settings()
        self._watched = Watched(self.signatures)
        self._cases: dict[str, Case] = {}
        self._waiting: list[tuple[Nanos, str, Alert]] = []
        self._ended: list[Incident] = []

    # -- what is watched -------------------------------------------------------------------------------------------

    def watch(self, panel: Panel) -> None:
        """Learn which series are watched, and how often: their quiet counts as evidence (exact in event time)."""
        self._watched.watch(panel)

    def know(self, key: SeriesKey, columns: Iterable[str], since_ns: Nanos) -> None:
        """Say that a series is watched since a time."""
        self._watched.know(key, columns, since_ns)

    def note(self, events: Events) -> None:
        """Hear what a batch says of the hosts' settings; changes are filled in with what was in force at the time."""
        self.settings.take(events)

    def _facts(self, case: Case, now: Nanos) -> Mapping[str, str]:
        """What is known of the host of a case; nothing where there are several."""
        if len(case.hosts) != 1:
            return {}
        host = case.hosts[0]
        known = self.settings.facts(host, now)
        if "online" not in known:
            known["online"] = ",".join(self._watched.cpus(host))
        return known | dict(self.facts.get(host, {}))

    # -- the loop --------------------------------------------------------------------------------------------------

    @property
    def open_incidents(self) -> tuple[Incident, ...]:
        """Incidents that are open, oldest first."""
        found = {id(c): c.incident for c in self._cases.values() if c.incident is not None}
        return tuple(sorted(found.values(), key=lambda x: (x.opened_ns, x.id)))

    def push(self, alerts: Iterable[Alert], watermark_ns: Nanos) -> list[IncidentChange]:
        """Take in alerts; decide everything up to `watermark_ns`.

        All alerts that end by the watermark must have been given (what is beyond waits).
        """
        for a in alerts:
            heapq.heappush(self._waiting, (a.end_ns, a.id, a))
        out: list[IncidentChange] = []
        while self._waiting and self._waiting[0][0] <= watermark_ns:
            now = self._waiting[0][0]
            out += self._expire(now - 1)
            tick: dict[str, list[Alert]] = {}
            while self._waiting and self._waiting[0][0] == now:
                alert = heapq.heappop(self._waiting)[2]
                tick.setdefault(alert.series.host, []).append(alert)
            for host in sorted(tick):
                out += self._step(host, tick[host], now)
        return out + self._expire(watermark_ns)

    def _step(self, host: str, alerts: list[Alert], now: Nanos) -> list[IncidentChange]:
        case = self._cases.get(host)
        if case is None:
            case = self._cases[host] = Case([host])
        if case.incident is None:
            case.forget(now, self._memory)
        counted = [alert for alert in alerts if self._take(case, alert)]
        if case.incident is None:
            return self._open(case, now)
        quiet = now - case.live(self.signatures)
        if quiet > self._next:
            return self._follow(case, counted, now)
        if quiet > self._fade or now - case.ranked_ns < self._update:
            return []
        return self._rerank(case, now)

    def _follow(self, case: Case, alerts: list[Alert], now: Nanos) -> list[IncidentChange]:
        """Something else begins while an incident that has gone quiet waits for its end: that one ends now."""
        old = case.incident
        new = case.after(case.live(self.signatures))
        new.forget(now, self._memory)
        for alert in alerts:  # of these channels the first and the strongest may lie before
            new.keep(alert)
        self._put(new)
        out = self._open(new, now) if old is not None else []
        if old is None or not out or out[0].incident.kind == old.kind or out[0].action != "opened":
            self._put(case)
            return []
        return [IncidentChange("resolved", now, self._end(old, now)), *out]

    def _take(self, case: Case, alert: Alert) -> bool:
        """Take an alert in; whether it is evidence that an incident may need."""
        matched = self._watched.items(alert.series, alert.column)
        for name, least, _, _ in QUALITY:
            if alert.series.metric == name and abs(alert.value) >= least:
                case.doubts[name] = alert.end_ns
        if self._bypass:
            if any(s.matches(alert.series) for s in self._bypass):
                case.bypassed = True
            elif alert.series.label("flow") or alert.series.label("process"):
                case.kernel_path = True
        counted = False
        for s, i in matched:
            item = self.signatures[s].evidence[i]
            if not item.counts(alert):
                continue
            key = (s, i, f"{alert.series}\x1f{alert.column}")
            track = case.tracks.get(key)
            if track is None:
                track = case.tracks[key] = Track(alert.series, alert.column, self._watched.window_of(alert))
            track.add(alert, item)
            if item.role == "required" or item.opens:
                counted = True
        if counted:
            case.keep(alert)
            if alert.grade == "alert" or alert.score >= OVER:  # a policy grades the first window of many only
                case.graded_ns = alert.end_ns
        return counted

    def _open(self, case: Case, now: Nanos) -> list[IncidentChange]:
        if now - case.graded_ns > self._memory or not case.graded_ns:
            return []
        ready = case.ready(self.signatures, now)
        if not ready:
            return []
        causes = case.rank(self.signatures, self._watched.known, now)
        kinds = {self.signatures[s].kind for s in ready}
        if not any(c.kind in kinds for c in causes):
            return []
        if causes[0].kind not in kinds and not self._plausible(causes, kinds):
            return []
        case.ranked_ns = case.opened_ns = now
        partner = self._partner(case, causes[0], now)
        if partner is not None:
            self._join(partner, case)
            return self._rerank(partner, now)
        incident = self._foreseen(case.build(self.signatures, causes, self._facts(case, now), now))
        before = self._before(incident, now)
        if before is not None:
            incident = replace(incident, id=before.id, opened_ns=before.opened_ns, onset_ns=before.onset_ns)
            self._ended = [x for x in self._ended if x.id != before.id]
        case.incident = incident
        return [IncidentChange("updated" if before is not None else "opened", now, incident)]

    @staticmethod
    def _plausible(causes: tuple[Cause, ...], kinds: set[str]) -> bool:
        return any(c.kind in kinds and c.confidence >= LIKELY for c in causes)

    def _rerank(self, case: Case, now: Nanos) -> list[IncidentChange]:
        old = case.incident
        if old is None:
            return []
        case.ranked_ns = now
        causes = case.rank(self.signatures, self._watched.known, now)
        new = self._foreseen(case.build(self.signatures, causes, self._facts(case, now), now))
        same = (
            (new.kind, new.severity, new.place) == (old.kind, old.severity, old.place)
            and len(new.causes) == len(old.causes)
            and all(
                a.kind == b.kind and abs(a.confidence - b.confidence) < 0.1
                for a, b in zip(new.causes, old.causes, strict=True)
            )
        )
        if same:
            return []
        case.incident = new
        return [IncidentChange("updated", now, new)]

    def _foreseen(self, incident: Incident) -> Incident:
        """Take the weight off an incident that was to be expected."""
        for x in self._expected:
            inside = x.start_ns <= incident.opened_ns < x.end_ns and matches_scope(x.scope, incident.place)
            if inside and x.kind in ("none", "unknown", incident.kind):
                title = f"expected ({x.note or x.kind}): {incident.title}"
                return replace(incident, severity="info", title=title)
        return incident

    # -- joining and ending ----------------------------------------------------------------------------------------

    def _partner(self, case: Case, top: Cause, now: Nanos) -> Case | None:
        """An open incident of other hosts that this is part of."""
        mine = _paths(case)
        seen: set[int] = set()
        for other in sorted(self._cases.values(), key=lambda c: c.hosts):
            if other is case or other.incident is None or id(other) in seen:
                continue
            seen.add(id(other))
            same_kind = other.incident.kind == top.kind and now - other.incident.opened_ns <= self._memory
            if same_kind or mine & _paths(other):
                return other
        return None

    def _join(self, into: Case, case: Case) -> None:
        into.hosts = sorted({*into.hosts, *case.hosts})
        into.tracks.update(case.tracks)
        for name, alert in case.alerts.items():
            into.alerts.setdefault(name, alert)
        into.doubts |= case.doubts
        self._put(into)

    def _before(self, incident: Incident, now: Nanos) -> Incident | None:
        """The incident that this one continues, if it ended a moment ago."""
        self._ended = [x for x in self._ended if now - (x.resolved_ns or 0) <= self._reopen]
        for old in reversed(self._ended):
            host = {p for p in old.place.split(",") if p.startswith("host=")}
            if host & set(incident.place.split(",")) and (old.kind == incident.kind or old.place == incident.place):
                return old
        return None

    def _expire(self, until: Nanos) -> list[IncidentChange]:
        """Resolve what has been quiet for long enough by `until`."""
        due = []
        for case in {id(c): c for c in self._cases.values()}.values():
            if case.incident is not None:
                at = case.live(self.signatures) + max(self._quiet, 3 * case.slowest())
                if at <= until:
                    due.append((at, case.hosts, case.incident))
        out = []
        for at, hosts, incident in sorted(due, key=lambda x: (x[0], x[1])):
            for host in hosts:
                del self._cases[host]
            out.append(IncidentChange("resolved", at, self._end(incident, at)))
        return out

    def _end(self, incident: Incident, at: Nanos) -> Incident:
        last = replace(incident, state="resolved", updated_ns=at, resolved_ns=at)
        self._ended.append(last)
        return last

    def _put(self, case: Case) -> None:
        for host in case.hosts:
            self._cases[host] = case

    # -- memory ----------------------------------------------------------------------------------------------------

    def snapshot(self) -> State:
        cases = list({id(c): c for c in self._cases.values()}.values())
        body: dict[str, Any] = {
            "cases": [c.pack() for c in cases],
            "waiting": [pack_alert(a) for _, _, a in sorted(self._waiting, key=lambda x: x[:2])],
            "ended": [pack_incident(x) for x in self._ended],
            "settings": self.settings.pack(),
            "catalogue": self._digest,
            **self._watched.pack(),
        }
        return {"json": np.frombuffer(json.dumps(body).encode(), np.uint8).copy()}

    def restore(self, state: State) -> None:
        body = json.loads(bytes(np.asarray(state["json"], np.uint8)))
        same = body["catalogue"] == self._digest
        self._cases = {}
        for row in body["cases"]:
            case = Case.unpack(row)
            if not same:  # evidence of another catalogue has no meaning here; open incidents still come to their end
                case.tracks = {}
            if same or case.incident is not None:
                self._put(case)
        self._waiting = [(a.end_ns, a.id, a) for a in map(unpack_alert, body["waiting"])]
        self._watched.unpack(body, same=same)
        self._ended = [unpack_incident(x) for x in body["ended"]]
        self.settings.unpack(body.get("settings", []))


def _paths(case: Case) -> set[tuple[str, str]]:
    """Flows, feeds and hops that deviate."""
    return {
        (label, alert.series.label(label))
        for alert in case.alerts.values()
        for label in ("flow", "feed")
        if alert.series.label(label)
    }
