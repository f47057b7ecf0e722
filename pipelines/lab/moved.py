"""Did the fault move anything? Decided from the application's records and the scenario's own counter alone.

``moved`` is true if messages or orders were lost during the fault and (at that rate) not before it,
or if the median or the 99th percentile of a latency differs between fault and baseline (bootstrap
over blocks of one second, two-sided, p < .001), or if the scenario's own counter left its baseline.
No detector has a say in it.
"""

from __future__ import annotations

import csv
import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np

from telemetry.types import Float64, Int64

__all__ = ["block_bootstrap", "judge", "lost_messages"]

BLOCK_NS = 1_000_000_000
RESAMPLES = 5000
P_LIMIT = 0.001
_EDGES = np.concatenate([[-np.inf], -np.logspace(9, 3, 300), [0.0], np.logspace(3, 11, 1600), [np.inf]])


def _histograms(time_ns: Int64, value: Float64, start: int, end: int) -> Float64:
    """Count `value` in fine logarithmic bins, one row a block of a second with at least one sample."""
    inside = (time_ns >= start) & (time_ns < end)
    block = (time_ns[inside] - start) // BLOCK_NS
    column = np.searchsorted(_EDGES, value[inside], side="right") - 1
    width = len(_EDGES) - 1
    rows = int(block.max()) + 1 if len(block) else 0
    table = np.bincount(block * width + np.minimum(column, width - 1), minlength=rows * width).reshape(rows, width)
    return table[table.sum(1) > 0].astype(np.float64)


def _quantiles(counts: Float64, q: float) -> Int64:
    """Return the bin that holds quantile `q` of each row."""
    total = np.cumsum(counts, axis=-1)
    return np.asarray((total < q * total[..., -1:]).sum(axis=-1), np.int64)


def block_bootstrap(
    time_ns: Int64, value: Float64, before: tuple[int, int], during: tuple[int, int], q: float, seed: int = 7
) -> float:
    """Two-sided p that quantile `q` is the same before and during (Kuensch 1989: blocks keep dependence).

    Parameters
    ----------
    time_ns, value : (n,)
        When, and how long (ns).
    before, during : half-open intervals

    Returns
    -------
    float
        1.0 where there is too little data (fewer than three blocks on a side).
    """
    tables = [_histograms(time_ns, value, *interval) for interval in (before, during)]
    if min(len(t) for t in tables) < 3:
        return 1.0
    rng = np.random.default_rng(seed)
    bins = []
    for table in tables:
        used = np.flatnonzero(table.sum(0))  # only the bins that hold anything, to keep the product small
        weights = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), RESAMPLES).astype(np.float64)
        bins.append(used[np.minimum(_quantiles(weights @ table[:, used], q), len(used) - 1)])
    above, below = float((bins[1] <= bins[0]).mean()), float((bins[1] >= bins[0]).mean())
    return min(1.0, 2 * min(above, below))


def lost_messages(md: Int64, sent: int, window: tuple[int, int]) -> int:
    """Count the packets of both lines that were sent within a window and never read.

    A lost packet's send time is taken from the same sequence number on the other line, or from the
    packet before it.
    """
    lost = 0
    when = np.zeros(sent + 1, np.int64)
    known = (md[:, 1] > 0) & (md[:, 1] <= sent)
    when[md[known, 1]] = md[known, 2]
    when = np.maximum.accumulate(when)
    for channel in (0, 1):
        there = np.zeros(sent + 1, np.bool_)
        seqs = md[md[:, 0] == channel, 1]
        there[seqs[(seqs > 0) & (seqs <= sent)]] = True
        gone = np.flatnonzero(~there[1:]) + 1
        lost += int(((when[gone] >= window[0]) & (when[gone] < window[1])).sum())
    return lost


def _first(md: Int64, channel: int, seqs: Int64) -> Int64:
    """Return the rows of a line with the given sequence numbers, the first of each."""
    rows = md[md[:, 0] == channel]
    rows = rows[np.argsort(rows[:, 1], kind="stable")]
    return rows[np.searchsorted(rows[:, 1], seqs)]


def _counter(path: Path, pattern: str, before: tuple[int, int], during: tuple[int, int]) -> tuple[float, float]:
    """Return the rate per second (of a gauge: the mean) of the columns that match, before and during."""
    with gzip.open(path, "rt", newline="") as f:
        rows = csv.reader(f)
        head = next(rows)
        picked = [i for i, name in enumerate(head) if re.fullmatch(pattern, name)]
        table = [[float(row[i] or "nan") for i in (0, *picked)] for row in rows]
    if not picked or not table:
        return 0.0, 0.0
    data = np.array(table)
    gauge = any(head[i].endswith(("state_T", "incomplete", "failed")) for i in picked)
    found = []
    for start, end in (before, during):
        part = data[(data[:, 0] >= start / 1e9) & (data[:, 0] < end / 1e9)]
        if len(part) < 2:
            found.append(0.0)
        elif gauge:
            found.append(float(np.nan_to_num(part[:, 1:]).sum(1).mean()))
        else:
            steps = np.nan_to_num(np.diff(part[:, 1:], axis=0)).clip(0).sum()
            found.append(float(steps / max(part[-1, 0] - part[0, 0], 0.1)))
    return found[0], found[1]


def judge(folder: Path, label: dict[str, Any], counter: str) -> dict[str, Any]:
    """Say whether and by what the fault showed.

    Returns
    -------
    dict
        ``moved`` and ``why`` (names), ``lost`` and ``lost_before`` (messages), ``unacked``, ``p``
        (measure and quantile to p), ``quantiles_us`` (before, during), ``counter`` (before, during, per second).
    """
    with np.load(folder / "app_raw.npz", allow_pickle=False) as z:
        md, orders, unacked = z["md"], z["orders"], z["unacked"]
    shift = int(label["params"].get("offset_ns", 0)) if "params" in label else 0
    start, end = (int(label[k] * 1e9) for k in ("fault_sched_start", "fault_sched_end"))
    before, during = (int(label["t0"] * 1e9) + BLOCK_NS, start), (start, end)
    sent = int(label["sent"]["last_seq"])
    lost = [lost_messages(md, sent, w) for w in (before, during)]
    rate = [n / max((b - a) / 1e9, 1e-9) for n, (a, b) in zip(lost, (before, during), strict=True)]
    why = []
    if lost[1] and rate[1] > 3 * rate[0]:
        why.append("lost")
    if len(unacked):
        why.append("unacked")
    both = np.intersect1d(md[md[:, 0] == 0, 1], md[md[:, 0] == 1, 1])
    at = [_first(md, c, both) for c in (0, 1)]
    measures = {
        "feed_delay": (md[:, 2], (md[:, 3] - md[:, 2]).astype(np.float64)),
        "kernel_to_user": (md[:, 2], (md[:, 4] - md[:, 3]).astype(np.float64)),
        "ab_skew": (at[0][:, 2], (at[1][:, 3] - at[0][:, 3]).astype(np.float64)),
        "tick_to_ack": (orders[:, 2], (orders[:, 3] - orders[:, 2]).astype(np.float64)),
    }
    p: dict[str, float] = {}
    shown: dict[str, list[float]] = {}
    for name, (when, value) in measures.items():
        for text, q in (("p50", 0.5), ("p99", 0.99)):
            p[f"{name}_{text}"] = block_bootstrap(when, value, before, during, q)
            parts = [value[(when >= a) & (when < b)] for a, b in (before, during)]
            shown[f"{name}_{text}"] = [round(float(np.quantile(x, q)) / 1e3, 1) if len(x) else -1.0 for x in parts]
    why += [name for name, value in p.items() if value < P_LIMIT]
    own = [0.0, 0.0]
    if counter:
        own = list(_counter(folder / "proc_10hz.csv.gz", counter, before, during))
        if own[1] > 3 * own[0] and own[1] * (end - start) / 1e9 > 3:
            why.append("counter")
    return {
        "moved": bool(why), "why": why, "lost": lost[1], "lost_before": lost[0], "unacked": len(unacked),
        "p": p, "quantiles_us": shown, "counter": own, "shifted_ns": shift,
    }  # fmt: skip
