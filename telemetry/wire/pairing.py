"""One-way latency and loss between taps: the same packet found again by its fingerprint.

Every packet waits `timeout_ns` for its copy at the other taps. A copy of the same flow is
preferred; a copy under other addresses is accepted only where it is the only candidate (NAT), and the
translation is remembered. Twins that cannot be told apart are counted and give no latency. What did
not arrive in time at a tap that the flow is known to reach is lost between the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from telemetry.types import Int64, Nanos

__all__ = ["COUNTS", "MAX_TAPS", "Matches", "Pairing"]

MAX_TAPS: Final = 8
COUNTS: Final = (
    "matched", "lost", "duplicates", "ambiguous", "negative", "upstream_missed", "outside", "one_tap", "evicted",
    "translated",
)  # fmt: skip
_MATCHED, _LOST, _DUP, _AMBIG, _NEG, _UPSTREAM, _OUTSIDE, _ONE, _EVICTED, _NAT = range(10)

# Columns of an entry (a packet that waits), int64 each.
_KEY, _LAST_T, _TAP, _LAST_TAP, _FLOW, _TTL, _SEEN, _NEXT, _TWIN, _DONE = range(10)
_SURE: Final = 16  # matches of a flow in one direction before the opposite order means that clocks disagree


@njit(cache=True, nogil=True)
def _expire(  # type: ignore[no-untyped-def]
    until, entry, fps, bucket, span, taps, votes, slowest, cover, counts, out, kind, k,
):  # fmt: skip
    """Settle all entries with key < until; return rows written to `out`."""
    mask = len(fps) - 1
    bmask = np.uint64(len(bucket) - 1)
    while span[0] < span[1]:
        s = span[0] & mask
        if entry[s, _KEY] >= until:
            break
        b = fps[s] & bmask
        at = np.int64(bucket[b])
        if at == s:
            bucket[b] = np.int32(entry[s, _NEXT])
        else:
            while entry[at, _NEXT] != s:
                at = entry[at, _NEXT]
            entry[at, _NEXT] = entry[s, _NEXT]
        span[0] += 1
        flow, i, t = entry[s, _FLOW], entry[s, _LAST_TAP], entry[s, _LAST_T]
        if flow < 0:
            continue
        expected = False
        upstream = False
        for j in range(taps):
            if j == i or (entry[s, _SEEN] >> j) & 1:
                continue
            there, back = votes[flow, i * taps + j], votes[flow, j * taps + i]
            if there > back:
                expected = True
                if entry[s, _TWIN] and not entry[s, _DONE]:
                    counts[_DUP] += 1
                elif t < cover[j, 0] or (cover[j, 2] and t + slowest[flow, i * taps + j] > cover[j, 1]):
                    counts[_OUTSIDE] += 1
                else:
                    counts[_LOST] += 1
                    out[k, 0], out[k, 1], out[k, 2], out[k, 3] = flow, i * taps + j, t, 1
                    kind[k] = 1
                    k += 1
            elif back > there:
                upstream = True
        if not expected and not entry[s, _DONE]:
            if entry[s, _TWIN]:
                counts[_DUP] += 1
            elif upstream:
                counts[_UPSTREAM] += 1
            else:
                counts[_ONE] += 1
    return k


@njit(cache=True, nogil=True)
def _pair(  # type: ignore[no-untyped-def]
    n, fp, time, key, tap, flow, ttl, timeout, entry, fps, bucket, span, taps, votes, slowest, nat, cover, counts,
    out, kind,
):  # fmt: skip
    """Feed packets in key order; rows of `out`: flow, from * taps + to, time, value; kind 0 latency, 1 lost."""
    mask = len(fps) - 1
    bmask = np.uint64(len(bucket) - 1)
    k = 0
    for p in range(n):
        k = _expire(key[p] - timeout, entry, fps, bucket, span, taps, votes, slowest, cover, counts, out, kind, k)
        if span[1] - span[0] > mask:  # full: the oldest is settled early
            counts[_EVICTED] += 1
            oldest = entry[span[0] & mask, _KEY]
            k = _expire(oldest + 1, entry, fps, bucket, span, taps, votes, slowest, cover, counts, out, kind, k)
        h, j, f = fp[p], np.int64(tap[p]), np.int64(flow[p])
        b = h & bmask
        at = np.int64(bucket[b])
        best = np.int64(-1)
        best_rank = 3
        candidates = 0
        same = 0
        twin = False
        while at >= 0:
            if fps[at] == h:
                if (entry[at, _SEEN] >> j) & 1:
                    if entry[at, _FLOW] == f:
                        twin = True
                else:
                    candidates += 1
                    g = entry[at, _FLOW]
                    rank = 0 if g == f else (1 if g >= 0 and nat[g, j] == f else 2)
                    if rank < best_rank:
                        best, best_rank, same = at, rank, 1
                    elif rank == best_rank:
                        best, same = at, same + 1  # the chain runs from new to old: the oldest wins
            at = entry[at, _NEXT]
        if best >= 0 and best_rank == 2:
            g = entry[best, _FLOW]
            # Another flow's packet is the same one only if nothing else speaks for it.
            if candidates > 1 or twin or nat[g, j] >= 0 or nat[f, j] == -2:
                if candidates > 1:
                    counts[_AMBIG] += 1
                best = np.int64(-1)
            else:
                counts[_NAT] += 1
                nat[g, j] = f
        if best < 0:
            s = span[1] & mask
            span[1] += 1
            fps[s] = h
            entry[s, _KEY], entry[s, _LAST_T], entry[s, _TAP], entry[s, _LAST_TAP] = key[p], time[p], j, j
            entry[s, _FLOW], entry[s, _TTL], entry[s, _SEEN] = f, ttl[p], np.int64(1) << j
            entry[s, _TWIN], entry[s, _DONE] = np.int64(twin), 0
            entry[s, _NEXT] = bucket[b]
            bucket[b] = np.int32(s)
            continue
        g, i = entry[best, _FLOW], entry[best, _LAST_TAP]
        if best_rank == 0 and g >= 0:
            nat[g, j] = -2  # this flow keeps its addresses: never look for it under others
        there, back = i * taps + j, j * taps + i
        if same > 1:
            counts[_AMBIG] += 1
        else:
            value = time[p] - entry[best, _LAST_T]
            counts[_MATCHED] += 1
            reverse = votes[g, back] >= _SURE and votes[g, back] > 4 * votes[g, there]
            if entry[best, _TTL] != ttl[p]:
                reverse = entry[best, _TTL] < ttl[p]
            if reverse:
                out[k, 0], out[k, 1], out[k, 2], out[k, 3] = g, back, time[p], -value
                counts[_NEG] += value > 0
                if votes[g, back] == 0:
                    votes[g, back] = 1
            else:
                out[k, 0], out[k, 1], out[k, 2], out[k, 3] = g, there, time[p], value
                votes[g, there] += 1
                slowest[g, there] = max(slowest[g, there], value)
            kind[k] = 0
            k += 1
        entry[best, _SEEN] |= np.int64(1) << j
        entry[best, _LAST_TAP], entry[best, _LAST_T], entry[best, _TTL] = j, time[p], ttl[p]
        entry[best, _DONE] = 1
    return k


@dataclass(frozen=True, slots=True)
class Matches:
    """What a step found: columns of equal length.

    Parameters
    ----------
    flow : (n,) int64
    tap_from, tap_to : (n,) int64, tap numbers
    time_ns : (n,) int64
        Latency: arrival at the later tap. Loss: when it passed the last tap that saw it.
    value : (n,) int64
        Latency in ns (negative where clocks disagree), or 1 for a loss.
    """

    flow: Int64
    tap_from: Int64
    tap_to: Int64
    time_ns: Int64
    value: Int64


class Pairing:
    """Matches packets of several taps.

    Parameters
    ----------
    taps : int
        How many (at most `MAX_TAPS`).
    timeout_ns : int
        How long a packet waits for its copy.
    limit : int
        Most packets waiting at once (a power of two); beyond it the oldest are settled early.

    Attributes
    ----------
    counts : dict
        Packets by fate (`COUNTS`). ``lost + matched + ...`` accounts for every packet fed.
    """

    def __init__(self, taps: int, timeout_ns: Nanos = 1_000_000_000, limit: int = 1 << 21) -> None:
        if not 2 <= taps <= MAX_TAPS:
            raise ValueError(f"taps: expected 2 to {MAX_TAPS}, got {taps}")
        self._taps = taps
        self.timeout_ns = timeout_ns
        self._limit = limit
        self._entry = np.zeros((1 << 14, 10), np.int64)
        self._fps = np.zeros(1 << 14, np.uint64)
        self._bucket = np.full(1 << 15, -1, np.int32)
        self._span = np.zeros(2, np.int64)
        self._votes = np.zeros((1024, taps * taps), np.int32)
        self._slowest = np.zeros((1024, taps * taps), np.int64)
        self._nat = np.full((1024, taps), -1, np.int32)
        self._cover = np.zeros((taps, 3), np.int64)
        self._cover[:, 0] = np.iinfo(np.int64).max
        self._counts = np.zeros(len(COUNTS), np.int64)

    @property
    def counts(self) -> dict[str, int]:
        return dict(zip(COUNTS, self._counts.tolist(), strict=True))

    def begin(self, tap: int, first_ns: Nanos) -> None:
        """Say when a tap's capture starts: what passed before is not missed there."""
        self._cover[tap, 0] = first_ns

    def end(self, tap: int, last_ns: Nanos) -> None:
        """Say when a tap's capture stopped."""
        self._cover[tap, 1], self._cover[tap, 2] = last_ns, 1

    def push(
        self,
        fp: NDArray[np.uint64],
        time_ns: Int64,
        key_ns: Int64,
        tap: Int64,
        flow: Int64,
        ttl: Int64,
        flows: int,
    ) -> tuple[Matches, Matches]:
        """Feed packets of all taps, merged in `key_ns` order; return (latencies, losses).

        `key_ns` is the time with steps back levelled out, so that it never decreases; `flows` is how
        many flow ids exist.
        """
        self._reserve(flows, len(fp))
        live = int(self._span[1] - self._span[0])
        out, kind = self._room(len(fp) + (len(fp) + live) * (self._taps - 1))
        rows = _pair(
            len(fp), fp, time_ns, key_ns, tap, flow, ttl, self.timeout_ns, self._entry, self._fps, self._bucket,
            self._span, self._taps, self._votes, self._slowest, self._nat, self._cover, self._counts, out, kind,
        )  # fmt: skip
        return self._split(out[:rows], kind[:rows])

    def expire(self, before_ns: Nanos | None = None) -> Matches:
        """Settle what has waited since before `before_ns` (all, if None); return the losses."""
        until = np.iinfo(np.int64).max if before_ns is None else before_ns
        out, kind = self._room(int(self._span[1] - self._span[0]) * (self._taps - 1))
        rows = _expire(
            until, self._entry, self._fps, self._bucket, self._span, self._taps, self._votes, self._slowest,
            self._cover, self._counts, out, kind, 0,
        )  # fmt: skip
        return self._split(out[:rows], kind[:rows])[1]

    def _room(self, rows: int) -> tuple[Int64, NDArray[np.int8]]:
        return np.empty((max(rows, 1), 4), np.int64), np.empty(max(rows, 1), np.int8)

    def _split(self, out: Int64, kind: NDArray[np.int8]) -> tuple[Matches, Matches]:
        def cut(at: NDArray[np.bool_]) -> Matches:
            flow, pair, time, value = out[at].T
            return Matches(flow, pair // self._taps, pair % self._taps, time, value)

        return cut(kind == 0), cut(kind == 1)

    def _reserve(self, flows: int, packets: int) -> None:
        if flows > len(self._votes):
            grow = max(flows, 2 * len(self._votes)) - len(self._votes)
            self._votes = np.concatenate([self._votes, np.zeros((grow, self._taps**2), np.int32)])
            self._slowest = np.concatenate([self._slowest, np.zeros((grow, self._taps**2), np.int64)])
            self._nat = np.concatenate([self._nat, np.full((grow, self._taps), -1, np.int32)])
        live = int(self._span[1] - self._span[0])
        size = len(self._fps)
        if live + packets > size and size < self._limit:
            self._grow(min(self._limit, 1 << (2 * (live + packets) - 1).bit_length()))

    def _grow(self, size: int) -> None:
        """Move the waiting packets to a larger ring; chains keep their order from new to old."""
        lo, hi = int(self._span[0]), int(self._span[1])
        old = np.arange(lo, hi) & (len(self._fps) - 1)
        entry, fps = np.zeros((size, self._entry.shape[1]), np.int64), np.zeros(size, np.uint64)
        new = np.arange(lo, hi) & (size - 1)
        entry[new], fps[new] = self._entry[old], self._fps[old]
        bucket = np.full(2 * size, -1, np.int32)
        _relink(entry, fps, bucket, lo, hi)
        self._entry, self._fps, self._bucket = entry, fps, bucket


@njit(cache=True, nogil=True)
def _relink(entry, fps, bucket, lo, hi):  # type: ignore[no-untyped-def]
    mask = len(fps) - 1
    bmask = np.uint64(len(bucket) - 1)
    for at in range(lo, hi):
        s = at & mask
        b = fps[s] & bmask
        entry[s, _NEXT] = bucket[b]
        bucket[b] = np.int32(s)
