"""The feature builder: one watermark, several parts, one panel per window length."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.calendar import Clock
from features.pipeline import Group, Pipeline
from features.rates import BOOT_METRIC
from features.rollup import Sketches
from features.window import WindowBase
from telemetry.errors import InputError, StoreError
from telemetry.types import Bool, Events, Float64, Int64, Nanos, Panel, SeriesKey, Snapshot, State
from telemetry.watermark import Watermark

__all__ = ["FeatureSet"]

_INT, _FLOAT = np.dtype(np.int64), np.dtype(np.float64)
_SLICE = 1 << 16  # events worked on at once, so that what one step writes the next one still finds in the cache
FORMAT = 1


def _uniform(events: Events) -> tuple[Int64, Int64, Int64, Int64 | Float64]:
    """Series, times, seen times and values: contiguous int64 (values: or float64), all writable or all read-only.

    The kernels are compiled for these only, and trust what they get.
    """
    series, time, seen, value = events.series, events.time_ns, events.seen_ns, events.value
    if not (
        series.flags.carray and time.flags.carray and seen.flags.carray and value.flags.carray
        and series.dtype is time.dtype is seen.dtype is _INT and (value.dtype is _INT or value.dtype is _FLOAT)
    ):  # fmt: skip
        series, time, seen = _fixed(series, _INT), _fixed(time, _INT), _fixed(seen, _INT)
        value = _fixed(value, _INT if value.dtype == _INT else _FLOAT)
    if not len(series) == len(time) == len(seen) == len(value):
        raise InputError(f"events: expected arrays of one length, got {[len(a) for a in (series, time, seen, value)]}")
    return series, time, seen, value


def _fixed(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    view = np.require(array, dtype, ("C", "A")).view()
    view.setflags(write=False)
    return view


class _Table:
    """What is known of one batch's tuple of keys: our number of each, each pipeline's, and its host's."""

    __slots__ = ("boots", "global_of", "host_of", "keys", "local_of", "open", "version")

    def __init__(self, keys: tuple[SeriesKey, ...], global_of: Int64, host_of: Int64) -> None:
        self.keys, self.global_of, self.host_of = keys, global_of, host_of
        self.boots = [i for i, k in enumerate(keys) if k.metric == BOOT_METRIC]
        self.version = -1
        self.open = True
        self.local_of: list[Int64] = []


class FeatureSet:
    """Several parts over one stream of events (a ``FeatureBuilder``).

    Made by ``features.spec.build_features``. Panels come one per window length, shortest first; the panels of parts
    of one length are merged: keys in the order in which their first events came, columns in the parts' order.
    Where two parts give one key the same column, the first one holds.
    """

    def __init__(
        self,
        pipelines: Sequence[Pipeline],
        watermark: Mapping[str, Any],
        max_gap_ns: Nanos | None = None,
        clock: Clock | None = None,
        remake: Callable[[], FeatureSet] | None = None,
    ) -> None:
        self._remake = remake
        self._pipelines = list(pipelines)
        self._clock = clock
        self._groups: list[Group] = []
        for window in sorted({p.base.window_ns for p in pipelines}):
            members = [p for p in pipelines if p.base.window_ns == window]
            columns = tuple(dict.fromkeys(c for p in members for c in p.columns))
            gap = 1000 * members[0].base.step_ns if max_gap_ns is None else max_gap_ns
            group = Group(window, members[0].base.step_ns, gap, members, columns)
            group.places = [[] for _ in members]
            self._groups.append(group)
        grain = math.gcd(*(g.step_ns for g in self._groups))
        self._watermark = Watermark(grain_ns=grain, **watermark)
        self._series: dict[SeriesKey, int] = {}  # every key of every batch, in the order met
        self._known = np.zeros(0, np.bool_)  # whether an event of it was admitted
        self._order: list[SeriesKey] = []  # keys in the order of their first admitted event
        self._local: list[Int64] = [np.zeros(0, np.int64) for _ in pipelines]
        self._tables: list[_Table] = []

    @property
    def watermark_ns(self) -> Nanos:
        """Event time up to which nothing more is awaited."""
        return self._watermark.watermark_ns

    @property
    def newest_ns(self) -> Nanos:
        """The largest event time so far."""
        return self._watermark.newest_ns

    @property
    def series(self) -> tuple[SeriesKey, ...]:
        """Series taken up so far, in the order of panels."""
        return tuple(self._order)

    def expect(self, keys: Sequence[SeriesKey]) -> None:
        """Take up series before their first event, in this order; those known already stay where they are."""
        table = self._table(tuple(keys))
        for key, number in zip(table.keys, table.global_of.tolist(), strict=True):
            self._take_up(key, number)
        self._refresh(table)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of all panels, in the parts' order, the clock's last."""
        found = dict.fromkeys(c for p in self._pipelines for c in p.columns)
        return (*found, *(self._clock.names if self._clock is not None else ()))

    @property
    def late(self) -> int:
        """Events dropped because they came below the watermark."""
        return self._watermark.late

    @property
    def ahead(self) -> int:
        """Events rejected because their time was too far past the moment they were seen."""
        return self._watermark.ahead

    @property
    def refused(self) -> dict[str, int]:
        """Series refused by `max_series`, by metric, the one that explodes first."""
        found: dict[str, int] = {}
        for p in self._pipelines:
            for metric, n in p.refused.items():
                found[metric] = found.get(metric, 0) + n
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def report(self) -> str:
        """What was lost, in one line; empty if nothing was."""
        said = []
        if self.late:
            said.append(f"{self.late} late events dropped")
        if self.ahead:
            said.append(f"{self.ahead} events rejected: their time lies too far past the moment they were seen")
        said += [f"{n} series of {metric} refused (max_series)" for metric, n in self.refused.items()]
        return "; ".join(said)

    @property
    def sketched_ns(self) -> tuple[Nanos, ...]:
        """Window lengths of the parts with ``keep_sketches``."""
        found = {p.base.window_ns for p in self._pipelines if isinstance(p.base, WindowBase) and p.base.keeps}
        return tuple(sorted(found))

    def sketches(self) -> list[Sketches]:
        """Sketches of the windows closed since the last call, of every part with ``keep_sketches``.

        They are not part of a snapshot: fetch them before.
        """
        found: list[Sketches] = []
        for p in self._pipelines:
            if isinstance(p.base, WindowBase):
                found += p.base.kept
                p.base.kept = []
        return found

    def push(self, events: Events) -> None:
        """Take in events in seen order; late ones and those too far ahead are counted and dropped."""
        n = len(events.time_ns)
        for at in range(0, n, _SLICE):
            self._push(events if n <= _SLICE else events[at : at + _SLICE])

    def close(self, watermark_ns: Nanos) -> tuple[Panel, ...]:
        """Windows that end by `watermark_ns`, one panel per window length, shortest first.

        Past the builder's own watermark this ends the stream there: what comes below later is late.
        """
        crossed = self._watermark.raise_to(watermark_ns)
        panels = []
        for group in self._groups:
            if crossed.rows:
                group.advance(crossed)
            panels.append(group.fetch(watermark_ns, self._clock))
        return tuple(panels)

    def _push(self, events: Events) -> None:
        series, time, seen, value = _uniform(events)
        table = self._table(events.keys)
        keep, crossed = self._watermark.judge(table.host_of, series, time, seen)
        if table.open:
            self._meet(series, keep, table)
        if table.boots:
            self._boot(series, time, value, keep, table)
        for p, local in zip(self._pipelines, table.local_of, strict=True):
            p.base.append(series, time, value, keep, local)
        if crossed.rows:
            for group in self._groups:
                group.advance(crossed)

    def _table(self, keys: tuple[SeriesKey, ...]) -> _Table:
        for table in self._tables:
            if table.keys is keys:
                break
        else:
            numbers = [self._series.setdefault(k, len(self._series)) for k in keys]
            table = _Table(keys, np.array(numbers, np.int64), self._watermark.hosts_of(keys))
            more = len(self._series) - len(self._known)
            if more > 0:
                more = max(more, len(self._known))
                self._known = np.append(self._known, np.zeros(more, np.bool_))
                self._local = [np.append(x, np.full(more, -1)) for x in self._local]
            self._tables = [table, *self._tables[:7]]
        if table.version != len(self._order):
            self._refresh(table)
        return table

    def _refresh(self, table: _Table) -> None:
        table.version = len(self._order)
        table.local_of = [x[table.global_of] for x in self._local]
        table.open = not bool(self._known[table.global_of].all())

    def _meet(self, series: Int64, keep: Bool | None, table: _Table) -> None:
        """Take up the series whose first event is in this batch, in the order of those events."""
        if keep is not None:
            series = series[keep]
        fresh = ~self._known[table.global_of]
        at = np.flatnonzero(fresh[series])
        if not len(at):
            return
        found, where = np.unique(series[at], return_index=True)
        for i in found[np.argsort(where)].tolist():
            self._take_up(table.keys[i], int(table.global_of[i]))
        self._refresh(table)

    def _take_up(self, key: SeriesKey, number: int) -> None:
        if self._known[number]:
            return
        self._known[number] = True
        self._order.append(key)
        before = [len(p.inputs) for p in self._pipelines]
        host = self._watermark.host(key.host)
        for group in self._groups:
            group.bind(key, host)
        for i, p in enumerate(self._pipelines):
            if len(p.inputs) > before[i]:
                self._local[i][number] = before[i]

    def _boot(
        self, series: Int64, time: Int64, value: Int64 | Float64, keep: Bool | None, table: _Table
    ) -> None:  # fmt: skip
        for i in table.boots:
            mask = (series == i) & (value != 0)
            if keep is not None:
                mask &= keep
            if mask.any():
                for p in self._pipelines:
                    boot = getattr(p.base, "boot", None)
                    if boot is not None:
                        boot(table.keys[i].host, time[mask])

    def snapshot(self) -> State:
        parts = [("watermark", self._watermark.snapshot())]
        parts += [(f"part{i}", p.snapshot()) for i, p in enumerate(self._pipelines)]
        for i, g in enumerate(self._groups):
            state: dict[str, Any] = {"next": np.array([] if g.next is None else [g.next], np.int64)}
            for j, (ends, values) in enumerate(g.ready):
                state[f"end{j}"], state[f"values{j}"] = ends.copy(), values.copy()
            parts.append((f"group{i}", state))
        return {
            **Snapshot.nest(parts),
            "format": np.array(FORMAT),
            "keys": np.array([str(k) for k in self._order], dtype=np.str_),
        }

    def restore(self, state: State) -> None:
        """Continue where `snapshot` of a builder of the same spec was taken; what this one knew is forgotten.

        Raises
        ------
        StoreError
            If the state is of another format.
        """
        if "format" not in state or int(state["format"]) != FORMAT:
            raise StoreError(f"features state: expected format {FORMAT}, got {state.get('format')}")
        if self._tables:
            if self._remake is None:
                raise StoreError(
                    "features state: expected a fresh builder to restore into, got one that has seen events"
                )
            self.__dict__.update(self._remake().__dict__)
        self._watermark.restore(Snapshot.unnest(state, "watermark"))
        self.expect([SeriesKey.parse(str(k)) for k in state["keys"]])
        for i, p in enumerate(self._pipelines):
            p.restore(Snapshot.unnest(state, f"part{i}"))
        for i, g in enumerate(self._groups):
            kept = Snapshot.unnest(state, f"group{i}")
            g.next = int(kept["next"][0]) if len(kept["next"]) else None
            n = (len(kept) - 1) // 2
            g.ready = [(kept[f"end{j}"].astype(np.int64), kept[f"values{j}"].astype(np.float64)) for j in range(n)]
