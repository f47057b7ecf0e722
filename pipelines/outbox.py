"""The outbox: messages for sinks, kept until they are acknowledged or given up on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from pipelines import tables as t
from telemetry.types import Nanos

if TYPE_CHECKING:
    from pipelines.state import StateDB

__all__ = ["Outbox", "Outgoing"]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A row of the outbox."""

    seq: int
    sink: str
    key: str
    body: str
    attempts: int
    state: str
    error: str | None


class Outbox:
    """The rows of a state database that wait for delivery."""

    def __init__(self, db: StateDB) -> None:
        self._db = db

    def due(self, sink: str, now_ns: Nanos, limit: int = 100) -> list[Outgoing]:
        """Rows that wait for delivery, oldest first."""
        o = t.outbox.c
        query = (
            sa.select(t.outbox)
            .where(o.state == "due", o.sink == sink, o.next_ns <= now_ns)
            .order_by(o.seq)
            .limit(limit)
        )
        return self._outgoing(query)

    def dead(self) -> list[Outgoing]:
        """Rows given up on."""
        return self._outgoing(sa.select(t.outbox).where(t.outbox.c.state == "dead").order_by(t.outbox.c.seq))

    def _outgoing(self, query: Any) -> list[Outgoing]:
        with self._db.look() as c:
            rows = c.execute(query).mappings().all()
        return [Outgoing(r["seq"], r["sink"], r["key"], r["body"], r["attempts"], r["state"], r["error"]) for r in rows]

    def waiting(self) -> dict[tuple[str, str], int]:
        """Number of outbox rows by (sink, state)."""
        o = t.outbox.c
        with self._db.look() as c:
            rows = c.execute(sa.select(o.sink, o.state, sa.func.count()).group_by(o.sink, o.state)).all()
        return {(sink, state): int(n) for sink, state, n in rows}

    def delivered(self, seqs: Iterable[int], now_ns: Nanos = 0) -> None:
        """The receiver acknowledged them, now."""
        self._mark(seqs, state="delivered", error=None, next_ns=now_ns)

    def sent_since(self, sink: str, since_ns: Nanos) -> int:
        """How many a receiver acknowledged since a time."""
        o = t.outbox.c
        query = sa.select(sa.func.count()).where(o.sink == sink, o.state == "delivered", o.next_ns >= since_ns)
        with self._db.look() as c:
            return int(c.execute(query).scalar() or 0)

    def failed(self, seq: int, error: str, next_ns: Nanos, *, dead: bool = False) -> None:
        """Count an attempt; try again at `next_ns`, or give up (`dead`)."""
        with self._db.transaction() as c:
            c.execute(
                sa.update(t.outbox)
                .where(t.outbox.c.seq == seq)
                .values(attempts=t.outbox.c.attempts + 1, error=error, next_ns=next_ns, state="dead" if dead else "due")
            )

    def resend(self) -> int:
        """Put dead letters back in the queue; returns how many."""
        with self._db.transaction() as c:
            done = c.execute(
                sa.update(t.outbox).where(t.outbox.c.state == "dead").values(state="due", attempts=0, next_ns=0)
            )
        return int(done.rowcount)

    def _mark(self, seqs: Iterable[int], **values: Any) -> None:
        with self._db.transaction() as c:
            for seq in seqs:
                c.execute(sa.update(t.outbox).where(t.outbox.c.seq == seq).values(**values))
