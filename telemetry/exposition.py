"""The text in which exporters speak: Prometheus' format and OpenMetrics, line by line.

A line that is none is counted and passed over; the lines around it are not lost.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

import numpy as np

from telemetry.names import host_of, translate
from telemetry.types import Events, Nanos, SeriesKey

__all__ = ["Exposition", "Sample", "events_of", "parse"]

_SAMPLE = re.compile(
    r'([a-zA-Z_:][a-zA-Z0-9_:]*)[ \t]*(?:\{((?:[^"{}]|"(?:[^"\\]|\\.)*")*)\})?'  # name and labels
    r"[ \t]+(\S+)(?:[ \t]+(-?[0-9.eE+-]+))?[ \t]*(?:#.*)?$"  # value, time, exemplar
)
_LABEL = re.compile(r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(?:,|$)', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_LONGEST_LABEL = 1024
_MOST_LABELS = 64


class Sample(NamedTuple):
    """A sample as exposed; `time_ns` None means now."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float
    time_ns: Nanos | None
    counter: bool


@dataclass(slots=True)
class Exposition:
    """What was read, and what could not be."""

    samples: int = 0
    bad: int = 0
    first_bad: str = ""
    types: dict[str, str] = field(default_factory=dict)


def parse(text: str, found: Exposition | None = None) -> Iterator[Sample]:
    """Read samples.

    Notes
    -----
    OpenMetrics (it ends in ``# EOF``) gives times in seconds, Prometheus' own format in milliseconds. NaN is no
    sample; neither is a value longer than 1 kB of label or with more than 64 labels.
    """
    found = Exposition() if found is None else found
    unit = 1_000_000_000 if text.rstrip().endswith("# EOF") else 1_000_000
    for line in text.split("\n"):
        stripped = line.strip()
        if not stripped:
            continue
        if stripped[0] == "#":
            words = stripped.split(None, 3)
            if len(words) >= 4 and words[1] == "TYPE":
                found.types[words[2]] = words[3]
            continue
        sample = _sample(stripped, unit, found.types)
        if sample is None:
            found.bad += 1
            found.first_bad = found.first_bad or stripped[:120]
        elif not math.isnan(sample.value):
            found.samples += 1
            yield sample


def events_of(
    text: str, host: str, now_ns: Nanos, found: Exposition | None = None, *, seen_ns: Nanos | None = None
) -> list[Events]:
    """Samples of a scrape as events under our names, one batch a value type.

    Parameters
    ----------
    host : str
        Of samples that do not name theirs.
    now_ns : int
        Time of samples that carry none.
    seen_ns : int, optional
        By default `now_ns`.
    """
    rows: dict[bool, list[tuple[SeriesKey, Nanos, int | float]]] = {False: [], True: []}
    for s in parse(text, found):
        whole, scale, integer = translate(s.name, s.labels, host_of(dict(s.labels), host), s.counter)
        value = s.value * scale
        at = now_ns if s.time_ns is None else s.time_ns
        if integer and math.isfinite(value) and abs(value) < 2**63 and (scale != 1 or value.is_integer()):
            rows[False].append((whole, at, round(value)))
        else:
            rows[True].append((whole, at, value))
    out = []
    for real, some in rows.items():
        if some:
            keys: dict[SeriesKey, int] = {}
            series = np.array([keys.setdefault(k, len(keys)) for k, _, _ in some], np.int64)
            times = np.array([t for _, t, _ in some], np.int64)
            seen = np.full(len(some), now_ns if seen_ns is None else seen_ns, np.int64)
            values = [v for _, _, v in some]
            if real:
                out.append(Events(tuple(keys), series, times, seen, np.array(values, np.float64)))
            else:
                out.append(Events(tuple(keys), series, times, seen, np.array(values, np.int64)))
    return out


def _sample(line: str, unit: int, types: dict[str, str]) -> Sample | None:
    m = _SAMPLE.match(line)
    if m is None:
        return None
    name, body, raw, at = m.groups()
    labels = _labels(body) if body else ()
    if labels is None:
        return None
    try:
        value = float(raw)
        time_ns = None if at is None else round(Decimal(at) * unit)
    except (ValueError, OverflowError, InvalidOperation):
        return None
    if time_ns is not None and abs(time_ns) >= 2**62:
        return None
    kind = types.get(name) or types.get(name.removesuffix("_total"), "")
    counter = kind == "counter" or (name.endswith(("_bucket", "_count", "_sum")) and _base(name, types))
    return Sample(name, labels, value, time_ns, counter)


def _base(name: str, types: dict[str, str]) -> bool:
    return types.get(name.rpartition("_")[0], "") in ("histogram", "summary")


def _labels(body: str) -> tuple[tuple[str, str], ...] | None:
    found: dict[str, str] = {}
    at = 0
    while body[at:].strip():
        m = _LABEL.match(body, at)
        if m is None or len(m[2]) > _LONGEST_LABEL or len(found) >= _MOST_LABELS or m[1] in found:
            return None
        found[m[1]] = _ESCAPE.sub(lambda e: "\n" if e[1] == "n" else e[1], m[2])
        at = m.end()
    return tuple(sorted(found.items()))
