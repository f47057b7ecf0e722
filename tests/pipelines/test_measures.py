from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from pipelines.measures import auc_pr, best_f1, range_f1, segments, vus_pr
from telemetry.errors import InputError


def slow_vus_pr(labels: np.ndarray, score: np.ndarray, window: int, thresholds: int) -> float:
    """The definition, threshold by threshold, with explicit masks."""
    n = len(labels)
    runs = segments(labels)
    volume = []
    for w in range(window + 1):
        wide = labels.astype(float)
        for first, last in runs:
            for d in range(1, w // 2 + 1):
                if last + d < n:
                    wide[last + d] += np.sqrt(1 - d / w)
                if first - d >= 0:
                    wide[first - d] += np.sqrt(1 - d / w)
        wide = np.minimum(wide, 1.0)
        groups: list[list[int]] = []
        for first, last in runs:
            if groups and groups[-1][1] + w // 2 >= first - w // 2:
                groups[-1][1] = last
            else:
                groups.append([first, last])
        points = [(0.0, 1.0)]
        for rank in np.linspace(0, n - 1, thresholds).astype(int):
            hit = score >= np.sort(score)[::-1][rank]
            true = float((wide * hit).sum())
            size = (labels.sum() + np.where(labels == 1, 1.0, wide * hit).sum()) / 2
            touched = np.mean([hit[max(a - w // 2, 0) : b + w // 2 + 1].any() for a, b in groups])
            points.append((min(true / size, 1.0) * touched, true / hit.sum()))
        volume.append(sum((b[0] - a[0]) * b[1] for a, b in itertools.pairwise(points)))
    return float(np.mean(volume))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 15), st.booleans())
def test_the_volume_is_the_definition(seed: int, window: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = np.zeros(120, np.int64)
    for at in rng.integers(0, 118, 4):
        labels[at : at + rng.integers(1, 8)] = 1
    score = rng.normal(0, 1, 120) + labels
    if ties:
        score = np.round(score)
    assert vus_pr(labels, score, window, 40) == pytest.approx(slow_vus_pr(labels, score, window, 40), abs=1e-12)


def test_points_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(500) < 0.2).astype(np.int64)
    score = np.round(rng.normal(0, 1, 500) + labels, 1)
    assert auc_pr(labels, score) == pytest.approx(average_precision_score(labels, score))
    best, threshold = best_f1(labels, score)
    assert best == pytest.approx(f1_score(labels, score >= threshold))
    assert best == pytest.approx(max(f1_score(labels, score >= t) for t in np.unique(score)))


def test_a_perfect_score_is_worth_more_than_a_random_one() -> None:
    labels = np.zeros(2_000, np.int64)
    labels[300:350] = labels[1_500:1_520] = 1
    assert vus_pr(labels, labels.astype(float)) > 0.5
    assert vus_pr(labels, np.random.default_rng(0).random(2_000)) < 0.15


def test_labels_of_one_kind_are_refused() -> None:
    with pytest.raises(InputError, match="one kind"):
        vus_pr(np.zeros(10, np.int64), np.arange(10.0))


def slow_range_f1(labels: np.ndarray, hit: np.ndarray) -> float:
    """Tatbul et al. by sets of rows, range by range."""

    def ranges(flags: np.ndarray) -> list[set[int]]:
        out: list[set[int]] = []
        for i, on in enumerate(flags):
            if on and (i == 0 or not flags[i - 1]):
                out.append(set())
            if on:
                out[-1].add(i)
        return out

    def reward(one: set[int], others: list[set[int]], existence: float) -> float:
        parts = [len(one & o) / len(one) for o in others if one & o]
        return existence + (1 - existence) * sum(parts) / len(parts) if parts else 0.0

    real, said = ranges(labels), ranges(hit)
    recall = float(np.mean([reward(r, said, 0.2) for r in real]))
    precision = float(np.mean([reward(p, real, 0.0) for p in said])) if said else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_ranges_are_the_definition(rows: list[tuple[bool, bool]]) -> None:
    labels, hit = (np.array(x) for x in zip(*rows, strict=True))
    got = range_f1(labels.astype(np.int64), hit)
    if not labels.any():
        assert np.isnan(got)
    else:
        assert got == pytest.approx(slow_range_f1(labels, hit))


def test_ranges_by_hand() -> None:
    labels = np.array([0, 1, 1, 1, 1, 0, 0, 0])
    assert range_f1(labels, labels == 1) == 1.0
    half = np.array([0, 1, 1, 0, 0, 0, 0, 0]) == 1
    recall = 0.2 + 0.8 * 0.5
    assert range_f1(labels, half) == pytest.approx(2 * recall / (1 + recall))
