"""Versions in production: champions, challengers in their shadow, and who promoted what when."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import sqlalchemy as sa

from pipelines import tables as t
from pipelines.findings import Findings
from telemetry.errors import StoreError
from telemetry.types import Nanos

__all__ = ["Champion", "Versions"]

Role = Literal["champion", "challenger"]
ANY: Final = "*"


@dataclass(frozen=True, slots=True)
class Champion:
    """The version of a detector that scores live; `path` and `digest` are of its state (npz) or None."""

    detector: str
    version: str
    spec: Mapping[str, Any]
    path: str | None
    digest: str | None
    since_ns: Nanos


class Versions(Findings):
    """The versions that score, as promotions left them."""

    def champions(self, role: Role = "champion") -> list[Champion]:
        """What scores live, by detector name; challengers score in its shadow without alerting."""
        ch = t.champions
        with self.look() as c:
            query = sa.select(ch).where(ch.c.role == role).order_by(ch.c.detector)
            rows = c.execute(query).mappings().all()
        return [
            Champion(r["detector"], r["version"], json.loads(r["spec"]), r["path"], r["digest"], int(r["since_ns"]))
            for r in rows
        ]

    def promote(
        self, champion: Champion, *, who: str, why: str, verdict: str = "", over: str | None = ANY
    ) -> str | None:
        """Make it the champion and record who, when, why. Returns the version before.

        Raises
        ------
        StoreError
            The champion is not version `over` (None: there is one): it is not what this one was compared with.
        """
        with self.transaction() as c:
            before = self._put_version(c, champion, "champion")
            if over not in (ANY, before):
                raise StoreError(f"{champion.detector}: v{before} became the champion meanwhile; compare with that")
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

    def saw_alias(self, detector: str, version: str, now_ns: Nanos) -> None:
        """Note where @champion is in MLflow: an alias that is behind a promotion or a rollback has not moved."""
        self.note("registry", now_ns, "alias", {"detector": detector, "version": version})

    def seen_aliases(self) -> dict[str, str]:
        """Where @champion was last seen, by detector."""
        bodies = [json.loads(n["body"]) for n in reversed(self.notes(10_000, what="alias"))]
        return {b["detector"]: b["version"] for b in bodies}

    def promotions(self, detector: str | None = None) -> list[dict[str, Any]]:
        """What was in production when, oldest first."""
        query = sa.select(t.promotions).order_by(t.promotions.c.seq)
        if detector is not None:
            query = query.where(t.promotions.c.detector == detector)
        with self.look() as c:
            return [dict(r) for r in c.execute(query).mappings()]

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


def _version_row(version: Champion) -> dict[str, Any]:
    spec = json.dumps(dict(version.spec), sort_keys=True)
    return {
        "detector": version.detector,
        "version": version.version,
        "spec": spec,
        "path": version.path,
        "digest": version.digest,
    }
