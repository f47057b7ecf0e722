"""What a detector's inputs looked like when it was trained: deciles of every channel, kept with its state.

Later windows are held against them: the population stability index over ten bins (PSI; Siddiqi, Credit Risk Scorecards,
2006: from 0.25 on the population is another one), and the largest difference of the distributions at the borders, a
lower bound of the Kolmogorov-Smirnov distance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from telemetry.types import Float64, Int64, Panel, SeriesKey, Snapshot, State

__all__ = ["Reference", "Tally", "reference_of", "stability", "with_reference"]

BINS = 10
LEAST = 50
PREFIX = "reference"


@dataclass(frozen=True, slots=True)
class Reference:
    """Borders of the bins of each channel and the share of the training windows in each bin.

    Parameters
    ----------
    names : (n,) str
        ``<series> <column>``.
    borders : (n, 9) float64
        The deciles; a bin is ``(border, next]``.
    share : (n, 10) float64
        Not a tenth each where values repeat.
    """

    names: tuple[str, ...]
    borders: Float64
    share: Float64

    def state(self) -> State:
        return {"names": np.array(self.names, np.str_), "borders": self.borders, "share": self.share}

    @staticmethod
    def of(snapshot: Snapshot) -> Reference | None:
        """That of a registered state; None if it was made without."""
        part = Snapshot.unnest(snapshot.arrays, PREFIX)
        if not part:
            return None
        names = tuple(str(n) for n in part["names"])
        return Reference(names, np.asarray(part["borders"], np.float64), np.asarray(part["share"], np.float64))


def channel_names(keys: Sequence[SeriesKey], columns: Sequence[str]) -> list[str]:
    return [f"{k} {c}" for k in keys for c in columns]


def reference_of(panels: Sequence[Panel]) -> Reference:
    """The deciles of every channel with at least 50 windows."""
    names: list[str] = []
    borders, shares = [], []
    at = np.linspace(0.0, 1.0, BINS + 1)[1:-1]
    for panel in panels:
        values = panel.channel_values().reshape(len(panel.end_ns), -1)
        for name, column in zip(channel_names(panel.keys, panel.channels), values.T, strict=True):
            some = column[np.isfinite(column)]
            if len(some) < LEAST:
                continue
            cut = np.quantile(some, at)
            names.append(f"{panel.window_ns} {name}")
            borders.append(cut)
            shares.append(np.bincount(np.searchsorted(cut, some), minlength=BINS) / len(some))
    shape = np.array(borders, np.float64).reshape(-1, BINS - 1), np.array(shares, np.float64).reshape(-1, BINS)
    return Reference(tuple(names), *shape)


def with_reference(snapshot: Snapshot, reference: Reference) -> Snapshot:
    """The state with its reference beside it; `Detector.restore` passes it by."""
    return Snapshot(snapshot.meta, {**snapshot.arrays, **Snapshot.nest([(PREFIX, reference.state())])})


class Tally:
    """Counts later windows in the bins of a reference."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.counts: Int64 = np.zeros((len(reference.names), BINS), np.int64)
        self._at = {name: i for i, name in enumerate(reference.names)}

    def add(self, panel: Panel) -> None:
        values = panel.channel_values().reshape(len(panel.end_ns), -1)
        for name, column in zip(channel_names(panel.keys, panel.channels), values.T, strict=True):
            i = self._at.get(f"{panel.window_ns} {name}")
            if i is not None:
                some = column[np.isfinite(column)]
                self.counts[i] += np.bincount(np.searchsorted(self.reference.borders[i], some), minlength=BINS)

    def drift(self) -> list[tuple[str, float, float, int]]:
        """(channel, PSI, distance, windows), the most drifted first; channels with too few windows are left out."""
        out = []
        for name, share, counts in zip(self.reference.names, self.reference.share, self.counts, strict=True):
            n = int(counts.sum())
            if n >= LEAST:
                psi, far = stability(share, counts / n)
                out.append((name.partition(" ")[2], psi, far, n))
        return sorted(out, key=lambda row: (-row[1], row[0]))


def stability(before: Float64, now: Float64) -> tuple[float, float]:
    """PSI of two sets of shares (empty bins count as half a per mille), and their largest cumulative difference.

    Examples
    --------
    >>> import numpy as np
    >>> stability(np.full(10, 0.1), np.full(10, 0.1))
    (0.0, 0.0)
    """
    p, q = np.maximum(before, 5e-4), np.maximum(now, 5e-4)
    psi = math.fsum((q - p) * np.log(q / p))
    return psi, float(np.abs(np.cumsum(now - before)).max())
