"""The connection: SQLite (WAL) by default, PostgreSQL by URL; migrations, and errors in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError

from pipelines import tables as t
from telemetry.errors import ConfigError, StoreError

__all__ = ["Database"]

BUSY_MS = 10_000


class Database:
    """A state database: connection, schema, transactions.

    Parameters
    ----------
    url : str
        A path of an SQLite file or an SQLAlchemy URL.
    create : bool
        Make an SQLite file that is not there; otherwise its absence is an error.
    busy_ms : int
        How long an SQLite transaction waits for another's lock.

    Raises
    ------
    StoreError
        It cannot be opened, or was written by a newer Tailwatch.
    """

    def __init__(self, url: str | os.PathLike[str], *, create: bool = True, busy_ms: int = BUSY_MS) -> None:
        text = os.fspath(url)
        self.url = text if "://" in text else f"sqlite:///{text}"
        self._sqlite = self.url.startswith("sqlite")
        self._begin = "BEGIN IMMEDIATE"
        path = self.sqlite_path or ""
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
            self._busy_ms = busy_ms
            sa.event.listen(self._engine, "connect", self._sqlite_connect)
            sa.event.listen(self._engine, "begin", self._sqlite_begin)
        try:
            self._conn = self._engine.connect()
        except DBAPIError as error:
            raise self._trouble(error) from None
        try:
            self._migrate()
        except BaseException:
            Database.close(self)
            raise

    @property
    def sqlite_path(self) -> str | None:
        """The file of an SQLite database; None for another kind."""
        return self.url.removeprefix("sqlite:///").partition("?")[0] if self._sqlite else None

    def _safe(self) -> str:
        return sa.make_url(self.url).render_as_string(hide_password=True)

    def _trouble(self, error: DBAPIError) -> StoreError:
        return StoreError(f"state: {self._safe()}: {str(error.orig).strip().splitlines()[0]}")

    def _migrate(self) -> None:
        try:
            with self._conn.begin():
                found = self._conn.execute(sa.text("select version_num from alembic_version")).scalar()
        except (OperationalError, sa.exc.ProgrammingError) as error:
            if not _no_table(error):
                raise self._trouble(error) from None
            found = None
        except DBAPIError as error:
            raise self._trouble(error) from None
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
        """One transaction; on an error nothing of it stays. A lost connection is made anew by the next one.

        Raises
        ------
        StoreError
            The database is away, locked, full or read-only.
        """
        try:
            with self._conn.begin():
                yield self._conn
        except DBAPIError as error:
            raise self._trouble(error) from error

    @contextmanager
    def look(self) -> Iterator[sa.Connection]:
        """A transaction that only reads: in SQLite it neither waits for a writer nor holds one up."""
        self._begin = "BEGIN"
        try:
            with self.transaction() as c:
                yield c
        finally:
            self._begin = "BEGIN IMMEDIATE"

    def close(self) -> None:
        self._conn.close()
        self._engine.dispose()

    def _ignore(self, table: sa.Table) -> Any:
        """An insert that leaves what is there already."""
        if self._sqlite:
            return sa.insert(table).prefix_with("OR IGNORE")
        from sqlalchemy.dialects.postgresql import insert

        return insert(table).on_conflict_do_nothing()

    def _sqlite_begin(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql(self._begin)

    def _sqlite_connect(self, connection: Any, _: Any) -> None:
        connection.isolation_level = None  # our own BEGIN, below
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout={self._busy_ms}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON",
            f"journal_size_limit={64 << 20}",
        ):  # fmt: skip
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()


def _no_table(error: DBAPIError) -> bool:
    return "no such table" in str(error.orig) or getattr(error.orig, "sqlstate", "") == "42P01"
