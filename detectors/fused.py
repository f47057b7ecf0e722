"""The whole catalogue at the price of a few detectors.

Models score each series on its own, so signatures whose detectors differ only in the series that they select
share one pass: parts with equal features, model and policy are fused, their selectors joined.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from detectors.build import build
from detectors.incidents import Grouper
from detectors.signature import Signature, load_catalogue
from detectors.spec import DetectorSpec
from telemetry.errors import StoreError
from telemetry.types import Alert, Events, IncidentChange, Nanos, Part, Snapshot

__all__ = ["Fused", "fuse"]


def fuse(signatures: Sequence[Signature] | None = None) -> tuple[DetectorSpec, ...]:
    """Specs that together score every series of every signature, each once.

    A fused detector's name depends on its features, model and policy alone: a signature that is added keeps the
    identity of the others' alerts.
    """
    joined: dict[str, tuple[DetectorSpec, Part, list[str]]] = {}
    for signature in load_catalogue() if signatures is None else signatures:
        spec = signature.spec
        for part in spec.features:
            rest = {k: v for k, v in part.params.items() if k != "select"}
            what: list[object] = [part.kind, rest, _plain(spec.model), _plain(spec.policy)]
            what += [spec.lateness_ns, spec.idle_timeout_ns, spec.calendar]
            key = json.dumps(what, sort_keys=True)
            select = part.params.get("select", "")
            known = joined.setdefault(key, (spec, Part(part.kind, rest), []))[2]
            known += [s for s in ([select] if isinstance(select, str) else select) if s not in known]
    out = []
    for key, (spec, part, select) in joined.items():
        digest = hashlib.blake2b(key.encode(), digest_size=4).hexdigest()
        name = f"catalogue-{part.kind}-{digest}"
        features = (Part(part.kind, {**part.params, "select": select}),)
        out.append(replace(spec, name=name, kind="", features=features))
    return tuple(sorted(out, key=lambda s: s.name))


def _plain(part: Part) -> list[object]:
    return [part.kind, dict(part.params)]


class Fused:
    """Fused detectors and one grouper: events in, steps in the lives of incidents out.

    Parameters
    ----------
    signatures : sequence of Signature, optional
        The catalogue by default.
    grouper : Grouper, optional
    version : str
    """

    def __init__(
        self, signatures: Sequence[Signature] | None = None, grouper: Grouper | None = None, version: str = "0"
    ) -> None:
        chosen = tuple(load_catalogue() if signatures is None else signatures)
        self.grouper = Grouper(chosen) if grouper is None else grouper
        self.detectors = tuple(build(spec, version) for spec in fuse(chosen))
        for detector in self.detectors:
            detector.observer = lambda panel, scores, grade: self.grouper.watch(panel)

    @property
    def watermark_ns(self) -> Nanos:
        """Event time up to which everything has been decided: the least of the detectors'."""
        return min(d.watermark_ns for d in self.detectors)

    def push(self, events: Events) -> tuple[list[Alert], list[IncidentChange]]:
        """Take in a batch of events in seen order; what it decided, in order."""
        alerts: list[Alert] = []
        self.grouper.note(events)
        for detector in self.detectors:
            detector.push(events)
            alerts += detector.close(detector.watermark_ns)
        alerts.sort(key=lambda a: (a.end_ns, a.id))
        return alerts, self.grouper.push(alerts, self.watermark_ns)

    def snapshot(self) -> Snapshot:
        parts = [(d.spec.name, d.snapshot()) for d in self.detectors]
        arrays = Snapshot.nest([(name, s.arrays) for name, s in parts] + [("grouper", self.grouper.snapshot())])
        return Snapshot({"detectors": {name: dict(s.meta) for name, s in parts}}, arrays)

    def restore(self, snapshot: Snapshot) -> None:
        """Continue exactly where `snapshot` was taken.

        Raises
        ------
        StoreError
            If it is of another catalogue.
        """
        metas = snapshot.meta.get("detectors", {})
        if set(metas) != {d.spec.name for d in self.detectors}:
            raise StoreError("catalogue state: it is of other detectors than the catalogue has now")
        for d in self.detectors:
            d.restore(Snapshot(metas[d.spec.name], Snapshot.unnest(snapshot.arrays, d.spec.name)))
        self.grouper.restore(Snapshot.unnest(snapshot.arrays, "grouper"))
