"""Replay detectors against labelled incidents: the same loop as live, measured as users live it.

Figures first: recall, precision, F1 by event, false alarms per day, delay; then measures of the score (VUS-PR, AUC-PR,
range F1, NAB's); all with intervals (block bootstrap). Costs over budgets come from the stored surprise, without
scoring again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detectors.build import build_policy
from detectors.policy import ALERT, BudgetPolicy, Decision
from pipelines.cases import Case, open_case
from pipelines.evaluate import Evaluation, Finding, evaluate
from pipelines.intervals import Track, event_intervals, score_measures
from pipelines.replay import replay
from pipelines.resolve import Candidate
from telemetry.errors import NoDataError
from telemetry.source import Source
from telemetry.types import Alert, Events, Float64, Int64, Label, Nanos, Panel, Part, Scores, SeriesKey

__all__ = ["BUDGETS", "Outcome", "Replayed", "Task", "backtest", "false_by_block", "join", "run_task"]

BUDGETS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
KEEP = 50_000_000
BLOCK_NS = 3_600_000_000_000
BLOCKS = 24
DRAWS = 200


@dataclass(frozen=True, slots=True)
class Replayed:
    """One detector over one case, or over some hosts of it; `priced` are its findings at other budgets."""

    candidate: Candidate
    track: Track
    alerts: list[Alert]
    priced: Mapping[float, tuple[Finding, ...]]
    windows: int
    points: int
    from_ns: Nanos
    to_ns: Nanos
    seconds: float

    def judged(self) -> Evaluation:
        return evaluate(self.alerts, self.track.labels, self.from_ns, self.to_ns)

    def judged_at(self, budget: float) -> Evaluation:
        return evaluate(self.priced[budget], self.track.labels, self.from_ns, self.to_ns)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a backtest of one detector found.

    `tracks` are the scores of each case; `costs` maps a budget per day to (recall, false per day); `measures` are
    those of the score; `intervals` maps a figure to its 95 % interval.
    """

    candidate: Candidate
    evaluation: Evaluation
    alerts: list[Alert]
    tracks: tuple[Track, ...]
    costs: Mapping[float, tuple[float, float]]
    measures: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    by_kind: Mapping[str, tuple[int, int]]
    windows: int
    points: int
    from_ns: Nanos
    to_ns: Nanos
    seconds: float

    @property
    def timeline(self) -> tuple[Int64, Float64]:
        """(end_ns, largest surprise) of each window, by time."""
        end_ns = np.concatenate([t.end_ns for t in self.tracks])
        order = np.argsort(end_ns, kind="stable")
        return end_ns[order], np.concatenate([t.surprise for t in self.tracks])[order]

    def figures(self) -> dict[str, float]:
        """All figures by name."""
        out = {**self.evaluation.figures(), **self.measures}
        for name, (lo, hi) in self.intervals.items():
            out[f"{name}_lo"], out[f"{name}_hi"] = lo, hi
        return out

    def _repr_html_(self) -> str:
        from pipelines.casebook import BacktestReport

        return BacktestReport([self])._repr_html_()


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
        self.begins: list[Int64] = []
        self.tops: list[Float64] = []
        self.highs: list[Float64] = []
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
        self.begins.append(panel.end_ns - panel.window_ns)
        self.tops.append(np.fmax.reduce(flat, axis=1, initial=-np.inf))  # fmax leaves NaN out
        self.highs.append(np.fmax.reduce(decision.score.reshape(n[0], -1), axis=1, initial=0.0))
        if self.kept + flat.size <= KEEP:
            self.kept += flat.size
            joint = scores.parts is not None
            keys = (SeriesKey("", "joint"),) if joint else scores.keys
            columns = ("joint",) if joint else scores.columns
            surprise = scores.surprise[:, :1, :1] if joint else scores.surprise
            self.blocks.append(_Block((keys, columns, panel.window_ns), panel.end_ns, surprise))

    def track(self, name: str, labels: Sequence[Label], alerts: Sequence[Alert]) -> Track:
        end_ns = np.concatenate(self.ends)
        order = np.argsort(end_ns, kind="stable")
        begins, tops, highs = np.concatenate(self.begins), np.concatenate(self.tops), np.concatenate(self.highs)
        alert = np.isin(end_ns[order], [a.end_ns for a in alerts if a.grade == "alert"])
        return Track(name, end_ns[order], begins[order], tops[order], highs[order], alert, tuple(labels))


def backtest(
    candidate: Candidate,
    source: Source,
    labels: Sequence[Label],
    from_ns: Nanos,
    to_ns: Nanos,
    *,
    progress: Callable[[int], None] | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> Outcome:
    """Replay `candidate` over what was first seen in ``[from_ns, to_ns)`` and match its alerts to `labels`.

    Raises
    ------
    NoDataError
        The range holds no windows for this detector.
    """
    return join([_replayed(candidate, "", source, labels, from_ns, to_ns, progress)], seed=seed, draws=draws)


def _replayed(
    candidate: Candidate,
    name: str,
    source: Source,
    labels: Sequence[Label],
    from_ns: Nanos,
    to_ns: Nanos,
    progress: Callable[[int], None] | None = None,
) -> Replayed:
    start = time.process_time()
    detector = candidate.make()
    recorder = _Recorder()
    detector.observer = recorder
    alerts = list(replay(detector, _Watched(source, progress), from_ns, to_ns))
    if not recorder.windows:
        raise NoDataError(f"{candidate.label}: no windows of its series in {name or 'the range'}")
    lo, hi = recorder.first, recorder.last
    inside = [x for x in labels if x.end_ns > lo and x.start_ns < hi]
    priced = _priced(candidate.spec.policy, recorder.blocks)
    return Replayed(
        candidate, recorder.track(name, inside, alerts), alerts, priced, recorder.windows, recorder.points, lo, hi,
        time.process_time() - start,
    )  # fmt: skip


def join(replayed: Sequence[Replayed], *, seed: int = 0, draws: int = DRAWS) -> Outcome:
    """One detector's cases as one outcome; `draws` of the bootstrap for measures of scores (0: no intervals).

    Parts of the same case (its hosts) become one before anything is counted.
    """
    start = time.process_time()
    cases: dict[str, list[Replayed]] = {}
    for p in replayed:
        cases.setdefault(p.track.name, []).append(p)
    parts = [_one_case(some) for some in cases.values()]
    judged = [p.judged() for p in parts]
    whole = _pooled(judged)
    by_kind: dict[str, tuple[int, int]] = {}
    for m in whole.matches:
        found, n = by_kind.get(m.label.kind, (0, 0))
        by_kind[m.label.kind] = (found + (m.finding is not None), n + 1)
    costs = {}
    for budget in parts[0].priced:
        at = _pooled([p.judged_at(budget) for p in parts])
        costs[budget] = (at.recall, at.false_per_day)
    intervals = event_intervals([(e, p.from_ns, p.to_ns) for e, p in zip(judged, parts, strict=True)], seed)
    tracks = tuple(p.track for p in parts)
    measures, more = score_measures(tracks, draws=draws, seed=seed)
    return Outcome(
        parts[0].candidate, whole, [a for p in parts for a in p.alerts], tracks, costs, measures, intervals | more,
        by_kind, sum(p.windows for p in parts), sum(p.points for p in parts), min(p.from_ns for p in parts),
        max(p.to_ns for p in parts), sum(p.seconds for p in parts) + time.process_time() - start,
    )  # fmt: skip


def _one_case(parts: Sequence[Replayed]) -> Replayed:
    """Hosts that were replayed apart, together again: a window's score is the largest of theirs."""
    if len(parts) == 1:
        return parts[0]
    tracks = [p.track for p in parts]
    spans = np.concatenate([np.stack([t.end_ns, t.start_ns], axis=1) for t in tracks])
    windows, at = np.unique(spans, axis=0, return_inverse=True)
    surprise, score = np.full(len(windows), -np.inf), np.zeros(len(windows))
    np.maximum.at(surprise, at.ravel(), np.concatenate([t.surprise for t in tracks]))
    np.maximum.at(score, at.ravel(), np.concatenate([t.score for t in tracks]))
    alert = np.zeros(len(windows), np.bool_)
    np.logical_or.at(alert, at.ravel(), np.concatenate([t.alert for t in tracks]))
    labels = {x.id: x for t in tracks for x in t.labels}
    return Replayed(
        parts[0].candidate,
        Track(tracks[0].name, windows[:, 0], windows[:, 1], surprise, score, alert, tuple(labels.values())),
        sorted((a for p in parts for a in p.alerts), key=lambda a: (a.end_ns, a.id)),
        {b: tuple(f for p in parts for f in p.priced.get(b, ())) for b in parts[0].priced},
        len(windows),
        sum(p.points for p in parts),
        min(p.from_ns for p in parts),
        max(p.to_ns for p in parts),
        sum(p.seconds for p in parts),
    )


def _pooled(parts: Sequence[Evaluation]) -> Evaluation:
    return Evaluation(
        tuple(m for e in parts for m in e.matches),
        tuple(f for e in parts for f in e.false),
        sum(e.clean_ns for e in parts),
    )


@dataclass(frozen=True, slots=True)
class Task:
    """A piece of a backtest that another process can run: detectors over one case, which is read once."""

    candidates: tuple[Candidate, ...]
    case: Case


def run_task(task: Task) -> list[Replayed | str]:
    """Run a `Task`, one result a detector; where there is nothing to run on, the reason.

    A version that was trained on all of the case knows its future, so it is replayed cold.
    """
    case = task.case
    out: list[Replayed | str] = []
    with open_case(case) as source:
        for candidate in task.candidates:
            tries = (candidate, candidate.cold()) if candidate.snapshot is not None else (candidate,)
            reason = ""
            for one in tries:
                try:
                    out.append(_replayed(one, case.name, source, case.labels, case.from_ns, case.to_ns))
                    break
                except NoDataError as error:
                    reason = str(error)
            else:
                out.append(reason)
    return out


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


def _priced(policy: Part, blocks: Sequence[_Block]) -> dict[float, tuple[Finding, ...]]:
    """What would have been found at other budgets, from the stored surprise."""
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
        out[budget] = tuple(found)
    return out


def false_by_block(evaluation: Evaluation, lo: Nanos, hi: Nanos) -> Float64:
    """False alarms in blocks of an hour, or shorter ones where there would be fewer than `BLOCKS`."""
    length = min(BLOCK_NS, max(1, (hi - lo) // BLOCKS))
    out = np.zeros(max(1, -(-(hi - lo) // length)))
    for f in evaluation.false:
        out[min(len(out) - 1, (f.at_ns - lo) // length)] += 1
    return out
