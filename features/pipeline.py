"""One part of a builder, and the parts of one window length together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from features.calendar import Clock
from features.stage import Base, Stage
from telemetry.types import Bool, Float64, Int64, Nanos, Panel, SeriesKey, Snapshot, State
from telemetry.watermark import Crossings

__all__ = ["Group", "Pipeline"]


class Pipeline:
    """One part: a base and the stages after it."""

    def __init__(self, name: str, base: Base, stages: Sequence[Stage] = (), max_series: int = 100_000) -> None:
        self.name, self.base, self.stages, self.max_series = name, base, tuple(stages), max_series
        self.inputs: list[SeriesKey] = []
        self._hosts: list[int] = []
        self._host_of, self._alive = np.zeros(0, np.int64), np.zeros((1, 0), np.bool_)
        self.refused: dict[str, int] = {}

    @property
    def columns(self) -> tuple[str, ...]:
        return self.stages[-1].columns if self.stages else self.base.columns

    def bind(self, key: SeriesKey, host: int) -> list[SeriesKey]:
        """Take up a series if it is selected; return the series that this adds to the panel."""
        if not self.base.selects(key):
            return []
        if len(self.inputs) >= self.max_series:
            self.refused[key.metric] = self.refused.get(key.metric, 0) + 1
            return []
        self.inputs.append(key)
        self._hosts.append(host)
        self.base.bind(key)
        made = [key]
        for stage in self.stages:
            made = [out for k in made for out in stage.bind(k)]
        return made

    def close(self, first: int, last: int, alive: Bool | None) -> Float64:
        """Windows `first` .. `last`; `alive` (W, hosts), None where one window's hosts all are."""
        if len(self._host_of) != len(self._hosts):
            self._host_of = np.array(self._hosts, np.int64)
            self._alive = np.ones((1, len(self._hosts)), np.bool_)
        live = self._alive if alive is None else alive.take(self._host_of, axis=1)
        values = self.base.close(first, last, live)
        if self.stages:
            ends = (np.arange(first, last + 1) + 1) * self.base.step_ns
            for stage in self.stages:
                values = stage.advance(ends, values)
        return values

    def snapshot(self) -> State:
        parts = [("base", self.base.snapshot()), *((f"stage{i}", s.snapshot()) for i, s in enumerate(self.stages))]
        metrics = list(self.refused)
        return {
            **Snapshot.nest(parts),
            "refused_metrics": np.array(metrics, dtype=np.str_),
            "refused": np.array([self.refused[m] for m in metrics], np.int64),
        }

    def restore(self, state: State) -> None:
        self.base.restore(Snapshot.unnest(state, "base"))
        for i, stage in enumerate(self.stages):
            stage.restore(Snapshot.unnest(state, f"stage{i}"))
        names = [str(m) for m in state["refused_metrics"]]
        self.refused = dict(zip(names, (int(n) for n in state["refused"]), strict=True))


@dataclass(slots=True)
class Group:
    """The pipelines of one window length and the windows that wait to be fetched."""

    window_ns: Nanos
    step_ns: Nanos
    max_gap_ns: Nanos
    pipelines: list[Pipeline]
    columns: tuple[str, ...]
    next: int | None = None  # number of the next window; its end is (number + 1) * step_ns
    keys: dict[SeriesKey, int] = field(default_factory=dict)
    named: tuple[SeriesKey, ...] = ()  # the same, as panels have them
    empty: Panel | None = None
    places: list[list[int]] = field(default_factory=list)  # of each pipeline's series in `keys`
    ready: list[tuple[Int64, Float64]] = field(default_factory=list)

    def bind(self, key: SeriesKey, host: int) -> None:
        for p, places in zip(self.pipelines, self.places, strict=True):
            places.extend(self.keys.setdefault(k, len(self.keys)) for k in p.bind(key, host))

    def advance(self, crossed: Crossings) -> None:
        """Close the windows that the watermark passed."""
        runs: list[tuple[int, int, int]] = []  # first and last window, and the row that closed them
        for r, (mark, newest, first_ns, _) in enumerate(crossed.rows):
            last = mark // self.step_ns - 1
            if self.next is None:
                if first_ns // self.step_ns > last:
                    continue
                self.next = first_ns // self.step_ns
            if last < self.next:
                continue
            stop = last
            if mark - max(newest, self.next * self.step_ns) > self.max_gap_ns:
                # Everybody was silent: only the windows that reach back to the last events.
                stop = min(last, newest // self.step_ns + self.window_ns // self.step_ns - 1)
            if stop >= self.next:
                runs.append((self.next, stop, r))
            self.next = last + 1
        while runs:
            n = 1  # runs that follow on each other are closed at once
            while n < len(runs) and runs[n][0] == runs[n - 1][1] + 1:
                n += 1
            first, stop, row = runs[0][0], runs[n - 1][1], runs[0][2]
            start = (first + 1) * self.step_ns - self.window_ns
            if first < stop:
                starts = np.arange(start, start + (stop - first + 1) * self.step_ns, self.step_ns)
                rows = np.repeat([r for _, _, r in runs[:n]], [b - a + 1 for a, b, _ in runs[:n]])
                self._close(first, stop, crossed.host_ns[rows] >= starts[:, None])
            elif crossed.rows[row][3] < start:  # a host is silent
                self._close(first, stop, crossed.host_ns[row : row + 1] >= start)
            else:  # as nearly always
                self._close(first, stop, None)
            del runs[:n]

    def _close(self, first: int, last: int, alive: Bool | None) -> None:
        step = self.step_ns
        if first == last:
            ends = np.empty(1, np.int64)
            ends[0] = (first + 1) * step
        else:
            ends = np.arange((first + 1) * step, (last + 2) * step, step)
        if len(self.pipelines) == 1:
            self.ready.append((ends, self.pipelines[0].close(first, last, alive)))
            return
        whole = np.full((len(ends), len(self.keys), len(self.columns)), np.nan)
        for p, places in zip(reversed(self.pipelines), reversed(self.places), strict=True):
            values = p.close(first, last, alive)
            for i, name in enumerate(p.columns):
                c = self.columns.index(name)
                whole[:, places, c] = np.where(np.isnan(values[:, :, i]), whole[:, places, c], values[:, :, i])
        self.ready.append((ends, whole))

    def fetch(self, watermark_ns: Nanos, clock: Clock | None) -> Panel:
        """Hand out what ended by `watermark_ns`."""
        if not self.ready and clock is None:
            if self.empty is None or len(self.empty.keys) != len(self.keys):
                self.empty = self._panel(np.empty(0, np.int64), np.empty((0, len(self.keys), len(self.columns))))
            return self.empty
        if len(self.ready) == 1 and self.ready[0][0][-1] <= watermark_ns:
            ends, values = self.ready.pop()
            return self._panel(ends, values, clock)
        out_e, out_v, left = [], [], []
        for ends, values in self.ready:
            n = int(np.searchsorted(ends, watermark_ns, side="right"))
            if n:
                out_e.append(ends[:n])
                out_v.append(_wider(values[:n], len(self.keys)))
            if n < len(ends):
                left.append((ends[n:], values[n:]))
        self.ready = left
        if len(out_v) == 1:
            return self._panel(out_e[0], out_v[0], clock)
        end = np.concatenate(out_e) if out_e else np.empty(0, np.int64)
        values = np.concatenate(out_v) if out_v else np.empty((0, len(self.keys), len(self.columns)))
        return self._panel(end, values, clock)

    def _panel(self, end: Int64, values: Float64, clock: Clock | None = None) -> Panel:
        width = len(self.keys)
        if len(self.named) != width:
            self.named = tuple(self.keys)
        if values.shape[1] != width:
            values = _wider(values, width)
        columns = self.columns
        if clock is not None:
            extra = clock.columns(end - self.window_ns, self.named)
            values = np.concatenate([values, extra], axis=2)
            columns = (*columns, *clock.names)
        return Panel(self.named, columns, self.window_ns, end, values)


def _wider(values: Float64, width: int) -> Float64:
    w, s, c = values.shape
    if s == width:
        return values
    out = np.full((w, width, c), np.nan)
    out[:, :s] = values
    return out
