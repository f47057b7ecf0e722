"""Seasonal baselines: fitted with statsmodels on history, scored from tables as cheaply as the online models.

A channel is expected at ``level + profile[phase]``; phases are the clock's slots where the panel has them (so a change
of daylight saving moves nothing), else time modulo a day (a week for ``mstl``). Holidays and half days have tables of
their own. The level follows by at most 5 % of itself a day, and the interval widens with the age of the fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from typing import Any

import numpy as np
from numba import njit

from models.keyed import pack_names, rows_before, unpack_names
from models.seasonal_fit import KINDS, Fitted, fit_series
from models.spread import Spread
from models.surprise import Calibrator
from telemetry.errors import ConfigError, NoDataError, StoreError
from telemetry.types import Float64, Int64, Panel, Scores, SeriesKey, State

__all__ = ["SeasonalModel"]

_VERSION = 1
_DAY_NS = 86_400 * 10**9
_MOST_PHASES = 10_080
_CHUNK, _CHUNKS = 16, 64  # channels handed out at once at most; pieces of work there should be
_PHASES_OF_DAY = 6  # the clock's phase of the session, and unknown

(LEVEL, DRIFT, FOLLOW, ANCHOR) = range(4)


@njit(cache=True, nogil=True)
def _score(
    values: Any, phase: Any, session: Any, usual: Any, days: Any, per_day: float, tables: Any, profile: Any,
    spread: Any, other: Any, raw: Any, expected: Any, width: Any,
) -> None:  # fmt: skip
    """Deviation in predicted spreads, window by window; the level follows slowly."""
    for w in range(values.shape[0]):
        for n in range(values.shape[1]):
            x = values[w, n]
            p = phase[w, n]
            level = tables[n, LEVEL] + tables[n, FOLLOW]
            if math.isnan(tables[n, LEVEL]) or p < 0:
                raw[w, n] = math.nan
                expected[w, n] = math.nan
                width[w, n] = math.nan
                continue
            s = session[w, n]
            ordinary = s == usual[p]
            guess = level + profile[n, p]
            wide = spread[n, p]
            if not ordinary and not math.isnan(other[n, s, 0]):
                guess = level + other[n, s, 0]
                wide = max(wide, other[n, s, 1])
            age = max(days[w], 0.0)
            wide = math.sqrt(wide * wide + tables[n, DRIFT] * tables[n, DRIFT] * age)
            expected[w, n] = guess
            width[w, n] = wide
            if not math.isfinite(x):
                raw[w, n] = math.nan
                continue
            z = (x - guess) / wide
            raw[w, n] = z
            if ordinary:
                most = 0.05 * abs(tables[n, ANCHOR]) * per_day
                step = per_day * min(max(x - guess, -3.0 * wide), 3.0 * wide)
                tables[n, FOLLOW] += min(max(step, -most), most)


def _fit_chunk(job: tuple[list[tuple[Float64, Int64, np.ndarray]], int, int, str]) -> list[Fitted]:
    series, phases, period, kind = job
    return [fit_series(y, phase, phases, period, kind, usual) for y, phase, usual in series]


class SeasonalModel:
    """A seasonal baseline per channel.

    Parameters
    ----------
    kind : {"stl", "mstl", "fourier", "ets", "median", "level"}
        What to fit; a series that fails, or has too few days, gets a simpler one (see `notes`).
    workers : int
        Processes that fit; 1 fits here.
    keep_days : float
        Weight, in days, that earlier fits keep when `fit` is called again with newer history.
    """

    def __init__(self, kind: str = "stl", *, workers: int = 1, keep_days: float = 14.0) -> None:
        if kind not in KINDS:
            raise ConfigError(f"seasonal: expected one of {', '.join(KINDS)}, got {kind!r}")
        if not 1 <= workers <= 256:
            raise ConfigError(f"seasonal: workers must be in [1, 256], got {workers}")
        if not 0.0 <= keep_days <= 3650.0:
            raise ConfigError(f"seasonal: keep_days must be in [0, 3650], got {keep_days}")
        self._kind, self._workers, self._keep = kind, workers, keep_days
        self.progress: Callable[[int, int], None] | None = None  # (channels done, all)
        self.notes: dict[str, str] = {}
        self._keys: tuple[SeriesKey, ...] = ()
        self._columns: tuple[str, ...] = ()
        self._window_ns = 0
        self._fitted_ns = 0
        self._days = 0.0
        self._usual = np.zeros(1, np.int64)
        self._empty(0, 1)

    def _empty(self, channels: int, phases: int) -> None:
        self._tables = np.zeros((channels, 4))
        self._tables[:, LEVEL] = np.nan
        self._profile = np.zeros((channels, phases))
        self._spread = np.ones((channels, phases))
        self._other = np.full((channels, _PHASES_OF_DAY + 1, 2), np.nan)
        self._tail = Calibrator(channels, both=True)

    def _period(self, window_ns: int) -> int:
        return max(1, round(_DAY_NS / window_ns))

    def _phases(self, panel: Panel) -> tuple[Int64, Int64, int]:
        """Phase and session of each (window, series), and how many phases there are."""
        shape = (len(panel.end_ns), len(panel.keys))
        if "clock_slot" in panel.columns:
            slot = panel.column("clock_slot")
            phase = np.where(np.isfinite(slot) & (slot >= 0), np.nan_to_num(slot), -1.0).astype(np.int64)
            phases = 2048
        else:
            days = 7 if self._kind == "mstl" else 1
            phases = min(self._period(panel.window_ns) * days, _MOST_PHASES)
            start = panel.end_ns - panel.window_ns  # not a count of windows: a day need not be a whole number of them
            phase = np.broadcast_to((start % (days * _DAY_NS) * phases // (days * _DAY_NS))[:, None], shape).copy()
        session = np.full(shape, _PHASES_OF_DAY - 1, np.int64)
        if "clock_phase" in panel.columns:
            known = panel.column("clock_phase")
            session = np.where(np.isfinite(known), np.clip(np.nan_to_num(known), 0, 4), 5.0).astype(np.int64)
        if "clock_holiday" in panel.columns:
            session = np.where(panel.column("clock_holiday") > 0.0, _PHASES_OF_DAY, session)
        return phase, session, phases

    def fit(self, history: Panel) -> None:
        """Fit every channel, by `workers` processes; see `fit_over`."""
        self.fit_over(history, self._own)

    def fit_over(self, history: Panel, spread: Spread) -> None:
        """Fit every channel; called again, the new tables are blended with the old by days of history.

        Nearly all of the time goes into single channels, so these are what `spread` gets.

        Raises
        ------
        NoDataError
            Without a window.
        """
        if not len(history.end_ns):
            raise NoDataError("seasonal: expected history to fit, got no windows")
        phase, session, phases = self._phases(history)
        again = self._columns == history.channels and self._profile.shape[1] == phases and self._days > 0.0
        if not again:
            self._columns, self._window_ns = history.channels, history.window_ns
            self._keys = history.keys
            self._empty(len(self._keys) * len(self._columns), phases)
        self.align(history.keys)
        grid = ((history.end_ns - history.end_ns[0]) // history.window_ns).astype(np.int64)
        steps, period, width = int(grid[-1]) + 1, self._period(history.window_ns), len(self._columns)
        values = history.channel_values()
        usual = self._find_usual(phase, session, phases)
        jobs = []
        for i in range(len(history.keys)):
            own = np.full(steps, -1, np.int64)
            own[grid] = phase[:, i]
            missing = np.flatnonzero(own < 0)
            if len(missing):  # a gap's phase does not matter: its value is missing
                own[missing] = 0
            normal = np.zeros(steps, np.bool_)
            normal[grid] = (phase[:, i] >= 0) & (session[:, i] == usual[np.maximum(phase[:, i], 0)])
            for c in range(width):
                y = np.full(steps, np.nan)
                y[grid] = values[:, i, c]
                jobs.append((y, own, normal))
        size = max(1, min(_CHUNK, -(-len(jobs) // _CHUNKS)))
        chunks = [(jobs[i : i + size], phases, period, self._kind) for i in range(0, len(jobs), size)]
        fitted = [found for chunk in spread(_fit_chunk, chunks) for found in chunk]
        days = len(history.end_ns) / period
        share = days / (days + min(self._days, self._keep)) if again else 1.0
        self.notes = {}
        for n, found in enumerate(fitted):
            name = f"{history.keys[n // width]} {self._columns[n % width]}"
            if found.note:
                self.notes[name] = f"{found.used}: {found.note}"
            old = not math.isnan(self._tables[n, LEVEL])
            mix = share if old else 1.0
            if math.isnan(found.level):
                continue
            self._tables[n] = (found.level, found.drift, 0.0, found.level + float(np.mean(found.profile)))
            self._profile[n] += mix * (found.profile - self._profile[n])
            self._spread[n] += mix * (found.spread - self._spread[n])
            x, s, p = values[:, n // width, n % width], session[:, n // width], phase[:, n // width]
            for k in range(_PHASES_OF_DAY + 1):
                mine = x[(s == k) & (p >= 0) & (usual[np.maximum(p, 0)] != k) & np.isfinite(x)]
                if len(mine):
                    middle = float(np.median(mine))
                    self._other[n, k] = middle - found.level, 1.2533 * float(np.mean(np.abs(mine - middle)))
                elif k < _PHASES_OF_DAY:
                    same = x[(s == k) & np.isfinite(x)]
                    if len(same):
                        middle = float(np.median(same))
                        self._other[n, k] = middle - found.level, 1.2533 * float(np.mean(np.abs(same - middle)))
        self._profile = self._profile.astype(np.float32).astype(np.float64)  # as they are stored
        self._spread = self._spread.astype(np.float32).astype(np.float64)
        self._usual = usual
        self._fitted_ns = int(history.end_ns[-1])
        self._days = min(self._days, self._keep) * (1.0 if again else 0.0) + days
        # the tail starts from the last part of history; the levels stay as fitted
        kept = self._tables.copy()
        last = slice(max(0, len(history.end_ns) - 3_000), None)
        raw, _, _ = self._raw(history, last)
        self._tables = kept
        self._tail.advance(raw)

    def _find_usual(self, phase: Int64, session: Int64, phases: int) -> Int64:
        counts = np.zeros((phases, _PHASES_OF_DAY + 1), np.int64)
        ok = phase >= 0
        np.add.at(counts, (phase[ok], session[ok]), 1)
        return counts[:, :_PHASES_OF_DAY].argmax(axis=1)

    def _own(self, task: Callable[[Any], Any], chunks: Sequence[Any]) -> list[Any]:
        """Run chunks here or in processes of one's own."""
        total, done = sum(len(c[0]) for c in chunks), 0
        out: list[Any] = []
        with ExitStack() as stack:
            run: Callable[..., Iterator[Any]] = map
            if self._workers > 1:
                run = stack.enter_context(ProcessPoolExecutor(self._workers, mp_context=get_context("spawn"))).map
            for found in run(task, chunks):
                out.append(found)
                done += len(found)
                if self.progress is not None:
                    self.progress(done, total)
        return out

    def align(self, keys: Sequence[SeriesKey]) -> None:
        """Let tables follow the keys; a series without history has none and is not scored."""
        new = tuple(keys)
        if new == self._keys:
            return
        take = rows_before(self._keys, new, len(self._columns))
        old = self._tables, self._profile, self._spread, self._other
        tail = self._tail
        self._empty(len(take), self._profile.shape[1])
        self._tail = tail
        self._tail.take(take)
        known = take >= 0
        for ours, theirs in zip((self._tables, self._profile, self._spread, self._other), old, strict=True):
            ours[known] = theirs[take[known]]
        self._keys = new

    def _raw(self, panel: Panel, part: slice) -> tuple[Float64, Float64, Float64]:
        phase, session, phases = self._phases(panel)
        if phases != self._profile.shape[1]:
            raise ConfigError("seasonal: the clock's columns differ from those of the history it was fitted on")
        width = len(self._columns)
        values = panel.channel_values()[part]
        values = values.reshape(len(values), values.shape[1] * width)
        raw, expected, wide = (np.empty(values.shape) for _ in range(3))
        days = (panel.end_ns[part] - self._fitted_ns) / _DAY_NS
        _score(
            np.ascontiguousarray(values),
            np.repeat(phase[part], width, axis=1),
            np.repeat(session[part], width, axis=1),
            self._usual,
            days,
            1.0 / self._period(panel.window_ns),
            self._tables,
            self._profile,
            self._spread,
            self._other,
            raw,
            expected,
            wide,
        )
        return raw, expected, wide

    def advance(self, panel: Panel, *, explain: bool = False) -> Scores:
        """Score then learn; channels without a baseline are NaN.

        Raises
        ------
        NoDataError
            If it was never fitted.
        ConfigError
            If columns or window length differ from the history's.
        """
        if not self._columns:
            raise NoDataError("seasonal: no baseline yet: fit it on history first")
        if panel.channels != self._columns or panel.window_ns != self._window_ns:
            raise ConfigError(f"seasonal: fitted on {self._columns} of {self._window_ns} ns windows")
        self.align(panel.keys)
        raw, expected, wide = self._raw(panel, slice(None))
        surprise, side = self._tail.advance(raw)
        shape = (len(panel.end_ns), len(panel.keys), len(self._columns))
        bands = [a.reshape(shape) for a in (expected, expected - 3.0 * wide, expected + 3.0 * wide)]
        return Scores(
            panel.keys,
            self._columns,
            panel.end_ns,
            surprise.reshape(shape),
            side.reshape(shape),
            *(bands if explain else [None] * 3),
        )

    def snapshot(self) -> State:
        """All tables as plain arrays."""
        return {
            "version": np.array([_VERSION, self._window_ns, self._fitted_ns]),
            "days": np.array([self._days]),
            **pack_names(self._keys, self._columns),
            "usual": self._usual.copy(),
            "tables": self._tables.copy(),
            "profile": self._profile.astype(np.float32),
            "spread": self._spread.astype(np.float32),
            "other": self._other.copy(),
            **{f"tail_{k}": v for k, v in self._tail.snapshot().items()},
        }

    def restore(self, state: State) -> None:
        """Continue exactly where `snapshot` was taken.

        Raises
        ------
        StoreError
            If it is of another version.
        """
        if int(state["version"][0]) != _VERSION:
            raise StoreError(f"seasonal: expected state version {_VERSION}, got {int(state['version'][0])}")
        self._window_ns, self._fitted_ns = int(state["version"][1]), int(state["version"][2])
        self._days = float(state["days"][0])
        self._keys, self._columns = unpack_names(state)
        self._usual = np.array(state["usual"], np.int64)
        self._tables = np.array(state["tables"], np.float64)
        self._profile = np.array(state["profile"], np.float64)
        self._spread = np.array(state["spread"], np.float64)
        self._other = np.array(state["other"], np.float64)
        self._tail = Calibrator(len(self._tables), both=True)
        self._tail.restore({k.removeprefix("tail_"): v for k, v in state.items() if k.startswith("tail_")})
