"""Kind ``shape``: how a quantity is spread over CPUs, IRQs, queues or flows, and which one moved."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np
from numba import njit

from features.params import Params, unknown
from telemetry.errors import ConfigError
from telemetry.types import Float64, Int64, SeriesKey, State

__all__ = ["Shape"]

COLUMNS = ("total", "top_share", "entropy", "gini", "imbalance", "active", "mover", "share")


@njit(cache=True, nogil=True)
def _shape(x, order, start, step_follows, share, out):
    """x (W, S) grouped by `order[start[g] : start[g + 1]]`; out (W, G, 7); share (1 + W, S): before, then ours."""
    before = share[0].copy()
    most = 0
    for g in range(start.shape[0] - 1):
        most = max(most, start[g + 1] - start[g])
    sorted_x = np.empty(most)
    for w in range(x.shape[0]):
        for g in range(start.shape[0] - 1):
            n = 0
            active = 0
            total = 0.0
            for k in range(start[g], start[g + 1]):
                v = x[w, order[k]]
                if v >= 0.0:
                    sorted_x[n] = v
                    n += 1
                    total += v
                    active += v > 0.0
            if n == 0:
                continue
            out[w, g, 0] = total
            out[w, g, 5] = active
            if not 0.0 < total < np.inf:
                continue
            few = sorted_x[:n]
            few.sort()
            entropy = 0.0
            lean = 0.0
            for i in range(n):
                p = few[i] / total
                if p > 0.0:
                    entropy -= p * np.log(p)
                lean += (2.0 * (i + 1) - n - 1.0) * p
            out[w, g, 1] = few[n - 1] / total
            out[w, g, 2] = entropy / np.log(n) if n > 1 else 0.0
            out[w, g, 3] = lean / n
            out[w, g, 4] = few[n - 1] * n / total
            moved = 0.0
            known = False
            for k in range(start[g], start[g + 1]):
                s = order[k]
                v = x[w, s]
                if v >= 0.0:
                    share[w + 1, s] = v / total
                    old = before[s]
                    if step_follows[w] and old == old:
                        known = True
                        if abs(share[w + 1, s] - old) > abs(moved):
                            moved = share[w + 1, s] - old
            if known:
                out[w, g, 6] = moved
        before[:] = share[w + 1]


class Shape:
    """Shares over one or more labels; a group is what is left of a key without them.

    Parameters (of the part)
    ------------------------
    over : label names
    of : the input column; default the first
    columns : of ``total``; ``top_share``; ``entropy`` (0 all in one, 1 even); ``gini``; ``imbalance`` (largest over
        mean); ``active`` (members above 0); ``mover`` (the largest change of a share since the window before, with
        its sign); ``share`` (of each member, under the member's own key)

    Missing members are left out; negative values count as missing. With a total of 0 nothing has a share.
    """

    def __init__(self, params: Params, inputs: tuple[str, ...]) -> None:
        self._over = frozenset(params.names("over"))
        if not self._over:
            raise ConfigError(f"{params.where}: over: expected at least one label, such as 'cpu'")
        of = params.text("of", inputs[0])
        if of not in inputs:
            raise unknown("input column", of, inputs, params.where)
        self._of = inputs.index(of)
        self.columns = params.names("columns", ("total", "top_share", "entropy", "mover"))
        for name in self.columns:
            if name not in COLUMNS:
                raise unknown("column", name, COLUMNS, params.where)
        self._out: dict[SeriesKey, int] = {}
        self._group: list[int] = []  # of each member: the place of its group in the output
        self._member: list[int] = []  # of each member: its own place, with `share`
        self._share = np.empty(0)
        self._end: int | None = None
        self._step = params.duration("step", params.raw("window"))

    def bind(self, key: SeriesKey) -> list[SeriesKey]:
        group = SeriesKey(key.host, key.metric, tuple(p for p in key.labels if p[0] not in self._over))
        if "host" in self._over:
            group = SeriesKey("", group.metric, group.labels)
        new = []
        for k in (group, key) if "share" in self.columns else (group,):
            if k not in self._out:
                self._out[k] = len(self._out)
                new.append(k)
        self._group.append(self._out[group])
        self._member.append(self._out.get(key, -1))
        self._share = np.append(self._share, np.nan)
        return new

    def advance(self, end_ns: Int64, values: Float64) -> Float64:
        w, s, _ = values.shape
        places, group = np.unique(np.array(self._group, np.int64), return_inverse=True)
        order = np.argsort(group, kind="stable")
        start = np.searchsorted(group[order], np.arange(len(places) + 1))
        before = np.concatenate([[self._end if self._end is not None else -1], end_ns[:-1]])
        share = np.full((w + 1, s), np.nan)
        share[0] = self._share
        found = np.full((w, len(places), 7), np.nan)
        x = np.ascontiguousarray(values[:, :, self._of])
        _shape(x, order, start, end_ns - before == self._step, share, found)
        if w:
            self._share, self._end = share[-1].copy(), int(end_ns[-1])
        out = np.full((w, len(self._out), len(self.columns)), np.nan)
        for i, name in enumerate(self.columns):
            if name == "share":
                out[:, self._member, i] = share[1:]
            else:
                out[:, places, i] = found[:, :, COLUMNS.index(name)]
        return out

    def snapshot(self) -> State:
        return {"share": self._share.copy(), "end": np.array([] if self._end is None else [self._end], np.int64)}

    def restore(self, state: State) -> None:
        self._share = np.array(state["share"], np.float64)
        self._end = int(state["end"][0]) if len(state["end"]) else None
