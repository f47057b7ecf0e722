"""Comparison of two periods: right where the answer is known, undecided where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.compare import compare, period_samples, verdict
from telemetry.errors import ConfigError, NoDataError
from telemetry.types import Events, SeriesKey

S = 1_000_000_000
KEY = SeriesKey.of("a", "wire_latency_ns", flow="md")


def noise(seed: int, scale: float = 1.0, blocks: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Latencies whose level wanders from second to second: neighbours hang together."""
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.lognormal(0.0, 0.3, blocks), 50)
    time = (np.arange(blocks * 50) * S) // 50
    return time, scale * 1e5 * level * rng.lognormal(0.0, 0.2, len(time))


def test_a_shift_is_seen_both_ways() -> None:
    before, after = {KEY: noise(1)}, {KEY: noise(2, 3.0)}
    assert compare(before, after).verdict == "worse"
    assert compare(after, before).verdict == "improved"
    assert compare(after, before, higher_is_better=True).verdict == "worse"
    row = compare(before, after).rows[0]
    assert row.lo < row.ratio < row.hi
    assert 2.0 < row.ratio < 4.5


def test_nothing_is_undecided_about_as_often_as_promised() -> None:
    decided = sum(
        compare({KEY: noise(2 * i)}, {KEY: noise(2 * i + 1)}, resamples=300, margin=0.0).verdict != "undecided"
        for i in range(60)
    )
    assert decided <= 8, "at 95 % together, 60 comparisons of the same thing give about three verdicts"


def test_blocks_matter() -> None:
    """Taking every value for independent calls a wandering level a change far too often."""
    naive = sum(
        compare({KEY: noise(2 * i)}, {KEY: noise(2 * i + 1)}, resamples=300, margin=0.0, block_ns=S // 50).verdict
        != "undecided"
        for i in range(10)
    )
    assert naive >= 4


def test_same_input_same_answer_and_zero_stays_zero() -> None:
    before, after = {KEY: noise(1)}, {KEY: noise(2)}
    assert compare(before, after) == compare(before, after)
    flat = {KEY: (noise(1)[0], np.zeros(2000))}
    assert compare(flat, flat, figures=["mean"]).rows[0].ratio == 1.0


def test_quantiles_are_those_of_the_sample() -> None:
    time, value = noise(3)
    row = compare({KEY: (time, value)}, {KEY: (time, value)}, figures=["p50"]).rows[0]
    assert row.before == pytest.approx(np.quantile(value, 0.5), rel=0.01)
    assert row.ratio == 1.0


def test_too_little_is_said() -> None:
    short = {KEY: noise(1, blocks=3)}
    result = compare(short, {KEY: noise(2)})
    assert result.rows == ()
    assert "3 blocks are too few" in result.notes[0]
    with pytest.raises(NoDataError):
        compare({}, {KEY: noise(1)})
    with pytest.raises(ConfigError, match="p99"):
        compare({KEY: noise(1)}, {KEY: noise(1)}, figures=["q99"])


def test_counters_are_rates_and_resets_are_not() -> None:
    key = SeriesKey.of("a", "udp_socket_drops_total", port=1)
    value = np.array([0, 10, 30, 5, 6], np.int64)
    time = np.arange(5, dtype=np.int64) * S
    events = Events((key,), np.zeros(5, np.int64), time, time, value)
    at, rate = period_samples([events], None, 0, 10 * S)[key]
    assert list(rate) == [10.0, 20.0, 1.0]
    assert list(at) == [S, 2 * S, 4 * S]


def test_ephemeral_ports_are_one_connection() -> None:
    keys = tuple(SeriesKey.of("a", "tcp_rtt_ns", flow=f"tcp 10.0.0.1:9001>10.0.0.2:{port}") for port in (40001, 51234))
    time = np.arange(4, dtype=np.int64)
    events = Events(keys, np.array([0, 1, 0, 1]), time, time, np.arange(4.0))
    (found,) = period_samples([events], None, 0, 10)
    assert found.label("flow") == "tcp 10.0.0.1:9001>10.0.0.2:*"


def test_verdict_of_an_interval() -> None:
    assert verdict(0.5, 0.9) == "improved"
    assert verdict(1.1, 2.0) == "worse"
    assert verdict(0.9, 1.1) == "undecided"
    assert verdict(0.5, 0.985, margin=0.02) == "undecided"
