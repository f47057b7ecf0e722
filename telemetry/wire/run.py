"""One analysis of one or more taps, batch by batch.

Each tap is analysed on its own; with two or more, packets are also matched from tap to tap. What is
found waits for one second of capture time (a loss is known only when the packet can no longer come) and
goes out sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from telemetry.capture.columns import NULL
from telemetry.capture.stats import CaptureStats
from telemetry.types import Events, Int64, Nanos, SeriesKey
from telemetry.wire.clock import Clock
from telemetry.wire.events import Collector
from telemetry.wire.fingerprint import fingerprints
from telemetry.wire.flows import FlowTable
from telemetry.wire.pairing import Matches, Pairing
from telemetry.wire.quality import MARKS, Doubles, Marks, judge
from telemetry.wire.report import WireReport
from telemetry.wire.tap import METRICS, STAT_CODE, Codes, Detail, Tap
from telemetry.wire.windows import STATS, Windows

if TYPE_CHECKING:
    from telemetry.capture.columns import Packets

__all__ = ["Run"]

_LATENCY, _LOST, _MARK = len(METRICS), len(METRICS) + 1, len(METRICS) + 2
_PAIR_METRICS: Final = {_LATENCY: "wire_latency_ns", _LOST: "wire_lost_packets"}
_LATENCIES: Final = Codes([_LATENCY])
_FAR: Final = np.iinfo(np.int64).max


class _Stream:
    """One tap's packets, reduced to what pairing needs, batch by batch."""

    def __init__(self, number: int, packets: Iterator[Packets | None], stats: CaptureStats) -> None:
        self.number = number
        self.packets = packets
        self.time = NULL
        """Highest time so far: everything before it has been read, steps back apart."""
        self.done = False
        self.held: list[Int64] = []
        self.doubles = Doubles()
        self.marks = Marks(stats)


class Run:
    """One analysis of one or more taps: see `wire_events`; `telemetry.wire.live` keeps one going.

    `packets` are batches by tap; None among them says that nothing more has come yet. Of all that happened before
    `settled_ns` the events have been given out.
    """

    def __init__(
        self,
        packets: Mapping[str, Iterator[Packets | None]],
        host: str,
        window_ns: Nanos,
        timeout_ns: Nanos,
        hash_bytes: int,
        formats: Mapping[str, str] | None,
        clocks: Mapping[str, Clock],
        detail: Detail,
        report: WireReport,
        tee: Callable[[str, Packets], None] | None = None,
        line_rates: Mapping[str, int] | None = None,
        every_gap: bool = False,
    ) -> None:
        self.report = report
        self.tee = tee
        self.flows = FlowTable()
        self.collector = Collector(self._key)
        self.host, self.timeout_ns, self.hash_bytes = host, timeout_ns, hash_bytes
        self.clocks = [clocks.get(tap, Clock()) for tap in packets]
        self.taps: list[Tap] = []
        self.streams: list[_Stream] = []
        for number, (name, batches) in enumerate(packets.items()):
            stats = self.report.stats.setdefault(name, CaptureStats())
            rate = (line_rates or {}).get(name, 0)
            tap = Tap(name, host, number, self.flows, self.collector, window_ns, formats, detail, rate, every_gap)
            self.report.taps[name] = tap
            self.taps.append(tap)
            self.streams.append(_Stream(number, batches, stats))
        self.pairing = Pairing(len(packets), timeout_ns) if len(packets) > 1 else None
        self.window_ns = window_ns
        self.settled_ns: Nanos = NULL
        self._told: dict[int, int] = {}
        self._windows = Windows(1, (0,)) if detail == "windows" else None

    @property
    def read_ns(self) -> Nanos:
        """The latest time of any packet read so far."""
        return max(s.time for s in self.streams)

    def events(self) -> Iterator[Events | None]:
        """Yield events in time order; None where `settled_ns` has moved on or a capture has nothing more for now."""
        given = NULL  # sorting and naming cost by the time they are done: once a window is enough
        while True:
            stream = min((s for s in self.streams if not s.done), key=lambda s: (s.time, s.number), default=None)
            if stream is None:
                break
            if not self._read(stream):
                yield None
                continue
            if self.pairing is not None:
                self._pair(min(s.time if not s.done else _FAR for s in self.streams))
            low = min((s.time for s in self.streams if not s.done), default=NULL)
            if low != NULL and (given == NULL or low - given >= self.window_ns):
                given = low
                yield from self.collector.drain(low - self.timeout_ns)
                self.settled_ns = low - self.timeout_ns
                yield None
        for tap in self.taps:
            tap.finish()
        if self.pairing is not None:
            self._pair(_FAR)
            if self._windows is not None:
                _LATENCIES.add_seconds(self.collector, self._windows.finish()[0], 1, 0)
            self._losses(self.pairing.expire())
            self.report.pairing = self.pairing.counts
        for stream in self.streams:
            self._marked(stream, stream.marks.finish())
        yield from self.collector.drain()
        self._conclude()

    def _read(self, stream: _Stream) -> bool:
        """Take one batch of a tap; False if nothing has come yet."""
        number = stream.number
        try:
            packets = next(stream.packets)
        except StopIteration:
            stream.done = True
            if self.pairing is not None and stream.time != NULL:
                self.pairing.end(number, stream.time)
            return True
        if packets is None:
            return False
        if self.tee is not None:
            self.tee(self.taps[number].name, packets)
        flow = self.flows.assign(packets)
        time = self.clocks[number].correct(packets.time_ns)
        tap = self.taps[number]
        if not tap.bursts.line_rate:
            tap.bursts.line_rate = self.report.stats[tap.name].line_rate
        tap.push(packets, flow, time)
        high = int(time.max(initial=NULL))
        if high == NULL:
            return True  # not one of them has a time
        if self.pairing is not None and stream.time == NULL:
            self.pairing.begin(number, int(time[time != NULL][0]))
        doubled = None
        if self.pairing is not None or self._windows is None:
            fp, valid, snapped = fingerprints(packets, self.hash_bytes)
            name = self.taps[number].name
            self.report.snapped_unpaired[name] = self.report.snapped_unpaired.get(name, 0) + snapped
            doubled = stream.doubles.push(fp, valid, packets.time_ns)
            self.report.doubles[name] = stream.doubles.count
            if self.pairing is not None:
                keep = valid & (time != NULL) & (flow >= 0)
                key = np.maximum.accumulate(np.maximum(time, stream.time))
                taps = np.full(int(keep.sum()), number, np.int64)
                columns = (fp.view(np.int64)[keep], time[keep], key[keep], taps, flow[keep], packets.ttl[keep])
                stream.held.append(np.stack([c.astype(np.int64) for c in columns]))
        self._marked(stream, stream.marks.push(packets, time, max(stream.time, high), doubled))
        stream.time = max(stream.time, high)
        return True

    def _marked(self, stream: _Stream, rows: Int64) -> None:
        if not len(rows):
            return
        for mark in np.unique(rows[:, 0]).tolist():
            part = rows[rows[:, 0] == mark]
            self.collector.add(_MARK + mark, np.full(len(part), stream.number), part[:, 1], part[:, 2])

    def _pair(self, before: Nanos) -> None:
        """Match what lies before a time that all taps have reached, in one deterministic order."""
        assert self.pairing is not None
        parts = []
        for stream in self.streams:
            rest = []
            for held in stream.held:
                cut = int(np.searchsorted(held[2], before)) if before != _FAR else held.shape[1]
                if cut:
                    parts.append(held[:, :cut])
                if cut < held.shape[1]:
                    rest.append(held[:, cut:])
            stream.held = rest
        if not parts:
            return
        rows = np.concatenate(parts, axis=1)
        rows = np.ascontiguousarray(rows[:, np.lexsort((rows[3], rows[2]))])
        latency, lost = self.pairing.push(
            rows[0].view(np.uint64), rows[1], rows[2], rows[3], rows[4], rows[5], self.flows.count
        )
        ids = _pair_id(latency)
        if self._windows is None:
            self.collector.add(_LATENCY, ids, latency.time_ns, latency.value)
        else:
            rows = np.stack([np.zeros_like(ids), ids, latency.time_ns, latency.value], axis=1)
            _, seconds, _ = self._windows.push(rows, self.flows.count * 64)
            _LATENCIES.add_seconds(self.collector, seconds, 1, 0)
        self._zeros(latency)
        self._losses(lost)

    def _losses(self, lost: Matches) -> None:
        self.collector.add(_LOST, _pair_id(lost), lost.time_ns, lost.value)

    def _zeros(self, latency: Matches) -> None:
        """Once a window and pair, say that packets were looked for and found."""
        if not len(latency.flow):
            return
        ids = _pair_id(latency)
        window = latency.time_ns // self.window_ns
        order = np.lexsort((window, ids))
        i, w = ids[order], window[order]
        new = np.ones(len(i), np.bool_)
        new[1:] = (i[1:] != i[:-1]) | (w[1:] != w[:-1])
        for at in np.flatnonzero(new).tolist():
            one, when = int(i[at]), int(w[at])
            if self._told.get(one, NULL) < when:
                self._told[one] = when
                end = np.array([(when + 1) * self.window_ns - 1], np.int64)
                self.collector.add(_LOST, np.array([one], np.int64), end, np.zeros(1, np.int64))

    def _key(self, code: int, number: int) -> SeriesKey:
        stat, base = divmod(code, STAT_CODE)
        if base >= _MARK:
            return SeriesKey.of(self.host, MARKS[base - _MARK], tap=self.taps[number].name)
        if base < len(METRICS):
            return self.taps[number % 64].key(code, number // 64)
        flow, pair = divmod(number, 64)
        names = [t.name for t in self.taps]
        told = (("stat", STATS[stat - 1]),) if stat else ()
        window = (("window", "1s"),) if stat else ()
        way = (("from", names[pair // 8]), *told, ("to", names[pair % 8]))
        return SeriesKey(self.host, _PAIR_METRICS[base], (("flow", self.flows.name(flow)), *way, *window))

    def _conclude(self) -> None:
        report = self.report
        report.late = self.collector.late
        negative = report.pairing.get("negative", 0)
        if negative:
            report.warnings.append(f"{negative} negative one-way latencies: the taps' clocks disagree")
        for name, stats in report.stats.items():
            unpaired = report.snapped_unpaired.get(name, 0) if self.pairing is not None else 0
            quality = judge(stats, report.doubles.get(name, 0), unpaired)
            report.quality[name] = quality
            report.warnings += [f"{name}: {reason}" for reason in quality.reasons]


def _pair_id(matches: Matches) -> Int64:
    return matches.flow * 64 + matches.tap_from * 8 + matches.tap_to
