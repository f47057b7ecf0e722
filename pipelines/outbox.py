"""The outbox: messages for sinks, kept until they are acknowledged or given up on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from pipelines import tables as t
from telemetry.types import Nanos

if TYPE_CHECKING:
    from pipelines.state import StateDB

__all__ = ["LONGEST_DELAY_NS", "Outbox", "Outgoing", "incident_of"]

LONGEST_DELAY_NS = 600_000_000_000
"""No row is put off by more than this."""


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
    next_ns: Nanos = 0


def incident_of(body: str) -> str:
    """The incident that a message is about."""
    id_: str = json.loads(body)["incident"]["id"]
    return id_


class Outbox:
    """The rows of a state database that wait for delivery."""

    def __init__(self, db: StateDB) -> None:
        self._db = db

    def due(self, sink: str, now_ns: Nanos, limit: int = 100) -> list[Outgoing]:
        """Rows whose turn it is, oldest first, of the `limit` oldest that wait.

        A row waits behind an earlier one of the same incident: its receiver must not learn of the end before the
        beginning. A row put off by longer than any delay can be (the clock was set back since) does not wait.
        """
        out: list[Outgoing] = []
        held: set[str] = set()
        for row in self.queue(sink, limit):
            incident = incident_of(row.body)
            if row.next_ns > now_ns and row.next_ns - now_ns <= LONGEST_DELAY_NS:
                held.add(incident)
            elif incident not in held:
                out.append(row)
        return out

    def queue(self, sink: str, limit: int = 100) -> list[Outgoing]:
        """The oldest rows that wait for delivery, be it their turn or not."""
        o = t.outbox.c
        return self._outgoing(sa.select(t.outbox).where(o.state == "due", o.sink == sink).order_by(o.seq).limit(limit))

    def dead(self) -> list[Outgoing]:
        """Rows given up on."""
        return self._outgoing(sa.select(t.outbox).where(t.outbox.c.state == "dead").order_by(t.outbox.c.seq))

    def _outgoing(self, query: Any) -> list[Outgoing]:
        with self._db.look() as c:
            rows = c.execute(query).mappings().all()
        names = Outgoing.__dataclass_fields__
        return [Outgoing(**{name: r[name] for name in names}) for r in rows]

    def waiting(self) -> dict[tuple[str, str], int]:
        """Number of outbox rows by (sink, state)."""
        o = t.outbox.c
        with self._db.look() as c:
            rows = c.execute(sa.select(o.sink, o.state, sa.func.count()).group_by(o.sink, o.state)).all()
        return {(sink, state): int(n) for sink, state, n in rows}

    def delivered(self, seqs: Iterable[int], now_ns: Nanos = 0) -> None:
        """The receiver acknowledged them, now."""
        self._mark(seqs, state="delivered", error=None, next_ns=now_ns)

    def sent_between(self, sink: str, from_ns: Nanos, to_ns: Nanos) -> int:
        """How many a receiver acknowledged in ``[from_ns, to_ns]``."""
        o = t.outbox.c
        mine = (o.sink == sink, o.state == "delivered", o.next_ns >= from_ns, o.next_ns <= to_ns)
        query = sa.select(sa.func.count()).where(*mine)
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
