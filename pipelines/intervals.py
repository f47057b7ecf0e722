"""Measures of a backtest with 95 % intervals: a block bootstrap, blocks that never cut an incident.

Windows are not independent of each other, incidents come in spells: so stretches of time are drawn with replacement,
with all that happened in them. A share (recall, precision) is at least as wide as Wilson's interval: where all were
found, a bootstrap knows no doubt.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines import nab
from pipelines.evaluate import Evaluation, covered, wilson
from pipelines.measures import auc_pr, range_f1, segments, vus_pr
from telemetry.types import Bool, Float64, Int64, Label, Nanos

__all__ = ["Track", "event_intervals", "score_measures"]

HOUR_NS = 3_600_000_000_000
DRAWS = 1000
ROWS = 8_000
ALERT_SCORE = 0.5
CASES = 5


@dataclass(frozen=True, slots=True)
class Track:
    """One case as a detector saw it: each window's largest surprise and largest anomaly score.

    Parameters
    ----------
    name : str
    end_ns, start_ns : (n,) int64
        The windows, by end.
    surprise, score : (n,) float64
        Over all channels; a score of 0.5 is where the policy alerts. -inf and 0 while nothing is known.
    alert : (n,) bool
        Windows that ended with an alert.
    labels : tuple of Label
        Of this case.
    """

    name: str
    end_ns: Int64
    start_ns: Int64
    surprise: Float64
    score: Float64
    alert: Bool
    labels: tuple[Label, ...]

    @property
    def known(self) -> Float64:
        """The surprise, 0 where there is none yet."""
        return np.where(np.isfinite(self.surprise), self.surprise, 0.0)

    @property
    def hot(self) -> Int64:
        """1 for windows that reach into a labelled incident."""
        out = np.zeros(len(self.end_ns), np.int64)
        for x in self.labels:
            if x.kind != "none":
                out[(self.end_ns > x.start_ns) & (self.start_ns < x.end_ns)] = 1
        return out


def edges(lo: Nanos, hi: Nanos, labels: Sequence[Label]) -> Int64:
    """Borders of blocks over ``[lo, hi)``: about an hour each, 24 to 200 of them, none inside of a label."""
    span = max(hi - lo, 1)
    length = max(min(HOUR_NS, span // 24), span // 200, 1)
    out = [lo]
    real = sorted((x.start_ns, x.end_ns) for x in labels if x.kind != "none")
    for at in range(lo + length, hi, length):
        for start, end in real:
            if start < at < end:
                at = end
        if out[-1] < at < hi:
            out.append(at)
    return np.array([*out, hi], np.int64)


def event_intervals(parts: Sequence[tuple[Evaluation, Nanos, Nanos]], seed: int) -> dict[str, tuple[float, float]]:
    """Intervals of the figures by incident; a part is an evaluation and its range of time."""
    rows: list[Float64] = []
    delays, where = [], []
    base = 0
    for evaluation, lo, hi in parts:
        labels = [m.label for m in evaluation.matches]
        cut = edges(lo, hi, labels)
        blocks = len(cut) - 1

        def block(at: Nanos, cut: Int64 = cut, blocks: int = blocks) -> int:
            return min(max(int(np.searchsorted(cut, at, side="right")) - 1, 0), blocks - 1)

        sums = np.zeros((blocks, 4))  # labels, found, false, clean days
        for m in evaluation.matches:
            b = block(m.label.start_ns)
            sums[b, 0] += 1
            if m.delay_ns is not None:
                sums[b, 1] += 1
                delays.append(m.delay_ns / 1e9)
                where.append(base + b)
        for f in evaluation.false:
            sums[block(f.at_ns), 2] += 1
        spans = [(x.start_ns, x.end_ns) for x in labels]
        busy = [covered(spans, int(a), int(b)) for a, b in itertools.pairwise(cut)]
        clean = np.maximum(np.diff(cut) - np.array(busy), 0) / 86_400e9
        sums[:, 3] = clean * (evaluation.clean_ns / 86_400e9 / max(clean.sum(), 1e-30))
        rows.append(sums)
        base += blocks
    table = np.concatenate(rows)
    late, at = np.array(delays), np.array(where, np.int64)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(table), np.full(len(table), 1.0 / len(table)), DRAWS)
    labels_n, found, false, days = (times @ table).T
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = {
            "event_recall": found / labels_n,
            "event_precision": found / (found + false),
            "event_f1": np.where(labels_n > 0, 2 * found / (labels_n + found + false), math.nan),
            "false_per_day": false / days,
        }
    if len(late):
        some = (np.repeat(late, row[at]) for row in times)
        drawn["delay_p50_s"] = np.array([np.median(x) if len(x) else math.nan for x in some])
    whole = {name: _middle(values) for name, values in drawn.items()}
    out = {name: pair for name, pair in whole.items() if pair[0] == pair[0]}
    labels_all, hit, wrong = (int(x) for x in table[:, :3].sum(axis=0))
    for name, k, of in (("event_recall", hit, labels_all), ("event_precision", hit, hit + wrong)):
        if of:
            low, high = wilson(k, of)
            least, most = out.get(name, (low, high))
            out[name] = min(low, least), max(high, most)
    return out


def score_measures(
    tracks: Sequence[Track], *, draws: int, seed: int
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """VUS-PR and AUC-PR (mean over cases with labels), range F1 and NAB's score (pooled), and their intervals.

    The areas are of the surprise: a policy that says an event once leaves nothing to rank. Range F1 is of the windows
    at or above the policy's threshold; NAB's score is of the alerts, and beside it of the scores at the best threshold
    of the corpus.
    """
    ready = [(t, t.hot) for t in tracks]
    real = [(t, h) for t, h in ready if 0 < h.sum() < len(h)]
    if not real:
        return {}, {}
    areas: dict[str, Callable[[Int64, Float64], float]] = {"vus_pr": vus_pr, "auc_pr": auc_pr}
    singles = {name: [area(h, t.known) for t, h in real] for name, area in areas.items()}
    out = {name: float(np.mean(values)) for name, values in singles.items()}
    out["range_f1"] = _range(ready)
    files = [nab.prepare(t.score, segments(h)) for t, h in ready]
    told = [nab.prepare(t.alert.astype(np.float64), segments(h)) for t, h in ready]
    levels = {name: nab.best(files, profile).threshold for name, profile in nab.PROFILES.items()}
    for name, profile in nab.PROFILES.items():
        out[f"nab_{name}"] = nab.corpus_score(told, ALERT_SCORE, profile).score
        out[f"nab_best_{name}"] = nab.corpus_score(files, levels[name], profile).score
    if draws <= 0:
        return out, {}
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in out}
    if len(real) >= CASES:
        marks = {}
        for name, profile in nab.PROFILES.items():
            marks[f"nab_{name}"] = profile, [nab.file_score(f, ALERT_SCORE, profile)[0] for f in told]
            marks[f"nab_best_{name}"] = profile, [nab.file_score(f, levels[name], profile)[0] for f in files]
        owned = np.array([f.labelled for f in files])
        for _ in range(draws):
            one = rng.integers(0, len(real), len(real))
            for name in areas:
                drawn[name].append(float(np.mean(np.array(singles[name])[one])))
            some = rng.integers(0, len(files), len(files))
            drawn["range_f1"].append(_range([ready[i] for i in some]))
            for name, (profile, raw) in marks.items():
                value = nab.normalised(float(np.array(raw)[some].sum()), int(owned[some].sum()), profile)
                drawn[name].append(value)
    else:
        pieces = [_blocks(t, h) for t, h in real]
        for _ in range(draws):
            mixed = []
            for blocks in pieces:
                some = rng.integers(0, len(blocks), len(blocks))
                mixed.append(tuple(np.concatenate([blocks[i][k] for i in some]) for k in range(3)))
            fine = [(h, v, on) for h, v, on in mixed if 0 < h.sum() < len(h)]
            for name, area in areas.items():
                drawn[name].append(float(np.mean([area(h, v) for h, v, _ in fine])) if fine else math.nan)
            ranges = [range_f1(h, on) for h, _, on in fine]
            drawn["range_f1"].append(float(np.mean(ranges)) if ranges else math.nan)
    whole = {name: _middle(np.array(v)) for name, v in drawn.items() if v}
    return out, {name: pair for name, pair in whole.items() if pair[0] == pair[0]}


def _range(cases: Sequence[tuple[Track, Int64]]) -> float:
    gap: tuple[Int64, Bool] = np.zeros(1, np.int64), np.zeros(1, np.bool_)
    hot = np.concatenate([x for _, h in cases for x in (h, gap[0])])
    hit = np.concatenate([x for t, _ in cases for x in (t.score >= ALERT_SCORE, gap[1])])
    return range_f1(hot, hit)


def _blocks(track: Track, hot: Int64) -> list[tuple[Int64, Float64, Bool]]:
    """Labels, surprise and decision of each block's rows; of too many, the largest of each few stands for them."""
    cut = edges(int(track.start_ns[0]), int(track.end_ns[-1]) + 1, track.labels)
    at = np.unique(np.concatenate([[0], np.searchsorted(track.end_ns, cut[1:-1]), [len(hot)]]))
    few = -(-len(hot) // ROWS)
    known, on = track.known, track.score >= ALERT_SCORE
    out = []
    for a, b in itertools.pairwise(at):
        some = np.arange(a, b, few)
        labels, surprise, decided = (np.maximum.reduceat(x[:b], some) for x in (hot, known, on))
        out.append((labels, surprise, decided))
    return out


def _middle(values: Float64) -> tuple[float, float]:
    some = values[np.isfinite(values)]
    if not len(some):
        return math.nan, math.nan
    lo, hi = np.quantile(some, [0.025, 0.975])
    return float(lo), float(hi)
