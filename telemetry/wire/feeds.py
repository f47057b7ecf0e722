"""Market-data feeds of one tap: gaps with exact ranges, resets, duplicates, reordering, A/B lines, delay.

A UDP destination is a feed if its packets carry one of the known sequence headers
(`telemetry.wire.formats`): told by consistency over its first packets, or configured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from telemetry.errors import ConfigError
from telemetry.types import Int64, Nanos
from telemetry.wire import feedkernel as fk
from telemetry.wire import feedstate as fs
from telemetry.wire.feedtell import tell
from telemetry.wire.flows import FlowTable
from telemetry.wire.formats import FORMATS, SOUP

if TYPE_CHECKING:
    from telemetry.capture.columns import Packets

__all__ = ["FeedRows", "FeedSummary", "Feeds", "Gap"]

_MOST_GROUPS: Final = 4096
_MOST_STREAMS: Final = 8192
_MOST_RANGES: Final = 10_000
_UDP: Final = 17


@dataclass(frozen=True, slots=True)
class Gap:
    """Numbers ``first`` to ``last`` (both missing) of a feed, noticed at `time_ns`; on `both` lines or on one."""

    feed: str
    first: int
    last: int
    time_ns: Nanos
    both: bool = False


@dataclass(frozen=True, slots=True)
class FeedSummary:
    """One stream, as far as it was seen; `partner` is the other line's name or empty."""

    feed: str
    format: str
    packets: int
    next_sequence: int
    resets: int
    partner: str


@dataclass(frozen=True, slots=True)
class FeedRows:
    """Measurements of one step: ``rows[:, (code, stream, time, value, first, last)]`` (codes in `feedstate`)."""

    rows: Int64

    def of(self, code: int) -> Int64:
        """The rows of one kind."""
        return self.rows[self.rows[:, 0] == code]


class Feeds:
    """Sequence analysis of all feeds in one capture.

    Parameters
    ----------
    flows : FlowTable
        The table that gave the flow ids.
    formats : mapping of "address:port" to format name
        Destinations whose format is known; others are told by consistency.
    lines : bool
        Find the A and B lines of feeds, their skew and what is lost on both.

    Raises
    ------
    ConfigError
        If a format is unknown.
    """

    def __init__(self, flows: FlowTable, formats: Mapping[str, str] | None = None, *, lines: bool = True) -> None:
        self._lines = lines
        self._flows = flows
        for destination, name in (formats or {}).items():
            if name not in (*FORMATS, SOUP):
                raise ConfigError(f"feed {destination}: expected one of {', '.join((*FORMATS, SOUP))}, got {name!r}")
        self._configured = {d: name for d, name in (formats or {}).items() if name != SOUP}
        self._group_of = np.full(64, -1, np.int32)
        self._known = 0
        self._by_destination: dict[tuple[int, int, int], int] = {}
        self._group_names: list[str] = []
        self._groups = np.zeros((64, 5), np.int64)
        self._heads = np.zeros(64 * fs.LEARN * fs.HEAD_BYTES, np.uint8)
        self._meta = np.zeros((64 * fs.LEARN, 3), np.int64)
        self._clock = np.array([np.iinfo(np.int64).min, 0, 0], np.int64)
        self._stable = np.full(4 * _MOST_STREAMS, -1, np.int32)
        self._state = np.zeros((64, fs.STREAM_FIELDS), np.int64)
        self._gaps = np.zeros((64, fs.GAP_SLOTS, 3), np.int64)
        self._pair = np.zeros((1024, 4), np.int64)
        self._pgaps = np.zeros((1024, fs.GAP_SLOTS, 3), np.int64)
        self._content = np.zeros((1 << 12, 3), np.int64)
        self._counts = np.zeros(4, np.int64)  # streams, pairs, headers that did not fit, streams refused
        self._head = np.zeros(6, np.int64)
        self._out = np.empty((1 << 14, 6), np.int64)
        self.refused_groups = 0
        self.gaps: list[Gap] = []
        self.gap_ranges_left_out = 0

    @property
    def malformed(self) -> int:
        """Packets of a known feed whose header did not fit."""
        return int(self._counts[2])

    @property
    def group_of(self) -> NDArray[np.int32]:
        """The group (destination) of each flow, -1 for none."""
        return self._group_of

    @property
    def groups(self) -> Int64:
        """State of the groups: column 0 is the format, negative while or if there is none."""
        return self._groups

    @property
    def streams(self) -> int:
        """How many streams are known."""
        return int(self._counts[0])

    def push(self, packets: Packets, flow: NDArray[np.int32]) -> FeedRows:
        """Feed a batch; return what was found (rows of a buffer that the next call overwrites)."""
        self._classify()
        return self._noted(self._feed(packets, flow, packets.n, 0))

    def finish(self) -> FeedRows:
        """Tell what is still undecided: short groups, open gaps, the last tick."""
        k = 0
        for g in range(len(self._group_names)):
            if self._groups[g, fs.G_FORMAT] == fs.UNKNOWN and self._groups[g, fs.G_SEEN] >= 4:
                tell(g, self._groups, self._heads, self._meta, self._head)
                self._clock[1], self._clock[2] = g + 1, 0
                k = self._feed(None, np.empty(0, np.int32), 0, k)
        if self._clock[0] != np.iinfo(np.int64).min:
            end = int(self._clock[0] + 1) * fs.TICK_NS
            for now in (end, end + 2 * fs.HOLD_NS):
                self._reserve(k)
                k = fk.sweep(now, self._state, self._gaps, self._pair, self._pgaps, self._counts, self._out, k)
        return self._noted(k)

    def _feed(self, packets: Packets | None, flow: NDArray[np.int32], n: int, k: int) -> int:
        """Run the kernel over a batch (or a replay alone), in as many steps as its output needs.

        Rows are put behind the first `k`; how many there are then is returned.
        """
        if packets is None:
            time = off = np.empty(0, np.int64)
            size = cap = np.empty(0, np.int32)
            data = np.empty(0, np.uint8)
            heads = (np.empty(0, np.uint64),) * 3
        else:
            time, off, data = packets.time_ns, packets.payload_off, packets.data
            heads = packets.head0, packets.head1, packets.head2
            size, cap = packets.payload_len, packets.payload_cap
        at = 0
        while True:
            self._reserve(k)
            at, k = fk.feed(
                at, n, time, flow, off, size, cap, data, *heads, self._group_of, self._groups, self._heads, self._meta,
                self._clock, self._stable, self._state, self._gaps, self._pair, self._pgaps, self._content,
                self._counts, self._head, self._lines, self._out, k,
            )  # fmt: skip
            if at >= n and self._clock[1] == 0:
                return k

    def name(self, stream: int) -> str:
        """``address:port`` of a stream, with ``/n`` for the further channels of one destination."""
        group = int(self._state[stream, fs.S_GROUP])
        siblings = np.flatnonzero(self._state[: int(self._counts[0]), fs.S_GROUP] == group)
        nth = int(np.searchsorted(siblings, stream))
        return self._group_names[group] + (f"/{nth}" if nth else "")

    def pair_name(self, stream: int) -> str:
        """Both lines of a feed, the lower address first."""
        pair = int(self._state[stream, fs.S_PAIR])
        if pair < 0:
            return self.name(stream)
        a, b = self._pair[pair, fs.P_A], self._pair[pair, fs.P_B]
        return f"{self.name(int(a))}|{self.name(int(b))}"

    def summary(self) -> list[FeedSummary]:
        """All streams, in order of appearance."""
        result = []
        for s in range(int(self._counts[0])):
            row = self._state[s]
            code = int(self._groups[row[fs.S_GROUP], fs.G_FORMAT])
            partner = int(row[fs.S_PARTNER])
            other = self.name(partner) if partner >= 0 else ""
            result.append(
                FeedSummary(
                    self.name(s),
                    FORMATS[code],
                    int(row[fs.S_PACKETS]),
                    int(row[fs.S_EXPECTED]),
                    int(row[fs.S_RESETS]),
                    other,
                )
            )
        return result

    def _noted(self, count: int) -> FeedRows:
        rows = self._out[:count]
        for code, stream, time, _, first, last in fk.ranges(rows).tolist():
            if len(self.gaps) >= _MOST_RANGES:
                self.gap_ranges_left_out += 1
                continue
            both = code == fs.LOST_BOTH
            self.gaps.append(Gap(self.pair_name(stream) if both else self.name(stream), first, last, time, both))
        return FeedRows(rows)

    def _classify(self) -> None:
        """Give new UDP flows the group of their destination."""
        flows = self._flows
        if flows.count == self._known:
            return
        if flows.count > len(self._group_of):
            more = np.full(max(flows.count, 2 * len(self._group_of)) - len(self._group_of), -1, np.int32)
            self._group_of = np.concatenate([self._group_of, more])
        fresh = np.arange(self._known, flows.count)
        self._known = flows.count
        for f in fresh[(flows.keys[fresh, 4] >> np.uint64(48)) == _UDP].tolist():
            destination = flows.destination(f)
            if destination[2] < 0:
                continue
            g = self._by_destination.get(destination)
            if g is None:
                if len(self._group_names) >= _MOST_GROUPS:
                    self.refused_groups += 1
                    continue
                g = self._new_group(destination, flows.destination_text(f))
            self._group_of[f] = g

    def _new_group(self, destination: tuple[int, int, int], text: str) -> int:
        g = self._by_destination[destination] = len(self._group_names)
        self._group_names.append(text)
        if g >= len(self._groups):
            size = len(self._groups)
            self._groups = np.concatenate([self._groups, np.zeros_like(self._groups)])
            self._heads = np.concatenate([self._heads, np.zeros_like(self._heads)])
            self._meta = np.concatenate([self._meta, np.zeros((size * fs.LEARN, 3), np.int64)])
        name = self._configured.get(text)
        self._groups[g, fs.G_FORMAT] = fs.UNKNOWN if name is None else FORMATS.index(name)
        self._groups[g, fs.G_RANK] = ((destination[1] & 0xFFFFFFFFFFFF) << 16 | destination[2]) & 0x7FFFFFFFFFFFFFFF
        return g

    def _reserve(self, used: int) -> None:
        """Room for what one step may add: streams, and rows of output behind those that are used."""
        streams, pairs = int(self._counts[0]), int(self._counts[1])
        size = len(self._state)
        if streams + 8192 // 64 > size and size < _MOST_STREAMS:
            self._state = np.concatenate([self._state, np.zeros_like(self._state)])
            self._gaps = np.concatenate([self._gaps, np.zeros_like(self._gaps)])
        rows = used + (fs.GAP_SLOTS + 1) * streams + fs.GAP_SLOTS * pairs + 64 * fk.ROWS_EACH
        if 2 * rows > len(self._out):
            out = np.empty((4 * rows, 6), np.int64)
            out[:used] = self._out[:used]
            self._out = out
