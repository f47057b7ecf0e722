"""Speed of the models: nanoseconds a series-point, against river doing the same work, and a live step in all."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.rows import Row, attempt
from telemetry.types import Events, Float64, Panel, Part, SeriesKey

__all__ = ["run"]

_MS = 1_000_000
_SERIES = (100, 800, 2_000)


def _panel(values: Float64, keys: tuple[SeriesKey, ...], first: int = 0) -> Panel:
    end = (np.arange(len(values)) + 1 + first) * 100 * _MS
    return Panel(keys, ("p99",), 100 * _MS, end, values[:, :, None])


def _keys(series: int) -> tuple[SeriesKey, ...]:
    return tuple(SeriesKey.of("h", "latency_ns", i=i) for i in range(series))


def _cpu(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _light(points: int, repeats: int) -> dict[int, float]:
    """Best ns a point for each number of series; each run goes on where the last one stopped."""
    from models.light import LightModel

    best: dict[int, float] = {}
    ready = []
    rng = np.random.default_rng(0)
    for series in _SERIES:
        values = rng.normal(100.0, 3.0, (points // series, series))
        model, panel = LightModel(), _panel(values, _keys(series))
        model.align(panel.keys)
        model.advance(panel)
        ready.append((series, model, panel))
    for _ in range(repeats):  # interleaved
        for series, model, panel in ready:
            ns = _cpu(lambda m=model, p=panel: m.advance(p)) / panel.values.size * 1e9  # type: ignore[misc]
            best[series] = min(best.get(series, ns), ns)
    return best


class _River:
    """The same work from river's parts: level, scale, a slot's mean, cumulative sums, a tail quantile, 3 of 5."""

    def __init__(self) -> None:
        from river import drift, stats

        self.level, self.scale = stats.EWMean(0.05), stats.EWMean(0.02)
        self.slots: dict[int, Any] = {}
        self.sums = drift.PageHinkley()
        self.tail, self.excess = stats.RollingQuantile(0.95, 3_000), stats.EWMean(0.02)
        self.last = [False] * 5
        self.mean = stats.EWMean
        self.at = 0

    def step(self, x: float) -> float:
        slot = self.slots.setdefault(self.at % 1_440, self.mean(0.3))
        level, scale = self.level.get() or 0.0, self.scale.get() or 1.0
        usual = slot.get() or level
        z = min(x - level, x - usual, key=abs) / scale
        t = self.tail.get() or 1.0
        s = 1.3 + max(0.0, abs(z) - t) / (self.excess.get() or 1.0)
        self.last[self.at % 5] = s > 3.0
        self.sums.update(z)  # type: ignore[no-untyped-call]
        self.tail.update(abs(z))
        if abs(z) > t:
            self.excess.update(abs(z) - t)
        cut = max(min(x - level, 3.0 * scale), -3.0 * scale)
        self.level.update(level + cut)
        self.scale.update(abs(cut))
        slot.update(x)
        self.at += 1
        return s if sum(self.last) >= 3 else 0.0


def _river_ns(points: int, repeats: int) -> float:
    values = np.random.default_rng(1).normal(100.0, 3.0, points).tolist()
    best = np.inf
    for _ in range(repeats):
        composite = _River()
        for x in values[:500]:
            composite.step(x)
        best = min(best, _cpu(lambda c=composite: [c.step(x) for x in values[500:]]) / (points - 500) * 1e9)  # type: ignore[misc]
    return float(best)


def _numpy_ns(series: int, windows: int) -> float:
    """The same work (but the clock) step by step with NumPy, vectorised over series."""
    from models.light import LightModel
    from tests.naive.light import NaiveLight

    values = np.random.default_rng(2).normal(100.0, 3.0, (windows, series))
    model = LightModel()
    model.align(_keys(series))
    model.advance(_panel(values[:1], _keys(series)))
    prm, quanta = model._settings()
    plain = NaiveLight(prm, np.arange(series, dtype=np.float64), float(quanta[0]))
    half = windows // 2
    for row in values[:half]:
        plain.step(row)
    return _cpu(lambda: [plain.step(row) for row in values[half:]]) / values[half:].size * 1e9


def _full_us(windows: int, series: int, repeats: int) -> float:
    from models.ensemble import FullModel

    values = np.random.default_rng(3).normal(100.0, 3.0, (windows, series))
    model, panel = FullModel(), _panel(values, _keys(series))
    model.align(panel.keys)
    model.advance(panel)
    return min(_cpu(lambda: model.advance(panel)) for _ in range(repeats)) / values.size * 1e6


def _live_step_us(series: int, steps: int) -> float:
    """Push 800 series' events, close, score, decide: the median of the steps, in CPU time."""
    from detectors.build import build
    from detectors.spec import DetectorSpec

    feature = Part("window", {"select": "latency_ns", "window": "100ms", "columns": ["max"]})
    detector = build(DetectorSpec("live", (feature,), Part("light", {}), Part("budget", {})))
    keys, rng = _keys(series), np.random.default_rng(4)
    index = np.arange(series)
    took = []
    for step in range(steps):
        at = np.full(series, (step + 1) * 100 * _MS - 1, np.int64)
        events = Events(keys, index, at, at, rng.normal(1e5, 3e3, series).astype(np.int64))

        def one(events: Events = events, step: int = step) -> None:
            detector.push(events)
            detector.close((step + 1) * 100 * _MS)

        took.append(_cpu(one) * 1e6)
    return float(np.median(took[steps // 2 :]))


def run(*, data: str | None, quick: bool = False) -> list[Row]:
    """Rows of the family; `data` is not needed."""
    repeats = 3 if quick else 7
    light: dict[int, float] = {}

    def measure_light() -> list[float]:
        light.update(_light(400_000 if quick else 800_000, repeats))
        return [max(light.values()), *light.values()]

    rows = attempt(
        [
            Row("light_ns", None, "ns/point", 40.0, "<=", "the slowest of 100, 800 and 2,000 series"),
            *(Row(f"light_ns_s{s}", None, "ns/point", 40.0, "<=") for s in _SERIES),
        ],
        measure_light,
    )
    rows += attempt(
        [Row("light_vs_river", None, "x", 50.0, ">=", "river's own parts doing the same work")],
        lambda: [_river_ns(2_000 if quick else 6_000, 3) / light[800]],
    )
    rows += attempt(
        [Row("light_vs_numpy", None, "x", 5.0, ">=", "the same step by step with NumPy, 800 series")],
        lambda: [_numpy_ns(800, 300) / light[800]],
    )
    rows += attempt([Row("full_us", None, "us/point", 5.0, "<=")], lambda: [_full_us(300, 100, 2 if quick else 4)])
    rows += attempt(
        [Row("live_step_us", None, "us", 60.0, "<=", "800 series: push, close, score, policy")],
        lambda: [_live_step_us(800, 150 if quick else 400)],
    )
    rows += attempt([Row("light_state_kb", None, "kB/series", 8.5, "<=", "1,440 slots")], lambda: [_state_kb()])
    return rows


def _state_kb() -> float:
    from models.light import LightModel

    model = LightModel(slots=1_440)
    key = _keys(1)
    values = np.stack([np.full((3, 1), 1.0), np.zeros((3, 1))], axis=2)
    model.align(key)
    model.advance(Panel(key, ("p99", "clock_slot"), 100 * _MS, (np.arange(3) + 1) * 100 * _MS, values))
    return sum(a.nbytes for n, a in model.snapshot().items() if n in ("registers", "tails", "profile")) / 1024
