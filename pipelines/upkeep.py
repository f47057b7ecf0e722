"""Care of the state database: what is too old goes, backups, restoring one."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from pipelines import tables as t
from pipelines.state import StateDB
from telemetry.errors import ConfigError, StoreError
from telemetry.types import Nanos

__all__ = ["backup", "restore_backup", "trim"]


def trim(db: StateDB, before_ns: Nanos, *, evidence_before_ns: Nanos | None = None) -> dict[str, int]:
    """Remove alerts, resolved incidents (with their steps) and delivered messages older than `before_ns`.

    Evidence (alerts that can only join an incident, which keeps its own) older than `evidence_before_ns` goes too.
    """
    old = sa.select(t.incidents.c.id).where(t.incidents.c.state == "resolved", t.incidents.c.updated_ns < before_ns)
    deletions = {
        "incident steps": sa.delete(t.changes).where(t.changes.c.incident_id.in_(old)),
        "incidents": sa.delete(t.incidents).where(t.incidents.c.id.in_(old)),
        "alerts": sa.delete(t.alerts).where(t.alerts.c.end_ns < before_ns),
        "messages": sa.delete(t.outbox).where(t.outbox.c.state == "delivered"),
        "notes": sa.delete(t.notes).where(t.notes.c.at_ns < before_ns),
    }
    if evidence_before_ns is not None:
        weak = (t.alerts.c.grade == "evidence") & (t.alerts.c.end_ns < evidence_before_ns)
        deletions["evidence"] = sa.delete(t.alerts).where(weak)
    with db.transaction() as c:
        return {what: int(c.execute(d).rowcount) for what, d in deletions.items()}


def backup(db: StateDB, target: str) -> None:
    """Copy a live SQLite database to a new file.

    Raises
    ------
    ConfigError
        The database is not SQLite, or `target` exists.
    """
    if db.sqlite_path is None:
        raise ConfigError("state backup: for PostgreSQL use pg_dump")
    if Path(target).exists():
        raise ConfigError(f"state backup: {target} is there already")
    try:
        with closing(sqlite3.connect(db.sqlite_path)) as live, closing(sqlite3.connect(target)) as copy:
            live.backup(copy)
    except sqlite3.Error as error:
        raise StoreError(f"{target}: cannot be written: {error}") from None


def restore_backup(url: str, source: str) -> str:
    """Put the SQLite file `source` in the place of the database `url`; the old one stays as ``.before``.

    Raises
    ------
    StoreError
        `source` is not a Tailwatch state database.
    """
    if "://" in url and not url.startswith("sqlite:///"):
        raise ConfigError("state restore: for PostgreSQL use pg_restore")
    path = Path(url.removeprefix("sqlite:///"))
    fresh = path.with_name(path.name + ".new")
    with StateDB(source, create=False) as kept:
        fresh.unlink(missing_ok=True)
        backup(kept, str(fresh))
    if path.exists():
        os.replace(path, path.with_name(path.name + ".before"))
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    os.replace(fresh, path)
    return str(path)
