"""Measures of scores: VUS-PR (Paparrizos et al., VLDB 2022), AUC-PR, range-based F1 (Tatbul et al., NeurIPS 2018).

VUS-PR is TSB-AD's (250 thresholds at equal ranks, windows 0 to `window`, labels widened by
``sqrt(1 - distance / window)`` up to half the window on either side, recall weighted by the share of incidents that are
touched); the sums are arranged so that a window costs one pass over the widened points only.
"""

from __future__ import annotations

import itertools

import numpy as np

from telemetry.errors import InputError
from telemetry.types import Bool, Float64, Int64

__all__ = ["auc_pr", "best_f1", "range_f1", "segments", "vus_pr"]


def segments(labels: Int64) -> list[tuple[int, int]]:
    """Runs of labelled points as (first, last), both inclusive."""
    edge = np.diff(np.concatenate([[0], (np.asarray(labels) > 0).astype(np.int64), [0]]))
    return list(zip(np.flatnonzero(edge == 1).tolist(), (np.flatnonzero(edge == -1) - 1).tolist(), strict=True))


def _merged(runs: list[tuple[int, int]], half: int, n: int) -> list[tuple[int, int]]:
    """Runs widened by `half` and joined where they touch."""
    out: list[tuple[int, int]] = []
    start = max(runs[0][0] - half, 0)
    for (_, last), (first, _) in itertools.pairwise(runs):
        if last + half < first - half:
            out.append((start, last + half))
            start = first - half
    out.append((start, min(runs[-1][1] + half, n - 1)))
    return out


def _near(runs: list[tuple[int, int]], half: int, n: int) -> tuple[Int64, Int64]:
    """Points within `half` of a run, on either side, and their distance from it."""
    at, away = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for first, last in runs:
        after = np.arange(last + 1, min(last + half + 1, n))
        before = np.arange(max(first - half, 0), first)
        at += [after, before]
        away += [after - last, first - before]
    return np.concatenate(at), np.concatenate(away)


def vus_pr(labels: Int64, score: Float64, window: int = 100, thresholds: int = 250) -> float:
    """Volume under the range precision-recall surface, as TSB-AD's ``VUS-PR``.

    Parameters
    ----------
    labels : (n,) of 0 and 1
    score : (n,) float64
        NaN counts as 0.
    window : int
        Widest window; TSB-AD's default.

    Raises
    ------
    InputError
        Without a labelled point or with nothing else.
    """
    hot = (np.asarray(labels) > 0).astype(np.float64)
    s = np.nan_to_num(np.asarray(score, np.float64), nan=0.0)
    runs, n = segments(np.asarray(labels)), len(hot)
    positives = hot.sum()
    if not runs or positives == n:
        raise InputError("VUS-PR: expected labelled and unlabelled points, got one kind only")
    order = np.argsort(-s, kind="stable")
    ranked = s[order]
    cut = ranked[np.linspace(0, n - 1, thresholds).astype(np.int64)]
    taken = np.searchsorted(-ranked, -cut, side="right")  # points at or above each threshold
    inside = np.cumsum(hot[order])[taken - 1]
    near, away = _near(runs, window // 2, n)
    keep = hot[near] == 0.0
    points, which = np.unique(near[keep], return_inverse=True)
    away = away[keep]
    rung = np.searchsorted(-cut, -s[points], side="left")  # the first threshold that takes a point
    total = 0.0
    for w in range(window + 1):
        close = away <= w // 2
        gain = np.sqrt(1.0 - away[close] / max(w, 1))
        weight = np.minimum(np.bincount(which[close], gain, len(points)), 1.0)
        around = np.cumsum(np.bincount(rung, weight, thresholds))
        true = inside + around
        recall = np.minimum(true / ((2.0 * positives + around) / 2.0), 1.0)
        if w % 2 == 0:
            tops = np.array([s[a : b + 1].max() for a, b in _merged(runs, w // 2, n)])
            touched = (tops[None, :] >= cut[:, None]).mean(axis=1)
        recall = recall * touched
        total += float(np.sum(np.diff(recall, prepend=0.0) * (true / taken)))
    return total / (window + 1)


def auc_pr(labels: Int64, score: Float64) -> float:
    """Average precision over points (step-wise, ties together), as scikit-learn's ``average_precision_score``."""
    hot = (np.asarray(labels) > 0).astype(np.float64)
    s = np.nan_to_num(np.asarray(score, np.float64), nan=0.0)
    if not 0 < hot.sum() < len(hot):
        raise InputError("AUC-PR: expected labelled and unlabelled points, got one kind only")
    order = np.argsort(-s, kind="stable")
    last = np.flatnonzero(np.append(np.diff(s[order]) != 0.0, True))
    true = np.cumsum(hot[order])[last]
    return float(np.sum(np.diff(true, prepend=0.0) / hot.sum() * true / (last + 1.0)))


def best_f1(labels: Int64, score: Float64) -> tuple[float, float]:
    """Best F1 over points and its threshold (no point adjustment)."""
    hot = (np.asarray(labels) > 0).astype(np.float64)
    s = np.nan_to_num(np.asarray(score, np.float64), nan=0.0)
    order = np.argsort(-s, kind="stable")
    last = np.flatnonzero(np.append(np.diff(s[order]) != 0.0, True))
    true = np.cumsum(hot[order])[last]
    f1 = 2.0 * true / (last + 1.0 + hot.sum())
    at = int(np.argmax(f1))
    return float(f1[at]), float(s[order][last[at]])


def _overlap(one: list[tuple[int, int]], other: list[tuple[int, int]], existence: float) -> list[float]:
    """Reward of each run of `one`: `existence` for being touched, the rest for the share covered, over the pieces."""
    out = []
    starts = np.array([a for a, _ in other], np.int64)
    stops = np.array([b for _, b in other], np.int64)
    for first, last in one:
        lo, hi = int(np.searchsorted(stops, first)), int(np.searchsorted(starts, last, side="right"))
        pieces = max(hi - lo, 0)
        if not pieces:
            out.append(0.0)
            continue
        covered = int((np.minimum(stops[lo:hi], last) - np.maximum(starts[lo:hi], first) + 1).sum())
        out.append(existence + (1.0 - existence) * covered / (last - first + 1) / pieces)
    return out


def range_f1(labels: Int64, hit: Bool, existence: float = 0.2) -> float:
    """F1 over ranges (Tatbul et al., 2018) of decided rows: flat bias, cardinality 1 / pieces.

    Parameters
    ----------
    labels, hit : (n,)
        Labelled rows, and rows that were decided to be anomalous; runs of them are the ranges.
    existence : float
        Weight of touching a labelled range at all, in recall (TSB-AD's 0.2); precision has none.

    Returns
    -------
    float
        NaN without a labelled range; 0 where nothing was decided.
    """
    real, said = segments(labels), segments(np.asarray(hit).astype(np.int64))
    if not real:
        return float("nan")
    recall = float(np.mean(_overlap(real, said, existence)))
    precision = float(np.mean(_overlap(said, real, 0.0))) if said else 0.0
    return 2.0 * precision * recall / (precision + recall) if precision + recall else 0.0
