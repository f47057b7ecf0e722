"""Kinds ``ratio`` and ``join``: series beside series, on one grid."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np
from numba import njit

from features.params import AnyOf, Params, unknown
from telemetry.errors import ConfigError
from telemetry.types import Float64, Int64, SeriesKey, State

__all__ = ["Join", "Ratio"]

RATIO_COLUMNS = ("ratio", "loss", "difference", "numerator", "denominator")


def _on(key: SeriesKey, on: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(key.label(name) for name in on)


def _sums(x: Float64, member: Int64, groups: int) -> Float64:
    """Sums of the columns of x (W, S) by group, in the order of the series; missing where all are missing."""
    out = np.full((x.shape[0], groups), np.nan)
    for s, g in enumerate(member.tolist()):
        if g >= 0:
            v = x[:, s]
            out[:, g] = np.where(np.isnan(out[:, g]), v, np.where(np.isnan(v), out[:, g], out[:, g] + v))
    return out


class Ratio:
    """A sum over a sum, per group: drops per packet, retransmissions per segment, the loss between two layers.

    Parameters (of the part)
    ------------------------
    numerator, denominator : selectors
    on : labels that both sides share; default ``host``
    name : metric of the series made, default ``ratio``
    of : the input column; default the first
    columns : of ``ratio``; ``loss`` (1 - ratio); ``difference`` (denominator - numerator); ``numerator``;
        ``denominator``
    floor : number; a denominator not above it gives no ratio and no loss; default 0
    """

    def __init__(self, params: Params, inputs: tuple[str, ...]) -> None:
        self._sides = (params.select("numerator", None), params.select("denominator", None))
        self._on = params.names("on", ("host",))
        self._name = params.text("name", "ratio")
        self._floor = params.number("floor", 0.0)
        of = params.text("of", inputs[0])
        if of not in inputs:
            raise unknown("input column", of, inputs, params.where)
        self._of = inputs.index(of)
        self.columns = params.names("columns", ("ratio",))
        for name in self.columns:
            if name not in RATIO_COLUMNS:
                raise unknown("column", name, RATIO_COLUMNS, params.where)
        self._out: dict[SeriesKey, int] = {}
        self._place: tuple[list[int], list[int]] = ([], [])

    @staticmethod
    def selects(params: Params) -> AnyOf:
        """What the part reads, if it does not say `select`."""
        return AnyOf((params.select("numerator", None), params.select("denominator", None)))

    def bind(self, key: SeriesKey) -> list[SeriesKey]:
        labels = tuple(sorted((n, v) for n, v in zip(self._on, _on(key, self._on), strict=True) if n != "host" and v))
        made = SeriesKey(key.host if "host" in self._on else "", self._name, labels)
        mine = [side.matches(key) for side in self._sides]
        new = [made] if any(mine) and made not in self._out else []
        for k in new:
            self._out[k] = len(self._out)
        for place, yes in zip(self._place, mine, strict=True):
            place.append(self._out[made] if yes else -1)
        return new

    def advance(self, end_ns: Int64, values: Float64) -> Float64:
        x = values[:, :, self._of]
        top, base = (_sums(x, np.array(p, np.int64), len(self._out)) for p in self._place)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(base > self._floor, top / base, np.nan)
        made = {"ratio": ratio, "loss": 1 - ratio, "difference": base - top, "numerator": top, "denominator": base}
        return np.stack([made[c] for c in self.columns], axis=2)

    def snapshot(self) -> State:
        return {}

    def restore(self, state: State) -> None:
        return None


@njit(cache=True, nogil=True)
def _correlate(x, y, at, n, most, out):
    """out[w, m] = (r, lag): Pearson's r of the last n windows of x with those of y `lag` earlier, at its strongest."""
    for w in range(out.shape[0]):
        for m in range(out.shape[1]):
            for lag in range(most + 1):
                count = 0
                sx = sy = sxx = syy = sxy = 0.0
                x0 = y0 = np.nan
                for i in range(at + w - n + 1, at + w + 1):
                    u, v = x[i, m], y[i - lag, m]
                    if u == u and v == v:
                        if count == 0:  # around the first pair, against cancellation
                            x0, y0 = u, v
                        u, v = u - x0, v - y0
                        count += 1
                        sx += u
                        sy += v
                        sxx += u * u
                        syy += v * v
                        sxy += u * v
                if count < 3 or 2 * count < n:
                    continue
                vx, vy = sxx - sx * sx / count, syy - sy * sy / count
                if vx > 0.0 and vy > 0.0:
                    r = min(max((sxy - sx * sy / count) / np.sqrt(vx * vy), -1.0), 1.0)
                    if not abs(r) <= abs(out[w, m, 0]):  # also where there is none yet
                        out[w, m, 0] = r
                        out[w, m, 1] = lag


class Join:
    """Columns of other series beside each series, as of the end of the window: never a later value.

    Parameters (of the part)
    ------------------------
    select : selector of the series that stay
    with : selector of the series joined to them
    on : labels that both share; default ``host``; empty: all with all
    max_age : duration, how long a joined value holds; default ten windows
    prefix : before the joined columns' names, default ``with_``
    correlate : windows; adds ``corr``, the correlation over so many windows of the first column with the joined one,
        and ``lag``, by how many windows (0 .. `max_lag`) the joined series runs ahead where that is strongest
    max_lag : windows, default 0

    Where several series are joined to one, their mean is taken. Nothing is joined before a series' own first value.
    """

    def __init__(self, params: Params, inputs: tuple[str, ...]) -> None:
        self._left, self._right = params.select("select"), params.select("with", None)
        self._on = params.names("on", ("host",))
        self._max_age = params.duration("max_age", 10 * params.duration("window"))
        prefix = params.text("prefix", "with_")
        if not prefix:
            raise ConfigError(f"{params.where}: prefix: expected text, got none")
        self._n = len(inputs)
        self._step = params.duration("step", params.raw("window"))
        self._span = params.integer("correlate", 3, least=3) if params.has("correlate") else 0
        self._lag = params.integer("max_lag", 0, least=0)
        self._depth = self._span + self._lag - 1 if self._span else 0
        more = ("corr", "lag") if self._span else ()
        self.columns = (*inputs, *(prefix + c for c in inputs), *more)
        self._past = np.empty((2, self._depth, 0))  # both sides of the windows before
        self._next: int | None = None
        self._lefts: list[int] = []
        self._born = np.empty(0, np.bool_)  # whether a series that stays has had a value
        self._rights: list[int] = []
        self._group: list[tuple[str, ...]] = []
        self._held, self._held_at = np.empty((0, self._n)), np.empty((0, self._n), np.int64)

    @staticmethod
    def selects(params: Params) -> AnyOf:
        """What the part reads."""
        return AnyOf((params.select("select"), params.select("with", None)))

    def bind(self, key: SeriesKey) -> list[SeriesKey]:
        at = len(self._group)
        self._group.append(_on(key, self._on))
        if self._right.matches(key):
            self._rights.append(at)
            self._held = np.append(self._held, np.full((1, self._n), np.nan), axis=0)
            self._held_at = np.append(self._held_at, np.full((1, self._n), -(1 << 62)), axis=0)
        if self._left.matches(key):
            self._lefts.append(at)
            self._born = np.append(self._born, False)
            self._past = np.append(self._past, np.full((2, self._depth, 1), np.nan), axis=2)
            return [key]
        return []

    def advance(self, end_ns: Int64, values: Float64) -> Float64:
        w, n = len(end_ns), self._n
        right = values[:, self._rights]
        for i in range(w):  # as of: the newest value of each joined series, while it is not too old
            fresh = ~np.isnan(right[i])
            self._held = np.where(fresh, right[i], self._held)
            self._held_at = np.where(fresh, end_ns[i], self._held_at)
            right[i] = np.where(end_ns[i] - self._held_at <= self._max_age, self._held, np.nan)
        groups = {g: j for j, g in enumerate(dict.fromkeys(self._group))}
        member = np.array([groups[self._group[r]] for r in self._rights], np.int64)
        out = np.full((w, len(self._lefts), len(self.columns)), np.nan)
        out[:, :, :n] = values[:, self._lefts]
        at = [groups[self._group[k]] for k in self._lefts]
        for c in range(n):
            count = _sums(np.where(np.isnan(right[:, :, c]), np.nan, 1.0), member, len(groups))
            out[:, :, n + c] = (_sums(right[:, :, c], member, len(groups)) / count)[:, at]
        own = ~np.isnan(out[:, :, :n]).all(axis=2)
        born = np.logical_or.accumulate(np.concatenate([self._born[None], own]), axis=0)
        out[~born[1:], n:] = np.nan
        self._born = born[-1].copy()
        if self._span and w:
            self._relate(end_ns, out)
        return out

    def _relate(self, end_ns: Int64, out: Float64) -> None:
        first = int(end_ns[0]) // self._step - 1
        skipped = 0 if self._next is None else min(first - self._next, self._depth)
        blank = np.full((2, skipped, out.shape[1]), np.nan)
        now = np.stack([out[:, :, 0], out[:, :, self._n]])
        whole = np.concatenate([self._past[:, skipped:], blank, now], axis=1)
        _correlate(whole[0], whole[1], self._depth, self._span, self._lag, out[:, :, -2:])
        self._past, self._next = whole[:, whole.shape[1] - self._depth :].copy(), first + len(end_ns)

    def snapshot(self) -> State:
        return {
            "held": self._held.copy(),
            "held_at": self._held_at.copy(),
            "born": self._born.copy(),
            "past": self._past.copy(),
            "next": np.array([] if self._next is None else [self._next], np.int64),
        }

    def restore(self, state: State) -> None:
        self._held, self._held_at = np.array(state["held"], np.float64), np.array(state["held_at"], np.int64)
        self._born, self._past = np.array(state["born"], np.bool_), np.array(state["past"], np.float64)
        self._next = int(state["next"][0]) if len(state["next"]) else None
