"""The harvester: everything a latency-sensitive host says, at a rate where stalls can be seen, unnoticed.

It owns no clock but the stamps of its reads: whoever calls `Harvester.sample` sets the pace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from telemetry.host.config import ConfigWatch
from telemetry.host.incident import IncidentTier
from telemetry.host.processes import ProcessWatch
from telemetry.host.tier import Tier
from telemetry.procfs import Devices, cgroup_set, namespace_set, online_cpus, standard_set
from telemetry.types import Events, Int64, Nanos, SeriesKey

__all__ = ["Follower", "Harvester", "Joiner"]


class Follower(Protocol):
    """Something that has news now and then."""

    @property
    def trouble(self) -> str:
        """What has gone wrong so far and how often, in one line; "" if nothing has."""
        ...

    def poll(self) -> list[Events]:
        """What came since the last call."""
        ...

    def close(self) -> None: ...


class _Own:
    """The sampler's lateness and cost since the last sample: a late sampler lowers confidence."""

    name = "sampler"

    def __init__(self, host: str) -> None:
        self.late_ns = self.cost_ns = 0
        self._keys = [SeriesKey.of(host, name) for name in ("sampler_late_ns", "sampler_cost_ns")]

    def discover(self) -> Sequence[SeriesKey]:
        return self._keys

    def read(self, out: Int64) -> bool:
        out[0], out[1] = self.late_ns, self.cost_ns
        self.late_ns = self.cost_ns = 0
        return True

    def close(self) -> None:
        return


class Joiner:
    """Puts small batches of the same series together before they are stored.

    A frame of the log costs as much for twenty rows as for two hundred. The order stays.
    """

    def __init__(self, append: Callable[[Events], None], rows: int = 256) -> None:
        self._append, self._rows = append, rows
        self._waiting: list[Events] = []
        self._tiled: dict[int, tuple[Int64, Int64]] = {}

    def append(self, batch: Events) -> None:
        first = self._waiting[0] if self._waiting else None
        if first is not None and (batch.keys is not first.keys or batch.series is not first.series):
            self.flush()
        if len(batch) >= self._rows:
            self._append(batch)
            return
        self._waiting.append(batch)
        if len(self._waiting) * len(batch) >= self._rows * 4:
            self.flush()

    def flush(self) -> None:
        """Hand on what waits."""
        some, self._waiting = self._waiting, []
        if len(some) < 2:
            for batch in some:
                self._append(batch)
            return
        first = some[0]
        series, whole = self._tiled.get(len(some), (None, first.series))
        if series is not first.series:
            whole = np.tile(first.series, len(some))
            whole.flags.writeable = False
            self._tiled[len(some)] = (first.series, whole)
        columns = [np.concatenate(c) for c in zip(*((b.time_ns, b.seen_ns, b.value) for b in some), strict=True)]
        self._append(Events(first.keys, whole, *columns))


class Harvester:
    """Samples of one host.

    Rates: `fast_hz`, `hz`, once a second, and, while an incident is open, the heavy files once a second too.

    Parameters
    ----------
    root : path
        ``/`` live, a fixture tree in tests.
    host : str
        The label of all its series.
    hz : float
        Rate of the base tier. Configuration is looked at once a second.
    fast_hz : float
        Rate of the fast tier (softnet, pressure, UDP sockets, threads' run and wait time); 0 reads it at `hz`.
    processes : sequence of str
        Regular expressions of names (``comm`` or the first word of the command line), or ``cgroup:PATH``: the
        processes whose threads are watched.
    namespaces : bool
        Watch all network namespaces that some process lives in, not only our own.
    boot_id : str
        The one last seen; another gives ``boot_id_changed``.
    followers : sequence of Follower
        What else there is to read at the base rate (log files, records in memory).
    trigger : path, optional
        While this file is younger than `trigger_s` (touch it to begin or prolong, remove it to end), what is too
        costly to be read always is read once a second: see `telemetry.host.heavy`.

    Examples
    --------
    >>> harvester = Harvester(host="tx07")                               # doctest: +SKIP
    >>> for batch in harvester.sample():                                 # doctest: +SKIP
    ...     store.append(batch)
    """

    def __init__(
        self,
        root: str | Path = "/",
        *,
        host: str,
        hz: float = 10.0,
        fast_hz: float = 0.0,
        processes: Sequence[str] = (),
        namespaces: bool = True,
        boot_id: str = "",
        followers: Sequence[Follower] = (),
        trigger: str | Path | None = None,
        trigger_s: float = 300.0,
    ) -> None:
        self.host, self.root = host, Path(root)
        self.hz, self.fast_hz = hz, max(fast_hz, 0.0)
        self.tick_ns = round(1e9 / max(hz, fast_hz))
        self._base_every = max(1, round(fast_hz / hz)) if fast_hz > hz else 1
        per_second = max(hz, fast_hz)
        self._slow_every = max(1, round(per_second))
        self._look_every = max(1, round(per_second))
        self._tick = self._looks = 0
        whole = standard_set(self.root, host)
        own = namespace_set(self.root, host, "proc/net")
        fast = [*whole.fast, *own.fast]
        self._fast = Tier(fast if self.fast_hz > hz else [])
        self._own = _Own(host)
        self._base = Tier([self._own, *([] if self.fast_hz > hz else fast), *whole.base, *own.base])
        self._slow = Tier([*whole.slow, *own.slow])
        for pattern in processes:
            if pattern.startswith("cgroup:") and pattern != "cgroup:":
                self._base.replace(cgroup_set(self.root, host, pattern[7:]).base)
        self._devices = Devices(self.root, host)
        self._watch = ProcessWatch(self.root, host, processes, namespaces=namespaces)
        self._config = ConfigWatch(self.root, host, boot_id)
        self._incident = IncidentTier(self.root, host, self._watch, trigger, trigger_s)
        self._followers = list(followers)
        self._look()

    @property
    def _tiers(self) -> tuple[Tier, Tier, Tier]:
        return self._fast, self._base, self._slow

    @property
    def missing(self) -> dict[str, str]:
        """What cannot be read, and why."""
        return {name: why for tier in (*self._tiers, self._incident) for name, why in tier.missing.items()}

    @property
    def troubles(self) -> list[str]:
        """What went wrong with logs, records and exporters, a line each."""
        return [f.trouble for f in self._followers if f.trouble]

    @property
    def keys(self) -> tuple[SeriesKey, ...]:
        """The series being read now."""
        return tuple(k for tier in self._tiers for k in tier.keys)

    @property
    def boot_id(self) -> str:
        """The running kernel's boot id, or "" if it does not say."""
        return self._config.boot_id

    @property
    def cpus(self) -> list[str]:
        """The online CPUs."""
        return online_cpus(self.root)

    def incident(self, is_open: bool) -> None:
        """Say whether an incident is open: from the next second on, the heavy files are read as well, or no more."""
        self._incident.asked = is_open

    def late(self, late_ns: Nanos) -> None:
        """Say how late the coming sample is; it becomes the series ``sampler_late_ns``."""
        self._own.late_ns = max(self._own.late_ns, late_ns)

    def sample(self) -> list[Events]:
        """Read whatever is due at this tick."""
        start = time.thread_time_ns()
        tick = self._tick
        self._tick += 1
        out = []
        if self._fast.sources:
            out.append(self._fast.sample())
        if tick % self._base_every == 0:
            out.append(self._base.sample())
            for follower in self._followers:
                out.extend(follower.poll())
        if tick % self._slow_every == 0:
            out.append(self._slow.sample())
            out.append(self._config.look())
            out.extend(self._incident.sample())
        if tick and tick % self._look_every == 0:
            self._look()
        self._own.cost_ns += time.thread_time_ns() - start
        return [b for b in out if len(b)]

    def close(self) -> None:
        """Let go of all descriptors."""
        for tier in self._tiers:
            tier.close()
        self._config.close()
        self._incident.close()
        for follower in self._followers:
            follower.close()

    def _look(self) -> None:
        """Once a second: who came, who went, what can be read now that could not before; each tenth, new devices."""
        fast = self._fast if self.fast_hz > self.hz else self._base
        looks = [self._watch.look()]
        if self._looks % 10 == 0:
            looks.append(self._devices.look())
        self._looks += 1
        for came, gone in looks:
            fast.replace(came.fast, gone.fast)
            self._base.replace(came.base, gone.base)
            self._slow.replace(came.slow, gone.slow)
        for tier in self._tiers:
            tier.retry()
