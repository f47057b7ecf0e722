"""Quality over a trading calendar: six generated weeks with a 20-fold burst at every open.

From 19 October 2026 in New York: the change of daylight saving on 1 November, Thanksgiving on the 26th and the half
day after it. One-second windows of a packet rate and a latency; on 24 November a fault of half the burst's size at
09:30:05.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from benchmarks.rows import Row, attempt
from telemetry.types import Float64, Int64, Panel, SeriesKey

__all__ = ["generate_day", "run"]

_SECOND = 10**9
_DAY = 86_400
START = int(datetime(2026, 10, 19, 4, tzinfo=UTC).timestamp())
DAYS = 41
LEARNT = 7
"""Days after which a normal open must be quiet: five opens were seen."""
FAULT_DAY = 36
HALF_DAY = 39
KEYS = (SeriesKey.of("tx07", "feed_packets", feed="a"), SeriesKey.of("tx07", "wire_latency_ns", flow="md"))


def generate_day(day: int, fault: bool) -> tuple[Int64, Float64, Float64]:
    """Window ends, values (seconds, 2) and the clock's columns of one day (UTC days from 04:00)."""
    from features.calendar import Calendar, Clock

    rng = np.random.default_rng(1_000 + day)
    start = (START + day * _DAY + np.arange(_DAY)) * _SECOND
    clock = Clock([(None, Calendar("XNYS"))])
    columns = clock.columns(start, KEYS[:1])
    names = [n.removeprefix("clock_") for n in clock.names]
    phase, to_close = columns[:, 0, names.index("phase")], columns[:, 0, names.index("to_close_s")]
    rate = np.choose(phase.astype(np.int64), [20.0, 200.0, 2_000.0, 2_000.0, 100.0])
    opened = np.flatnonzero(phase == 2.0)
    if len(opened):
        since = np.arange(_DAY) - opened[0]
        busy = rng.lognormal(0.0, 0.1)
        shape = 1.0 + 0.5 * ((since - 11_700) / 11_700.0) ** 2
        rate = np.where(phase == 2.0, rate * busy * shape, rate)
        rate = rate + np.where(
            (phase == 2.0) & (since >= 0), 19.0 * 2_000.0 * busy * np.exp(-np.maximum(since, 0) / 20.0), 0.0
        )
        rate = rate + np.where(
            (phase == 2.0) & (to_close < 60.0), 8_000.0 * busy * np.exp(-np.nan_to_num(to_close) / 20.0), 0.0
        )
        if fault:
            rate = rate + np.where((since >= 5) & (since < 15), 0.5 * 19.0 * 2_000.0, 0.0)
    packets = rng.poisson(rate * rng.lognormal(0.0, 0.08, _DAY)).astype(np.float64)
    latency = 20_000.0 * (1.0 + rate / 40_000.0) * rng.lognormal(0.0, 0.1, _DAY)
    return start + _SECOND, np.stack([packets, latency], axis=1), np.repeat(columns, 2, axis=1)


def run(*, data: str | None, quick: bool = False) -> list[Row]:
    """Alerts of the light model with the default policy; `data` is not needed."""
    rows = [
        Row(
            "session_open_alerts", None, "alerts", 0.0, "<=", "a minute before to five after a normal open, from week 2"
        ),
        Row("session_half_day_alerts", None, "alerts", 0.0, "<="),
        Row(
            "session_dst_alerts",
            None,
            "alerts",
            0.0,
            "<=",
            "an hour before to five minutes after the five opens after the change",
        ),
        Row("session_other_per_day", None, "alerts/day", 1.0, "<=", "all other alerts, from week 2"),
        Row("session_fault_delay_s", None, "s", 10.0, "<=", "half the burst's size at 09:30:05"),
    ]

    def measure() -> list[float]:
        from detectors.policy import ALERT, BudgetPolicy
        from models.light import LightModel

        model, policy = LightModel(), BudgetPolicy(per_day=1.0)
        names = ("value", *(f"clock_{n}" for n in ("slot", "weekday", "phase", "holiday", "to_open_s", "to_close_s")))
        opens = half = dst = other = 0
        delay = np.inf
        for day in range(DAYS):
            end, values, clock = generate_day(day, day == FAULT_DAY)
            panel = Panel(KEYS, names, _SECOND, end, np.concatenate([values[:, :, None], clock], axis=2))
            model.align(panel.keys)
            scores = model.advance(panel)
            policy.align(panel.keys, scores.columns)
            decision = policy.decide(end, _SECOND, scores.surprise)
            hits = np.unique(np.flatnonzero((decision.grade >= ALERT).any(axis=(1, 2))))
            opened = np.flatnonzero(clock[:, 0, names.index("clock_phase") - 1] == 2.0)
            at = int(opened[0]) if len(opened) else -10_000
            if day == FAULT_DAY:
                found = hits[(hits >= at + 5) & (hits < at + 60)]
                delay = float(found[0] - (at + 5) + 1) if len(found) else np.inf
                hits = hits[hits < at + 5]
            if day < LEARNT:
                continue
            near = (hits >= at - 60) & (hits < at + 300)
            opens += int(near.sum())
            other += int((~near).sum())
            half += len(hits) if day == HALF_DAY else 0
            dst += int(((hits >= at - 3_700) & (hits < at + 300)).sum()) if 14 <= day <= 18 else 0
        return [float(opens), float(half), float(dst), other / (DAYS - LEARNT), delay]

    return attempt(rows, measure)
