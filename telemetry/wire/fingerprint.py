"""What stays the same in a packet from tap to tap, as 64 bits.

Addresses, ports, TTL, checksums and VLAN tags may change on the way (routers, NAT, switches); IP
identification, TCP sequence numbers, lengths and the payload do not. Two taps may snap packets at
different lengths, so only the first `hash_bytes` of the payload count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit
from numpy.typing import NDArray

if TYPE_CHECKING:
    from telemetry.capture.columns import Packets

__all__ = ["HASH_BYTES", "fingerprints"]

HASH_BYTES = 48
"""Payload bytes that count: what a snap length of 128 keeps behind VLANs, IPv4 and TCP options."""


@njit(cache=True, nogil=True)
def _step(h, word):  # type: ignore[no-untyped-def]
    h = (h ^ word) * np.uint64(0x9E3779B97F4A7C15)
    return h ^ (h >> np.uint64(32))


@njit(cache=True, nogil=True)
def _fingerprints(  # type: ignore[no-untyped-def]
    n, version, proto, ip_id, frag, seq, ack, flags, ts_val, plen, pcap, poff, data, hash_bytes, out, valid,
):  # fmt: skip
    snapped = 0
    size = len(data)
    for i in range(n):
        valid[i] = version[i] != 0
        if version[i] == 0:
            out[i] = 0
            continue
        want = min(np.int64(plen[i]), np.int64(hash_bytes))
        if want < 0:
            want = np.int64(0)
        off = poff[i]
        if pcap[i] < want or (want > 0 and (off < 0 or off + want > size)):
            valid[i] = False
            snapped += 1
            out[i] = 0
            continue
        h = np.uint64(0xA0761D6478BD642F) ^ np.uint64(np.uint16(proto[i]))
        h = _step(h, (np.uint64(np.uint32(ip_id[i])) << np.uint64(32)) | np.uint64(np.uint32(plen[i])))
        if proto[i] == 6 and frag[i] != 1:
            h = _step(h, (np.uint64(seq[i]) << np.uint64(32)) ^ np.uint64(ack[i]))
            h = _step(h, (np.uint64(ts_val[i]) << np.uint64(12)) ^ np.uint64(np.uint16(flags[i])))
        at = off
        stop = off + want
        while at + 8 <= stop:
            word = np.uint64(0)
            for k in range(8):
                word = (word << np.uint64(8)) | np.uint64(data[at + k])
            h = _step(h, word)
            at += 8
        word = np.uint64(0)
        while at < stop:
            word = (word << np.uint64(8)) | np.uint64(data[at])
            at += 1
        h = _step(h, word)
        out[i] = _step(h, h >> np.uint64(31))
    return snapped


def fingerprints(packets: Packets, hash_bytes: int = HASH_BYTES) -> tuple[NDArray[np.uint64], NDArray[np.bool_], int]:
    """Return (fingerprint of each packet, whether it has one, how many were snapped too short).

    Packets that are not IP have none.
    """
    p = packets
    out = np.empty(p.n, np.uint64)
    valid = np.empty(p.n, np.bool_)
    snapped = _fingerprints(
        p.n, p.ip_version, p.protocol, p.ip_id, p.frag, p.tcp_seq, p.tcp_ack, p.tcp_flags, p.ts_val,
        p.payload_len, p.payload_cap, p.payload_off, p.data, hash_bytes, out, valid,
    )  # fmt: skip
    return out, valid, int(snapped)
