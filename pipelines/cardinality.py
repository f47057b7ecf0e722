"""A limit on the number of series that names what grew, instead of memory that runs out.

Which series are let in is a function of the order of events alone, and part of a checkpoint, so that a run after a
crash lets in the same ones.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from telemetry.types import Events, SeriesKey, State

__all__ = ["Guard"]

_UNKNOWN, _IN, _OUT = 0, 1, 2
_REMEMBERED = 10_000  # refused series by which the culprit is named
_TABLES = 64


class Guard:
    """Lets events of the first `most` series pass.

    Parameters
    ----------
    most : int
        How many series there may be.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.refused = 0
        """Events dropped because their series came after the limit was reached."""
        self.culprit = ""
        """The metric and label that grew most, once the limit was reached."""
        self._known: dict[SeriesKey, None] = {}
        self._out: dict[SeriesKey, None] = {}
        self._tables: dict[int, tuple[Sequence[SeriesKey], NDArray[np.int8]]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def admit(self, events: Events) -> Events:
        """The events of series that are let in."""
        table = self._table(events.keys)
        status = table[events.series]
        if status.all() and not (status == _OUT).any():
            return events
        fresh, first = np.unique(events.series[status == _UNKNOWN], return_index=True)
        for i in fresh[np.argsort(first)]:
            table[i] = self._judge(events.keys[i])
        keep = table[events.series] == _IN
        dropped = len(events) - int(np.count_nonzero(keep))
        if not dropped:
            return events
        before = self.refused
        self.refused += dropped
        if before.bit_length() != self.refused.bit_length():  # looked for again each time the number doubles
            self.culprit = self._find_culprit()
        return events[keep]

    def _judge(self, key: SeriesKey) -> int:
        if key in self._known:
            return _IN
        if len(self._known) < self.most:
            self._known[key] = None
            return _IN
        if len(self._out) < _REMEMBERED:
            self._out[key] = None
        return _OUT

    def _table(self, keys: Sequence[SeriesKey]) -> NDArray[np.int8]:
        found = self._tables.get(id(keys))
        if found is None or found[0] is not keys:
            if len(self._tables) >= _TABLES:
                self._tables.clear()
            found = self._tables[id(keys)] = (keys, np.zeros(len(keys), np.int8))
        return found[1]

    def _find_culprit(self) -> str:
        everything = [*self._known, *self._out]
        metric, many = Counter(k.metric for k in everything).most_common(1)[0]
        values: dict[str, set[str]] = {"host": set()}
        for key in everything:
            if key.metric == metric:
                values["host"].add(key.host)
                for name, value in key.labels:
                    values.setdefault(name, set()).add(value)
        label = max(values, key=lambda name: len(values[name]))
        return f"metric {metric[:80]!r} has {many} series: label {label[:80]!r} has {len(values[label])} values"

    def snapshot(self) -> State:
        text = json.dumps([[k.host, k.metric, k.labels] for k in self._known])
        return {
            "keys": np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8),
            "refused": np.array(self.refused),
        }

    def restore(self, state: State) -> None:
        text = state["keys"].tobytes().decode("utf-8", "surrogatepass")
        self._known = {
            SeriesKey(host, metric, tuple((n, v) for n, v in labels)): None for host, metric, labels in json.loads(text)
        }
        self.refused = int(state["refused"])
        self._tables.clear()
