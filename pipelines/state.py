"""The transaction: alerts, incident changes, outbox rows and the watermark of emission commit together.

SQLite (WAL) by default, PostgreSQL by URL. Model state is not here: it lies in checkpoint files, and only their
pointer, digest and offset are committed (design decision 8).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import sqlalchemy as sa

from pipelines import tables as t
from pipelines.codec import encode
from pipelines.database import BUSY_MS
from pipelines.findings import SHADOW
from pipelines.outbox import Outbox
from pipelines.versions import Champion, Versions
from telemetry.errors import StoreError
from telemetry.types import Alert, Incident, IncidentChange, Nanos

__all__ = ["SHADOW", "Champion", "Checkpoint", "LeaseLost", "StateDB"]


class LeaseLost(StoreError):
    """Another job has taken the partition over: what this one found must not be committed."""

    exit_code = 75


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A pointer to saved model state; `meta` holds the offsets up to which its input was read."""

    path: str
    digest: str
    meta: Mapping[str, Any]


def change_id(change: IncidentChange) -> str:
    """The same step of the same incident has the same id, whoever computes it again."""
    text = f"{change.incident.id}\x00{change.action}\x00{change.at_ns}".encode()
    return hashlib.blake2b(text, digest_size=12).hexdigest()


class StateDB(Versions):
    """The state database: everything that `Versions` and `Findings` read, and the step that commits it.

    Parameters and errors are those of `pipelines.database.Database`.
    """

    def __init__(self, url: str | os.PathLike[str], *, create: bool = True, busy_ms: int = BUSY_MS) -> None:
        super().__init__(url, create=create, busy_ms=busy_ms)
        self.outbox = Outbox(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the step ------------------------------------------------------------------------------------------------

    def commit(
        self,
        part: str,
        alerts: Sequence[Alert],
        changes: Sequence[IncidentChange],
        *,
        watermark_ns: Nanos,
        offsets: Mapping[str, Nanos] | None = None,
        sinks: Sequence[str] = (),
        shadows: Sequence[Alert] = (),
        now_ns: Nanos = 0,
        owner: str | None = None,
    ) -> int:
        """Commit a step; what is stored already (same id) is left as it is. Returns the number of new changes.

        An outbox row is made for each new incident change and sink. `shadows` are challengers' alerts: kept apart.

        Raises
        ------
        LeaseLost
            `owner` is given and no longer holds the partition's lease: nothing is committed.
        """
        with self.transaction() as c:
            rows = [_alert_row(part, a) for a in alerts]
            rows += [{**_alert_row(part, a), "id": f"{SHADOW}-{a.id}", "grade": SHADOW} for a in shadows]
            if rows:
                c.execute(self._ignore(t.alerts), rows)
            fresh = self._fresh(c, changes)
            for change in fresh:
                c.execute(
                    sa.insert(t.changes),
                    {
                        "id": change_id(change), "incident_id": change.incident.id, "part": part,
                        "action": change.action, "at_ns": change.at_ns, "body": encode(change.incident),
                    },
                )  # fmt: skip
                self._put_incident(c, part, change.incident)
                rows = [{"sink": s, "key": change_id(change), "body": _message(change)} for s in sinks]
                if rows:
                    c.execute(self._ignore(t.outbox), rows)
            self._touch(c, part)
            values: dict[str, Any] = {"watermark_ns": watermark_ns, "updated_ns": now_ns}
            if offsets is not None:
                values["offsets"] = json.dumps(dict(offsets))
            self._set(c, part, owner, values)
        return len(fresh)

    def _set(self, c: sa.Connection, part: str, owner: str | None, values: Mapping[str, Any]) -> None:
        p = t.partitions.c
        mine = p.name == part if owner is None else (p.name == part) & (p.lease_owner == owner)
        if not c.execute(sa.update(t.partitions).where(mine).values(**values)).rowcount:
            raise LeaseLost(f"partition {part!r} was taken over by another job; this one stops")

    def _fresh(self, c: sa.Connection, changes: Sequence[IncidentChange]) -> list[IncidentChange]:
        if not changes:
            return []
        ids = [change_id(x) for x in changes]
        stored = set(c.execute(sa.select(t.changes.c.id).where(t.changes.c.id.in_(ids))).scalars())
        fresh, seen = [], set(stored)
        for change, key in zip(changes, ids, strict=True):
            if key not in seen:
                seen.add(key)
                fresh.append(change)
        return fresh

    def _put_incident(self, c: sa.Connection, part: str, incident: Incident) -> None:
        c.execute(sa.delete(t.incidents).where(t.incidents.c.id == incident.id))
        c.execute(
            sa.insert(t.incidents),
            {
                "id": incident.id, "part": part, "state": incident.state, "kind": incident.kind,
                "severity": incident.severity, "onset_ns": incident.onset_ns, "updated_ns": incident.updated_ns,
                "body": encode(incident),
            },
        )  # fmt: skip

    def _touch(self, c: sa.Connection, part: str) -> None:
        c.execute(self._ignore(t.partitions), [{"name": part}])

    # -- where a partition stands -----------------------------------------------------------------------------------

    def progress(self, part: str) -> tuple[Nanos, dict[str, Nanos]]:
        """Watermark of emission and offsets up to which steps are committed (0, {} for a new partition)."""
        p = t.partitions.c
        with self.look() as c:
            row = c.execute(sa.select(p.watermark_ns, p.offsets).where(p.name == part)).first()
        return (0, {}) if row is None else (int(row[0]), json.loads(row[1]))

    def parts(self) -> list[dict[str, Any]]:
        """Every partition with all its columns."""
        with self.look() as c:
            return [dict(r) for r in c.execute(sa.select(t.partitions).order_by(t.partitions.c.name)).mappings()]

    def checkpoint(self, part: str) -> Checkpoint | None:
        with self.look() as c:
            r = c.execute(sa.select(t.partitions).where(t.partitions.c.name == part)).mappings().first()
        if r is None or not r["checkpoint_path"]:
            return None
        return Checkpoint(r["checkpoint_path"], r["checkpoint_digest"], json.loads(r["checkpoint_meta"]))

    def set_checkpoint(self, part: str, checkpoint: Checkpoint | None, *, owner: str | None = None) -> None:
        """Point at saved state (with `owner`: only while it holds the lease, else `LeaseLost`)."""
        values = {
            "checkpoint_path": checkpoint and checkpoint.path,
            "checkpoint_digest": checkpoint and checkpoint.digest,
            "checkpoint_meta": json.dumps(dict(checkpoint.meta)) if checkpoint else None,
        }
        with self.transaction() as c:
            self._touch(c, part)
            self._set(c, part, owner, values)

    def lease(self, part: str, owner: str, now_ns: Nanos, until_ns: Nanos) -> bool:
        """Take or renew the lease of a partition; False while another owner holds it."""
        p = t.partitions.c
        free = sa.or_(p.lease_owner.is_(None), p.lease_owner == owner, p.lease_until_ns < now_ns)
        with self.transaction() as c:
            self._touch(c, part)
            done = c.execute(
                sa.update(t.partitions).where(p.name == part, free).values(lease_owner=owner, lease_until_ns=until_ns)
            )
        return bool(done.rowcount)

    def release(self, part: str, owner: str) -> None:
        p = t.partitions.c
        with self.transaction() as c:
            c.execute(
                sa.update(t.partitions)
                .where(p.name == part, p.lease_owner == owner)
                .values(lease_owner=None, lease_until_ns=None)
            )


def _alert_row(part: str, a: Alert) -> dict[str, Any]:
    return {
        "id": a.id, "part": part, "detector": a.detector, "version": a.version, "kind": a.kind,
        "host": a.series.host, "end_ns": a.end_ns, "grade": a.grade, "surprise": _finite(a.surprise),
        "body": encode(a),
    }  # fmt: skip


def _message(change: IncidentChange) -> str:
    return json.dumps({"action": change.action, "at_ns": change.at_ns, "incident": json.loads(encode(change.incident))})


def _finite(x: float) -> float | None:
    return x if x == x and abs(x) != float("inf") else None
