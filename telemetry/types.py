"""The types that all floors share.

Times are ``int64`` nanoseconds since the epoch, UTC. Intervals are half open, ``[start, end)``.
A window is named by its end. Missing is NaN, never 0. Counters (metric names ending in
``_total``) stay integers until they are differenced.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from telemetry.errors import InputError

__all__ = [
    "CLOCK_PREFIX",
    "Alert",
    "Bool",
    "Cause",
    "Change",
    "Events",
    "Float64",
    "Incident",
    "IncidentChange",
    "Int8",
    "Int64",
    "Label",
    "Nanos",
    "Panel",
    "Part",
    "Scores",
    "SeriesKey",
    "Snapshot",
    "State",
    "alert_id",
]

Nanos: TypeAlias = int
Int8: TypeAlias = NDArray[np.int8]
Int64: TypeAlias = NDArray[np.int64]
Float64: TypeAlias = NDArray[np.float64]
Bool: TypeAlias = NDArray[np.bool_]
State: TypeAlias = Mapping[str, NDArray[np.generic]]

CLOCK_PREFIX = "clock_"
"""Columns of a panel that begin so are the clock (covariates), not channels to be scored."""

_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"(?:,|$)')
_ESCAPE = re.compile(r"\\(.)")


@lru_cache(maxsize=1 << 16)  # a snapshot of a thousand series writes each of them ten times
def _text(host: str, metric: str, labels: tuple[tuple[str, str], ...]) -> str:
    pairs = (("host", host), *labels) if host else labels
    if not pairs:
        return metric
    body = ",".join(
        '{}="{}"'.format(k, v.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")) for k, v in pairs
    )
    return f"{metric}{{{body}}}"


@dataclass(frozen=True, slots=True, order=True)
class SeriesKey:
    """The name of a series: the Prometheus data model with the host apart.

    Parameters
    ----------
    host : str
    metric : str
        Ends in ``_total`` for a counter; carries its unit (``_ns``, ``_bytes``).
    labels : tuple of (name, value), sorted by name

    Examples
    --------
    >>> str(SeriesKey("tx07", "softirq_total", (("cpu", "3"), ("type", "NET_RX"))))
    'softirq_total{host="tx07",cpu="3",type="NET_RX"}'
    >>> SeriesKey.parse('softirq_total{host="tx07",cpu="3"}').label("cpu")
    '3'
    """

    host: str
    metric: str
    labels: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, host: str, metric: str, **labels: str | int) -> SeriesKey:
        """Build a key from keyword labels (sorted, empty values left out)."""
        return cls(host, metric, tuple(sorted((k, str(v)) for k, v in labels.items() if v != "")))

    @classmethod
    def parse(cls, text: str) -> SeriesKey:
        """Read what ``str`` wrote.

        Raises
        ------
        InputError
            If `text` is not ``metric{name="value",...}``.
        """
        metric, brace, rest = text.partition("{")
        if not brace:
            return cls("", metric)
        if not rest.endswith("}"):
            raise InputError(f'series name: expected metric{{name="value",...}}, got {text!r}')
        body, at, labels, host = rest[:-1], 0, [], ""
        while at < len(body):
            m = _LABEL.match(body, at)
            if m is None:
                raise InputError(f'series name: expected name="value" at character {at} of {body!r}')
            value = _ESCAPE.sub(lambda e: "\n" if e.group(1) == "n" else e.group(1), m.group(2))
            if m.group(1) == "host":
                host = value
            else:
                labels.append((m.group(1), value))
            at = m.end()
        return cls(host, metric, tuple(sorted(labels)))

    def label(self, name: str, default: str = "") -> str:
        """Return the value of a label (``host`` and ``metric`` count as labels)."""
        if name == "host":
            return self.host
        if name == "metric":
            return self.metric
        return next((v for k, v in self.labels if k == name), default)

    def __str__(self) -> str:
        return _text(self.host, self.metric, self.labels)


@dataclass(frozen=True, slots=True)
class Events:
    """A batch of samples, in the order in which they were seen.

    Parameters
    ----------
    keys : tuple of SeriesKey
    series : (n,) int64, index into `keys`
    time_ns : (n,) int64, when it happened
    seen_ns : (n,) int64, when Tailwatch learnt of it, not decreasing
    value : (n,) int64 or float64, one type a batch
    """

    keys: tuple[SeriesKey, ...]
    series: Int64
    time_ns: Int64
    seen_ns: Int64
    value: Int64 | Float64

    def __len__(self) -> int:
        return len(self.time_ns)

    def __getitem__(self, at: slice | Bool | Int64) -> Events:
        return Events(self.keys, self.series[at], self.time_ns[at], self.seen_ns[at], self.value[at])

    def _repr_html_(self) -> str:
        from telemetry.display import events_html

        return events_html(self)

    @staticmethod
    def empty(dtype: type[np.generic] = np.float64) -> Events:
        none = np.empty(0, np.int64)
        return Events((), none, none, none, np.empty(0, dtype))

    @staticmethod
    def concat(batches: Iterable[Events]) -> Events:
        """Join batches end to end; int64 values become float64 only if the types are mixed."""
        parts = [b for b in batches if len(b)]
        if not parts:
            return Events.empty()
        index: dict[SeriesKey, int] = {}
        series = []
        for b in parts:
            lookup = np.array([index.setdefault(k, len(index)) for k in b.keys], np.int64)
            series.append(lookup[b.series])
        return Events(
            tuple(index),
            np.concatenate(series),
            np.concatenate([b.time_ns for b in parts]),
            np.concatenate([b.seen_ns for b in parts]),
            np.concatenate([b.value for b in parts]),
        )


class Panel(NamedTuple):
    """Windowed features of one window length.

    Parameters
    ----------
    keys : tuple of SeriesKey, (S,)
        Only ever grows at its end while a builder lives.
    columns : tuple of str, (C,)
        Feature names. Those that begin with ``clock_`` are covariates.
    window_ns : int
    end_ns : (W,) int64
        Windows ``[end - window, end)``, increasing.
    values : (W, S, C) float64
        NaN is missing. A silent flow has ``count`` 0; a dead harvester has NaN.
    """

    keys: tuple[SeriesKey, ...]
    columns: tuple[str, ...]
    window_ns: Nanos
    end_ns: Int64
    values: Float64

    @property
    def channels(self) -> tuple[str, ...]:
        """The columns to be scored (all but the clock's)."""
        return tuple(c for c in self.columns if not c.startswith(CLOCK_PREFIX))

    def channel_values(self) -> Float64:
        """Values of the channels only, (W, S, len(channels)), C-contiguous float64."""
        keep = [i for i, c in enumerate(self.columns) if not c.startswith(CLOCK_PREFIX)]
        if len(keep) == len(self.columns):
            return np.ascontiguousarray(self.values)
        return np.ascontiguousarray(self.values[:, :, keep])

    def column(self, name: str) -> Float64:
        """One column, (W, S)."""
        return self.values[:, :, self.columns.index(name)]

    def _repr_html_(self) -> str:
        from telemetry.display import panel_html

        return panel_html(self)


class Scores(NamedTuple):
    """Surprise of each channel of a panel: -log10 of a tail probability.

    Parameters
    ----------
    keys, columns, end_ns
        Of the panel scored; `columns` are its channels only.
    surprise : (W, S, C) float64
        NaN while warming up and where the value is missing.
    side : (W, S, C) int8
        +1 above, -1 below, 0 neither.
    expected, lo, hi : (W, S, C) float64 or None
        The band; only with ``explain=True``.
    parts : (W, S, C) float64 or None
        Joint models: contribution of each channel; then `surprise` is the group's, repeated.
    """

    keys: tuple[SeriesKey, ...]
    columns: tuple[str, ...]
    end_ns: Int64
    surprise: Float64
    side: Int8
    expected: Float64 | None = None
    lo: Float64 | None = None
    hi: Float64 | None = None
    parts: Float64 | None = None

    def _repr_html_(self) -> str:
        from telemetry.display import scores_html

        return scores_html(self)


@dataclass(frozen=True, slots=True)
class Label:
    """A labelled incident, ``[start_ns, end_ns)``; people knew of it from `known_ns` on.

    `scope` is a comma list of label matchers (``host=tx07,cpu=3``); empty matches all.
    """

    id: str
    kind: str
    scope: str
    start_ns: Nanos
    end_ns: Nanos
    known_ns: Nanos
    source: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Alert:
    """One channel's deviation, noticed at `end_ns`.

    `grade` ``alert`` met the budget and may open an incident; ``evidence`` is a weaker deviation
    that only ever joins one. `kind` is the signature that the detector stands for.
    """

    id: str
    detector: str
    version: str
    kind: str
    series: SeriesKey
    column: str
    window_ns: Nanos
    end_ns: Nanos
    onset_ns: Nanos
    surprise: float
    score: float
    side: int
    value: float
    expected: float = float("nan")
    lo: float = float("nan")
    hi: float = float("nan")
    grade: Literal["alert", "evidence"] = "alert"


def alert_id(detector: str, series: SeriesKey, end_ns: Nanos) -> str:
    """Digest of (detector name, series, end_ns): the same after a promotion or a restart."""
    text = f"{detector}\x00{series}\x00{end_ns}".encode()
    return hashlib.blake2b(text, digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True)
class Cause:
    """A signature ranked against the whole evidence; `confidence` in [0, 1]."""

    kind: str
    title: str
    confidence: float
    place: str
    because: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    proven: bool = True


@dataclass(frozen=True, slots=True)
class Change:
    """What would mend it. Recommended, never applied."""

    what: str
    command: str
    undo: str
    risk: str
    proof: str


@dataclass(frozen=True, slots=True)
class Incident:
    """Alerts that belong together. `id` is that of its first alert; `place` is label matchers."""

    id: str
    state: Literal["open", "resolved"]
    kind: str
    severity: Literal["info", "warning", "critical"]
    place: str
    onset_ns: Nanos
    opened_ns: Nanos
    updated_ns: Nanos
    resolved_ns: Nanos | None
    title: str
    alerts: tuple[Alert, ...]
    causes: tuple[Cause, ...] = ()
    changes: tuple[Change, ...] = ()

    def _repr_html_(self) -> str:
        from telemetry.display import incident_html

        return incident_html(self)


@dataclass(frozen=True, slots=True)
class IncidentChange:
    """A step in the life of an incident, decided at `at_ns` of event time."""

    action: Literal["opened", "updated", "resolved"]
    at_ns: Nanos
    incident: Incident


@dataclass(frozen=True, slots=True)
class Part:
    """A kind, named by a plain string that one table resolves, and its parameters (JSON types)."""

    kind: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All memory of a detector: JSON-able `meta` and plain `arrays` (saved as npz)."""

    meta: Mapping[str, Any]
    arrays: State

    @staticmethod
    def nest(parts: Sequence[tuple[str, State]]) -> dict[str, NDArray[np.generic]]:
        """Flatten the states of parts into one, with ``prefix/`` before each name."""
        return {f"{prefix}/{name}": value for prefix, state in parts for name, value in state.items()}

    @staticmethod
    def unnest(state: State, prefix: str) -> dict[str, NDArray[np.generic]]:
        """Return the part that `nest` put under `prefix`."""
        head = prefix + "/"
        return {k[len(head) :]: v for k, v in state.items() if k.startswith(head)}
