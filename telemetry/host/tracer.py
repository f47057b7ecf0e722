"""What the kernel's own latency tracers find: osnoise, timerlat and hwlat, from a trace instance.

The harvester starts no tracer. Whoever wants one makes an instance of the name `INSTANCE` and starts it there::

    mkdir /sys/kernel/tracing/instances/tailwatch
    echo osnoise > /sys/kernel/tracing/instances/tailwatch/current_tracer     # or hwlat, timerlat

Reading ``trace_pipe`` takes the lines away, so that instance is ours alone; the main one is left to others.
Formats: kernel.org, trace/osnoise-tracer, timerlat-tracer, hwlat_detector.
"""

from __future__ import annotations

import errno
import os
import re
import time
from pathlib import Path

import numpy as np

from telemetry.types import Events, SeriesKey

__all__ = ["INSTANCE", "TRACERS", "TracerReader", "parse_line"]

INSTANCE = "tailwatch"
TRACERS = ("osnoise", "timerlat", "hwlat")
_CHUNK = 1 << 16
_LOOK_EVERY_S = 5.0
_HEAD = re.compile(r"\s*(?P<task>.+)-(?P<pid>\d+)\s+\[(?P<cpu>\d+)\]\s+(?:\S+\s+)?(?P<at>\d+\.\d+):\s+(?P<rest>.*)$")
_OSNOISE = re.compile(r"(\d+)\s+(\d+)\s+(\d+\.\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s*$")
_TIMERLAT = re.compile(r"#\d+\s+context\s+(\S+)\s+timer_latency\s+(\d+)\s+ns")
_HWLAT = re.compile(r"#\d+\s+inner/outer\(us\):\s*(\d+)/(\d+)\s+ts:(\d+)\.(\d+)(?:\s+count:(\d+))?(.*)$")
_NMI = re.compile(r"nmi-total:(\d+)\s+nmi-count:(\d+)")
_KINDS = ("hw", "nmi", "irq", "softirq", "thread")

Sample = tuple[str, dict[str, str], int, int | None]
"""Metric, labels, value, and when it was, if the line says so in time of day."""


def parse_line(line: str) -> list[Sample]:
    """Samples of a line; none for a comment, a line of another tracer, a torn one.

    Examples
    --------
    >>> parse_line("   <...>-17 [002] d... 42.12: #1 inner/outer(us):   12/14    ts:1499801089.066141940")[0]
    ('hwlat_gap_ns', {'cpu': '2', 'part': 'inner'}, 12000, 1499801089066141940)
    """
    head = _HEAD.match(line)
    if head is None:
        return []
    cpu, rest = {"cpu": str(int(head["cpu"]))}, head["rest"]
    if m := _OSNOISE.match(rest):
        runtime, noise, _, longest, *counts = m.groups()
        out: list[Sample] = [
            ("osnoise_noise_ns", cpu, int(noise) * 1000, None),
            ("osnoise_runtime_ns", cpu, int(runtime) * 1000, None),
            ("osnoise_longest_ns", cpu, int(longest) * 1000, None),
        ]
        kinds = zip(_KINDS, counts, strict=True)
        return out + [("osnoise_interferences", {**cpu, "kind": k}, int(n), None) for k, n in kinds]
    if m := _TIMERLAT.match(rest):
        return [("timerlat_ns", {**cpu, "context": m[1]}, int(m[2]), None)]
    if m := _HWLAT.match(rest):
        at = int(m[3]) * 1_000_000_000 + int(m[4].ljust(9, "0")[:9])
        gaps = zip(("inner", "outer"), m.groups()[:2], strict=True)
        out = [("hwlat_gap_ns", {**cpu, "part": p}, int(us) * 1000, at) for p, us in gaps]
        if n := _NMI.search(m[6]):
            out.append(("hwlat_nmi_ns", cpu, int(n[1]) * 1000, at))
        return out
    return []


class TracerReader:
    """Follows the instance's ``trace_pipe``, without ever waiting.

    Parameters
    ----------
    root : path
        ``/``, or a tree.
    """

    def __init__(self, root: str | Path, host: str) -> None:
        self._host = host
        places = ("sys/kernel/tracing", "sys/kernel/debug/tracing")
        self._folders = [Path(root) / p / "instances" / INSTANCE for p in places]
        self._fd = -1
        self._rest = b""
        self._due = 0.0
        self._unreadable = ""
        self._lost = 0

    @property
    def trouble(self) -> str:
        """Why an instance that is there cannot be read, and what its buffer lost."""
        lost = f"trace_pipe: {self._lost} events lost: it needs a larger buffer_size_kb" if self._lost else ""
        return self._unreadable or lost

    def poll(self) -> list[Events]:
        """What was traced since the last call."""
        if self._fd < 0 and time.monotonic() >= self._due:
            self._due = time.monotonic() + _LOOK_EVERY_S
            self._open()
        if self._fd < 0:
            return []
        lines: list[bytes] = []
        try:
            while got := os.read(self._fd, _CHUNK):
                *whole, self._rest = (self._rest + got).split(b"\n")
                lines += whole
                if len(lines) > 10_000:
                    break
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.EBUSY:
                self._unreadable = f"trace_pipe: {error.strerror}"
            self.close()
        return self._events(lines)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        for folder in self._folders:
            try:
                if (folder / "current_tracer").read_text().strip() not in TRACERS:
                    continue
                self._fd = os.open(folder / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                self._rest, self._unreadable = b"", ""
            except FileNotFoundError:
                continue
            except OSError as error:
                self._unreadable = f"{folder}: {error.strerror}"
            return

    def _events(self, lines: list[bytes]) -> list[Events]:
        now = time.time_ns()
        keys: dict[SeriesKey, int] = {}
        rows: list[tuple[int, int, int]] = []
        for line in lines:
            text = line.decode("utf-8", "replace")
            if lost := re.search(r"LOST (\d+) EVENTS", text):
                self._lost += int(lost[1])
            for metric, labels, value, at in parse_line(text):
                number = keys.setdefault(SeriesKey.of(self._host, metric, **labels), len(keys))
                rows.append((number, now if at is None else min(at, now), value))
        if not rows:
            return []
        series, times, values = (np.array(c, np.int64) for c in zip(*rows, strict=True))
        return [Events(tuple(keys), series, times, np.full(len(rows), now), values)]
