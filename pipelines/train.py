"""Training: fit on a range of history with incidents masked, warm up on it in replay, register the version."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detectors.build import build
from detectors.detector import Detector
from detectors.spec import DetectorSpec
from models.spread import Spread
from pipelines.reference import Reference, reference_of, with_reference
from pipelines.replay import replay
from telemetry.errors import NoDataError
from telemetry.source import Source
from telemetry.types import Alert, Events, Label, Nanos, Panel, Snapshot

__all__ = ["Learnt", "Trained", "history", "learn", "train", "warm"]


@dataclass(frozen=True, slots=True)
class Trained:
    """A detector fitted on and warmed by a range of history.

    `alerts` are those of the warming replay (in sample: they say how noisy the detector is on its own history);
    `reference` is what the inputs looked like, incidents masked.
    """

    detector: Detector
    alerts: list[Alert]
    events: int
    series_events: Mapping[str, int]
    windows: int
    from_ns: Nanos
    to_ns: Nanos
    data_digest: str
    reference: Reference

    @property
    def series(self) -> int:
        return len(self.series_events)

    @property
    def snapshot(self) -> Snapshot:
        """The state to register: the detector's, and what its inputs looked like."""
        return with_reference(self.detector.snapshot(), self.reference)


class _Counted:
    """A source that counts and digests what passes."""

    def __init__(self, source: Source, progress: Callable[[int], None] | None) -> None:
        self._source, self._progress = source, progress
        self.events = 0
        self.keys: dict[str, int] = {}
        self.first, self.last = 2**62, -(2**62)
        self._hash = hashlib.blake2b(digest_size=12)

    def read(self, seen_from_ns: Nanos, seen_to_ns: Nanos):  # type: ignore[no-untyped-def]
        for batch in self._source.read(seen_from_ns, seen_to_ns):
            self._note(batch)
            yield batch

    def _note(self, batch: Events) -> None:
        self.events += len(batch)
        for key, n in zip(batch.keys, np.bincount(batch.series, minlength=len(batch.keys)).tolist(), strict=True):
            if n:
                self.keys[str(key)] = self.keys.get(str(key), 0) + n
        self.first = min(self.first, int(batch.time_ns.min()))
        self.last = max(self.last, int(batch.time_ns.max()))
        for column in (batch.time_ns, np.asarray(batch.value, np.float64)):
            self._hash.update(np.ascontiguousarray(column).tobytes())
        if self._progress is not None:
            self._progress(self.events)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


def history(spec: DetectorSpec, source: Source, from_ns: Nanos, to_ns: Nanos) -> tuple[Panel, ...]:
    """All windows of a range as one panel per window length (series that come later are NaN before)."""
    features = build(spec).features
    pieces: dict[Nanos, list[Panel]] = {}
    for events in source.read(from_ns, to_ns):
        features.push(events)
        for panel in features.close(features.watermark_ns):
            if len(panel.end_ns):
                pieces.setdefault(panel.window_ns, []).append(panel)
    return tuple(_join(parts) for parts in pieces.values())


def _join(parts: Sequence[Panel]) -> Panel:
    last = parts[-1]
    blocks = []
    for p in parts:
        missing = len(last.keys) - len(p.keys)
        block = np.full((len(p.end_ns), missing, len(last.columns)), np.nan)
        blocks.append(np.concatenate([p.values, block], axis=1))
    end_ns = np.concatenate([p.end_ns for p in parts])
    return Panel(last.keys, last.columns, last.window_ns, end_ns, np.concatenate(blocks))


def mask(panel: Panel, labels: Sequence[Label]) -> Panel:
    """Make the windows that overlap a labelled incident missing."""
    values = panel.values.copy()
    for label in labels:
        hit = (panel.end_ns > label.start_ns) & (panel.end_ns - panel.window_ns < label.end_ns)
        values[hit] = np.nan
    return Panel(panel.keys, panel.columns, panel.window_ns, panel.end_ns, values)


@dataclass(frozen=True, slots=True)
class Learnt:
    """A detector fitted on panels (incidents masked), not yet warmed by a replay."""

    detector: Detector
    clean: tuple[Panel, ...]

    @property
    def notes(self) -> list[str]:
        """Channels that got a simpler baseline than asked for, and why."""
        told = [getattr(self.detector.model(p.window_ns), "notes", {}) for p in self.clean]
        return [f"{channel}: {why}" for notes in told for channel, why in notes.items()]


def learn(
    spec: DetectorSpec,
    source: Source,
    from_ns: Nanos,
    to_ns: Nanos,
    *,
    masked: Sequence[Label] = (),
    version: str = "new",
    spread: Spread | None = None,
    split: bool = False,
) -> Learnt:
    """Fit `spec` on the events first seen in ``[from_ns, to_ns)``, by `spread` where its model can (`Detector.fit`).

    Raises
    ------
    NoDataError
        The range is empty.
    """
    panels = history(spec, source, from_ns, to_ns)
    if not panels:
        raise NoDataError(f"{spec.name}: no windows in the training range; nothing was learnt")
    detector = build(spec, version)
    clean = tuple(mask(p, masked) for p in panels)
    detector.fit(clean, spread, split=split)
    return Learnt(detector, clean)


def warm(
    learnt: Learnt, source: Source, from_ns: Nanos, to_ns: Nanos, progress: Callable[[int], None] | None = None
) -> Trained:
    """Replay what was learnt from, so that scoring goes on where the range ends."""
    counted = _Counted(source, progress)
    alerts = list(replay(learnt.detector, counted, from_ns, to_ns))
    windows = sum(len(p.end_ns) for p in learnt.clean)
    return Trained(
        learnt.detector, alerts, counted.events, counted.keys, windows, counted.first, counted.last + 1,
        counted.digest, reference_of(learnt.clean),
    )  # fmt: skip


def train(
    spec: DetectorSpec,
    source: Source,
    from_ns: Nanos,
    to_ns: Nanos,
    *,
    masked: Sequence[Label] = (),
    version: str = "new",
) -> Trained:
    """Fit `spec` on the events first seen in ``[from_ns, to_ns)`` and warm it up on them, in this process.

    Raises
    ------
    NoDataError
        The range is empty.
    """
    return warm(learn(spec, source, from_ns, to_ns, masked=masked, version=version), source, from_ns, to_ns)
