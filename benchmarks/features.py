"""Features against DuckDB, polars and pandas: windows with quantiles over many series; counters to rates."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.rows import Row, attempt
from features.spec import build_features
from telemetry.types import Events, Panel, Part, SeriesKey

__all__ = ["run"]

SECOND = 1_000_000_000
START = 1_772_000_000 * SECOND
SERIES, PER_SECOND = 1000, 1_000_000
COLUMNS = ["count", "sum", "min", "max", "p50", "p90", "p99", "p999"]
PROBS = [0.5, 0.9, 0.99, 0.999]
KEYS = tuple(SeriesKey.of("tx1", "wire_latency_ns", flow=i) for i in range(SERIES))


def chunks(n: int, size: int = 1_000_000) -> Iterator[Events]:
    """Events nearly in order, Zipf over the series, lognormal latencies; the same for one n and size."""
    rng = np.random.default_rng(7)
    share = 1 / np.arange(1, SERIES + 1)
    edges = np.cumsum(share / share.sum())
    for a in range(0, n, size):
        m = min(size, n - a)
        time_ns = START + np.arange(a, a + m) * (SECOND // PER_SECOND) + rng.integers(-200_000, 200_000, m)
        series = np.searchsorted(edges, rng.random(m)).clip(0, SERIES - 1)
        value = np.exp(rng.normal(10, 0.8, m)).astype(np.int64)
        yield Events(KEYS, series, time_ns, np.maximum.accumulate(time_ns), value)


def through_api(batches: Sequence[Events] | Iterator[Events], exact: bool) -> list[Panel]:
    part = Part("window", {"select": "wire_latency_ns", "window": "1s", "columns": COLUMNS, "exact": exact})
    builder = build_features([part], lateness_ns=1_000_000)
    out: list[Panel] = []
    for batch in batches:
        builder.push(batch)
        out += builder.close(builder.watermark_ns)
    return [*out, *builder.close((builder.newest_ns // SECOND + 1) * SECOND)]


def bare_kernel(whole: Events) -> None:
    """The kernels alone, on arrays at hand: into a buffer, partition, fill, second by second."""
    from features.collect_kernels import append, count, scatter
    from features.sketch import SPAN
    from features.window_kernels import fill

    none, names, local = np.empty(0, np.int64), np.empty(0, np.int32), np.arange(SERIES)
    edge, hist = np.zeros(2), np.zeros(SPAN, np.int32)
    ring, values = (np.empty(PER_SECOND, np.int32), none, np.empty(PER_SECOND)), np.empty(PER_SECOND)
    want = np.array([0, 1, -1, 2, 3, -1, -1, -1])
    alive, born = np.ones((1, SERIES), np.bool_), np.zeros(SERIES, np.bool_)
    for a in range(0, len(whole), PER_SECOND):
        part = whole[a : a + PER_SECOND]
        n = len(part)
        append(
            part.series, part.time_ns, part.value, np.empty(0, np.bool_), False, local, True, 0, False, 0, 0, 0,
            1 << 62, *ring, 0, *ring, 0, *ring, 0,
        )  # fmt: skip
        offset = np.zeros(SERIES + 1, np.int64)
        count(ring[0], none, n, False, SECOND, 0, 0, 0, 1, SERIES, offset)
        np.cumsum(offset, out=offset)
        at_cell = offset[:-1].copy()
        scatter(
            ring[0], none, ring[2], n, False, SECOND, 0, 0, 0, 1, SERIES, False, at_cell, names, none, values
        )  # fmt: skip
        fill(
            offset, values[:n], values[:n].view(np.int64), 0, 1, alive, born, want, np.inf, False, np.array(PROBS),
            np.arange(4, 8), hist, edge, edge.view(np.int64), True, np.empty((1, SERIES, 8)),
        )  # fmt: skip


def interleaved(jobs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Least CPU seconds of each job over rounds in which all take turns; the first round only warms up."""
    best = dict.fromkeys(jobs, np.inf)
    for i in range(rounds + 1):
        for name, job in jobs.items():
            start = time.process_time()
            job()
            if i:
                best[name] = min(best[name], time.process_time() - start)
    return best


def _duckdb(whole: Events) -> Callable[[], Any]:
    import duckdb
    import pyarrow as pa

    connection = duckdb.connect(config={"threads": 1})
    given = pa.table({"series": whole.series, "time_ns": whole.time_ns, "value": whole.value})
    connection.register("given", given)
    connection.execute("CREATE TABLE events AS SELECT * FROM given")
    query = (
        "SELECT series, time_ns // 1000000000 AS s, count(*), sum(value), min(value), max(value), "
        f"quantile_cont(value, {PROBS}) FROM events GROUP BY ALL"
    )
    return lambda: connection.execute(query).fetchnumpy()


def _polars(whole: Events) -> Callable[[], Any]:
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    import polars as pl

    frame = pl.DataFrame({"series": whole.series, "time_ns": whole.time_ns, "value": whole.value})
    v = pl.col("value")
    wanted = [pl.len(), v.sum().alias("sum"), v.min().alias("min"), v.max().alias("max")]
    wanted += [v.quantile(p, "linear").alias(f"q{p}") for p in PROBS]
    return lambda: frame.group_by("series", pl.col("time_ns") // SECOND).agg(wanted)


def _windows(n: int, rounds: int) -> list[float]:
    batches = list(chunks(n))
    whole = Events.concat(batches)
    jobs: dict[str, Callable[[], Any]] = {
        "sketch": lambda: through_api(batches, exact=False),
        "exact": lambda: through_api(batches, exact=True),
        "kernel": lambda: bare_kernel(whole),
        "duckdb": _duckdb(whole),
        "polars": _polars(whole),
    }
    took = interleaved(jobs, rounds)
    return [
        took["duckdb"] / took["sketch"],
        took["duckdb"] / took["exact"],
        took["polars"] / took["sketch"],
        took["sketch"] / took["kernel"],
        took["sketch"] / n * 1e9,
        took["exact"] / n * 1e9,
    ]


def _errors(n: int) -> list[float]:
    """Largest relative error of any quantile of any series and second, against NumPy on the same values."""
    whole = Events.concat(chunks(n))
    (sketched, exact) = (through_api([whole], exact) for exact in (False, True))
    series_of = {k: i for i, k in enumerate(KEYS)}
    order = np.lexsort((whole.series, whole.time_ns // SECOND))
    cell = (whole.time_ns // SECOND * SERIES + whole.series)[order]
    edges = np.flatnonzero(np.diff(cell, prepend=-1, append=-1))
    wanted = {int(cell[a]): np.quantile(whole.value[order[a:b]], PROBS) for a, b in itertools.pairwise(edges)}
    worst, unequal = 0.0, 0
    for panels, is_exact in ((sketched, False), (exact, True)):
        for panel in panels:
            at = [panel.columns.index(c) for c in COLUMNS[4:]]
            for w, end in enumerate(panel.end_ns.tolist()):
                for s, key in enumerate(panel.keys):
                    true = wanted.get((end // SECOND - 1) * SERIES + series_of[key])
                    if true is not None:
                        off = np.abs(panel.values[w, s, at] - true) / true
                        if is_exact:
                            unequal += int((off > 1e-14).sum())
                        else:
                            worst = max(worst, float(off.max()))
    return [worst, float(unequal)]


def _rates(n: int, rounds: int) -> list[float]:
    import pandas as pd

    from features.rates import sample_rates

    ticks = n // SERIES
    rng = np.random.default_rng(3)
    series = np.tile(np.arange(SERIES), ticks)
    time_ns = np.repeat(START + np.arange(ticks) * (SECOND // 10), SERIES)
    value = np.cumsum(rng.integers(0, 1000, (ticks, SERIES)), axis=0).reshape(-1)
    keys = tuple(SeriesKey.of("tx1", "irq_total", irq=i) for i in range(SERIES))
    events = Events(keys, series, time_ns, time_ns, value)
    frame = pd.DataFrame({"series": series, "time_ns": time_ns, "value": value})

    def with_pandas() -> Any:
        by = frame.groupby("series")
        up, span = by["value"].diff(), by["time_ns"].diff()
        return (up * 1e9 / span).where((up >= 0) & (span > 0))

    def windows_with_pandas() -> Any:
        last = frame.assign(s=frame["time_ns"] // SECOND).groupby(["series", "s"], sort=False).last()
        by = last.groupby("series")
        return by["value"].diff() * 1e9 / by["time_ns"].diff()

    def windows_through_api() -> Any:
        builder = build_features([Part("rate", {"select": "irq_total", "window": "1s"})])
        builder.push(events)
        return builder.close(builder.watermark_ns)

    np.testing.assert_allclose(sample_rates(series, time_ns, value), with_pandas().to_numpy())
    room = np.empty(len(series))
    took = interleaved(
        {
            "rates": lambda: sample_rates(series, time_ns, value, width=SERIES, out=room),
            "pandas": with_pandas,
            "api": windows_through_api,
            "api_pandas": windows_with_pandas,
        },
        rounds,
    )
    return [took["pandas"] / took["rates"], took["api_pandas"] / took["api"]]


def _memory(n: int) -> list[float]:
    """Peak resident memory of a process of its own that streams n events through the builder."""
    code = (
        "from benchmarks.features import chunks, through_api_counted\n"
        f"through_api_counted({n})\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return [float(done.stdout.split()[-1]) / 1024]


def through_api_counted(n: int) -> int:
    """Stream n events in batches of 250,000 and forget the panels as they come."""
    part = Part("window", {"select": "wire_latency_ns", "window": "1s", "columns": COLUMNS})
    builder = build_features([part], lateness_ns=1_000_000)
    windows = 0
    for batch in chunks(n, 250_000):
        builder.push(batch)
        windows += sum(len(p.end_ns) for p in builder.close(builder.watermark_ns))
    return windows


def run(*, data: str | None, quick: bool = False) -> list[Row]:
    """All rows of the family (its data is made here, none is needed)."""
    del data
    n, rounds = (5_000_000, 2) if quick else (50_000_000, 3)
    rates = attempt(  # before the windows: where their batches were freed, arrays get small pages instead of huge ones
        [Row("rates_vs_pandas", None, "x", 30, ">="), Row("rate_windows_vs_pandas", None, "x", None, ">=")],
        lambda: _rates(min(n, 10_000_000), rounds),
    )
    rows = attempt(
        [
            Row("sketch_vs_duckdb", None, "x", 5, ">="),
            Row("exact_vs_duckdb", None, "x", 3.5, ">="),
            Row("sketch_vs_polars", None, "x", 12, ">="),
            Row("api_vs_kernel", None, "x", 1.5, "<="),
            Row("sketch_ns", None, "ns/event", None, "<="),
            Row("exact_ns", None, "ns/event", None, "<="),
        ],
        lambda: _windows(n, rounds),
    )
    rows += attempt(
        [Row("max_rel_err", None, "", 0.01, "<="), Row("exact_differs", None, "quantiles", 0, "<=")],
        lambda: _errors(min(n, 5_000_000)),
    )
    rows += rates
    rows += attempt([Row("rss_mb", None, "MB", 250, "<=")], lambda: _memory(n))
    return rows
