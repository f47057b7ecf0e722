"""Care of the state database: what is too old goes, backups, restoring one."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pipelines import tables as t
from pipelines.state import StateDB
from telemetry.errors import ConfigError, StoreError
from telemetry.types import Nanos

AT_ONCE = 2_000

__all__ = ["backup", "restore_backup", "trim"]


def trim(db: StateDB, before_ns: Nanos, *, evidence_before_ns: Nanos | None = None) -> dict[str, int]:
    """Remove alerts, resolved incidents (with their steps) and delivered messages older than `before_ns`.

    Evidence (alerts that can only join an incident, which keeps its own) older than `evidence_before_ns` goes too.
    """
    a, i, ch, o, n = (x.c for x in (t.alerts, t.incidents, t.changes, t.outbox, t.notes))
    ended = (i.state == "resolved") & (i.updated_ns < before_ns)
    chosen: list[tuple[str, sa.Table, sa.Column[Any], Any]] = [
        ("incident steps", t.changes, ch.id, ch.incident_id.in_(sa.select(i.id).where(ended))),
        ("incidents", t.incidents, i.id, ended),
        ("alerts", t.alerts, a.id, a.end_ns < before_ns),
        ("messages", t.outbox, o.seq, (o.state == "delivered") & (o.next_ns < before_ns)),
        ("notes", t.notes, n.seq, n.at_ns < before_ns),
    ]
    if evidence_before_ns is not None:
        chosen.append(("evidence", t.alerts, a.id, (a.grade == "evidence") & (a.end_ns < evidence_before_ns)))
    return {what: _remove(db, table, key, which) for what, table, key, which in chosen}


def _remove(db: StateDB, table: sa.Table, key: sa.Column[Any], which: Any) -> int:
    """Delete in small transactions, so that a job's commit waits for milliseconds."""
    removed = 0
    while True:
        with db.transaction() as c:
            some = sa.select(key).where(which).limit(AT_ONCE)
            n = int(c.execute(sa.delete(table).where(key.in_(some))).rowcount)
        removed += n
        if n < AT_ONCE:
            return removed


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


def restore_backup(url: str, source: str) -> tuple[str, str | None]:
    """Put the SQLite file `source` in the place of the database `url`.

    Returns the database's path and where the old one stays, if there was one: ``.before``, ``.before2``, ...

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
    before = None
    if path.exists():
        names = (path.with_name(f"{path.name}.before{n if n > 1 else ''}") for n in count(1))
        before = next(name for name in names if not name.exists())
        os.replace(path, before)
        for suffix in ("-wal", "-shm"):  # a job that was killed left its last commits there
            if (log := path.with_name(path.name + suffix)).exists():
                os.replace(log, before.with_name(before.name + suffix))
    os.replace(fresh, path)
    return str(path), None if before is None else str(before)
