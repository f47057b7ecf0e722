"""A recorded lab run: host counters, two captures, application records and a label, as one source.

One folder a run: ``proc_10hz.csv.gz`` (raw counters, column ``t`` in seconds),
``exch.pcap.gz`` and ``trd.pcap.gz`` (taps A and B), ``app_raw.npz`` (what the application saw) and
``label.json``. Every sample counts as seen when it happened, so a replay is the run itself.
"""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from telemetry.errors import InputError
from telemetry.labproc import LAB_HOST, lab_series
from telemetry.source import Source, merge
from telemetry.types import Events, Int64, Label, Nanos, SeriesKey

__all__ = ["LAB_KINDS", "LabFolder", "is_lab_folder", "lab_kind"]

LAB_KINDS = {
    "baseline": "none",
    "delay_step": "tail_latency_creep",
    "jitter": "tail_latency_creep",
    "softirq_flood": "softirq_squeeze",
    "rt_contention": "cpu_contention",
    "gc_pause": "process_pause",
    "timer_storm": "interrupt_storm",
    "ctx_switch": "context_switch_storm",
    "loss": "network_gap",
    "nft_loss": "host_gap",
    "tbf_bloat": "bufferbloat",
}
"""Lab fault -> kind, where the names differ."""

_ALSO = {"loss": ("tcp_loss",)}

_PROC, _APP, _LABEL = "proc_10hz.csv.gz", "app_raw.npz", "label.json"
_CAPTURES = {"exch": "exch.pcap.gz", "trd": "trd.pcap.gz"}
_ROWS = 65_536


def lab_kind(fault: str) -> str:
    """Return the kind that a lab's fault name stands for."""
    return LAB_KINDS.get(fault, fault)


def is_lab_folder(path: str | Path) -> bool:
    """Tell whether `path` is a folder laid out as a lab run."""
    here = Path(path)
    return here.is_dir() and ((here / _PROC).is_file() or (here / _LABEL).is_file())


@dataclass(frozen=True, slots=True)
class LabFolder:
    """Reader of one run.

    Parameters
    ----------
    path : Path
        The run's folder. Parts that are absent are named in `missing`; at least one must be there.
    """

    path: Path

    def __init__(self, path: str | Path) -> None:
        here = Path(path)
        if not is_lab_folder(here):
            raise InputError(f"{here}: expected a lab run (a folder with {_PROC} and {_LABEL})")
        object.__setattr__(self, "path", here)

    @property
    def run(self) -> str:
        """Name of the run: its folder's."""
        return self.path.resolve().name

    @property
    def captures(self) -> dict[str, Path]:
        """Tap name -> capture, of those that are there."""
        found = {}
        for tap, name in _CAPTURES.items():
            for candidate in (name, name.removesuffix(".gz")):
                if (self.path / candidate).is_file():
                    found[tap] = self.path / candidate
                    break
        return found

    @property
    def missing(self) -> tuple[str, ...]:
        """Parts of the layout that this run lacks."""
        have = {_CAPTURES[tap] for tap in self.captures}
        names = (_PROC, *_CAPTURES.values(), _APP, _LABEL)
        return tuple(n for n in names if n not in have and not (self.path / n).is_file())

    @property
    def label(self) -> Label:
        """The run's label; kind ``none`` for a run without a fault.

        Raises
        ------
        InputError
            If ``label.json`` is absent or lacks the fault and its times.
        """
        file = self.path / _LABEL
        try:
            raw = json.loads(file.read_text())
            fault = str(raw["fault"])
            start = _seconds(raw.get("fault_sched_start", raw.get("fault_start")))
            end = _seconds(raw.get("fault_sched_end", raw.get("fault_end")))
        except FileNotFoundError:
            raise InputError(f"{file}: expected a label, the file is not there") from None
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{file}: expected JSON with fault, fault_sched_start and fault_sched_end: {error}"
            ) from None
        return Label(
            id=f"lab/{self.run}",
            kind=str(raw.get("kind") or lab_kind(fault)),
            scope=str(raw.get("scope", "")),
            start_ns=start,
            end_ns=end,
            known_ns=end,
            source="lab",
            note=fault,
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds that are right for this run: the label's, and others that the same fault shows as."""
        label = self.label
        also = json.loads((self.path / _LABEL).read_text()).get("kinds") or _ALSO.get(label.note, ())
        return tuple(dict.fromkeys((label.kind, *(str(k) for k in also))))

    def source(self) -> Source:
        """All events of the run: host counters, wire measurements and application records."""
        return LabSource(self)

    def host_events(self) -> list[Events]:
        """Counter samples of ``proc_10hz.csv.gz`` in time order, in batches."""
        file = self.path / _PROC
        return _proc_events(file) if file.is_file() else []

    def app_events(self) -> list[Events]:
        """What the application recorded: latencies by stage and lost messages, in time order."""
        file = self.path / _APP
        return _app_events(file) if file.is_file() else []

    def wire_events(self) -> Iterator[Events]:
        """Measurements of the two captures (see `telemetry.wire.taps`), in time order."""
        captures = self.captures
        if not captures:
            return iter(())
        from telemetry.wire.taps import wire_events

        return wire_events(captures, host=LAB_HOST)


class LabSource:
    """The events of a run, decoded once and kept (a run is a minute long)."""

    def __init__(self, folder: LabFolder) -> None:
        self._folder = folder
        self._streams: list[list[Events]] | None = None

    def read(self, seen_from_ns: Nanos, seen_to_ns: Nanos) -> Iterator[Events]:
        """Yield events first seen in ``[seen_from_ns, seen_to_ns)``, in seen order."""
        if self._streams is None:
            folder = self._folder
            self._streams = [folder.host_events(), list(folder.wire_events()), folder.app_events()]
        yield from merge([_cut(stream, seen_from_ns, seen_to_ns) for stream in self._streams])


def _cut(batches: Sequence[Events], lo: Nanos, hi: Nanos) -> Iterator[Events]:
    for batch in batches:
        start, stop = np.searchsorted(batch.seen_ns, [lo, hi])
        if stop > start:
            yield batch[int(start) : int(stop)]


def _seconds(text: object) -> Nanos:
    """Exact nanoseconds of a JSON number of seconds (microseconds are what it can carry)."""
    if not isinstance(text, (int, float)):
        raise TypeError(f"expected seconds, got {text!r}")
    return round(float(text) * 1e6) * 1000


def _text_seconds(text: str) -> Nanos:
    whole, _, fraction = text.partition(".")
    return int(whole) * 1_000_000_000 + int(fraction[:9].ljust(9, "0") or 0)


def _proc_events(file: Path) -> list[Events]:
    """Each row is one sample of all columns at its time; an empty field is a missing sample."""
    with gzip.open(file, "rb") as stream:
        try:
            raw = stream.read()
        except (OSError, EOFError) as error:
            raise InputError(f"{file}: expected a gzip file: {error}") from None
    lines = io.StringIO(raw.decode("utf-8", "replace"), newline=None)
    header = lines.readline().rstrip("\n").split(",")
    if header[0] != "t" or len(header) < 2:
        raise InputError(f"{file}: line 1: expected a header that starts with 't', got {header[0]!r}")
    named = [lab_series(c) for c in header[1:]]
    index: dict[SeriesKey, int] = {}
    place = [-1 if n is None else index.setdefault(n[0], len(index)) for n in named]
    factors = [0 if n is None else n[1] for n in named]
    keys = tuple(index)
    series: list[int] = []
    times: list[int] = []
    values: list[int] = []
    series_f: list[int] = []
    times_f: list[int] = []
    values_f: list[float] = []
    for number, line in enumerate(lines, start=2):
        fields = line.rstrip("\n").split(",")
        if fields == [""]:
            continue
        try:
            at = _text_seconds(fields[0])
            for i, factor, text in zip(place, factors, fields[1:], strict=False):
                if not text or i < 0:
                    continue
                try:
                    values.append(int(text) * factor)
                    series.append(i)
                    times.append(at)
                except ValueError:
                    values_f.append(float(text) * factor)
                    series_f.append(i)
                    times_f.append(at)
        except ValueError:
            raise InputError(f"{file}: line {number}: expected numbers, got {line[:60]!r}") from None
    batches = [_events(keys, series, times, np.array(values, np.int64))]
    if values_f:
        floats = sorted(set(series_f))
        move = {s: i for i, s in enumerate(floats)}
        short = tuple(keys[s] for s in floats)
        batches.append(_events(short, [move[s] for s in series_f], times_f, np.array(values_f, np.float64)))
        return list(merge([iter([b]) for b in batches]))
    return batches


def _events(
    keys: tuple[SeriesKey, ...], series: Sequence[int] | Int64, times: Sequence[int] | Int64, values: np.ndarray
) -> Events:
    at = np.asarray(times, np.int64)
    order = np.argsort(at, kind="stable")
    at = at[order]
    return Events(keys, np.asarray(series, np.int64)[order], at, at, values[order])


def _app_events(file: Path) -> list[Events]:
    """Latency of each message and order by stage, and messages that never came, by channel.

    Stages: ``kernel_to_user`` (receive stamp to the application), ``tick_to_order`` (kernel stamp of the
    trigger to the order's send), ``order_to_ack``, ``tick_to_ack``.
    """
    try:
        with np.load(file, allow_pickle=False) as z:
            md = _table(z.get("md"), 5, "md", file)
            orders = _table(z.get("orders"), 4, "orders", file)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{file}: expected an npz of md and orders: {error}") from None
    keys: dict[SeriesKey, int] = {}
    parts: list[tuple[int, Int64, Int64]] = []

    def add(key: SeriesKey, at: Int64, value: Int64) -> None:
        parts.append((keys.setdefault(key, len(keys)), at, value))

    def stage(name: str) -> SeriesKey:
        return SeriesKey.of(LAB_HOST, "app_latency_ns", process="strat", stage=name)

    stamped = md[(md[:, 3] > 0) & (md[:, 4] > 0)]
    add(stage("kernel_to_user"), stamped[:, 4], stamped[:, 4] - stamped[:, 3])
    for channel in np.unique(md[:, 0]):
        rows = md[md[:, 0] == channel]
        key = SeriesKey.of(LAB_HOST, "app_lost_messages", channel=int(channel))
        # Late messages fill a hole that was already counted: only a step over the highest number so far is loss.
        top = np.maximum.accumulate(rows[:, 1])
        lost = np.diff(top, prepend=rows[0, 1] - 1) - 1
        add(key, rows[:, 4], np.maximum(lost, 0))
    if len(orders):
        first_rx = _first_arrival(stamped)
        acked = orders[orders[:, 3] > 0]
        add(stage("order_to_ack"), acked[:, 3], acked[:, 3] - acked[:, 2])
        rx = _lookup(first_rx, orders[:, 1])
        known = rx > 0
        add(stage("tick_to_order"), orders[known, 2], orders[known, 2] - rx[known])
        rx = _lookup(first_rx, acked[:, 1])
        known = rx > 0
        add(stage("tick_to_ack"), acked[known, 3], acked[known, 3] - rx[known])
    parts = [p for p in parts if len(p[1])]
    if not parts:
        return []
    whole = _events(
        tuple(keys),
        np.concatenate([np.full(len(at), s, np.int64) for s, at, _ in parts]),
        np.concatenate([at for _, at, _ in parts]),
        np.concatenate([v for _, _, v in parts]),
    )
    return [whole[i : i + _ROWS] for i in range(0, len(whole), _ROWS)]


def _table(raw: np.ndarray | None, columns: int, name: str, file: Path) -> Int64:
    if raw is None or raw.size == 0:
        return np.empty((0, columns), np.int64)
    if raw.ndim != 2 or raw.shape[1] < columns:
        raise InputError(f"{file}: {name}: expected (n, {columns}) integers, got shape {raw.shape}")
    return raw.astype(np.int64)


def _first_arrival(md: Int64) -> tuple[Int64, Int64]:
    order = np.lexsort((md[:, 3], md[:, 1]))
    seq, first = np.unique(md[order, 1], return_index=True)
    return seq, md[order, 3][first]


def _lookup(table: tuple[Int64, Int64], wanted: Int64) -> Int64:
    seq, at = table
    if not len(seq):
        return np.zeros(len(wanted), np.int64)
    i = np.minimum(np.searchsorted(seq, wanted), len(seq) - 1)
    return np.where(seq[i] == wanted, at[i], 0)
