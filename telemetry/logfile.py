"""Follow a log file: measurements that a component writes anyway become series, without a change to it.

A TOML file says how::

    path = "/var/log/strategy.log"
    format = "json"                      # JSON lines; or pattern = '(?P<ts>\\S+) latency=(?P<latency>\\d+)'
    time = "ts"                          # field; "ns", "us", "ms", "s" since the epoch, or "iso"
    time_unit = "iso"
    labels = {process = "strategy"}      # fixed labels
    label_fields = ["stage"]             # labels from fields

    [series.app_latency_ns]              # metric; counters end in _total
    field = "latency_us"
    scale = 1000                         # to the metric's unit
"""

from __future__ import annotations

import datetime
import json
import math
import os
import re
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from telemetry.errors import ConfigError
from telemetry.types import Events, Float64, Int64, Nanos, SeriesKey

__all__ = ["LogFollower", "LogSpec", "read_log_spec"]

_UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_METRIC = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*$")
_CHUNK = 1 << 20
_LONGEST_LINE = 1 << 20
_MOST_SERIES = 10_000


class LogSeries(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where a metric's number is found, and its factor."""

    field: str
    scale: float = 1


class LogSpec(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How to read a log."""

    path: str
    series: dict[str, LogSeries]
    format: Literal["json", "regex"] = "json"
    pattern: str = ""
    time: str = ""
    time_unit: Literal["ns", "us", "ms", "s", "iso"] = "ns"
    labels: dict[str, str] = {}
    label_fields: list[str] = []


def read_log_spec(path: str | Path) -> LogSpec:
    """Read and check a description.

    Raises
    ------
    ConfigError
        Not TOML, an unknown key, a wrong type, a pattern that is none or lacks a group.
    """
    try:
        spec = msgspec.convert(tomllib.loads(Path(path).read_text()), LogSpec)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if not spec.series:
        raise ConfigError(f"{path}: expected at least one [series.METRIC]")
    for metric in spec.series:
        if not _METRIC.match(metric):
            raise ConfigError(f"{path}: {metric!r} is not a metric's name")
    if spec.format == "regex" or spec.pattern:
        try:
            groups = set(re.compile(spec.pattern).groupindex)
        except re.error as error:
            raise ConfigError(f"{path}: pattern: not a regular expression: {error}") from None
        wanted = (
            {s.field for s in spec.series.values()} | set(spec.label_fields) | ({spec.time} if spec.time else set())
        )
        if wanted - groups:
            raise ConfigError(f"{path}: pattern: expected a group named {sorted(wanted - groups)[0]!r}")
    return spec


class LogFollower:
    """Reads what is appended to a file, through rotation (rename or truncation), from its end on.

    Parameters
    ----------
    spec : LogSpec
    host : str
    from_start : bool
        Begin with what the file already holds.

    Notes
    -----
    Lines that are not understood are counted in `bad` and passed over; a line without its end yet waits.
    """

    def __init__(self, spec: LogSpec, host: str, *, from_start: bool = False) -> None:
        self.bad = 0
        self.first_bad = ""
        self._spec, self._host = spec, host
        self._pattern = re.compile(spec.pattern) if spec.pattern else None
        self._fd = -1
        self._inode = -1
        self._offset = 0
        self._rest = b""
        self._skipping = False
        self._keys: dict[SeriesKey, int] = {}
        self._from_start = from_start
        self._open(first=True)

    def poll(self) -> list[Events]:
        """The measurements of the lines that came since the last call, as one batch a value type."""
        lines: list[bytes] = []
        if self._fd < 0:
            self._open(first=False)
        while self._fd >= 0:
            got = os.pread(self._fd, _CHUNK, self._offset)
            if got:
                self._offset += len(got)
                *whole, self._rest = (self._rest + got).split(b"\n")
                if self._skipping and whole:
                    del whole[0]  # the end of a line whose beginning was too long
                    self._skipping = False
                lines += whole
                if len(self._rest) > _LONGEST_LINE:
                    if not self._skipping:
                        lines.append(self._rest[:80])
                    self._rest, self._skipping = b"", True
                continue
            if not self._moved():
                break
        return self._events(lines) if lines else []

    @property
    def trouble(self) -> str:
        """Lines that were not understood."""
        if not self.bad:
            return ""
        return f"{self._spec.path}: {self.bad} lines not understood, the first: {self.first_bad!r}"

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self, *, first: bool) -> None:
        try:
            self._fd = os.open(self._spec.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._from_start = True  # it comes later: then all of it is new
            return
        status = os.fstat(self._fd)
        self._inode = status.st_ino
        self._offset = status.st_size if first and not self._from_start else 0
        self._rest = b""

    def _moved(self) -> bool:
        """Whether the file was cut short or another lies in its place; then that is open from its start."""
        try:
            now = os.stat(self._spec.path)
        except OSError:
            return False  # being rotated: look again next time, the old one stays open
        if now.st_ino == self._inode and now.st_size >= self._offset:
            return False
        self.close()
        self._open(first=False)
        return self._fd >= 0

    def _events(self, lines: list[bytes]) -> list[Events]:
        seen = time.time_ns()
        rows: dict[bool, list[tuple[int, int, float | int]]] = {False: [], True: []}
        for line in lines:
            if not line.strip():
                continue
            try:
                for key, at, value in self._parse(line, seen):
                    if key not in self._keys and len(self._keys) >= _MOST_SERIES:
                        raise ValueError("too many series")
                    rows[isinstance(value, float)].append((self._keys.setdefault(key, len(self._keys)), at, value))
            except (ValueError, KeyError, TypeError, OverflowError):
                self._refuse(line)
        keys = tuple(self._keys)
        out = []
        for real, some in rows.items():
            if some:
                series, times, values = zip(*some, strict=True)
                numbers: Int64 | Float64
                numbers = np.array(values, np.float64) if real else np.array(values, np.int64)
                stamps = np.full(len(some), seen, np.int64)
                out.append(Events(keys, np.array(series, np.int64), np.array(times, np.int64), stamps, numbers))
        return out

    def _parse(self, line: bytes, seen: Nanos) -> list[tuple[SeriesKey, Nanos, float | int]]:
        fields: Mapping[str, Any]
        if self._pattern is not None:
            match = self._pattern.search(line.decode("utf-8", "replace"))
            if match is None:
                raise ValueError("no match")
            fields = {k: v for k, v in match.groupdict().items() if v is not None}
        else:
            fields = json.loads(line)
            if not isinstance(fields, dict):
                raise ValueError("not an object")
        spec = self._spec
        at = _time(fields[spec.time], spec.time_unit) if spec.time else seen
        labels = {**spec.labels, **{n: str(fields[n]) for n in spec.label_fields if n in fields}}
        out = []
        for metric, where in spec.series.items():
            if where.field in fields:
                key = SeriesKey.of(self._host, metric, **labels)
                out.append((key, at, _number(fields[where.field], where.scale, metric)))
        if not out:
            raise ValueError("no field of a series")
        return out

    def _refuse(self, line: bytes) -> None:
        self.bad += 1
        if not self.first_bad:
            self.first_bad = line[:120].decode("utf-8", "replace")


def _number(raw: Any, scale: float, metric: str) -> float | int:
    """Integers stay integers (times in ns and counters must); NaN and infinity are no measurements."""
    if isinstance(raw, bool):
        return int(raw)
    if isinstance(raw, str):
        raw = int(raw) if re.fullmatch(r"[+-]?\d+", raw) else float(raw)
    value = raw * (int(scale) if float(scale).is_integer() else scale)
    if not math.isfinite(value):
        raise ValueError("not finite")
    if metric.endswith(("_ns", "_total", "_bytes", "_messages", "_packets")):
        return round(value)
    return float(value)


def _time(raw: Any, unit: str) -> Nanos:
    if unit == "iso":
        text = str(raw).replace("Z", "+00:00")
        m = re.fullmatch(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?([+-]\d\d:?\d\d)?", text)
        if m is None:
            raise ValueError("not a time")
        whole = datetime.datetime.fromisoformat(m[1] + (m[3] or "+00:00"))
        return round(whole.timestamp()) * 1_000_000_000 + int((m[2] or "0").ljust(9, "0"))
    if isinstance(raw, str):
        raw = int(raw) if raw.lstrip("-").isdigit() else float(raw)
    return raw * _UNITS[unit] if isinstance(raw, int) else round(raw * _UNITS[unit])
