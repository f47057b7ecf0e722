from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
from river import anomaly, checks, datasets

from models.river_estimators import LightDetector


class Purchases:
    """Rows of many correlated columns with rare labelled oddities, where river's own data set is not downloaded."""

    def take(self, k: int) -> Iterator[tuple[dict[str, float], int]]:
        rng = random.Random(7)
        for i in range(k):
            odd = i > 100 and i % 97 == 0
            row = {f"V{j}": rng.gauss(0.0, 1.0) * (6.0 if odd else 1.0) for j in range(1, 29)}
            yield {**row, "Amount": rng.expovariate(0.01), "Time": float(i)}, int(odd)


def test_it_passes_rivers_own_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    if not datasets.CreditCard().is_downloaded:  # river would fetch it; the checks are river's either way
        monkeypatch.setattr(datasets, "CreditCard", Purchases)
    checks.check_estimator(LightDetector(warmup=20))


def test_scoring_changes_nothing_and_wrong_values_are_missing() -> None:
    rng = random.Random(0)
    detector = LightDetector()
    for _ in range(300):
        detector.learn_one({"a": rng.gauss(10, 1), "b": "text", "c": float("nan")})
    first = detector.score_one({"a": 30.0})
    assert first > 2.5
    assert all(detector.score_one({"a": 30.0}) == first for _ in range(3))
    assert detector.score_one({"b": "text", "c": None, "d": 5}) == 0.0


def test_it_works_inside_rivers_filters() -> None:
    rng = random.Random(2)
    model = anomaly.ThresholdFilter(LightDetector(), threshold=2.5)
    hits = []
    for i in itertools.count():
        if i == 400:
            break
        x = {"a": 50.0 if i == 390 else rng.gauss(10, 1)}
        hits.append(model.classify(model.score_one(x)))
        model.learn_one(x)
    assert hits[390]
    assert sum(hits) < 8


def test_a_whole_number_beyond_floats_is_missing() -> None:
    detector = LightDetector(warmup=20)
    for _ in range(40):
        detector.learn_one({"a": 1.0, "b": 10**400})
    assert detector.score_one({"a": 1.0, "b": 10**400}) == 0.0
