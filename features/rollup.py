"""Sketches that are kept: any longer window, any group, any quantile later, without the events.

Counts of buckets add up, so a sketch rolled up over windows, series or hosts equals the sketch of all their events,
and its quantiles keep the error bound of ``features/sketch.py`` (0.79 % of each order statistic).
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from features.sketch import bucket_of, sort_with
from telemetry.errors import InputError
from telemetry.types import Float64, Int64, Nanos, SeriesKey

__all__ = ["Sketches", "bucket_middles", "count_buckets", "quantiles_of", "without"]

_SHIFT = 1 << 17  # buckets lie in [-_SHIFT, _SHIFT)


@njit(cache=True, nogil=True)
def count_buckets(offset, values, bits, wanted, hist, edge, start, bucket, count):
    """Buckets and their counts of each cell that is `wanted`; ``start`` (cells + 1,). Cells may be left sorted."""
    k = 0
    for c in range(offset.shape[0] - 1):
        start[c] = k
        a, b = offset[c], offset[c + 1]
        if a == b or not wanted[c]:
            continue
        first = last = bucket_of(bits[a])
        for i in range(a, b):
            x = bucket_of(bits[i])
            first = min(first, x)
            last = max(last, x)
        if last - first < hist.shape[0]:
            for i in range(a, b):
                hist[bucket_of(bits[i]) - first] += 1
            for j in range(last - first + 1):
                if hist[j] > 0:
                    bucket[k] = first + j
                    count[k] = hist[j]
                    hist[j] = 0
                    k += 1
        else:  # buckets keep the order of the values
            sort_with(values, edge[:0], a, b)
            run = a
            for i in range(a, b):
                if i + 1 == b or bucket_of(bits[i + 1]) != bucket_of(bits[i]):
                    bucket[k] = bucket_of(bits[i])
                    count[k] = i + 1 - run
                    run = i + 1
                    k += 1
    start[offset.shape[0] - 1] = k
    return k


def bucket_middles(bucket: NDArray[np.integer[Any]]) -> Float64:
    """Middle of each bucket, as ``features.sketch.bucket_middle``."""
    k = np.where(bucket >= 0, bucket, -bucket.astype(np.int64) - 1).astype(np.int64)
    low, high = (k << 46).view(np.float64), ((k + 1) << 46).view(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        middle = np.where(k + 1 >= 131008, low, low + (high - low) * 0.5)
    middle = np.where(k == 0, 0.0, np.where(k >= 131008, np.inf, middle))
    return np.where(bucket >= 0, middle, -middle)


def quantiles_of(
    start: Int64, bucket: NDArray[Any], count: NDArray[Any], low: Float64, high: Float64, probs: Sequence[float]
) -> Float64:  # fmt: skip
    """(cells, probs) quantiles of cells given as counted buckets; NaN of an empty cell."""
    total = np.concatenate([[0], np.cumsum(count, dtype=np.int64)])
    before = total[start[:-1]]
    n = total[start[1:]] - before
    some = n > 0
    out = np.full((len(n), len(probs)), np.nan)
    for i, p in enumerate(probs):
        rank = p * (n[some] - 1)
        k = rank.astype(np.int64)
        ends = []
        for at in (k, np.minimum(k + 1, n[some] - 1)):
            j = np.searchsorted(total, before[some] + at, side="right") - 1
            ends.append(np.clip(bucket_middles(bucket[j]), low[some], high[some]))
        x, y = ends
        with np.errstate(invalid="ignore"):
            out[some, i] = np.where(x == y, x, x + (y - x) * (rank - k))
    return out


def without(*labels: str) -> Callable[[SeriesKey], SeriesKey]:
    """A group of series: what is left of a key without some labels (``host`` is one)."""

    def group(key: SeriesKey) -> SeriesKey:
        host = "" if "host" in labels else key.host
        return SeriesKey(host, key.metric, tuple(p for p in key.labels if p[0] not in labels))

    return group


@dataclass(frozen=True, slots=True)
class Sketches:
    """Sketches of the cells (window, series) that have events.

    Parameters
    ----------
    keys : tuple of SeriesKey
    window_ns : int
    end_ns, series : (N,) int64
        Of each cell; `series` is an index into `keys`.
    count : (N,) int64
    total, low, high : (N,) float64
        Exact sum, minimum and maximum.
    start : (N + 1,) int64
        Cell i has the buckets ``start[i] : start[i + 1]``.
    bucket, bucket_count : (M,) int32, int64
    """

    keys: tuple[SeriesKey, ...]
    window_ns: Nanos
    end_ns: Int64
    series: Int64
    count: Int64
    total: Float64
    low: Float64
    high: Float64
    start: Int64
    bucket: NDArray[np.int32]
    bucket_count: Int64

    def __len__(self) -> int:
        return len(self.end_ns)

    @staticmethod
    def concat(parts: Iterable[Sketches]) -> Sketches:
        """Cells of several, end to end; cells of one window and series stay apart until they are rolled up.

        Raises
        ------
        InputError
            If there are none, or their windows differ.
        """
        many = list(parts)
        windows = {p.window_ns for p in many}
        if len(windows) != 1:
            raise InputError(f"sketches: expected some of one window length, got {sorted(windows)}")
        index: dict[SeriesKey, int] = {}
        maps = [np.array([index.setdefault(k, len(index)) for k in p.keys], np.int64) for p in many]
        starts = np.cumsum([0, *(len(p.bucket) for p in many)])
        return Sketches(
            tuple(index),
            many[0].window_ns,
            np.concatenate([p.end_ns for p in many]),
            np.concatenate([m[p.series] for m, p in zip(maps, many, strict=True)]),
            np.concatenate([p.count for p in many]),
            np.concatenate([p.total for p in many]),
            np.concatenate([p.low for p in many]),
            np.concatenate([p.high for p in many]),
            np.concatenate([*(p.start[:-1] + s for p, s in zip(many, starts, strict=False)), starts[-1:]]),
            np.concatenate([p.bucket for p in many]),
            np.concatenate([p.bucket_count for p in many]),
        )

    def roll(
        self, window_ns: Nanos | None = None, group: Callable[[SeriesKey], SeriesKey] | None = None
    ) -> Sketches:  # fmt: skip
        """Merge into windows of `window_ns` (a multiple of ours) and groups of series (default: as they are).

        Raises
        ------
        InputError
            If the windows do not fit.
        """
        window = self.window_ns if window_ns is None else window_ns
        if window <= 0 or window % self.window_ns:
            raise InputError(f"sketches: expected a multiple of {self.window_ns} ns, got a window of {window} ns")
        index: dict[SeriesKey, int] = {}
        to = [index.setdefault(k if group is None else group(k), len(index)) for k in self.keys]
        end = -(-self.end_ns // window) * window
        series = np.array(to, np.int64)[self.series] if len(self) else self.series
        cells, back = np.unique(np.stack([end, series], axis=1).reshape(-1, 2), axis=0, return_inverse=True)
        back = back.reshape(-1)
        n = len(cells)
        low, high = np.full(n, np.inf), np.full(n, -np.inf)
        np.minimum.at(low, back, self.low)
        np.maximum.at(high, back, self.high)
        entry = np.repeat(back, np.diff(self.start)) * (2 * _SHIFT) + self.bucket + _SHIFT
        kept, where = np.unique(entry, return_inverse=True)
        return Sketches(
            tuple(index),
            window,
            cells[:, 0].copy(),
            cells[:, 1].copy(),
            np.bincount(back, self.count, minlength=n).astype(np.int64),
            np.bincount(back, self.total, minlength=n).astype(np.float64),
            low,
            high,
            np.searchsorted(kept, np.arange(n + 1) * (2 * _SHIFT)),
            (kept % (2 * _SHIFT) - _SHIFT).astype(np.int32),
            np.bincount(where.reshape(-1), self.bucket_count, minlength=len(kept)).astype(np.int64),
        )

    def quantiles(self, *probs: float) -> Float64:
        """(N, len(probs)); each order statistic within 0.79 %."""
        return quantiles_of(self.start, self.bucket, self.bucket_count, self.low, self.high, probs)

    def to_arrow(self) -> Any:
        """A ``pyarrow.Table`` to store; `from_arrow` reads it back."""
        import pyarrow as pa

        names = pa.array([str(k) for k in self.keys], pa.string())
        return pa.table(
            {
                "end": pa.array(self.end_ns, pa.timestamp("ns", tz="UTC")),
                "window_ns": pa.array(np.full(len(self), self.window_ns)),
                "series": pa.DictionaryArray.from_arrays(pa.array(self.series.astype(np.int32)), names),
                "count": pa.array(self.count),
                "sum": pa.array(self.total),
                "min": pa.array(self.low),
                "max": pa.array(self.high),
                "bucket": pa.ListArray.from_arrays(pa.array(self.start.astype(np.int32)), pa.array(self.bucket)),
                "bucket_count": pa.ListArray.from_arrays(
                    pa.array(self.start.astype(np.int32)), pa.array(self.bucket_count)
                ),
            }
        )

    @staticmethod
    def from_arrow(table: Any) -> Sketches:
        """Read what `to_arrow` made.

        Raises
        ------
        InputError
            If it is something else, or of several window lengths.
        """
        wanted = ("end", "window_ns", "series", "count", "sum", "min", "max", "bucket", "bucket_count")
        missing = [c for c in wanted if c not in table.column_names]
        if missing:
            raise InputError(f"sketches: expected columns {', '.join(wanted)}; missing: {', '.join(missing)}")
        windows = set(table["window_ns"].to_pylist())
        if len(windows) > 1:
            raise InputError(f"sketches: expected one window length, got {sorted(windows)}")
        names = table["series"].to_pylist()
        index = {k: i for i, k in enumerate(dict.fromkeys(names))}
        lists = table["bucket"].combine_chunks()
        lengths = np.asarray(lists.value_lengths(), np.int64)
        return Sketches(
            tuple(SeriesKey.parse(k) for k in index),
            int(windows.pop()) if windows else 1,
            table["end"].cast("int64").to_numpy(),
            np.array([index[k] for k in names], np.int64),
            table["count"].to_numpy(),
            table["sum"].to_numpy(),
            table["min"].to_numpy(),
            table["max"].to_numpy(),
            np.concatenate([[0], np.cumsum(lengths)]),
            np.asarray(lists.flatten(), np.int32),
            np.asarray(table["bucket_count"].combine_chunks().flatten(), np.int64),
        )
