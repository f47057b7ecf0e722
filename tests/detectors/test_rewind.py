"""A detector that was trained beyond the point from which it is to score."""

from __future__ import annotations

import numpy as np

from detectors.build import build
from detectors.spec import DetectorSpec
from telemetry.types import Events, SeriesKey

SECOND = 1_000_000_000
SPEC = DetectorSpec.from_toml(
    """
name = "levels"
[[features]]
kind = "window"
select = "load"
window = "1s"
columns = ["p50"]
[model]
kind = "seasonal"
[policy]
kind = "budget"
"""
)
FIRST, LATER = SeriesKey("h", "load", (("cpu", "0"),)), SeriesKey("h", "load", (("cpu", "1"),))


def events(keys: tuple[SeriesKey, ...], start: int, seconds: int) -> Events:
    t = np.repeat(start + np.arange(seconds * 10) * SECOND // 10, len(keys))
    value = 100.0 + np.random.default_rng(1).standard_normal(len(t))
    return Events(keys, np.arange(len(t)) % len(keys), t, t, value)


def test_what_was_learnt_of_a_series_that_comes_later_is_kept() -> None:
    detector = build(SPEC)
    detector.features.push(events((FIRST, LATER), 0, 400))
    detector.fit(detector.features.close(400 * SECOND))
    detector.rewind(build(SPEC).features)
    seen: dict[SeriesKey, list[float]] = {}

    def note(panel, scores, decision) -> None:  # type: ignore[no-untyped-def]
        for i, key in enumerate(panel.keys):
            seen.setdefault(key, []).extend(scores.surprise[:, i, 0].tolist())

    detector.observer = note
    start = 1_000 * SECOND
    detector.push(events((FIRST,), start, 20))
    detector.close(start + 20 * SECOND)
    detector.push(events((LATER,), start + 20 * SECOND, 20))
    detector.close(start + 40 * SECOND)
    assert np.isfinite(seen[FIRST]).any()
    assert np.isfinite(seen[LATER]).any()
