"""The three laws of DESIGN, as checks that anyone can run on any detector, feature builder, model or policy.

*chunking*: any split of pushes and any subset of closes that end at the same watermark give equal results.
*no look-ahead*: changing later data leaves earlier results equal.
*restart*: snapshot and restore anywhere gives equal results.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from detectors.detector import Detector
from models.base import Model
from telemetry.types import Alert, Events, Panel, Snapshot

__all__ = ["LawBroken", "check_detector", "check_model", "run_detector", "scores_of"]


class LawBroken(AssertionError):
    """A law does not hold; the message names it and the first difference."""


def run_detector(
    make: Callable[[], Detector],
    events: Events,
    cuts: Sequence[int] = (),
    close_at: Sequence[bool] = (),
    restart_at: Sequence[bool] = (),
    until: int | None = None,
) -> list[Alert]:
    """Alerts of `events`, pushed in pieces cut at `cuts`; windows closed after a piece where `close_at` says so.

    The last piece is always closed. Where `restart_at` is true the detector is thrown away and restored.
    """
    detector = make()
    whole = len(events) if until is None else until
    edges = [0, *sorted(c for c in set(cuts) if 0 < c < whole), whole]
    alerts: list[Alert] = []
    for i, (a, b) in enumerate(itertools.pairwise(edges)):
        detector.push(events[a:b])
        last = b == whole
        if last or (i < len(close_at) and close_at[i]):
            alerts += detector.close(detector.watermark_ns)
        if not last and i < len(restart_at) and restart_at[i]:
            kept = detector.snapshot()
            meta, arrays = dict(kept.meta), {k: np.array(v, copy=True) for k, v in kept.arrays.items()}
            detector = make()
            detector.restore(Snapshot(meta, arrays))
    return alerts


def check_detector(
    make: Callable[[], Detector],
    events: Events,
    cuts: Sequence[int],
    close_at: Sequence[bool],
    restart_at: Sequence[bool],
) -> list[Alert]:
    """Hold a detector to the three laws on one stream; return its alerts.

    Raises
    ------
    LawBroken
    """
    whole = run_detector(make, events)
    split = run_detector(make, events, cuts, close_at)
    _equal("chunking", whole, split)
    _equal("restart", whole, run_detector(make, events, cuts, close_at, restart_at))
    if cuts and 0 < cuts[0] < len(events):
        at = cuts[0]
        head = make()
        head.push(events[:at])
        known = head.close(head.watermark_ns)
        changed = Events(
            events.keys,
            events.series,
            events.time_ns,
            events.seen_ns,
            np.concatenate([events.value[:at], events.value[at:] * 7 + 3]),
        )
        after = run_detector(make, changed)
        _equal("no look-ahead", known, after[: len(known)])
    return whole


def _equal(law: str, expected: Sequence[Alert], got: Sequence[Alert]) -> None:
    for i, (a, b) in enumerate(zip(expected, got, strict=False)):
        if repr(a) != repr(b):
            raise LawBroken(f"{law}: alert {i} differs:\n  {a}\n  {b}")
    if len(expected) != len(got):
        raise LawBroken(f"{law}: {len(expected)} alerts became {len(got)}")


def scores_of(model: Model, panels: Sequence[Panel]) -> np.ndarray:
    """Surprise of panels in order, joined over windows (series that come later are NaN before)."""
    width = max(len(p.keys) for p in panels)
    out = []
    for panel in panels:
        model.align(panel.keys)
        surprise = model.advance(panel).surprise
        pad = np.full((surprise.shape[0], width - surprise.shape[1], surprise.shape[2]), np.nan)
        out.append(np.concatenate([surprise, pad], axis=1))
    return np.concatenate(out)


def _cut(panel: Panel, a: int, b: int) -> Panel:
    return Panel(panel.keys, panel.columns, panel.window_ns, panel.end_ns[a:b], panel.values[a:b])


def check_model(make: Callable[[], Model], panel: Panel, cuts: Sequence[int]) -> np.ndarray:
    """Hold a (fitted) model to the three laws on one panel; return its surprise, (W, S, C).

    Raises
    ------
    LawBroken
    """
    n = len(panel.end_ns)
    whole = scores_of(make(), [panel])
    edges = [0, *sorted(c for c in set(cuts) if 0 < c < n), n]
    pieces = [_cut(panel, a, b) for a, b in itertools.pairwise(edges)]
    if not np.array_equal(whole, scores_of(make(), pieces), equal_nan=True):
        raise LawBroken("chunking: the surprise depends on how windows are split over calls")
    model, parts = make(), []
    for piece in pieces:
        parts.append(scores_of(model, [piece]))
        kept = {k: np.array(v, copy=True) for k, v in model.snapshot().items()}
        model = make()
        model.restore(kept)
    if not np.array_equal(whole, np.concatenate(parts), equal_nan=True):
        raise LawBroken("restart: the surprise differs after snapshot and restore")
    at = edges[1]
    later = panel.values.copy()
    clock = np.array([c.startswith("clock_") for c in panel.columns])
    later[at:, :, ~clock] = later[at:, :, ~clock] * 7 + 3
    changed = Panel(panel.keys, panel.columns, panel.window_ns, panel.end_ns, later)
    if not np.array_equal(whole[:at], scores_of(make(), [changed])[:at], equal_nan=True):
        raise LawBroken("no look-ahead: earlier surprise changed with later data")
    return whole
