"""The tables of the state database (SQLAlchemy Core); `migrations/` makes them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, MetaData, String, Table, Text, UniqueConstraint

__all__ = ["HEAD", "metadata"]

HEAD = "0001"
"""The migration that this code needs."""

metadata = MetaData()
_serial = BigInteger().with_variant(Integer, "sqlite")

partitions = Table(
    "partitions",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("watermark_ns", BigInteger, nullable=False, server_default="0"),
    Column("offsets", Text, nullable=False, server_default="{}"),
    Column("checkpoint_path", Text),
    Column("checkpoint_digest", String(64)),
    Column("checkpoint_meta", Text),
    Column("updated_ns", BigInteger),
    Column("lease_owner", String(255)),
    Column("lease_until_ns", BigInteger),
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("part", String(255), nullable=False),
    Column("detector", String(255), nullable=False),
    Column("version", String(64), nullable=False),
    Column("kind", String(64), nullable=False),
    Column("host", String(255), nullable=False),
    Column("end_ns", BigInteger, nullable=False),
    Column("grade", String(16), nullable=False),
    Column("surprise", Float),
    Column("body", Text, nullable=False),
    Index("alerts_by_time", "end_ns"),
)

incidents = Table(
    "incidents",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("part", String(255), nullable=False),
    Column("state", String(16), nullable=False),
    Column("kind", String(64), nullable=False),
    Column("severity", String(16), nullable=False),
    Column("onset_ns", BigInteger, nullable=False),
    Column("updated_ns", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    Index("incidents_by_time", "onset_ns"),
)

changes = Table(
    "incident_changes",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("incident_id", String(64), nullable=False),
    Column("part", String(255), nullable=False),
    Column("action", String(16), nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("seq", _serial, primary_key=True, autoincrement=True),
    Column("sink", String(64), nullable=False),
    Column("key", String(64), nullable=False),
    Column("body", Text, nullable=False),
    Column("state", String(16), nullable=False, server_default="due"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_ns", BigInteger, nullable=False, server_default="0"),
    Column("error", Text),
    UniqueConstraint("sink", "key", name="outbox_once"),
    Index("outbox_due", "state", "sink", "next_ns"),
)

champions = Table(
    "champions",
    metadata,
    Column("detector", String(255), primary_key=True),
    Column("role", String(16), primary_key=True, server_default="champion"),
    Column("version", String(64), nullable=False),
    Column("spec", Text, nullable=False),
    Column("path", Text),
    Column("digest", String(64)),
    Column("since_ns", BigInteger, nullable=False),
)

promotions = Table(
    "promotions",
    metadata,
    Column("seq", _serial, primary_key=True, autoincrement=True),
    Column("detector", String(255), nullable=False),
    Column("version", String(64), nullable=False),
    Column("before", String(64)),
    Column("who", String(255), nullable=False),
    Column("why", Text, nullable=False),
    Column("verdict", Text),
    Column("at_ns", BigInteger, nullable=False),
    Column("spec", Text, nullable=False),
    Column("path", Text),
    Column("digest", String(64)),
)

labels = Table(
    "labels",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("kind", String(64), nullable=False),
    Column("scope", Text, nullable=False),
    Column("start_ns", BigInteger, nullable=False),
    Column("end_ns", BigInteger, nullable=False),
    Column("known_ns", BigInteger, nullable=False),
    Column("real", Integer, nullable=False),
    Column("source", Text, nullable=False),
    Column("note", Text, nullable=False),
)

notes = Table(
    "notes",
    metadata,
    Column("seq", _serial, primary_key=True, autoincrement=True),
    Column("part", String(255), nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("what", String(64), nullable=False),
    Column("body", Text, nullable=False),
)
