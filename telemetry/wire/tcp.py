"""TCP of one tap: round trips, retransmissions, windows, resets, and Nagle meeting delayed acknowledgements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from telemetry.types import Int64
from telemetry.wire.flows import FlowTable
from telemetry.wire.tcpkernel import TCP_FIELDS, U_LINK, segments

if TYPE_CHECKING:
    from telemetry.capture.columns import Packets

__all__ = ["Tcp"]


class Tcp:
    """TCP analysis of one capture.

    Parameters
    ----------
    flows : FlowTable
        The table that gave the flow ids.
    pool : int
        Segments without acknowledgement that are remembered, over all flows (32 bytes each).
    """

    def __init__(self, flows: FlowTable, pool: int = 1 << 20) -> None:
        self._flows = flows
        self._state = np.zeros((1024, TCP_FIELDS), np.int64)
        self._pool = np.zeros((min(pool, 1 << 14), 4), np.int64)
        self._limit = pool
        self._pool[:, U_LINK] = np.arange(1, len(self._pool) + 1)
        self._pool[-1, U_LINK] = -1
        self._free = np.zeros(2, np.int64)  # the first free segment, and how many are taken
        self._counts = np.zeros(2, np.int64)
        self._out = np.empty((0, 4), np.int64)

    @property
    def segments(self) -> int:
        """Segments seen."""
        return int(self._counts[0])

    @property
    def forgotten(self) -> int:
        """Segments that could not be remembered; their round trips are missing."""
        return int(self._counts[1])

    def push(self, packets: Packets, flow: NDArray[np.int32]) -> Int64:
        """Feed a batch; return rows (kind, flow, time, value), kinds as in `tcpkernel.EVENTS`.

        The rows are a buffer that the next call overwrites.
        """
        self._reserve(packets.n)
        p = packets
        rows = segments(
            p.n, p.time_ns, flow, p.protocol, p.frag, p.tcp_seq, p.tcp_ack, p.tcp_flags, p.tcp_window, p.payload_len,
            p.ts_val, p.ts_ecr, p.mss, self._flows.peer, self._state, self._pool, self._free, self._counts, self._out,
        )  # fmt: skip
        return self._out[:rows]

    def _reserve(self, n: int) -> None:
        flows = self._flows.count
        if flows > len(self._state):
            grow = max(flows, 2 * len(self._state)) - len(self._state)
            self._state = np.concatenate([self._state, np.zeros((grow, TCP_FIELDS), np.int64)])
        if len(self._out) < 8 * n:
            self._out = np.empty((8 * n, 4), np.int64)
        size = len(self._pool)
        if size < self._limit and self._free[1] + n > size:
            grow = min(self._limit, max(2 * size, size + n)) - size
            more = np.zeros((grow, 4), np.int64)
            more[:, U_LINK] = np.arange(size + 1, size + grow + 1)
            more[-1, U_LINK] = self._free[0]
            self._pool = np.concatenate([self._pool, more])
            self._free[0] = size
