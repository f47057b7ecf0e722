"""Replay detectors against labelled incidents: the same loop as live, measured as users live it.

Figures first: recall, precision, F1 by event, false alarms per day, delay; with intervals (bootstrap over incidents
and over blocks of time). Costs over budgets come from the stored surprise, without scoring again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectors.build import build_policy
from detectors.policy import ALERT, BudgetPolicy, Decision
from pipelines.evaluate import Evaluation, Finding, evaluate
from pipelines.replay import replay
from pipelines.resolve import Candidate
from telemetry.errors import NoDataError
from telemetry.source import Source
from telemetry.types import Alert, Events, Float64, Int64, Label, Nanos, Panel, Part, Scores, SeriesKey

__all__ = ["BUDGETS", "Outcome", "Task", "backtest", "false_by_block", "regressions", "run_task"]

BUDGETS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
KEEP = 50_000_000
BLOCK_NS = 3_600_000_000_000
BLOCKS = 24


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a backtest of one detector found.

    `timeline` is (end_ns, largest surprise of the window); `costs` maps a budget per day to (recall, false per day);
    `intervals` maps a figure to its 95 % interval.
    """

    candidate: Candidate
    evaluation: Evaluation
    alerts: list[Alert]
    timeline: tuple[Int64, Float64]
    costs: Mapping[float, tuple[float, float]]
    intervals: Mapping[str, tuple[float, float]]
    by_kind: Mapping[str, tuple[int, int]]
    windows: int
    points: int
    from_ns: Nanos
    to_ns: Nanos
    seconds: float

    def figures(self) -> dict[str, float]:
        """All figures by name."""
        out = dict(self.evaluation.figures())
        for name, (lo, hi) in self.intervals.items():
            out[f"{name}_lo"], out[f"{name}_hi"] = lo, hi
        return out


@dataclass(frozen=True, slots=True)
class _Block:
    panel: tuple[tuple[SeriesKey, ...], tuple[str, ...], Nanos]
    end_ns: Int64
    surprise: Float64


class _Recorder:
    """Keeps the surprise of every window (up to a bound) and the largest of each."""

    def __init__(self) -> None:
        self.blocks: list[_Block] = []
        self.ends: list[Int64] = []
        self.tops: list[Float64] = []
        self.points = self.windows = self.kept = 0
        self.first, self.last = 2**62, -(2**62)

    def __call__(self, panel: Panel, scores: Scores, decision: Decision) -> None:
        n = scores.surprise.shape
        self.windows += n[0]
        self.points += scores.surprise.size
        self.first = min(self.first, int(panel.end_ns[0]) - panel.window_ns)
        self.last = max(self.last, int(panel.end_ns[-1]))
        flat = scores.surprise.reshape(n[0], -1)
        self.ends.append(panel.end_ns)
        self.tops.append(np.where(np.isnan(flat), -np.inf, flat).max(axis=1, initial=-np.inf))
        if self.kept + flat.size <= KEEP:
            self.kept += flat.size
            joint = scores.parts is not None
            keys = (SeriesKey("", "joint"),) if joint else scores.keys
            columns = ("joint",) if joint else scores.columns
            surprise = scores.surprise[:, :1, :1] if joint else scores.surprise
            self.blocks.append(_Block((keys, columns, panel.window_ns), panel.end_ns, surprise))


def backtest(
    candidate: Candidate,
    source: Source,
    labels: Sequence[Label],
    from_ns: Nanos,
    to_ns: Nanos,
    *,
    progress: Callable[[int], None] | None = None,
    seed: int = 0,
) -> Outcome:
    """Replay `candidate` over what was first seen in ``[from_ns, to_ns)`` and match its alerts to `labels`.

    Raises
    ------
    NoDataError
        The range holds no windows for this detector.
    """
    start = time.process_time()
    detector = candidate.make()
    recorder = _Recorder()
    detector.observer = recorder
    alerts: list[Alert] = []
    for alert in replay(detector, _Watched(source, progress), from_ns, to_ns):
        alerts.append(alert)
    if not recorder.windows:
        raise NoDataError(f"{candidate.label}: no windows of its series in the range")
    lo, hi = recorder.first, recorder.last
    inside = [x for x in labels if x.end_ns > lo and x.start_ns < hi]
    evaluation = evaluate(alerts, inside, lo, hi)
    by_kind: dict[str, tuple[int, int]] = {}
    for m in evaluation.matches:
        found, n = by_kind.get(m.label.kind, (0, 0))
        by_kind[m.label.kind] = (found + (m.finding is not None), n + 1)
    order = np.argsort(np.concatenate(recorder.ends), kind="stable")
    timeline = (np.concatenate(recorder.ends)[order], np.concatenate(recorder.tops)[order])
    return Outcome(
        candidate, evaluation, alerts, timeline, _costs(candidate.spec.policy, recorder.blocks, inside, lo, hi),
        _intervals(evaluation, lo, hi, seed), by_kind, recorder.windows, recorder.points, lo, hi,
        time.process_time() - start,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Task:
    """A backtest that another process can run: one detector over the hosts of `select` in a store."""

    candidate: Candidate
    store: str
    labels: tuple[Label, ...]
    from_ns: Nanos
    to_ns: Nanos
    select: str = ""


def run_task(task: Task) -> Outcome | str:
    """Run a `Task`; where there is nothing to run on, the reason."""
    from telemetry.store import Store

    with Store(task.store, create=False) as store:
        source: Source = _Selected(store, task.select) if task.select else store
        try:
            return backtest(task.candidate, source, task.labels, task.from_ns, task.to_ns)
        except NoDataError as error:
            return str(error)


class _Selected:
    def __init__(self, store: Any, select: str) -> None:
        self._store, self._select = store, select

    def read(self, seen_from_ns: Nanos, seen_to_ns: Nanos) -> Iterator[Events]:
        found: Iterator[Events] = self._store.read(seen_from_ns, seen_to_ns, select=self._select)
        return found


class _Watched:
    def __init__(self, source: Source, progress: Callable[[int], None] | None) -> None:
        self._source, self._progress = source, progress

    def read(self, seen_from_ns: Nanos, seen_to_ns: Nanos) -> Iterator[Events]:
        n = 0
        for batch in self._source.read(seen_from_ns, seen_to_ns):
            n += len(batch)
            yield batch
            if self._progress is not None:
                self._progress(n)


def _costs(
    policy: Part, blocks: Sequence[_Block], labels: Sequence[Label], lo: Nanos, hi: Nanos
) -> dict[float, tuple[float, float]]:
    """Recall and false alarms per day at other budgets, from the stored surprise."""
    if policy.kind != "budget" or not blocks:
        return {}
    out = {}
    for budget in BUDGETS:
        lanes: dict[Nanos, BudgetPolicy] = {}
        found: list[Finding] = []
        for block in blocks:
            keys, columns, window_ns = block.panel
            if window_ns not in lanes:
                params = {k: v for k, v in policy.params.items() if k != "threshold"} | {"per_day": budget}
                made = build_policy(Part("budget", params))
                assert isinstance(made, BudgetPolicy)  # the table says so
                lanes[window_ns] = made
            lanes[window_ns].align(keys, columns)
            decision = lanes[window_ns].decide(block.end_ns, window_ns, block.surprise)
            for w, s in np.argwhere((decision.grade == ALERT).any(axis=2)):
                place = ",".join(f"{k}={v}" for k, v in (("host", keys[s].host), *keys[s].labels) if v and "," not in v)
                found.append(Finding(int(block.end_ns[w]), place, window_ns))
        result = evaluate(found, labels, lo, hi)
        out[budget] = (result.recall, result.false_per_day)
    return out


def _intervals(evaluation: Evaluation, lo: Nanos, hi: Nanos, seed: int) -> dict[str, tuple[float, float]]:
    """95 % bootstrap: incidents are drawn with replacement, false alarms in blocks of an hour."""
    rng = np.random.default_rng(seed)
    draws = 1000
    found = np.array([m.finding is not None for m in evaluation.matches], np.float64)
    delays = np.array([m.delay_ns / 1e9 for m in evaluation.matches if m.delay_ns is not None])
    blocks = false_by_block(evaluation, lo, hi)
    clean_days = evaluation.clean_ns / 86_400e9
    out: dict[str, tuple[float, float]] = {}
    false = rng.choice(blocks, (draws, len(blocks))).sum(axis=1)
    if clean_days > 0:
        out["false_per_day"] = _middle(false / clean_days)
    if len(found):
        hits = rng.choice(found, (draws, len(found))).sum(axis=1)
        out["event_recall"] = _middle(hits / len(found))
        out["event_f1"] = _middle(2 * hits / np.maximum(len(found) + hits + false, 1))
    if len(delays):
        out["delay_p50_s"] = _middle(np.median(rng.choice(delays, (draws, len(delays))), axis=1))
    return out


def false_by_block(evaluation: Evaluation, lo: Nanos, hi: Nanos) -> Float64:
    """False alarms in blocks of an hour, or shorter ones where there would be fewer than `BLOCKS`."""
    length = min(BLOCK_NS, max(1, (hi - lo) // BLOCKS))
    out = np.zeros(max(1, -(-(hi - lo) // length)))
    for f in evaluation.false:
        out[min(len(out) - 1, (f.at_ns - lo) // length)] += 1
    return out


def _middle(values: Float64) -> tuple[float, float]:
    lo, hi = np.quantile(values, [0.025, 0.975])
    return float(lo), float(hi)


def regressions(before: Mapping[str, bool], now: Mapping[str, bool]) -> list[str]:
    """Incidents (by id) that the version before caught and this one misses."""
    return sorted(k for k, caught in before.items() if caught and k in now and not now[k])
