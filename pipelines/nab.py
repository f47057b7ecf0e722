"""The rules of the Numenta Anomaly Benchmark, written anew (Lavin & Ahmad, ICMLA 2015).

Each label window counts once, by its earliest detection: a sigmoid of its place in the window, near 1 at
the left edge and 0 at the right. Each detection outside of windows costs the profile's false-positive
weight, less just after a window. The first 15 % of a file (at most 750 rows) is not scored. The sum is scaled so
that no detection at all is 0 and every window found at its left edge, with nothing false, is 100.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PROFILES", "Outcome", "Prepared", "Profile", "best", "corpus_score", "file_score", "normalised", "prepare"]


@dataclass(frozen=True, slots=True)
class Profile:
    """Weights of a true positive, a false positive and a missed window."""

    tp: float
    fp: float
    fn: float


PROFILES: Mapping[str, Profile] = {
    "standard": Profile(1.0, 0.11, 1.0),
    "low_fp": Profile(1.0, 0.22, 1.0),
    "low_fn": Profile(1.0, 0.11, 2.0),
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """One file: scores of the rows that count, what a detection there is worth, and in which window it is.

    Parameters
    ----------
    score : (n,) float64
    worth : (n,) float64
        Of a detection at this row: in (0, 1] within a window, in [-1, 0) outside.
    window : (n,) int64
        Index of the label window, -1 outside.
    windows : int
        Label windows with at least one row that counts.
    labelled : int
        All label windows of the file: what a perfect score is measured by.
    """

    score: NDArray[np.float64]
    worth: NDArray[np.float64]
    window: NDArray[np.int64]
    windows: int
    labelled: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """A corpus at one threshold: the normalised score and what it is made of."""

    score: float
    threshold: float
    found: int
    windows: int
    false: int
    rows: int


def _sigmoid(position: NDArray[np.float64]) -> NDArray[np.float64]:
    return 2.0 / (1.0 + np.exp(5.0 * position)) - 1.0


def prepare(score: NDArray[np.float64], windows: Sequence[tuple[int, int]]) -> Prepared:
    """Work out what a detection at each row is worth.

    Parameters
    ----------
    score : (n,) float64
        Anomaly scores of a file, row by row.
    windows : sequence of (first, last)
        Label windows as row numbers, both included, in order.
    """
    rows = len(score)
    start = int(min(np.floor(0.15 * rows), 750))
    worth = np.full(rows, -1.0)
    window = np.full(rows, -1, np.int64)
    at = np.arange(rows, dtype=np.float64)
    top = float(_sigmoid(np.array([-1.0]))[0])
    for w, (first, last) in enumerate(windows):
        width = last - first + 1.0
        inside = slice(first, last + 1)
        window[inside] = w
        worth[inside] = _sigmoid(-(last - at[inside] + 1.0) / width) / top
        until = windows[w + 1][0] if w + 1 < len(windows) else rows
        after = slice(last + 1, until)
        past = (at[after] - last) / (width - 1.0)
        worth[after] = np.where(past >= 3.0, -1.0, _sigmoid(past))
    counted = np.unique(window[start:])
    return Prepared(score[start:], worth[start:], window[start:], int((counted >= 0).sum()), len(windows))


def _pool(files: Sequence[Prepared], profile: Profile) -> tuple[NDArray[np.float64], ...]:
    """All rows of a corpus with the gain that each brings if rows are taken in order of falling score."""
    scores, windows, worths, base = [], [], [], 0
    for f in files:
        scores.append(f.score)
        windows.append(np.where(f.window >= 0, f.window + base, -1))
        worths.append(np.where(f.window >= 0, f.worth * profile.tp, f.worth * profile.fp))
        base += f.labelled
    return np.concatenate(scores), np.concatenate(windows), np.concatenate(worths)


def corpus_score(files: Sequence[Prepared], threshold: float, profile: Profile) -> Outcome:
    """Score a corpus at one threshold (a row is a detection if its score is at least that)."""
    parts = [file_score(f, threshold, profile) for f in files]
    raw, total = sum(p[0] for p in parts), sum(f.labelled for f in files)
    found, false = sum(p[1] for p in parts), sum(p[2] for p in parts)
    return Outcome(normalised(raw, total, profile), threshold, found, total, false, sum(len(f.score) for f in files))


def file_score(f: Prepared, threshold: float, profile: Profile) -> tuple[float, int, int]:
    """What one file adds to a corpus at a threshold: raw score, windows found, false detections."""
    hit = f.score >= threshold
    inside, false = hit & (f.window >= 0), hit & (f.window < 0)
    best_of = np.full(f.labelled, -np.inf)
    np.maximum.at(best_of, f.window[inside], f.worth[inside])
    seen = np.isfinite(best_of)
    found = int(seen.sum())
    raw = profile.tp * float(best_of[seen].sum()) + profile.fp * float(f.worth[false].sum())
    return raw - profile.fn * (f.windows - found), found, int(false.sum())


def normalised(raw: float, labelled: int, profile: Profile) -> float:
    """A raw sum on the scale where no detection is 0 and perfection is 100; 0 without labels."""
    null = -profile.fn * labelled
    return 100.0 * (raw - null) / (profile.tp * labelled - null) if labelled else 0.0


def best(files: Sequence[Prepared], profile: Profile) -> Outcome:
    """The best outcome over all thresholds, as NAB's own optimiser finds it (one sweep over sorted scores)."""
    score, window, worth = _pool(files, profile)
    keep = score > 0.0
    score, window, worth = score[keep], window[keep], worth[keep]
    order = np.argsort(-score, kind="stable")
    total = sum(f.labelled for f in files)
    best_of = np.full(total, -profile.fn)
    raw, top, at = 0.0, 0.0, 1.1
    ordered = score[order].tolist()
    for j, (w, v) in enumerate(zip(window[order].tolist(), worth[order].tolist(), strict=True)):
        if w < 0:
            raw += v
        elif v > best_of[w]:
            raw += v - best_of[w]
            best_of[w] = v
        last = j + 1 == len(ordered) or ordered[j + 1] != ordered[j]
        if last and raw > top:
            top, at = raw, ordered[j]
    return corpus_score(files, at, profile)
