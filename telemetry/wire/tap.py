"""One tap: a capture's packets in, measurements out (flows, TCP, feeds, throughput)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray

from telemetry.types import Int64, Nanos, SeriesKey
from telemetry.wire import feedstate as fs
from telemetry.wire.bursts import Bursts, Gaps
from telemetry.wire.events import Collector
from telemetry.wire.feeds import Feeds
from telemetry.wire.flows import FlowTable
from telemetry.wire.soup import HOLE, Soup
from telemetry.wire.tcp import Tcp
from telemetry.wire.tcpkernel import EVENTS
from telemetry.wire.tcpkernel import RTT as _RTT
from telemetry.wire.tcpkernel import TS_RTT as _TS_RTT
from telemetry.wire.throughput import SPANS, Link, Peaks, Throughput, span_name
from telemetry.wire.trade import TickToTrade
from telemetry.wire.windows import SECOND, STATS, Windows

if TYPE_CHECKING:
    from telemetry.capture.columns import Packets

__all__ = ["METRICS", "STAT_CODE", "Codes", "Detail", "Tap"]

Detail = Literal["packets", "windows"]
"""One event for each measurement, or windows of a second (per flow) and a millisecond (per tap)."""

_TCP_METRICS: Final = {
    "rtt": "tcp_rtt_ns",
    "syn_rtt": "tcp_syn_rtt_ns",
    "ts_rtt": "tcp_timestamp_rtt_ns",
    "retransmission": "tcp_retransmissions",
    "fast": "tcp_fast_retransmissions",
    "spurious": "tcp_spurious_retransmissions",
    "out_of_order": "tcp_out_of_order",
    "hole": "tcp_hole_bytes",
    "zero_window": "tcp_zero_windows",
    "reset": "tcp_resets",
    "duplicate_ack": "tcp_duplicate_acks",
    "delayed_ack": "tcp_delayed_ack_ns",
    "nagle": "tcp_nagle_stall_ns",
}
_FEED_METRICS: Final = {
    fs.GAP: "feed_gap_packets",
    fs.REORDERED: "feed_reordered_packets",
    fs.DUPLICATE: "feed_duplicate_packets",
    fs.RESTART: "feed_resets",
    fs.SKEW: "ab_skew_ns",
    fs.DELAY: "feed_delay_ns",
    fs.PACKETS: "feed_packets",
    fs.LOST_BOTH: "feed_lost_packets",
    HOLE: "feed_holes",
}
METRICS: Final = (
    *(_TCP_METRICS[e] for e in EVENTS), *_FEED_METRICS.values(), "wire_packets", "wire_bytes", "burst_peak_bytes",
    "tick_to_trade_ns", "burst_length_ns", "burst_bytes", "wire_interarrival_ns",
)  # fmt: skip
_CODE: Final = {name: i for i, name in enumerate(METRICS)}
_EACH_MS: Final = ("tcp_rtt_ns", "ab_skew_ns", "feed_delay_ns")
"""Of these a whole tap's count and maximum per millisecond are kept."""
STAT_CODE: Final = 1000
"""Codes from here on: a metric's windows. ``STAT_CODE * (1 + stat) + code``; stat `_MS` + 0 or 1 is per millisecond."""
_MS: Final = len(STATS)


class Codes:
    """Metric codes of an analyser's kinds of row (-1: not told), and of the windows of each.

    Parameters
    ----------
    codes : sequence of int
    each_ms : sequence of int
        Those whose milliseconds are told.
    """

    def __init__(self, codes: Sequence[int], each_ms: Sequence[int] = ()) -> None:
        self.each = np.array(codes, np.int64)
        self._seconds = [np.where(self.each < 0, -1, STAT_CODE * (s + 1) + self.each) for s in range(_MS)]
        told = np.isin(self.each, each_ms)
        self._ms = [np.where(told, STAT_CODE * (_MS + s) + self.each, -1) for s in (1, 2)]

    def add_seconds(self, to: Collector, rows: Int64, scale: int, offset: int) -> None:
        """Add windows (kind, id, end, count, mean, p50, p99, max)."""
        for value, codes in enumerate(self._seconds if len(rows) else (), 3):
            to.add_rows(rows, codes, scale=scale, offset=offset, later=-1, value=value)

    def add_ms(self, to: Collector, rows: Int64, tap: int) -> None:
        """Add windows of a whole tap (kind, end, count, max)."""
        for value, codes in enumerate(self._ms if len(rows) else (), 2):
            to.add_rows(rows, codes, scale=0, offset=tap, time=1, later=-1, value=value)


_TCP: Final = Codes([_CODE[_TCP_METRICS[event]] for event in EVENTS], [_CODE[m] for m in _EACH_MS])
_FEED: Final = Codes(
    [_CODE[_FEED_METRICS[c]] if c in _FEED_METRICS else -1 for c in range(HOLE + 1)], [_CODE[m] for m in _EACH_MS]
)
_TRADE: Final = Codes([_CODE["tick_to_trade_ns"]])
_SOUPS: Final = 1 << 24  # streams from here on are on TCP
_RARE_TCP: Final = ("tcp_retransmissions", "tcp_zero_windows", "tcp_resets", "tcp_duplicate_acks")
_RARE_FEED: Final = ("feed_gap_packets", "feed_reordered_packets", "feed_duplicate_packets", "feed_resets")


class Tap:
    """Everything that one capture says on its own.

    Parameters
    ----------
    name, host : str
        Labels of its series.
    number : int
        Of the tap, among those that share `collector`.
    flows : FlowTable
        May be shared by taps, so that a flow has one id.
    collector : Collector
        Where measurements go; resolves ids through `key`.
    window_ns : int
        Of throughput, peaks, and the zeros that say "looked at, nothing lost".
    detail : {"packets", "windows"}
        What happens often: each measurement, or windows. Losses, resets and gaps are always told one by one.
    formats : mapping of destination to feed format, optional
    line_rate : int
        Of the link, bits a second; 0: what the capture says, if it does.
    every_gap : bool
        Gaps between packets of all flows, not only of feeds.
    """

    def __init__(
        self,
        name: str,
        host: str,
        number: int,
        flows: FlowTable,
        collector: Collector,
        window_ns: Nanos,
        formats: Mapping[str, str] | None = None,
        detail: Detail = "packets",
        line_rate: int = 0,
        every_gap: bool = False,
    ) -> None:
        self.name, self.host, self.number = name, host, number
        self.flows = flows
        self.feeds = Feeds(flows, formats)
        self.soup = Soup(flows, formats)
        self.tcp = Tcp(flows)
        self.throughput = Throughput(window_ns)
        self.peaks = Peaks(window_ns)
        self.bursts = Bursts(window_ns, line_rate)
        self.gaps = Gaps(SECOND, every=every_gap)
        self._collector = collector
        self._shapes: dict[int, tuple[str, str, Callable[[int], str], tuple[tuple[str, str], ...]]] = {}
        self.trade = TickToTrade(flows, self.feeds, named=detail == "packets")
        self._tcp_windows = self._feed_windows = self._trade_windows = self._link = None
        if detail == "windows":
            self._tcp_windows = Windows(len(EVENTS), (_RTT, _TS_RTT))
            self._feed_windows = Windows(fs.STARTED + 1, (fs.SKEW, fs.DELAY))
            self._trade_windows = Windows(1, (0,))
            self._link = Link()

    def push(self, packets: Packets, flow: NDArray[np.int32], time_ns: Int64) -> None:
        """Feed a batch with its flow ids and (corrected) times."""
        tcp = self.tcp.push(packets, flow)
        if self._tcp_windows is not None:
            tcp, seconds, ms = self._tcp_windows.push(tcp, self.flows.count)
            self._windowed(_TCP, seconds, ms)
        self._add_rows(tcp, _TCP)
        feed = self.feeds.push(packets, flow).rows
        if self._feed_windows is not None:
            feed, seconds, ms = self._feed_windows.push(feed, self.feeds.streams)
            self._windowed(_FEED, seconds, ms)
        self._feed_rows(feed)
        self._soup_rows(self.soup.push(packets, flow))
        trade = self.trade.push(packets, flow)
        if self._trade_windows is not None:
            trade, seconds, ms = self._trade_windows.push(trade, self.flows.count)
            self._windowed(_TRADE, seconds, ms)
        self._add_rows(trade, _TRADE)
        self._window_rows(self.throughput.push(time_ns, flow, packets.wire_len, self.flows.count))
        if self._link is not None:
            self._link_rows(self._link.push(time_ns, packets.wire_len))
        self._peak_rows(self.peaks.push(time_ns, packets.wire_len))
        if self.bursts.line_rate:
            self._burst_rows(self.bursts.push(time_ns, packets.wire_len))
        groups, told = self.feeds.group_of, self.feeds.groups
        self._gap_rows(self.gaps.push(time_ns, flow, self.flows.count, groups, told))

    def finish(self) -> None:
        """Give out what is still open."""
        feed = self.feeds.finish().rows
        if self._feed_windows is not None:
            feed, seconds, ms = self._feed_windows.push(feed, self.feeds.streams)
            self._windowed(_FEED, seconds, ms)
            self._windowed(_FEED, *self._feed_windows.finish())
        self._feed_rows(feed)
        self._soup_rows(self.soup.finish())
        if self._tcp_windows is not None:
            self._windowed(_TCP, *self._tcp_windows.finish())
        if self._trade_windows is not None:
            self._windowed(_TRADE, *self._trade_windows.finish())
        self._window_rows(self.throughput.finish())
        if self._link is not None:
            self._link_rows(self._link.finish())
        self._peak_rows(self.peaks.finish())
        self._burst_rows(self.bursts.finish())
        self._gap_rows(self.gaps.finish())

    def key(self, code: int, number: int) -> SeriesKey:
        """The series of a metric (or of a statistic of it) and the number of a flow, stream or span."""
        shape = self._shapes.get(code)
        if shape is None:
            shape = self._shapes[code] = self._shape(code)
        metric, label, name, rest = shape
        return SeriesKey(self.host, metric, ((label, name(number)), *rest) if label else rest)

    def _shape(self, code: int) -> tuple[str, str, Callable[[int], str], tuple[tuple[str, str], ...]]:
        """What the series of a code have in common: metric, the label that tells them apart and its text, the rest.

        Labels come in the order of their names. Made once: a capture has tens of thousands of series.
        """
        stat, code = divmod(code, STAT_CODE)
        metric = METRICS[code]
        tap = ("tap", self.name)
        if stat > _MS:
            # A whole tap, per millisecond.
            ms = (tap, ("window", "1ms"))
            return (
                metric,
                "",
                str,
                ms if metric.startswith("wire_") else (("stat", ("count", "max")[stat - _MS - 1]), *ms),
            )
        rest = (("stat", STATS[stat - 1]), tap, ("window", "1s")) if stat else (tap,)
        if metric.startswith(("tcp_", "wire_", "tick_")):
            return metric, "flow", self._flow_name, rest
        if metric in ("burst_length_ns", "burst_bytes"):
            return metric, "", str, rest
        if metric == "burst_peak_bytes":
            return metric, "span", lambda number: span_name(SPANS[number]), rest
        pair = metric in ("ab_skew_ns", "feed_lost_packets")
        return metric, "feed", self.feeds.pair_name if pair else self._feed_name, rest

    def _flow_name(self, flow: int) -> str:
        return self.flows.name(flow) if flow >= 0 else "other"

    def _feed_name(self, stream: int) -> str:
        return self.feeds.name(stream) if stream < _SOUPS else self.flows.name(self.soup.flow(stream - _SOUPS))

    def _soup_rows(self, rows: Int64) -> None:
        if len(rows):
            rows[:, 1] += _SOUPS
            self._feed_rows(rows)

    def _feed_rows(self, rows: Int64) -> None:
        self._add_rows(rows, _FEED)
        looked = rows[rows[:, 0] == fs.PACKETS]
        if len(looked):
            for rare in _RARE_FEED:
                self._add(rare, looked[:, 1], looked[:, 2], 0)

    def _window_rows(self, rows: Int64) -> None:
        if not len(rows):
            return
        at = rows[:, 1] - 1  # the last instant of the window: half open, so still inside
        self._add("wire_packets", rows[:, 0], at, rows[:, 2])
        self._add("wire_bytes", rows[:, 0], at, rows[:, 3])
        flow = rows[:, 0]
        tcp = np.zeros(len(flow), np.bool_)
        tcp[flow >= 0] = (self.flows.keys[flow[flow >= 0], 4] >> np.uint64(48)) == 6
        for rare in _RARE_TCP:
            self._add(rare, flow[tcp], at[tcp], 0)

    def _peak_rows(self, rows: Int64) -> None:
        self._add("burst_peak_bytes", rows[:, 0], rows[:, 1] - 1, rows[:, 2])

    def _burst_rows(self, rows: Int64) -> None:
        for column, metric in ((1, "burst_length_ns"), (2, "burst_bytes")):
            self._add(metric, np.zeros(len(rows), np.int64), rows[:, 0] - 1, rows[:, column])

    def _gap_rows(self, rows: Int64) -> None:
        if len(rows):
            for column, stat in ((3, "count"), (4, "mean"), (5, "max")):
                code = STAT_CODE * (1 + STATS.index(stat)) + _CODE["wire_interarrival_ns"]
                self._collector.add(code, rows[:, 1] * 64 + self.number, rows[:, 2] - 1, rows[:, column])

    def _link_rows(self, rows: Int64) -> None:
        """Packets and bytes of the whole tap, per millisecond."""
        none = np.zeros(len(rows), np.int64) + self.number
        for column, metric in ((1, "wire_packets"), (2, "wire_bytes")):
            self._collector.add(STAT_CODE * (_MS + 1) + _CODE[metric], none, rows[:, 0] - 1, rows[:, column])

    def _windowed(self, codes: Codes, seconds: Int64, ms: Int64) -> None:
        codes.add_seconds(self._collector, seconds, 64, self.number)
        codes.add_ms(self._collector, ms, self.number)

    def _add_rows(self, rows: Int64, codes: Codes) -> None:
        self._collector.add_rows(rows, codes.each, scale=64, offset=self.number)

    def _add(self, metric: str, numbers: Int64, time_ns: Int64, value: Int64 | int) -> None:
        self._collector.add(_CODE[metric], numbers * 64 + self.number, time_ns, value)
