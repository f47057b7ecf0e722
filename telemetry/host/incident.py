"""The tier that is only open while an incident is: told by its owner, or by a file that somebody touches."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from telemetry.host.heavy import heavy_set, map_set
from telemetry.host.processes import ProcessWatch
from telemetry.host.tier import Tier
from telemetry.types import Events, SeriesKey

__all__ = ["IncidentTier"]

_MAPS_EVERY = 60


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
        self.tiers: Sequence[Tier] = ()
        self._of: tuple[dict[str, str], dict[int, str]] = ({}, {})
        self._reads = 0
        self._thread: threading.Thread | None = None
        self._news: list[Events] = []
        self._key = (SeriesKey.of(host, "incident_tier"),)

    def sample(self) -> list[Events]:
        """Look whether it is to be open, and read what is due."""
        wanted = self.asked or self._touched()
        out = []
        if wanted != bool(self.tiers):
            self.close()
            if wanted:
                self._open()
            stamp = np.array([time.time_ns()])
            out.append(Events(self._key, np.zeros(1, np.int64), stamp, stamp, np.array([int(wanted)])))
        if not self.tiers:
            return out
        if self._of != (self._watch.nets, self._watch.watched):
            self._open()
        heavy, maps = self.tiers
        heavy.retry()
        out.append(heavy.sample())
        if self._thread is not None and not self._thread.is_alive():
            now = time.time_ns()  # it is seen now; when it was is another matter
            out += [Events(b.keys, b.series, b.time_ns, np.full(len(b), now), b.value) for b in self._news]
            self._thread, self._news = None, []
        if self._reads % _MAPS_EVERY == 0 and self._thread is None:
            self._thread = threading.Thread(target=self._read_maps, args=(maps,), name="maps", daemon=True)
            self._thread.start()
        self._reads += 1
        return [b for b in out if len(b)]

    def close(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread, self._news = None, []
        for tier in self.tiers:
            tier.close()
        self.tiers = ()

    def _open(self) -> None:
        """Sources for the processes and namespaces that there are now."""
        self.close()
        self._of = (self._watch.nets, self._watch.watched)
        nets, processes = self._of
        self.tiers = (Tier(heavy_set(self._root, self._host, nets)), Tier(map_set(self._root, self._host, processes)))
        self._reads = 0

    def _read_maps(self, maps: Tier) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        maps.retry()
        self._news = [maps.sample()]

    def _touched(self) -> bool:
        if self._trigger is None:
            return False
        try:
            return time.time() - os.stat(self._trigger).st_mtime < self._hold_s
        except OSError:
            return False
