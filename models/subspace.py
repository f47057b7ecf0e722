"""A subspace that follows the data: what all series of a host share, and what does not fit into it.

Projection approximation subspace tracking (Yang, IEEE Trans. Signal Processing 43, 1995) on standardised values:
missing series are left out of the projection, outlying rows hardly move the subspace. Residuals are scaled by each
channel's own; the mean of the largest few becomes one surprise by its tail, with each channel's contribution.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit

from models.joint_parts import solve_ridge
from models.keyed import ChannelState, within
from models.light_tail import BUCKETS, refit_tail
from telemetry.errors import StoreError
from telemetry.types import Float64, Int64, Panel, Scores, SeriesKey, State

__all__ = ["SubspaceModel"]

_VERSION = 1
ROWS, TAIL_WEIGHT, TAIL_AT = range(3)
_OFFSET = (1023 - 3) * 4
_MANTISSA = (1 << 50) - 1
_MOST = 1e3


@njit(cache=True, nogil=True)
def _advance(
    values: Any, prm: Any, stats: Any, basis: Any, inverse: Any, table: Any, marks: Any, surprise: Any, side: Any,
    parts: Any,
) -> None:  # fmt: skip
    """`stats` holds per channel: count, mean, scale, residual size. `basis` is (D, k), `inverse` (k, k)."""
    windows, channels = values.shape
    warmup, memory, flag, top = prm[0], prm[1], prm[2], int(prm[3])
    rank = basis.shape[1]
    forget = 1.0 - 1.0 / memory
    z, e = np.zeros(channels), np.zeros(channels)
    gram, cross = np.zeros((rank, rank)), np.zeros((rank, 1))
    work, y, gain = np.zeros((rank, rank)), np.zeros((rank, 1)), np.zeros(rank)
    best = np.zeros(top)
    for w in range(windows):
        present = 0
        for c in range(channels):
            x = values[w, c]
            parts[w, c] = math.nan
            side[w, c] = 0
            z[c] = math.nan
            if math.isfinite(x):
                present += 1
                if stats[c, 0] >= 8.0:
                    z[c] = min(max((x - stats[c, 1]) / stats[c, 2], -8.0), 8.0)
        surprise[w] = math.nan
        if present == 0:
            continue
        for i in range(rank):
            cross[i, 0] = 0.0
            for j in range(i + 1):
                gram[i, j] = 0.0
        for c in range(channels):
            if not math.isnan(z[c]):
                for i in range(rank):
                    cross[i, 0] += basis[c, i] * z[c]
                    for j in range(i + 1):
                        gram[i, j] += basis[c, i] * basis[c, j]
        solve_ridge(gram, cross, 0.1, rank, 1, work, y)
        for k in range(top):
            best[k] = 0.0
        for c in range(channels):
            e[c] = 0.0
            if math.isnan(z[c]):
                continue
            fit = 0.0
            for i in range(rank):
                fit += basis[c, i] * y[i, 0]
            e[c] = z[c] - fit
            share = abs(e[c]) / max(stats[c, 3], 0.02)
            parts[w, c] = share
            side[w, c] = 1 if e[c] > 0.0 else (-1 if e[c] < 0.0 else 0)
            if share > best[top - 1]:
                j = top - 1
                while j > 0 and best[j - 1] < share:
                    best[j] = best[j - 1]
                    j -= 1
                best[j] = share
        evidence = 0.0
        for k in range(top):
            evidence += best[k]
        evidence /= min(top, channels)
        rows = marks[ROWS]
        bits = np.float64(max(evidence, 1e-300)).view(np.int64)
        b = int((bits >> 50) - _OFFSET)
        s = 0.0
        if b >= BUCKETS - 1:
            b = BUCKETS - 1
            s = float(table[0, 0, b, 1])
        elif b >= 0:
            at = float(table[0, 0, b, 1])
            s = at + (bits & _MANTISSA) * 2.0**-50 * (float(table[0, 0, b + 1, 1]) - at)
        s = min(s, 1.5 * math.log10(rows + 1.0))
        if rows >= warmup:
            surprise[w] = s
        flagged = rows >= warmup and s > flag
        mass = 0.05 if flagged else 1.0
        # the subspace: recursive least squares on the projection, slowed where the row is flagged
        lower = forget
        for i in range(rank):
            gain[i] = 0.0
            for j in range(rank):
                gain[i] += inverse[i, j] * y[j, 0]
            lower += y[i, 0] * gain[i]
        for c in range(channels):
            step = mass * min(max(e[c], -2.0), 2.0) / lower
            for i in range(rank):
                basis[c, i] += step * gain[i]
        if not flagged:
            for i in range(rank):
                for j in range(i + 1):
                    v = (inverse[i, j] - gain[i] * gain[j] / lower) / forget
                    inverse[i, j] = v
                    inverse[j, i] = v
            for i in range(rank):  # where nothing moves it only grows; rows and columns, to stay definite
                if inverse[i, i] > _MOST:
                    part = math.sqrt(_MOST / inverse[i, i])
                    for j in range(rank):
                        inverse[i, j] *= part
                        inverse[j, i] *= part
        for c in range(channels):
            x = values[w, c]
            if not math.isfinite(x):
                continue
            count = stats[c, 0]
            pace = max(1.0 / (count + 1.0), 1.0 / memory) * (mass if count >= 8.0 else 1.0)
            d = x - stats[c, 1]
            if count >= 8.0:
                d = min(max(d, -4.0 * stats[c, 2]), 4.0 * stats[c, 2])
                usual = max(stats[c, 3], 0.02)
                stats[c, 3] += pace * (min(abs(e[c]), 4.0 * usual) - stats[c, 3])
            else:
                stats[c, 3] = 1.0
            stats[c, 1] += pace * d
            stats[c, 2] += pace * (1.25 * abs(d) - stats[c, 2])
            stats[c, 2] = max(stats[c, 2], 1e-4 * abs(stats[c, 1]), 1e-9)
            stats[c, 0] = count + 1.0
        if rows >= 0.5 * warmup:
            marks[TAIL_WEIGHT] += mass
            if b >= 0:
                table[0, 0, b, 0] += np.float32(mass)
        marks[ROWS] = rows + 1.0
        if rows + 1.0 >= marks[TAIL_AT] and rows >= 0.5 * warmup:
            refit_tail(table, 0, 0, marks[TAIL_WEIGHT], memory)
            marks[TAIL_WEIGHT] = min(marks[TAIL_WEIGHT], memory)
            marks[TAIL_AT] = rows + 1.0 + min(max(8.0, math.floor(0.1 * rows)), 200.0)


class SubspaceModel:
    """One surprise a window over all channels, from what the shared subspace does not explain.

    Parameters
    ----------
    rank : int
        Dimensions of the subspace.
    warmup : int
    memory : int
        Windows that subspace, scales and tail remember.
    top : int
        Channels whose scaled residuals are averaged.
    flag : float
        Surprise from which a row teaches twenty times less.
    """

    def __init__(
        self, *, rank: int = 4, warmup: int = 128, memory: int = 5_000, top: int = 3, flag: float = 2.5
    ) -> None:
        within(
            "subspace",
            ("rank", rank, 1, 64),
            ("warmup", warmup, 20, 10**6),
            ("memory", memory, 50, 10**9),
            ("top", top, 1, 100),
            ("flag", flag, 0.5, 20.0),
        )
        self._prm = np.array([warmup, memory, flag, top], np.float64)
        self._rank = rank
        self._state = ChannelState("subspace", self._fresh)
        self._inverse = np.eye(rank)
        self._marks = np.zeros(3)
        self._table = np.zeros((1, 1, BUCKETS, 2), np.float32)

    def fit(self, history: Panel) -> None:
        """Learn from history by passing over it once."""
        self.align(history.keys)
        self.advance(history)

    def _fresh(self, channels: int) -> dict[str, Float64]:
        return {"stats": np.zeros((channels, 4)), "basis": np.zeros((channels, self._rank))}

    def _start(self, new: Int64) -> None:
        """Give new channels a first direction by their name: the same wherever the series stands in the panel."""
        width = len(self._state.columns)
        for row in new.tolist():
            name = f"{self._state.keys[row // width]}\x00{self._state.columns[row % width]}"
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            self._state.rows["basis"][row] = rng.normal(0.0, 0.1, self._rank)

    def align(self, keys: Sequence[SeriesKey]) -> None:
        """Let the state follow the keys; a new series starts outside of the subspace."""
        self._start(self._state.align(keys))

    def advance(self, panel: Panel, *, explain: bool = False) -> Scores:
        """Score then learn; a row without any value changes nothing."""
        self._start(self._state.settle(panel))
        values = panel.channel_values()
        flat = values.reshape(len(values), values.shape[1] * values.shape[2])
        joint, side, parts = np.empty(len(flat)), np.empty(flat.shape, np.int8), np.empty(flat.shape)
        k = self._state.rows
        _advance(flat, self._prm, k["stats"], k["basis"], self._inverse, self._table, self._marks, joint, side, parts)
        every = np.repeat(joint, flat.shape[1]).reshape(values.shape)
        return Scores(
            panel.keys,
            panel.channels,
            panel.end_ns,
            every,
            side.reshape(values.shape),
            parts=parts.reshape(values.shape),
        )

    def snapshot(self) -> State:
        """All memory as plain arrays."""
        return {
            "version": np.array([_VERSION, self._rank]),
            **self._state.pack(),
            "inverse": self._inverse.copy(),
            "marks": self._marks.copy(),
            "table": self._table.copy(),
        }

    def restore(self, state: State) -> None:
        """Continue exactly where `snapshot` was taken.

        Raises
        ------
        StoreError
            If it is of another version or rank.
        """
        found = [int(v) for v in state["version"]]
        if found != [_VERSION, self._rank]:
            raise StoreError(f"subspace: expected state of version and rank {[_VERSION, self._rank]}, got {found}")
        self._state.unpack(state)
        self._inverse, self._marks = np.array(state["inverse"], np.float64), np.array(state["marks"], np.float64)
        self._table = np.array(state["table"], np.float32)
