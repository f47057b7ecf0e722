"""The watermark: up to which event time nothing more is awaited. A function of the events alone.

``watermark = max(min over hosts of their largest time, largest time of all - idle_timeout) - lateness``, never
decreasing. An event is late if and only if its time is below the watermark of the events seen before it, so
how a stream is cut into batches changes nothing. Moments at which the watermark passes a multiple of `grain`
are logged together with each host's largest time then: what was known when a window closed.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

from telemetry.errors import ConfigError, InputError
from telemetry.types import Bool, Events, Int64, Nanos, SeriesKey, State

__all__ = ["NEVER", "Admitted", "Crossings", "Watermark"]

NEVER: Nanos = -(1 << 62)
"""Before any event."""

_FAR = 1 << 62
_ROWS = 512
# Slots of the kernel's memory.
_WM, _NEWEST, _LEAST, _SLOWEST, _LATE, _AHEAD, _FIRST = range(7)


@njit(cache=True, nogil=True)
def _admit(
    series, time, seen, host_of, start, host_max, mem, keep, lateness, idle, ahead, grain, rows, row_hosts
):  # fmt: skip
    """Judge events from `start` on; stop when the log is full. Returns (next event, log rows, events not admitted).

    `keep` comes all true. If a series is not one of `host_of`, nothing is judged and the next event is -1.

    A block in which, whatever the order, no event can be late and no multiple of the grain is passed is taken as one.
    """
    if start == 0:
        beyond = 0
        for i in range(series.shape[0]):
            beyond += 1 if np.uint64(series[i]) >= np.uint64(host_of.shape[0]) else 0
        if beyond > 0:
            return -1, 0, 0
    never = -(1 << 62)
    wm, newest, least, slowest = mem[0], mem[1], mem[2], mem[3]
    late, too_far, first = mem[4], mem[5], mem[6]
    lost = late + too_far
    n_rows = 0
    n = time.shape[0]
    host = -1  # of the event before, whose largest time is `high`, stored only when the host changes
    high = never
    hosts = row_hosts.shape[1]
    host_max = host_max[:hosts]  # the rest is room for more
    one = hosts == 1
    trial = np.empty(hosts, np.int64)
    i = start
    block_end = start
    while i < n:
        if i == block_end:
            block_end = min(i + 512, n)
            low_t = top_t = time[i]
            top_ahead = never
            falls = 0
            times, seens = time[i:block_end], seen[i:block_end]
            for k in range(times.shape[0]):
                low_t = min(low_t, times[k])
                top_t = max(top_t, times[k])
                top_ahead = max(top_ahead, times[k] - seens[k])
            for k in range(times.shape[0] - 1):
                falls += times[k + 1] < times[k]
            if top_ahead <= ahead and low_t > never and top_t < 4611686018427387904 and newest != never:
                if host >= 0:
                    host_max[host] = high
                host = -1
                joins = False
                if one:
                    trial[0] = max(host_max[0], top_t)
                else:
                    trial[:] = host_max
                    names = series[i:block_end]
                    for k in range(times.shape[0]):
                        h = host_of[names[k]]
                        trial[h] = max(trial[h], times[k])
                    for h in range(hosts):
                        joins |= trial[h] != never and host_max[h] == never
                if not joins:
                    behind = top_t
                    slow = -1
                    for h in range(hosts):
                        if trial[h] != never and (slow < 0 or trial[h] < behind):
                            behind = trial[h]
                            slow = h
                    up = max(wm, max(behind, max(newest, top_t) - idle) - lateness)
                    none_late = low_t >= up or (falls == 0 and low_t >= wm and low_t >= newest - lateness)
                    if none_late and (up == wm or up // grain == wm // grain):
                        host_max[:] = trial
                        newest = max(newest, top_t)
                        least, slowest, wm = behind, slow, up
                        first = min(first, low_t)
                        i = block_end
                        continue
        t = time[i]
        if t - seen[i] > ahead or t >= 4611686018427387904 or t <= never:
            too_far += 1
            keep[i] = False
            i += 1
            continue
        if t < wm:
            late += 1
            keep[i] = False
        elif t < first:
            first = t
        h = 0 if one else host_of[series[i]]
        if h != host:
            if host >= 0:
                host_max[host] = high
            host = h
            high = host_max[h]
        i += 1
        if t <= high:
            continue
        before = newest
        joins = high == never
        high = t
        if t > newest:
            newest = t
        if joins:  # it may hold the watermark back, never lower it
            if t < least or slowest < 0:
                least = t
                slowest = h
        elif h == slowest:
            least = t
            for j in range(host_max.shape[0]):
                if j != h and host_max[j] != never and host_max[j] < least:
                    least = host_max[j]
                    slowest = j
        now = max(least, newest - idle) - lateness
        if now > wm:
            if wm == never or now // grain != wm // grain:
                host_max[h] = high
                rows[n_rows, 0] = now
                rows[n_rows, 1] = before
                rows[n_rows, 2] = first
                rows[n_rows, 3] = least
                for j in range(host_max.shape[0]):
                    row_hosts[n_rows, j] = host_max[j]
                n_rows += 1
                if n_rows == rows.shape[0]:
                    wm = now
                    break
                if time[block_end - 1] // grain == t // grain:  # what follows may be taken as one
                    block_end = i
            wm = now
    if host >= 0:
        host_max[host] = high
    mem[0], mem[1], mem[2], mem[3] = wm, newest, least, slowest
    mem[4], mem[5], mem[6] = late, too_far, first
    return i, n_rows, late + too_far - lost


class Crossings(NamedTuple):
    """Moments at which the watermark passed a multiple of the grain, in order.

    Parameters
    ----------
    rows : list of [watermark_ns, newest_ns, first_ns, least_ns], (R,)
        The watermark then; the largest time before the event that moved it; the least time admitted so far; the
        largest time of the slowest host of those heard of.
    host_ns : (R, H) int64
        Each host's largest time then; `NEVER` before its first event. Valid until the next batch is judged.
    """

    rows: list[list[Nanos]]
    host_ns: Int64


class Admitted(NamedTuple):
    """What came of a batch: `keep` is None when every event was admitted."""

    keep: Bool | None
    crossings: Crossings


_NO_CROSSINGS = Crossings([], np.empty((0, 0), np.int64))
_ALL = Admitted(None, _NO_CROSSINGS)


class Watermark:
    """Judges events one by one in seen order; works in compiled code, a batch a call.

    Parameters
    ----------
    lateness_ns : int
        How long after the newest event of the slowest host an event may still come.
    idle_timeout_ns : int
        How long, in event time, a silent host may hold the watermark back.
    max_ahead_ns : int, optional
        Events whose time is more than this past their `seen_ns` are rejected and counted: one wrong clock
        must not close everybody's windows. Default: `idle_timeout_ns`.
    grain_ns : int
        Multiples of it are logged (`Crossings`).
    """

    def __init__(
        self, lateness_ns: Nanos = 0, idle_timeout_ns: Nanos = 5_000_000_000, max_ahead_ns: Nanos | None = None,
        grain_ns: Nanos = 1_000_000_000,
    ) -> None:  # fmt: skip
        ahead = idle_timeout_ns if max_ahead_ns is None else max_ahead_ns
        for name, value, least in (
            ("lateness", lateness_ns, 0), ("idle_timeout", idle_timeout_ns, 0), ("max_ahead", ahead, 0),
            ("grain", grain_ns, 1),
        ):  # fmt: skip
            if not least <= value < 1 << 60:
                raise ConfigError(f"{name}: expected {least} or more nanoseconds, got {value}")
        self._setting = (int(lateness_ns), int(idle_timeout_ns), int(ahead), int(grain_ns))
        self._hosts: dict[str, int] = {}
        self._host_max = np.empty(0, np.int64)
        self._mem = np.array([NEVER, NEVER, NEVER, -1, 0, 0, _FAR], np.int64)
        self._tables: list[tuple[Sequence[SeriesKey], Int64]] = []
        self._keep = np.ones(0, np.bool_)
        self._rows, self._row_hosts = np.empty((0, 4), np.int64), np.empty((0, 0), np.int64)

    @property
    def watermark_ns(self) -> Nanos:
        """Event time up to which nothing more is awaited; `NEVER` before any event."""
        return int(self._mem[_WM])

    @property
    def newest_ns(self) -> Nanos:
        """The largest event time so far."""
        return int(self._mem[_NEWEST])

    @property
    def late(self) -> int:
        """Events dropped because they came below the watermark."""
        return int(self._mem[_LATE])

    @property
    def ahead(self) -> int:
        """Events rejected because their time lies too far past the moment they were seen."""
        return int(self._mem[_AHEAD])

    @property
    def hosts(self) -> tuple[str, ...]:
        """Hosts seen in any batch's keys, in the order of `Crossings.host_ns`."""
        return tuple(self._hosts)

    def host(self, name: str) -> int:
        """Index of a host (registered if new)."""
        at = self._hosts.setdefault(name, len(self._hosts))
        if at >= len(self._host_max):
            self._host_max = np.append(self._host_max, np.full(max(8, at), NEVER))
        return at

    def admit(self, events: Events) -> Admitted:
        """Judge a batch and move the watermark."""
        return self.judge(self.hosts_of(events.keys), events.series, events.time_ns, events.seen_ns)

    def judge(self, host_of: Int64, series: Int64, time_ns: Int64, seen_ns: Int64) -> Admitted:
        """Judge the events of these columns and move the watermark; `host_of` is `hosts_of` their keys.

        Raises
        ------
        InputError
            If a series is not one of the keys; nothing is judged then.
        """
        n, hosts = len(time_ns), len(self._hosts)
        if len(self._keep) < n:
            self._keep = np.ones(n, np.bool_)
        if self._row_hosts.shape[1] != hosts:
            self._rows, self._row_hosts = np.empty((_ROWS, 4), np.int64), np.empty((_ROWS, hosts), np.int64)
        keep, rows, row_hosts = self._keep, self._rows, self._row_hosts
        lateness, idle, ahead, grain = self._setting
        logged: list[list[Nanos]] = []
        heights: list[Int64] = []
        at = lost = 0
        while at < n:
            at, used, dropped = _admit(
                series, time_ns, seen_ns, host_of, at, self._host_max, self._mem, keep, lateness, idle, ahead, grain,
                rows, row_hosts,
            )  # fmt: skip
            if at < 0:
                raise InputError(f"events: expected series from 0 to {len(host_of) - 1}, got one beyond")
            lost += dropped
            if used:
                logged += rows[:used].tolist()
                heights.append(row_hosts[:used].copy())
        if not lost and not logged:
            return _ALL
        crossings = _NO_CROSSINGS
        if logged:
            crossings = Crossings(logged, heights[0] if len(heights) == 1 else np.concatenate(heights))
        if not lost:
            return Admitted(None, crossings)
        self._keep = np.ones(n, np.bool_)
        return Admitted(keep[:n], crossings)

    def raise_to(self, watermark_ns: Nanos) -> Crossings:
        """Lift the watermark by hand (the end of a recording): what is below counts as late from now on.

        Before any event there is nothing to lift.
        """
        mark, newest, least, _, _, _, first = self._mem.tolist()
        if watermark_ns <= mark or newest == NEVER:
            return _NO_CROSSINGS
        self._mem[_WM] = watermark_ns
        return Crossings([[watermark_ns, newest, first, least]], self._host_max[None])

    def hosts_of(self, keys: Sequence[SeriesKey]) -> Int64:
        """Index of each key's host (registered if new)."""
        for known, table in self._tables:
            if known is keys:
                return table
        table = np.array([self.host(k.host) for k in keys], np.int64)
        self._tables = [(keys, table), *self._tables[:7]]
        return table

    def snapshot(self) -> State:
        return {
            "mem": self._mem.copy(),
            "host_max": self._host_max[: len(self._hosts)].copy(),
            "hosts": np.array(list(self._hosts), dtype=np.str_),
        }

    def restore(self, state: State) -> None:
        self._mem = np.array(state["mem"], np.int64)
        self._host_max = np.array(state["host_max"], np.int64)
        self._hosts = {str(h): i for i, h in enumerate(state["hosts"])}
        self._tables = []
