"""One tap: a capture's packets in, measurements out (flows, TCP, feeds, throughput)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from telemetry.types import Int64, Nanos, SeriesKey
from telemetry.wire import feedkernel as fk
from telemetry.wire.events import Collector
from telemetry.wire.feeds import Feeds
from telemetry.wire.flows import FlowTable
from telemetry.wire.tcp import Tcp
from telemetry.wire.tcpkernel import EVENTS
from telemetry.wire.throughput import SPANS, Peaks, Throughput, span_name

if TYPE_CHECKING:
    from telemetry.capture.columns import Packets

__all__ = ["METRICS", "Tap"]

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
    fk.GAP: "feed_gap_packets",
    fk.REORDERED: "feed_reordered_packets",
    fk.DUPLICATE: "feed_duplicate_packets",
    fk.RESTART: "feed_resets",
    fk.SKEW: "ab_skew_ns",
    fk.DELAY: "feed_delay_ns",
    fk.PACKETS: "feed_packets",
    fk.LOST_BOTH: "feed_lost_packets",
}
METRICS: Final = (
    *(_TCP_METRICS[e] for e in EVENTS), *_FEED_METRICS.values(), "wire_packets", "wire_bytes", "burst_peak_bytes",
)  # fmt: skip
_CODE: Final = {name: i for i, name in enumerate(METRICS)}
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
    formats : mapping of destination to feed format, optional
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
    ) -> None:
        self.name, self.host, self.number = name, host, number
        self.flows = flows
        self.feeds = Feeds(flows, formats)
        self.tcp = Tcp(flows)
        self.throughput = Throughput(window_ns)
        self.peaks = Peaks(window_ns)
        self._collector = collector

    def push(self, packets: Packets, flow: NDArray[np.int32], time_ns: Int64) -> None:
        """Feed a batch with its flow ids and (corrected) times."""
        self._tcp_rows(self.tcp.push(packets, flow))
        self._feed_rows(self.feeds.push(packets, flow).rows)
        self._window_rows(self.throughput.push(time_ns, flow, packets.wire_len, self.flows.count))
        self._peak_rows(self.peaks.push(time_ns, packets.wire_len))

    def finish(self) -> None:
        """Give out what is still open."""
        self._feed_rows(self.feeds.finish().rows)
        self._window_rows(self.throughput.finish())
        self._peak_rows(self.peaks.finish())

    def key(self, code: int, number: int) -> SeriesKey:
        """The series of a metric and the number of a flow, stream or span."""
        metric = METRICS[code]
        if metric.startswith(("tcp_", "wire_")):
            flow = self.flows.name(number) if number >= 0 else "other"
            return SeriesKey.of(self.host, metric, flow=flow, tap=self.name)
        if metric == "burst_peak_bytes":
            return SeriesKey.of(self.host, metric, tap=self.name, span=span_name(SPANS[number]))
        pair = metric in ("ab_skew_ns", "feed_lost_packets")
        feed = self.feeds.pair_name(number) if pair else self.feeds.name(number)
        return SeriesKey.of(self.host, metric, feed=feed, tap=self.name)

    def _tcp_rows(self, rows: Int64) -> None:
        for kind, event in enumerate(EVENTS):
            part = rows[rows[:, 0] == kind]
            self._add(_TCP_METRICS[event], part[:, 1], part[:, 2], part[:, 3])

    def _feed_rows(self, rows: Int64) -> None:
        for code, metric in _FEED_METRICS.items():
            part = rows[rows[:, 0] == code]
            self._add(metric, part[:, 1], part[:, 2], part[:, 3])
            if code == fk.PACKETS:
                for rare in _RARE_FEED:
                    self._add(rare, part[:, 1], part[:, 2], np.zeros(len(part), np.int64))

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
            self._add(rare, flow[tcp], at[tcp], np.zeros(int(tcp.sum()), np.int64))

    def _peak_rows(self, rows: Int64) -> None:
        self._add("burst_peak_bytes", rows[:, 0], rows[:, 1] - 1, rows[:, 2])

    def _add(self, metric: str, numbers: Int64, time_ns: Int64, value: Int64) -> None:
        self._collector.add(_CODE[metric], numbers * 64 + self.number, time_ns, value)
