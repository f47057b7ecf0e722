"""Kind ``dynamics``: how a windowed value moves: differences, slopes, level against the past, periodicity."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math
import re

import numpy as np
from numba import njit

from features.grid import duration_ns
from features.params import Params, unknown
from telemetry.errors import ConfigError
from telemetry.types import Float64, Int64, SeriesKey, State

__all__ = ["Dynamics"]

_LOOK = ("diff", "slope", "curvature", "acf", "period", "peak", "dispersion", "first")
_PAST = ("level", "ratio")
_NAME = re.compile(r"([a-z]+)_([0-9]+)")
_NAME_PAST = re.compile(r"(level|ratio)_([0-9.]+(?:ms|s|m|h|d))")
_BLOCKS = 60
EXAMPLES = (*(f"{n}_5" for n in _LOOK), *(f"{n}_1m" for n in _PAST))


@njit(cache=True, nogil=True)
def _look_back(x, at, codes, sizes, span, step_s, out):
    """x (L + W, M): rows from `at` on are to be described by the rows up to them; out (W, M, F)."""
    for w in range(x.shape[0] - at):
        now = at + w
        for m in range(x.shape[1]):
            for f in range(codes.shape[0]):
                code = codes[f]
                n = sizes[f]
                if code == 0:
                    out[w, m, f] = x[now, m] - x[now - n, m]
                elif code == 1 or code == 2:
                    # Least squares over the last n windows, on the polynomials orthogonal on 0 .. n - 1.
                    centre = (n - 1) / 2.0
                    square = (n * n - 1) / 12.0
                    top = 0.0
                    norm = 0.0
                    for i in range(n):
                        u = i - centre
                        g = u if code == 1 else u * u - square
                        top += g * x[now - n + 1 + i, m]
                        norm += g * g
                    out[w, m, f] = top / norm / (step_s if code == 1 else step_s * step_s)
                elif code == 7:
                    rested = 0.0  # missing if one is missing
                    for i in range(now - n, now):
                        rested += abs(x[i, m])
                    v = x[now, m]
                    if v == v and rested == rested:
                        out[w, m, f] = 1.0 if v > 0.0 and rested == 0.0 else 0.0
                else:
                    count = 0
                    total = 0.0
                    length = span if code == 3 or code == 4 else n
                    high = -np.inf
                    for i in range(now - length + 1, now + 1):
                        v = x[i, m]
                        if v == v:
                            count += 1
                            total += v
                            high = max(high, v)
                    if count < 3 or 2 * count < length:
                        continue
                    mean = total / count
                    if code == 5:
                        if mean != 0.0:
                            out[w, m, f] = high / mean
                        continue
                    square_sum = 0.0
                    cosine = 0.0
                    sine = 0.0
                    product = 0.0
                    for i in range(now - length + 1, now + 1):
                        v = x[i, m]
                        if v != v:
                            continue
                        d = v - mean
                        square_sum += d * d
                        if code == 4:
                            angle = 2.0 * math.pi * ((i - now) % n) / n
                            cosine += d * math.cos(angle)
                            sine += d * math.sin(angle)
                        elif code == 3 and i - n > now - length:
                            e = x[i - n, m] - mean
                            if e == e:
                                product += d * e
                    if code == 6:
                        if mean > 0.0:
                            out[w, m, f] = square_sum / (count - 1) / mean
                    elif square_sum > 0.0:
                        if code == 3:
                            out[w, m, f] = product / square_sum
                        else:
                            power = 2.0 * (cosine * cosine + sine * sine) / (count * square_sum)
                            out[w, m, f] = min(power, 1.0)


@njit(cache=True, nogil=True)
def _against_past(x, number, block, sums, counts, stamp, ratio, out):
    """x (W, M) against the mean of the blocks of `block` windows before it; then it joins them.

    `sums`, `counts` (blocks + 1, M) are a ring, `stamp` says which block lies in each place.
    """
    ring = stamp.shape[0]
    for w in range(x.shape[0]):
        b = number[w] // block
        if stamp[b % ring] != b:
            stamp[b % ring] = b
            for m in range(x.shape[1]):
                sums[b % ring, m] = 0.0
                counts[b % ring, m] = 0
        for m in range(x.shape[1]):
            total = 0.0
            count = 0
            for k in range(ring):
                if stamp[k] > b - ring:
                    total += sums[k, m]
                    count += counts[k, m]
            v = x[w, m]
            if count > 0:
                mean = total / count
                if not ratio:
                    out[w, m] = v - mean
                elif mean > 0.0:
                    out[w, m] = v / mean
            if v == v:
                sums[b % ring, m] += v
                counts[b % ring, m] += 1


class Dynamics:
    """Each input column described by its own past.

    Parameters (of the part)
    ------------------------
    of : input columns; default the first
    columns : any of
        ``diff_k`` (to k windows before), ``slope_n`` and ``curvature_n`` (least squares over the last n windows, per
        second and per second squared; missing if one is), ``acf_k`` (autocorrelation at lag k), ``period_k`` (share of
        the variance that a wave of k windows explains), both over the last `span` windows, ``peak_n`` (largest over
        mean) and ``dispersion_n`` (variance over mean) over the last n windows, ``first_n`` (1 where something comes
        after n windows of zeros, else 0: of a counter that rests, its first move), ``level_1h`` (difference from) and
        ``ratio_1h`` (ratio to) the mean of the last hour, or any other duration, before this window
    span : windows, default 60
    keep : whether the input columns stay, default false

    The output columns are named ``<input>_<column>``. A trailing mean is kept in at most 60 blocks, so it
    covers up to a block more. Where more than half of the windows are missing, so is what is told of them.
    """

    def __init__(self, params: Params, inputs: tuple[str, ...]) -> None:
        of = params.names("of", inputs[:1])
        for name in of:
            if name not in inputs:
                raise unknown("input column", name, inputs, params.where)
        self._of = [inputs.index(c) for c in of]
        names = params.names("columns", ("diff_1", "slope_5", "level_1m"))
        self._span = params.integer("span", 60, least=3)
        self.step_ns = params.duration("step", params.raw("window"))
        self._look: list[tuple[str, int, int]] = []
        self._past: list[tuple[str, int, int]] = []  # name, windows in a block, blocks
        for name in names:
            past, look = _NAME_PAST.fullmatch(name), _NAME.fullmatch(name)
            if past is not None:
                length = duration_ns(past[2], f"{params.where}: {name}")
                windows = max(1, round(length / self.step_ns))
                block = math.ceil(windows / _BLOCKS)
                self._past.append((name, block, math.ceil(windows / block)))
            elif look is not None and look[1] in _LOOK:
                least = {"slope": 2, "curvature": 3, "period": 2, "peak": 3, "dispersion": 3}.get(look[1], 1)
                if int(look[2]) < least:
                    raise ConfigError(f"{params.where}: {name}: expected at least {least} windows")
                self._look.append((name, _LOOK.index(look[1]), int(look[2])))
            else:
                raise unknown("column", name, EXAMPLES, params.where)
        self._keep = params.flag("keep")
        self._names = names
        kept = tuple(inputs[i] for i in self._of) if self._keep else ()
        self.columns = (*kept, *(f"{c}_{n}" for c in of for n in names))
        self._depth = 0
        for _, code, n in self._look:
            self._depth = max(
                self._depth, {0: n, 7: n, 1: n - 1, 2: n - 1, 5: n - 1, 6: n - 1}.get(code, self._span - 1)
            )
        self._series = 0
        self._ring = np.empty((self._depth, 0))  # the last rows, (depth, series * inputs)
        self._next: int | None = None  # number of the row that would follow
        self._sums = [np.zeros((n + 1, 0)) for _, _, n in self._past]
        self._counts = [np.zeros((n + 1, 0), np.int64) for _, _, n in self._past]
        self._stamps = [np.full(n + 1, -(1 << 62)) for _, _, n in self._past]

    def bind(self, key: SeriesKey) -> list[SeriesKey]:
        self._series += 1
        k = len(self._of)
        self._ring = np.append(self._ring, np.full((self._depth, k), np.nan), axis=1)
        self._sums = [np.append(a, np.zeros((len(a), k)), axis=1) for a in self._sums]
        self._counts = [np.append(a, np.zeros((len(a), k), np.int64), axis=1) for a in self._counts]
        return [key]

    def advance(self, end_ns: Int64, values: Float64) -> Float64:
        w, s, _ = values.shape
        k = len(self._of)
        x = np.ascontiguousarray(values[:, :, self._of]).reshape(w, s * k)
        number = end_ns // self.step_ns - 1
        found: dict[str, Float64] = {}
        if self._look and w:
            self._gap(int(number[0]))
            whole = np.concatenate([self._ring, x])
            out = np.full((w, s * k, len(self._look)), np.nan)
            codes = np.array([c for _, c, _ in self._look], np.int64)
            sizes = np.array([n for _, _, n in self._look], np.int64)
            _look_back(whole, self._depth, codes, sizes, self._span, self.step_ns * 1e-9, out)
            self._ring = whole[len(whole) - self._depth :].copy()
            self._next = int(number[-1]) + 1
            found = {name: out[:, :, i] for i, (name, _, _) in enumerate(self._look)}
        for i, (name, block, _) in enumerate(self._past):
            found[name] = np.full((w, s * k), np.nan)
            _against_past(
                x, number, block, self._sums[i], self._counts[i], self._stamps[i], name.startswith("ratio"), found[name]
            )
        made = [values[:, :, i] for i in self._of] if self._keep else []
        if w:
            made += [found[n].reshape(w, s, k)[:, :, i] for i in range(k) for n in self._names]
            return np.stack(made, axis=2)
        return np.empty((w, s, len(self.columns)))

    def _gap(self, number: int) -> None:
        """Windows that were skipped are missing (they are contiguous within one call)."""
        skipped = 0 if self._next is None else number - self._next
        if skipped > 0 and self._depth:
            keep = max(0, self._depth - skipped)
            blank = np.full((self._depth - keep, self._ring.shape[1]), np.nan)
            self._ring = np.concatenate([self._ring[self._depth - keep :], blank])

    def snapshot(self) -> State:
        state = {"ring": self._ring.copy(), "next": np.array([] if self._next is None else [self._next], np.int64)}
        for i in range(len(self._past)):
            state[f"sums{i}"], state[f"counts{i}"] = self._sums[i].copy(), self._counts[i].copy()
            state[f"stamp{i}"] = self._stamps[i].copy()
        return state

    def restore(self, state: State) -> None:
        self._ring = np.array(state["ring"], np.float64)
        self._next = int(state["next"][0]) if len(state["next"]) else None
        for i in range(len(self._past)):
            self._sums[i], self._counts[i] = np.array(state[f"sums{i}"]), np.array(state[f"counts{i}"])
            self._stamps[i] = np.array(state[f"stamp{i}"])
