"""Tick to trade: from the market-data packet that triggered an order to the order on the wire, at one tap.

Orders that name their trigger (the lab's do) are paired with the first arrival, on either line, of that
sequence number. For others the trigger is the last market-data packet before the order: the latest that can
have caused it, so the time is a lower bound. Only the first sending of data counts, and one order for a
trigger: a retransmission, or the rest of a message that Nagle's algorithm held back, is no new decision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from telemetry.types import Int64
from telemetry.wire.feeds import Feeds
from telemetry.wire.feedstate import G_FORMAT, G_SINCE
from telemetry.wire.flows import FlowTable
from telemetry.wire.formats import DATA, KIND, SEQ, STEP, parse

if TYPE_CHECKING:
    from telemetry.capture.columns import Packets

__all__ = ["TickToTrade"]

_RING: Final = 1 << 15
_NULL: Final = np.iinfo(np.int64).min
_MESSAGE: Final = 48  # the lab's order message
_LONGEST_NS: Final = 1_000_000_000  # an order later than this was not triggered by that packet
_BASE, _SENT_TO, _OPENER, _TRIGGER = range(4)


@njit(cache=True, nogil=True)
def _trade(  # type: ignore[no-untyped-def]
    n, times, flow, proto, flags, seqs, sport, dport, plen, pcap, poff, data, group_of, groups, head, ring, clock,
    state, by_name, out,
):  # fmt: skip
    """Rows (0, flow, time, ns since the trigger)."""
    k = 0
    for i in range(n):
        f = np.int64(flow[i])
        if f < 0 or times[i] == _NULL:
            continue
        t = times[i]
        if proto[i] == 17:
            g = np.int64(group_of[f])
            if g < 0 or groups[g, G_FORMAT] < 0 or t < groups[g, G_SINCE]:
                continue  # not market data, or not yet known to be: the batch must make no difference
            if not by_name:
                clock[0] = t
                continue
            if (
                not parse(groups[g, G_FORMAT], data, poff[i], np.int64(pcap[i]), np.int64(plen[i]), head)
                or head[KIND] != DATA
            ):
                continue
            clock[0] = t
            for q in range(min(head[STEP], 64)):
                slot = (head[SEQ] + q) & (_RING - 1)
                if ring[slot, 0] != head[SEQ] + q or t - ring[slot, 1] > _LONGEST_NS:
                    ring[slot, 0], ring[slot, 1] = head[SEQ] + q, t
            continue
        if proto[i] != 6 or flags[i] < 0:
            continue
        if flags[i] & 2:
            state[f, _BASE], state[f, _SENT_TO] = (seqs[i] + 1) & 0xFFFFFFFF, 0
            state[f, _OPENER] = 1 if not flags[i] & 16 else -1
            continue
        if plen[i] <= 0:
            continue
        if state[f, _OPENER] == 0:
            state[f, _BASE] = seqs[i]
            state[f, _OPENER] = 1 if sport[i] > dport[i] else -1
        if state[f, _OPENER] < 0:
            continue
        start = (seqs[i] - state[f, _BASE]) & 0xFFFFFFFF
        if start >= 0x80000000 or start < state[f, _SENT_TO]:
            continue  # sent before
        state[f, _SENT_TO] = start + plen[i]
        named = False
        at = (-start) % _MESSAGE
        while by_name and at + 16 <= pcap[i] and poff[i] >= 0 and poff[i] + at + 16 <= len(data):
            o = poff[i] + at
            if not (data[o] == 79 and data[o + 1] == 82 and data[o + 2] == 68 and data[o + 3] == 49):  # ORD1
                break
            named = True
            trigger = np.int64(0)
            for b in range(8):
                trigger |= np.int64(data[o + 8 + b]) << (8 * b)
            slot = trigger & (_RING - 1)
            if ring[slot, 0] == trigger and 0 <= t - ring[slot, 1] <= _LONGEST_NS and k < len(out):
                out[k, 0], out[k, 1], out[k, 2], out[k, 3] = 0, f, t, t - ring[slot, 1]
                k += 1
            at += _MESSAGE
        if named or (start % _MESSAGE != 0 and state[f, _TRIGGER] < 0):
            state[f, _TRIGGER] = -1  # this flow names its triggers
            continue
        if clock[0] != _NULL and clock[0] != state[f, _TRIGGER] and t - clock[0] <= _LONGEST_NS and k < len(out):
            state[f, _TRIGGER] = clock[0]
            out[k, 0], out[k, 1], out[k, 2], out[k, 3] = 0, f, t, t - clock[0]
            k += 1
    return k


class TickToTrade:
    """Tick to trade of all order flows at one tap.

    Parameters
    ----------
    flows : FlowTable
    feeds : Feeds
        Tells which destinations are market data; must have seen the batch before.
    named : bool
        Look for orders that name their trigger (costs a look into every market-data packet).
    """

    def __init__(self, flows: FlowTable, feeds: Feeds, *, named: bool = True) -> None:
        self._named = named
        self._flows, self._feeds = flows, feeds
        self._ring = np.full((_RING, 2), -1, np.int64)
        self._clock = np.full(1, _NULL, np.int64)
        self._state = np.zeros((256, 4), np.int64)
        self._head = np.zeros(6, np.int64)
        self._out = np.empty((0, 4), np.int64)

    def push(self, packets: Packets, flow: NDArray[np.int32]) -> Int64:
        """Feed a batch; return rows (0, flow of the order, time of the order, ns since its trigger).

        The rows are a buffer that the next call overwrites.
        """
        count = self._flows.count
        if count > len(self._state):
            grow = max(count, 2 * len(self._state)) - len(self._state)
            self._state = np.concatenate([self._state, np.zeros((grow, 4), np.int64)])
        p = packets
        most = 4 * p.n + 64 if self._named else p.n
        if len(self._out) < most:
            self._out = np.empty((most, 4), np.int64)
        rows = _trade(
            p.n, p.time_ns, flow, p.protocol, p.tcp_flags, p.tcp_seq, p.src_port, p.dst_port, p.payload_len,
            p.payload_cap, p.payload_off, p.data, self._feeds.group_of, self._feeds.groups, self._head, self._ring,
            self._clock, self._state, self._named, self._out,
        )  # fmt: skip
        return self._out[:rows]
