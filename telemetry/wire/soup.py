"""SoupBinTCP: the implicit numbers of sequenced messages, counted on the TCP stream.

A login that is accepted tells the session and the number of the next sequenced message; each one counts. Segments are
put in order over a short while; bytes that are missing from the capture beyond that are a hole: within one message
nothing is lost, else the count is not known any more (until the next login) and the stream is taken up again at a
segment that is whole messages. A client that logs in again to the same session with a later number has missed what
lies between: that is a gap, with its exact range; an earlier number asks for messages again; another session is a
reset.

Source: NASDAQ, SoupBinTCP 4.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from telemetry.types import Int64
from telemetry.wire.feedstate import DUPLICATE, GAP, RESTART, TICK_NS
from telemetry.wire.flows import FlowTable
from telemetry.wire.formats import SOUP
from telemetry.wire.soupkernel import ACCEPTED, FIELDS, HOLE, LOGIN, S_FLOW, S_NUMBER, SLOTS, WIDTH, soup, tick

if TYPE_CHECKING:
    from telemetry.capture.columns import Packets

__all__ = ["HOLE", "Soup"]

_NULL: Final = np.iinfo(np.int64).min


class Soup:
    """All SoupBinTCP streams in one capture, told by the login that is accepted, or configured.

    Parameters
    ----------
    flows : FlowTable
        The table that gave the flow ids.
    formats : mapping of "address:port" to format name
        Servers whose connections are SoupBinTCP though their logins are not in the capture.
    """

    def __init__(self, flows: FlowTable, formats: Mapping[str, str] | None = None) -> None:
        self._flows = flows
        self._servers = {server for server, name in (formats or {}).items() if name == SOUP}
        self._soup_of = np.zeros(64, np.int32)  # stream + 1 of each flow; 0: not told yet, -1: another protocol
        self._known = 0
        self._last: dict[tuple[int, ...], tuple[int, int]] = {}  # client and server -> stream, session
        self._clock = np.full(1, _NULL, np.int64)
        self._count = 0
        self._out = np.empty((1 << 14, 6), np.int64)
        self._state, self._head, self._waiting, self._held = _room(4)

    @property
    def streams(self) -> int:
        """How many streams are known."""
        return self._count

    def flow(self, stream: int) -> int:
        """The flow of a stream."""
        return int(self._state[stream, S_FLOW])

    def number(self, stream: int) -> int:
        """Number of the next sequenced message; -1 if it is not known."""
        return int(self._state[stream, S_NUMBER])

    def push(self, packets: Packets, flow: NDArray[np.int32]) -> Int64:
        """Feed a batch; return rows (code, stream, time, value, first, last), codes of `feedstate` and `HOLE`."""
        flows, p = self._flows, packets
        if flows.count > self._known:
            self._classify()
        at, parts = 0, []
        while True:
            before, count = at, self._count
            at, rows, self._count = soup(
                at, p.n, p.time_ns, flow, p.protocol, p.tcp_flags, p.tcp_seq, p.payload_len, p.payload_cap,
                p.payload_off, p.data, self._soup_of, self._state, self._head, self._waiting, self._held, self._clock,
                self._count, self._out,
            )  # fmt: skip
            if rows:
                parts.append(self._out[:rows].copy())
            if at >= p.n:
                break
            if self._count == len(self._state):
                self._grow(2 * self._count)
            elif not rows and at == before and count == self._count:
                self._out = np.empty((2 * len(self._out), 6), np.int64)
        return self._logins(np.concatenate(parts)) if parts else np.empty((0, 6), np.int64)

    def finish(self) -> Int64:
        """Tell the messages of the last tick."""
        if self._clock[0] == _NULL:
            return np.empty((0, 6), np.int64)
        out = np.empty((self._count, 6), np.int64)
        return out[: tick(self._state, self._count, (int(self._clock[0]) + 1) * TICK_NS, out, 0)]

    def _classify(self) -> None:
        """New flows that are not TCP are no streams; those of configured servers are, from the first whole messages."""
        flows, known = self._flows, self._known
        self._known = flows.count
        if flows.count > len(self._soup_of):
            grow = max(flows.count, 2 * len(self._soup_of)) - len(self._soup_of)
            self._soup_of = np.concatenate([self._soup_of, np.zeros(grow, np.int32)])
        self._soup_of[known : flows.count] = np.where(flows.keys[known:, 4] >> np.uint64(48) == 6, 0, -1)
        for f in range(known, flows.count) if self._servers else ():
            if flows.protocol(f) == 6 and flows.source_text(f) in self._servers:
                if self._count == len(self._state):
                    self._grow(2 * self._count)
                self._state[self._count] = 0
                self._state[self._count, [S_FLOW, S_NUMBER]] = f, -1
                self._count += 1
                self._soup_of[f] = self._count

    def _logins(self, rows: Int64) -> Int64:
        """What logins say against the login before of the same client at the same server."""
        out = []
        for code, s, t, number, session, before in rows.tolist():
            if code != LOGIN:
                out.append((code, s, t, number, session, before))
                continue
            k = self._flows.keys[self.flow(s)].tolist()
            pair = (*k[:4], (k[4] >> 20) & 0xFFFFF)
            old, old_session = self._last.get(pair, (-1, 0))
            expected = before if old == s else self.number(old) if old >= 0 else -1
            self._last[pair] = (s, session)
            if old >= 0 and session != old_session:
                out.append((RESTART, s, t, 1, expected, number))
            elif old >= 0 and 0 <= expected < number:
                out.append((GAP, s, t, number - expected, expected, number - 1))
            elif old >= 0 and number < expected:
                out.append((DUPLICATE, s, t, expected - number, number, expected - 1))
        return np.array(out, np.int64).reshape(-1, 6)

    def _grow(self, size: int) -> None:
        """Room for more streams: what they hold is 16 kB each."""
        n = self._count
        state, head, waiting, held = _room(size)
        state[:n], head[:n], waiting[:n], held[:n] = self._state, self._head, self._waiting, self._held
        self._state, self._head, self._waiting, self._held = state, head, waiting, held


def _room(size: int) -> tuple[Int64, NDArray[np.uint8], Int64, NDArray[np.uint8]]:
    """State of so many streams, the head of the message at hand, and the segments that wait."""
    return (
        np.zeros((size, FIELDS), np.int64),
        np.zeros((size, ACCEPTED + 1), np.uint8),
        np.zeros((size, SLOTS, 4), np.int64),
        np.zeros((size, SLOTS, WIDTH), np.uint8),
    )
