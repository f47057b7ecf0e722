"""The tier that is only open while an incident is: told by its owner, or by a file that somebody touches."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

import numpy as np

from telemetry.host.heavy import heavy_set, slow_set
from telemetry.host.processes import ProcessWatch
from telemetry.host.tier import Tier
from telemetry.types import Events, SeriesKey

__all__ = ["IncidentTier"]

_SLOW_EVERY = 20


class IncidentTier:
    """Opens, reads (once a call) and closes the heavy files.

    Parameters
    ----------
    watch : ProcessWatch
        Whose memory and whose namespaces are looked at.
    trigger : path, optional
        Open while this file was touched less than `hold_s` ago.

    Notes
    -----
    ``incident_tier`` is 1 when it opens and 0 when it closes, so that a reader knows why series begin and end.
    """

    def __init__(
        self, root: Path, host: str, watch: ProcessWatch, trigger: str | Path | None = None, hold_s: float = 300.0
    ) -> None:
        self.asked = False
        """Whether the owner says that an incident is open."""
        self._root, self._host, self._watch = root, host, watch
        self._trigger, self._hold_s = trigger, hold_s
        self._heavy: Tier | None = None
        self._slow_missing: dict[str, str] = {}
        self._reads = 0
        self._thread: threading.Thread | None = None
        self._news: Events | None = None
        self._key = (SeriesKey.of(host, "incident_tier"),)

    @property
    def missing(self) -> dict[str, str]:
        """What cannot be read, and why."""
        return {} if self._heavy is None else self._heavy.missing | self._slow_missing

    def sample(self) -> list[Events]:
        """Look whether it is to be open, and read what is due."""
        wanted = self.asked or self._touched()
        out = []
        if wanted != (self._heavy is not None):
            self.close()
            self._heavy = Tier(heavy_set(self._root, self._host)) if wanted else None
            stamp = np.array([time.time_ns()])
            out.append(Events(self._key, np.zeros(1, np.int64), stamp, stamp, np.array([int(wanted)])))
        if self._heavy is None:
            return out
        self._heavy.retry()
        out.append(self._heavy.sample())
        if self._thread is not None and not self._thread.is_alive():
            if self._news is not None:  # it is seen now; when it was is another matter
                n, b = len(self._news), self._news
                out.append(Events(b.keys, b.series, b.time_ns, np.full(n, time.time_ns()), b.value))
            self._thread = self._news = None
        if self._reads % _SLOW_EVERY == 0 and self._thread is None:
            work = (self._watch.nets, self._watch.watched)
            self._thread = threading.Thread(target=self._read_slow, args=work, name="heavy", daemon=True)
            self._thread.start()
        self._reads += 1
        return [b for b in out if len(b)]

    def close(self) -> None:
        if self._heavy is not None:
            self._heavy.close()
        self._heavy, self._reads = None, 0

    def _read_slow(self, nets: dict[str, str], processes: dict[int, str]) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        tier = Tier(slow_set(self._root, self._host, nets, processes))
        try:
            tier.retry()
            self._news = tier.sample()
            self._slow_missing = dict(tier.missing)
        finally:
            tier.close()

    def _touched(self) -> bool:
        if self._trigger is None:
            return False
        try:
            return time.time() - os.stat(self._trigger).st_mtime < self._hold_s
        except OSError:
            return False
