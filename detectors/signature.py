"""What an incident of one kind looks like: read from one TOML file of ``catalogue/``, no code."""

from __future__ import annotations

import difflib
import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from importlib import resources
from math import isfinite
from typing import Any, Literal

from detectors.spec import DetectorSpec
from telemetry.errors import ConfigError
from telemetry.selectors import Selector
from telemetry.types import Alert, SeriesKey

__all__ = ["KINDS", "ChangeTemplate", "Evidence", "Signature", "load_catalogue", "load_signature"]

KINDS: tuple[str, ...] = (
    "tail_latency_creep",
    "interrupt_storm",
    "softirq_squeeze",
    "irq_on_isolated_core",
    "microburst",
    "udp_overflow",
    "tcp_loss",
    "network_gap",
    "host_gap",
    "ab_skew",
    "clock_step",
    "c_state_exit",
    "throttling",
    "compaction",
    "numa_remote",
    "page_fault_burst",
    "context_switch_storm",
    "cpu_contention",
    "steal",
    "tick_on_quiet_core",
    "smi",
    "housekeeping_jitter",
    "conntrack_full",
    "arp_loss",
    "igmp_expiry",
    "process_pause",
    "nagle",
    "listen_overflow",
    "writeback",
    "bufferbloat",
    "rate_limit",
    "link_flap",
    "crc_errors",
    "tcp_collapse",
)
"""The kinds of incident there are names for (``unknown`` and ``none`` apart)."""

SHAPES = ("level", "spike", "step", "bursts", "periodic", "ramp")
LAYERS = ("wire", "kernel", "host", "application")


@dataclass(frozen=True, slots=True)
class Evidence:
    """One thing that a signature expects of the series, and how much it says.

    Parameters
    ----------
    name : str
        What it means, for a person ("the thread waits for a CPU").
    select : tuple of str
        Series selectors, as in a feature's ``select`` (one of them must match).
    column : str
        Globs over feature columns ("rate", "p99|max"), separated by ``|``.
    side : {-1, 0, 1}
        Which direction counts; 0 both.
    shape : str
        ``level`` (holds for `hold`), ``spike`` (seen at all), ``step`` (holds most of the time since it
        began), ``bursts`` (comes and goes), ``periodic`` (comes and goes regularly), ``ramp`` (grows).
    weight : float
        In units of decimal evidence (1: ten times likelier).
    missing : float
        How much it says against, where such series are watched and do not deviate.
    unwatched : float
        How much it says against where nobody watches such series ("lost in the host" needs a look at the wire).
    role : {"required", "supports", "quiet"}
        All required ones must be there (of those that share a `group`, one). ``quiet``: deviates *not*.
    group : str
        Required evidence of one group stands in for each other.
    opens : bool
        May open an incident once it holds.
    hold : (int, int)
        k deviating windows among the last m.
    series : (int, int)
        How many channels must show it at least, and may at most ("one line of two": ``[1, 1]``).
    distinct : str
        Count values of this label instead of channels ("both ways": ``hop``, ``[2, 9]``).
    places : bool
        Whether its labels say where the incident is.
    min_value, min_delta, min_ratio, min_surprise : float
        Least effect for a window to count: the value, its distance from the expected, their ratio.
    """

    name: str
    select: tuple[str, ...]
    column: str = "*"
    side: int = 1
    shape: str = "level"
    weight: float = 1.0
    missing: float = 0.0
    unwatched: float = 0.0
    role: Literal["required", "supports", "quiet"] = "supports"
    group: str = ""
    opens: bool = False
    hold: tuple[int, int] = (3, 6)
    series: tuple[int, int] = (1, 1_000_000)
    distinct: str = ""
    places: bool = True
    min_value: float = float("-inf")
    min_delta: float = 0.0
    min_ratio: float = 0.0
    min_surprise: float = 0.0

    def selects(self, key: SeriesKey, column: str) -> bool:
        """Whether a channel is of the kind meant here."""
        if not any(fnmatchcase(column, glob) for glob in self.column.split("|")):
            return False
        return any(_selector(text).matches(key) for text in self.select)

    def may_select(self, metric: str, column: str) -> bool:
        """Whether a channel of this metric could be of the kind meant here, whatever its other labels."""
        if not any(fnmatchcase(column, glob) for glob in self.column.split("|")):
            return False
        return any(_selector(text).may_match(metric=metric) for text in self.select)

    def counts(self, alert: Alert) -> bool:
        """Whether one deviating window is large enough to be taken for this."""
        if self.side and alert.side and alert.side != self.side:
            return False
        if alert.surprise < self.min_surprise or abs(alert.value) < self.min_value:
            return False
        delta = abs(alert.value - alert.expected) if isfinite(alert.expected) else abs(alert.value)
        if delta < self.min_delta:
            return False
        if self.min_ratio <= 0.0 or not isfinite(alert.expected):
            return True
        high, low = max(alert.value, alert.expected), min(alert.value, alert.expected)
        return high >= self.min_ratio * max(low, 0.0)


@dataclass(frozen=True, slots=True)
class ChangeTemplate:
    """A change with placeholders; see ``changes.py``.

    `reads` is how to learn the current value by hand, `setting` the series that tells it (``settings.py``).
    """

    what: str
    command: str
    undo: str
    risk: str
    proof: str
    reads: str = ""
    setting: str = ""


@dataclass(frozen=True, slots=True)
class Signature:
    """A kind of incident: its detector, its evidence, its place, its cause and what mends it."""

    kind: str
    title: str
    cause: str
    layer: str
    proven: bool
    localise: tuple[str, ...]
    place: tuple[str, ...]
    evidence: tuple[Evidence, ...]
    changes: tuple[ChangeTemplate, ...]
    spec: DetectorSpec
    prior: float = 0.0


@functools.cache
def _selector(text: str) -> Selector:
    return Selector.parse(text)


def _struct(cls: type, table: Mapping[str, Any], where: str) -> Any:
    names = {f.name for f in fields(cls)}
    for name in table:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise ConfigError(f"{where}: unknown setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    try:
        return cls(**table)
    except TypeError as error:
        raise ConfigError(
            f"{where}: {str(error).removeprefix('__init__() ').replace(cls.__name__, '').strip()}"
        ) from None


def load_signature(text: str, where: str = "signature") -> Signature:
    """Read one catalogue file.

    Raises
    ------
    ConfigError
        A setting that is unknown, missing or out of range, with the file and the nearest name.
    """
    try:
        doc = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: not TOML: {error}") from None
    for table in doc:
        if table not in ("detector", "signature"):
            raise ConfigError(f"{where}: unknown table [{table}]; expected [detector] and [signature]")
    if "signature" not in doc or "detector" not in doc:
        raise ConfigError(f"{where}: expected the tables [detector] and [signature]")
    body = dict(doc["signature"])
    evidence = tuple(_evidence(e, f"{where}: evidence {i + 1}") for i, e in enumerate(body.pop("evidence", ())))
    changes = tuple(
        _struct(ChangeTemplate, c, f"{where}: change {i + 1}") for i, c in enumerate(body.pop("change", ()))
    )
    if not any(e.role == "required" for e in evidence):
        raise ConfigError(f'{where}: at least one [[signature.evidence]] must have role = "required"')
    if body.get("layer") not in LAYERS:
        raise ConfigError(f"{where}: layer is one of {', '.join(LAYERS)}, got {body.get('layer')!r}")
    for name in ("localise", "place"):
        body[name] = tuple(body.get(name, ()))
    detector = dict(doc["detector"])
    detector.setdefault("name", body.get("kind", ""))
    detector.setdefault("kind", body.get("kind", ""))
    spec = DetectorSpec.from_dict(detector, where=where)
    signature: Signature = _struct(Signature, body | {"evidence": evidence, "changes": changes, "spec": spec}, where)
    return signature


def _evidence(table: Mapping[str, Any], where: str) -> Evidence:
    item = dict(table)
    if "hold" in item:
        hold = item["hold"]
        if len(hold) != 2 or not 1 <= hold[0] <= hold[1] <= 256:
            raise ConfigError(f"{where}: hold is [k, m] with 1 <= k <= m <= 256, got {hold!r}")
        item["hold"] = (int(hold[0]), int(hold[1]))
    if "series" in item:
        few, many = item["series"]
        if not 1 <= few <= many:
            raise ConfigError(f"{where}: series is [least, most] with 1 <= least <= most, got {item['series']!r}")
        item["series"] = (int(few), int(many))
    select = item.get("select", ())
    item["select"] = (select,) if isinstance(select, str) else tuple(select)
    if not item["select"]:
        raise ConfigError(f"{where}: expected select (series selectors)")
    for text in item["select"]:
        try:
            _selector(text)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
    if item.get("shape", "level") not in SHAPES:
        raise ConfigError(f"{where}: shape is one of {', '.join(SHAPES)}, got {item['shape']!r}")
    if item.get("role", "supports") not in ("required", "supports", "quiet"):
        raise ConfigError(f"{where}: role is required, supports or quiet, got {item['role']!r}")
    out: Evidence = _struct(Evidence, item, where)
    return out


@functools.cache
def load_catalogue() -> tuple[Signature, ...]:
    """Every signature that ships, in the order of `KINDS` (files of other kinds after them, by name)."""
    found = {}
    for entry in sorted(resources.files("detectors").joinpath("catalogue").iterdir(), key=lambda p: p.name):
        if entry.name.endswith(".toml"):
            signature = load_signature(entry.read_text("utf-8"), f"catalogue/{entry.name}")
            if signature.kind in found:
                raise ConfigError(f"catalogue/{entry.name}: kind {signature.kind!r} is already taken")
            found[signature.kind] = signature
    order = {kind: i for i, kind in enumerate(KINDS)}
    return tuple(sorted(found.values(), key=lambda s: (order.get(s.kind, len(order)), s.kind)))
