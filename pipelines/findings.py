"""What was found, as it is read again: alerts, incidents and their lives, labels, notes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from pipelines import tables as t
from pipelines.codec import decode_alert, decode_incident
from pipelines.database import Database
from telemetry.errors import ConfigError
from telemetry.types import Alert, Incident, Label, Nanos

__all__ = ["SHADOW", "Findings"]

SHADOW = "shadow"
"""The grade under which challengers' alerts are kept."""


class Findings(Database):
    """Reads what steps have committed; writes labels and notes."""

    def alerts(
        self, from_ns: Nanos = 0, to_ns: Nanos = 2**62, *, detector: str | None = None, shadow: bool = False
    ) -> list[Alert]:
        """Alerts with ``from_ns <= end_ns < to_ns``, in (end_ns, id) order; `shadow`: the challengers' instead."""
        a = t.alerts.c
        query = sa.select(a.body).where(a.end_ns >= from_ns, a.end_ns < to_ns).order_by(a.end_ns, a.id)
        query = query.where(a.grade == SHADOW if shadow else a.grade != SHADOW)
        if detector is not None:
            query = query.where(a.detector == detector)
        with self.look() as c:
            return [decode_alert(body) for body in c.execute(query).scalars()]

    def incidents(
        self, from_ns: Nanos = 0, to_ns: Nanos = 2**62, *, state: str | None = None, limit: int | None = None
    ) -> list[Incident]:
        """Incidents by onset, newest first."""
        i = t.incidents.c
        query = sa.select(i.body).where(i.onset_ns >= from_ns, i.onset_ns < to_ns).order_by(i.onset_ns.desc(), i.id)
        if state is not None:
            query = query.where(i.state == state)
        with self.look() as c:
            return [decode_incident(body) for body in c.execute(query.limit(limit)).scalars()]

    def incident(self, id_: str) -> Incident:
        """One incident by its id or a unique beginning of it.

        Raises
        ------
        ConfigError
            None, or several, begin so.
        """
        i = t.incidents.c
        with self.look() as c:
            found = c.execute(sa.select(i.id, i.body).where(i.id.startswith(id_, autoescape=True)).limit(3)).all()
        if len(found) != 1:
            raise ConfigError(f"incident {id_!r}: expected one, found {'none' if not found else 'several'}")
        return decode_incident(found[0][1])

    def history(self, id_: str) -> list[tuple[Nanos, str, Incident]]:
        """The life of an incident: (at_ns, action, the incident then)."""
        ch = t.changes.c
        query = sa.select(ch.at_ns, ch.action, ch.body).where(ch.incident_id == id_).order_by(ch.at_ns)
        with self.look() as c:
            return [(int(at), action, decode_incident(body)) for at, action, body in c.execute(query)]

    def put_label(self, label: Label, *, real: bool = True) -> None:
        """Write or replace a label; `real` False says that an incident was a false alarm."""
        with self.transaction() as c:
            c.execute(sa.delete(t.labels).where(t.labels.c.id == label.id))
            c.execute(
                sa.insert(t.labels),
                {
                    "id": label.id, "kind": label.kind, "scope": label.scope, "start_ns": label.start_ns,
                    "end_ns": label.end_ns, "known_ns": label.known_ns, "real": int(real),
                    "source": label.source, "note": label.note,
                },
            )  # fmt: skip

    def labels(self, *, real: bool = True) -> list[Label]:
        """Labels by start."""
        query = sa.select(t.labels).where(t.labels.c.real == int(real)).order_by(t.labels.c.start_ns)
        with self.look() as c:
            return [
                Label(r["id"], r["kind"], r["scope"], r["start_ns"], r["end_ns"], r["known_ns"], r["source"], r["note"])
                for r in c.execute(query).mappings()
            ]

    def note(self, part: str, at_ns: Nanos, what: str, body: Mapping[str, Any]) -> None:
        """Record something that happened to Tailwatch itself (a gap in the input, a refused state)."""
        with self.transaction() as c:
            c.execute(sa.insert(t.notes), {"part": part, "at_ns": at_ns, "what": what, "body": json.dumps(dict(body))})

    def notes(self, limit: int = 100, *, what: str | None = None) -> list[dict[str, Any]]:
        """The latest first; of one sort if `what` names it."""
        query = sa.select(t.notes).order_by(t.notes.c.seq.desc()).limit(limit)
        if what is not None:
            query = query.where(t.notes.c.what == what)
        with self.look() as c:
            return [dict(r) for r in c.execute(query).mappings()]
