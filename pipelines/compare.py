"""Did a change help? Two periods, the distribution of each series, and how sure one can be.

Quantiles of latencies that follow each other are not independent, so whole blocks of time are resampled (moving
everything within a block together; Kuensch, 1989). The interval of each ratio after/before is the bootstrap's
percentile interval at a level shared among the comparisons (Bonferroni).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from telemetry.errors import ConfigError, NoDataError
from telemetry.selectors import Select, predicate
from telemetry.types import Events, Float64, Int64, Nanos, SeriesKey

__all__ = ["Comparison", "Row", "compare", "period_samples", "verdict"]

SECOND = 1_000_000_000
BINS_PER_OCTAVE = 256
"""Values are binned this finely before resampling: 0.27 % relative error."""
LEAST_BLOCKS = 8
NAMED = 8
_PORT = re.compile(r":(\d{1,5})(?!\d)")

Verdict = Literal["improved", "worse", "undecided"]
Samples = dict[SeriesKey, tuple[Int64, Float64]]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one series in both periods; `ratio` is after/before with its interval."""

    series: SeriesKey
    figure: str
    before: float
    after: float
    ratio: float
    lo: float
    hi: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Comparison:
    """All rows and what they say together; `notes` names what was left out and why."""

    rows: tuple[Row, ...]
    verdict: Verdict
    notes: tuple[str, ...]


def period_samples(batches: Iterable[Events], select: Select, from_ns: Nanos, to_ns: Nanos) -> Samples:
    """Values of the selected series in ``[from_ns, to_ns)`` of event time; counters as differences per second.

    Connections differ only in their ephemeral port from one period to the next: ports from 32768 on become ``*``.
    """
    chosen, _ = predicate(select)
    parts: dict[SeriesKey, list[tuple[Int64, np.ndarray]]] = {}
    for events in batches:
        for i in np.unique(events.series):
            key = events.keys[i]
            if chosen is None or chosen(key):
                at = (events.series == i) & (events.time_ns >= from_ns) & (events.time_ns < to_ns)
                parts.setdefault(_lasting(key), []).append((events.time_ns[at], events.value[at]))
    out: Samples = {}
    for key, pieces in parts.items():
        time = np.concatenate([p[0] for p in pieces])
        value = np.concatenate([p[1] for p in pieces])
        order = np.argsort(time, kind="stable")
        time, value = time[order], value[order]
        if key.metric.endswith("_total"):
            step, span = np.diff(value), np.diff(time)
            whole = (step >= 0) & (span > 0)  # a reset is not a rate
            time, value = time[1:][whole], step[whole] * (1e9 / span[whole])
        finite = np.isfinite(value.astype(np.float64))
        if finite.any():
            out[key] = (time[finite], value[finite].astype(np.float64))
    return out


def _lasting(key: SeriesKey) -> SeriesKey:
    labels = tuple((k, _PORT.sub(_forget, v) if k == "flow" else v) for k, v in key.labels)
    return key if labels == key.labels else SeriesKey(key.host, key.metric, labels)


def _forget(port: re.Match[str]) -> str:
    return ":*" if 32_768 <= int(port[1]) <= 65_535 else port[0]


def compare(
    before: Samples,
    after: Samples,
    *,
    figures: Sequence[str] = ("p50", "p99"),
    block_ns: Nanos = SECOND,
    resamples: int = 1000,
    level: float = 0.95,
    margin: float = 0.02,
    higher_is_better: bool = False,
    seed: int = 1,
) -> Comparison:
    """Compare each series that both periods have.

    Parameters
    ----------
    before, after : series to (time_ns, value)
    figures : of ``mean`` and quantiles (``p50``, ``p99``, ``p999``)
    block_ns : int
        Length of the blocks that are resampled; longer than what hangs together.
    resamples : int
    level : float
        Of all intervals together.
    margin : float
        A ratio within 1 +- margin changes nothing that matters.
    higher_is_better : bool
    seed : int
        The same input gives the same answer.

    Raises
    ------
    NoDataError
        No series is in both periods.
    """
    both = sorted(before.keys() & after.keys())
    lone = sorted(before.keys() ^ after.keys())
    notes = [f"{k}: only {'before' if k in before else 'after'}" for k in lone[:NAMED]]
    if len(lone) > NAMED:
        notes.append(f"{len(lone) - NAMED} more series are in one period only")
    if not both:
        raise NoDataError("compare: expected series that both periods have, found none; look at --before and --after")
    tail = (1.0 - level) / 2.0 / (len(both) * len(figures))
    rows: list[Row] = []
    for n, key in enumerate(both):
        tables = [_table(*side[key], block_ns) for side in (before, after)]
        short = min(len(t[1]) for t in tables)
        if short < LEAST_BLOCKS:
            notes.append(f"{key}: {short} blocks are too few (needed: {LEAST_BLOCKS}); longer periods or --block")
            continue
        rng = np.random.default_rng([seed, n])
        drawn = [_resample(values, counts, figures, resamples, rng) for values, counts in tables]
        for f, figure in enumerate(figures):
            a, b = (float(d[0][f]) for d in drawn)
            ratios = _ratio(drawn[1][1][:, f], drawn[0][1][:, f])
            lo, hi = (float(x) for x in np.quantile(ratios, [tail, 1.0 - tail]))
            rows.append(Row(key, figure, a, b, float(_ratio(b, a)), lo, hi, verdict(lo, hi, margin, higher_is_better)))
    found = {r.verdict for r in rows}
    whole: Verdict = "undecided"
    if "improved" in found and "worse" not in found:
        whole = "improved"
    elif "worse" in found and "improved" not in found:
        whole = "worse"
    elif {"improved", "worse"} <= found:
        notes.append("some figures are better and some are worse")
    return Comparison(tuple(rows), whole, tuple(notes))


def verdict(lo: float, hi: float, margin: float = 0.0, higher_is_better: bool = False) -> Verdict:
    """What an interval of the ratio after/before says."""
    if higher_is_better:
        lo, hi = (1.0 / hi if hi > 0 else math.inf), (1.0 / lo if lo > 0 else math.inf)
    if hi < 1.0 - margin:
        return "improved"
    return "worse" if lo > 1.0 + margin else "undecided"


def _ratio(after: np.ndarray | float, before: np.ndarray | float) -> np.ndarray:
    """after / before; 1 where both are 0."""
    a, b = np.asarray(after, np.float64), np.asarray(before, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((a == 0) & (b == 0), 1.0, a / b)


def _table(time_ns: Int64, value: Float64, block_ns: Nanos) -> tuple[Float64, Float64]:
    """Bin values, and how often each is in each block: (bins,), (blocks, bins); blocks without samples are left out."""
    size = np.abs(value)
    with np.errstate(divide="ignore"):
        code = np.where(size > 0, np.round(np.log2(np.maximum(size, 1e-300)) * BINS_PER_OCTAVE), 0).astype(np.int64)
    kind = np.sign(value).astype(np.int64)
    ids = np.where(kind == 0, 0, kind * (code + 1_000_000))  # in the order of the values
    bins, at = np.unique(ids, return_inverse=True)
    block = (time_ns - time_ns.min()) // block_ns
    _, row = np.unique(block, return_inverse=True)
    counts = np.zeros((row.max() + 1, len(bins)))
    np.add.at(counts, (row, at), 1.0)
    sums = np.zeros(len(bins))
    np.add.at(sums, at, value)
    return sums / counts.sum(0), counts


def _resample(
    values: Float64, counts: Float64, figures: Sequence[str], resamples: int, rng: np.random.Generator
) -> tuple[Float64, Float64]:
    """Figures of the whole, (F,), and of each resample, (resamples, F)."""
    blocks = len(counts)
    weights = rng.multinomial(blocks, np.full(blocks, 1.0 / blocks), size=resamples).astype(np.float64)
    drawn = np.concatenate([counts.sum(0)[None], weights @ counts])
    total = np.cumsum(drawn, axis=1)
    columns = [_figure(name)(values, drawn, total) for name in figures]
    out = np.stack(columns, axis=1)
    return out[0], out[1:]


def _figure(name: str) -> Callable[[Float64, Float64, Float64], Float64]:
    if name == "mean":
        return lambda values, drawn, total: (drawn @ values) / total[:, -1]
    digits = name.removeprefix("p")
    if not name.startswith("p") or not digits.isdigit():
        raise ConfigError(f"compare: expected figures such as mean, p50, p99 or p999, got {name!r}")
    q = int(digits) / 10 ** max(2, len(digits))

    def quantile(values: Float64, drawn: Float64, total: Float64) -> Float64:
        at = (total < q * total[:, -1:]).sum(axis=1)
        return np.asarray(values[np.minimum(at, len(values) - 1)])

    return quantile
