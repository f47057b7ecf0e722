"""Compile every kernel of the scoring path once; numba keeps the result beside the source."""

from __future__ import annotations

import os

import numpy as np

from detectors.build import build
from detectors.fused import fuse
from telemetry.harvest import Harvester
from telemetry.types import Events, SeriesKey

__all__ = ["warm"]


def warm() -> None:
    """Sample this host once, and run a few seconds of made-up events through the catalogue."""
    rng = np.random.default_rng(0)
    names = ("context_switches_total", "irq_total", "wire_latency_ns", "wire_lost_packets", "procs_running")
    keys = tuple(SeriesKey.of("warm", name, cpu=0, flow="f") for name in names)
    n = 400
    t = np.sort(rng.integers(0, 4_000_000_000, n)) + 1_700_000_000_000_000_000
    series = rng.integers(0, len(keys), n)
    sweeps = np.arange(n) // len(keys) * 50_000_000 + 1_699_999_995_000_000_000
    batches = (
        Events(keys, np.arange(n) % len(keys), sweeps, sweeps, np.arange(n, dtype=np.int64)),  # as of a sampler
        Events(keys, series, t, t, np.arange(n, dtype=np.int64)),
        Events(keys, series, t + 4_000_000_000, t + 4_000_000_000, rng.random(n)),
        *(_sweep(keys, 1_700_000_010_000_000_000 + i * 100_000_000) for i in range(25)),  # live: a window at a time
    )
    harvester = Harvester("/", host="warm", processes=[f"pid:{os.getpid()}"])
    harvester.sample()
    harvester.close()
    for spec in fuse():
        detector = build(spec)
        for batch in batches:
            detector.push(batch)
            detector.close(detector.watermark_ns)


def _sweep(keys: tuple[SeriesKey, ...], at: int) -> Events:
    series, time = np.arange(len(keys)), np.full(len(keys), at)
    return Events(keys, series, time, time, series.astype(np.float64))
