"""Backtest at scale: a day of 2,000 series at 1 s, light, reading and scoring, per core (measured on a part of it)."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.rows import Row, attempt
from detectors.spec import DetectorSpec
from pipelines.backtest import backtest
from pipelines.resolve import Candidate
from telemetry.store import Store
from telemetry.types import Events, SeriesKey

SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND
SERIES = 2_000
SPEC = DetectorSpec.from_toml(
    """
name = "scale"
[[features]]
kind = "window"
select = "gauge"
window = "1s"
columns = ["last"]
[model]
kind = "light"
"""
)


def make_store(path: Path, seconds: int) -> None:
    rng = np.random.default_rng(0)
    keys = tuple(SeriesKey.of("h", "gauge", i=i) for i in range(SERIES))
    series = np.arange(SERIES)
    with Store(path) as store:
        for s in range(seconds):
            t = np.full(SERIES, START + s * SECOND)
            store.append(Events(keys, series, t, t, rng.normal(100, 10, SERIES)))


def measure(seconds: int) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        make_store(Path(folder, "store"), seconds)
        with Store(Path(folder, "store"), create=False) as store:
            store.compact()
            backtest(Candidate(SPEC, "0"), store, [], START, START + 5 * SECOND)  # compiles
            begun = time.process_time()
            backtest(Candidate(SPEC, "0"), store, [], START, START + seconds * SECOND)
            spent = time.process_time() - begun
    return [spent * 86_400 / seconds]


def run(*, data: str | None, quick: bool = False) -> list[Row]:
    seconds = 300 if quick else 1800
    row = Row("day_s_per_core", None, "CPU s", 60, "<=", f"measured on {seconds} s of the day, scaled up")
    return attempt([row], lambda: measure(seconds))
