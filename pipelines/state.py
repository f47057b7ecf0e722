"""The transaction: alerts, incident changes, outbox rows and the watermark of emission commit together.

SQLite (WAL) by default, PostgreSQL by URL. Model state is not here: it lies in checkpoint files, and only their
pointer, digest and offset are committed (design decision 8).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError

from pipelines import tables as t
from pipelines.codec import decode_alert, decode_incident, encode
from pipelines.outbox import Outbox
from telemetry.errors import ConfigError, StoreError
from telemetry.types import Alert, Incident, IncidentChange, Label, Nanos

__all__ = ["Champion", "Checkpoint", "StateDB"]


Role = Literal["champion", "challenger"]
SHADOW = "shadow"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A pointer to saved model state; `meta` holds the offsets up to which its input was read."""

    path: str
    digest: str
    meta: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Champion:
    """The version of a detector that scores live; `path` and `digest` are of its state (npz) or None."""

    detector: str
    version: str
    spec: Mapping[str, Any]
    path: str | None
    digest: str | None
    since_ns: Nanos


def change_id(change: IncidentChange) -> str:
    """The same step of the same incident has the same id, whoever computes it again."""
    text = f"{change.incident.id}\x00{change.action}\x00{change.at_ns}".encode()
    return hashlib.blake2b(text, digest_size=12).hexdigest()


class StateDB:
    """The state database.

    Parameters
    ----------
    url : str
        A path of an SQLite file or an SQLAlchemy URL.

    Raises
    ------
    StoreError
        It cannot be opened, or was written by a newer Tailwatch.
    """

    def __init__(self, url: str | os.PathLike[str], *, create: bool = True) -> None:
        text = os.fspath(url)
        self.url = text if "://" in text else f"sqlite:///{text}"
        self._sqlite = self.url.startswith("sqlite")
        self.outbox = Outbox(self)
        path = self.url.removeprefix("sqlite:///").partition("?")[0] if self._sqlite else ""
        if path and not create and not Path(path).exists():
            raise StoreError(f"{path}: no state database there (run 'tailwatch score' or 'tailwatch demo' first)")
        try:
            if path and Path(path).parent != Path():
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._engine = sa.create_engine(self.url, poolclass=sa.pool.NullPool)
        except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ModuleNotFoundError) as error:
            raise ConfigError(f"state: {self._safe()}: {error}") from None
        except OSError as error:
            raise StoreError(f"{path}: cannot be made: {error.strerror}") from None
        if self._sqlite:
            sa.event.listen(self._engine, "connect", _sqlite_connect)
            sa.event.listen(self._engine, "begin", _sqlite_begin)
        try:
            self._conn = self._engine.connect()
            self._migrate()
        except DBAPIError as error:
            raise StoreError(f"state: {self._safe()}: {str(error.orig).strip().splitlines()[0]}") from None

    @property
    def sqlite_path(self) -> str | None:
        """The file of an SQLite database; None for another kind."""
        return self.url.removeprefix("sqlite:///").partition("?")[0] if self._sqlite else None

    def _safe(self) -> str:
        return sa.make_url(self.url).render_as_string(hide_password=True)

    def _migrate(self) -> None:
        try:
            with self.transaction() as c:
                found = c.execute(sa.text("select version_num from alembic_version")).scalar()
        except (OperationalError, sa.exc.ProgrammingError):
            found = None
        if found == t.HEAD:
            return
        if found is not None and found > t.HEAD:
            raise StoreError(f"state: {self._safe()}: schema {found} is newer than {t.HEAD}; upgrade Tailwatch")
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
        with self.transaction() as c:
            config.attributes["connection"] = c
            command.upgrade(config, "head")

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """One transaction; on an error nothing of it stays."""
        with self._conn.begin():
            yield self._conn

    def close(self) -> None:
        self._conn.close()
        self._engine.dispose()

    def __enter__(self) -> StateDB:
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
    ) -> int:
        """Commit a step; what is stored already (same id) is left as it is. Returns the number of new changes.

        An outbox row is made for each new incident change and sink. `shadows` are challengers' alerts: kept apart.
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
            c.execute(sa.update(t.partitions).where(t.partitions.c.name == part).values(**values))
        return len(fresh)

    def _ignore(self, table: sa.Table) -> Any:
        if self._sqlite:
            return sa.insert(table).prefix_with("OR IGNORE")
        from sqlalchemy.dialects.postgresql import insert

        return insert(table).on_conflict_do_nothing()

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
        with self.transaction() as c:
            row = c.execute(sa.select(p.watermark_ns, p.offsets).where(p.name == part)).first()
        return (0, {}) if row is None else (int(row[0]), json.loads(row[1]))

    def parts(self) -> list[dict[str, Any]]:
        """Every partition with all its columns."""
        with self.transaction() as c:
            return [dict(r) for r in c.execute(sa.select(t.partitions).order_by(t.partitions.c.name)).mappings()]

    def checkpoint(self, part: str) -> Checkpoint | None:
        with self.transaction() as c:
            r = c.execute(sa.select(t.partitions).where(t.partitions.c.name == part)).mappings().first()
        if r is None or not r["checkpoint_path"]:
            return None
        return Checkpoint(r["checkpoint_path"], r["checkpoint_digest"], json.loads(r["checkpoint_meta"]))

    def set_checkpoint(self, part: str, checkpoint: Checkpoint | None) -> None:
        values = {
            "checkpoint_path": checkpoint and checkpoint.path,
            "checkpoint_digest": checkpoint and checkpoint.digest,
            "checkpoint_meta": json.dumps(dict(checkpoint.meta)) if checkpoint else None,
        }
        with self.transaction() as c:
            self._touch(c, part)
            c.execute(sa.update(t.partitions).where(t.partitions.c.name == part).values(**values))

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

    # -- what was found ----------------------------------------------------------------------------------------------

    def alerts(
        self, from_ns: Nanos = 0, to_ns: Nanos = 2**62, *, detector: str | None = None, shadow: bool = False
    ) -> list[Alert]:
        """Alerts with ``from_ns <= end_ns < to_ns``, in (end_ns, id) order; `shadow`: the challengers' instead."""
        a = t.alerts.c
        query = sa.select(a.body).where(a.end_ns >= from_ns, a.end_ns < to_ns).order_by(a.end_ns, a.id)
        query = query.where(a.grade == SHADOW if shadow else a.grade != SHADOW)
        if detector is not None:
            query = query.where(a.detector == detector)
        with self.transaction() as c:
            return [decode_alert(body) for body in c.execute(query).scalars()]

    def shadow_report(self, from_ns: Nanos, to_ns: Nanos) -> list[dict[str, Any]]:
        """Champion against challenger over a time: alerts (grade ``alert``) of each, and how many both gave."""
        out = []
        for challenger in self.champions("challenger"):
            name = challenger.detector
            live = {a.id for a in self.alerts(from_ns, to_ns, detector=name) if a.grade == "alert"}
            dark = {a.id for a in self.alerts(from_ns, to_ns, detector=name, shadow=True) if a.grade == "alert"}
            champion = next((c.version for c in self.champions() if c.detector == name), "0")
            out.append(
                {
                    "detector": name,
                    "champion": champion,
                    "challenger": challenger.version,
                    "champion_alerts": len(live),
                    "challenger_alerts": len(dark),
                    "both": len(live & dark),
                }
            )
        return out

    def incidents(
        self, from_ns: Nanos = 0, to_ns: Nanos = 2**62, *, state: str | None = None, limit: int | None = None
    ) -> list[Incident]:
        """Incidents by onset, newest first."""
        i = t.incidents.c
        query = sa.select(i.body).where(i.onset_ns >= from_ns, i.onset_ns < to_ns).order_by(i.onset_ns.desc(), i.id)
        if state is not None:
            query = query.where(i.state == state)
        with self.transaction() as c:
            return [decode_incident(body) for body in c.execute(query.limit(limit)).scalars()]

    def incident(self, id_: str) -> Incident:
        """One incident by its id or a unique beginning of it.

        Raises
        ------
        ConfigError
            None, or several, begin so.
        """
        i = t.incidents.c
        with self.transaction() as c:
            found = c.execute(sa.select(i.id, i.body).where(i.id.startswith(id_, autoescape=True)).limit(3)).all()
        if len(found) != 1:
            raise ConfigError(f"incident {id_!r}: expected one, found {'none' if not found else 'several'}")
        return decode_incident(found[0][1])

    def history(self, id_: str) -> list[tuple[Nanos, str, Incident]]:
        """The life of an incident: (at_ns, action, the incident then)."""
        ch = t.changes.c
        query = sa.select(ch.at_ns, ch.action, ch.body).where(ch.incident_id == id_).order_by(ch.at_ns)
        with self.transaction() as c:
            return [(int(at), action, decode_incident(body)) for at, action, body in c.execute(query)]

    # -- labels ------------------------------------------------------------------------------------------------------

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
        with self.transaction() as c:
            return [
                Label(r["id"], r["kind"], r["scope"], r["start_ns"], r["end_ns"], r["known_ns"], r["source"], r["note"])
                for r in c.execute(query).mappings()
            ]

    # -- champions ---------------------------------------------------------------------------------------------------

    def champions(self, role: Role = "champion") -> list[Champion]:
        """What scores live, by detector name; challengers score in its shadow without alerting."""
        ch = t.champions
        with self.transaction() as c:
            query = sa.select(ch).where(ch.c.role == role).order_by(ch.c.detector)
            rows = c.execute(query).mappings().all()
        return [
            Champion(r["detector"], r["version"], json.loads(r["spec"]), r["path"], r["digest"], int(r["since_ns"]))
            for r in rows
        ]

    def promote(self, champion: Champion, *, who: str, why: str, verdict: str = "") -> str | None:
        """Make it the champion and record who, when, why. Returns the version before."""
        with self.transaction() as c:
            before = self._put_version(c, champion, "champion")
            same = (t.champions.c.role == "challenger") & (t.champions.c.version == champion.version)
            c.execute(sa.delete(t.champions).where(t.champions.c.detector == champion.detector, same))
            row = _version_row(champion)
            c.execute(
                sa.insert(t.promotions),
                {**row, "before": before, "who": who, "why": why, "verdict": verdict, "at_ns": champion.since_ns},
            )
        return before

    def challenge(self, challenger: Champion) -> None:
        """Let a version score live in the champion's shadow: it is stored, and never alerts."""
        with self.transaction() as c:
            self._put_version(c, challenger, "challenger")

    def _put_version(self, c: sa.Connection, version: Champion, role: Role) -> str | None:
        ch = t.champions
        mine = (ch.c.detector == version.detector) & (ch.c.role == role)
        before: str | None = c.execute(sa.select(ch.c.version).where(mine)).scalar()
        c.execute(sa.delete(ch).where(mine))
        c.execute(sa.insert(ch), {**_version_row(version), "role": role, "since_ns": version.since_ns})
        return before

    def promotions(self, detector: str | None = None) -> list[dict[str, Any]]:
        """What was in production when, oldest first."""
        query = sa.select(t.promotions).order_by(t.promotions.c.seq)
        if detector is not None:
            query = query.where(t.promotions.c.detector == detector)
        with self.transaction() as c:
            return [dict(r) for r in c.execute(query).mappings()]

    def note(self, part: str, at_ns: Nanos, what: str, body: Mapping[str, Any]) -> None:
        """Record something that happened to Tailwatch itself (a gap in the input, a refused state)."""
        with self.transaction() as c:
            c.execute(sa.insert(t.notes), {"part": part, "at_ns": at_ns, "what": what, "body": json.dumps(dict(body))})

    def notes(self, limit: int = 100) -> list[dict[str, Any]]:
        with self.transaction() as c:
            return [
                dict(r) for r in c.execute(sa.select(t.notes).order_by(t.notes.c.seq.desc()).limit(limit)).mappings()
            ]


def _alert_row(part: str, a: Alert) -> dict[str, Any]:
    return {
        "id": a.id, "part": part, "detector": a.detector, "version": a.version, "kind": a.kind,
        "host": a.series.host, "end_ns": a.end_ns, "grade": a.grade, "surprise": _finite(a.surprise),
        "body": encode(a),
    }  # fmt: skip


def _version_row(version: Champion) -> dict[str, Any]:
    spec = json.dumps(dict(version.spec), sort_keys=True)
    return {
        "detector": version.detector,
        "version": version.version,
        "spec": spec,
        "path": version.path,
        "digest": version.digest,
    }


def _message(change: IncidentChange) -> str:
    return json.dumps({"action": change.action, "at_ns": change.at_ns, "incident": json.loads(encode(change.incident))})


def _finite(x: float) -> float | None:
    return x if x == x and abs(x) != float("inf") else None


def _sqlite_connect(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # our own BEGIN, below
    cursor = connection.cursor()
    for pragma in ("busy_timeout=10000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _sqlite_begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
