"""The batch of packets: a struct of arrays, reused from batch to batch.

Kernels write two-dimensional blocks, one per dtype, ``block[COLUMN, row]``; people read the named
columns of `Packets`, which are views of the same memory. Rows of a block are padded so that columns
do not share cache sets.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["NULL", "TUNNELS", "Arena", "Packets"]

NULL: Final = int(np.iinfo(np.int64).min)
"""A missing time. Other integers are missing as -1, fractions as NaN, addresses where `ip_version` is 0."""

TUNNELS: Final = (
    "", "gre", "ipip", "6in4", "vxlan", "erspan1", "erspan2", "erspan3", "4in6", "6in6", "pptp", "geneve", "etherip",
    "mpls",
)  # fmt: skip
"""Names of the codes in `Packets.tunnel`; 0 is no tunnel."""

I64_COLUMNS: Final = (
    "time_ns", "hw_time_ns", "frame_off", "payload_off", "tcp_seq", "tcp_ack", "ts_val", "ts_ecr",
    "sack0_lo", "sack0_hi", "sack1_lo", "sack1_hi", "tunnel_id", "l3_end",
)  # fmt: skip
U64_COLUMNS: Final = (
    "src_hi", "src_lo", "dst_hi", "dst_lo", "outer_src_hi", "outer_src_lo", "outer_dst_hi", "outer_dst_lo",
    "head0", "head1", "head2",
)  # fmt: skip
I32_COLUMNS: Final = (
    "interface", "cap_len", "wire_len", "linktype", "ether_type", "src_port", "dst_port", "ip_id",
    "payload_len", "payload_cap", "tcp_window", "mss", "vlan", "vlan_inner", "hw_device", "hw_port",
)  # fmt: skip
I16_COLUMNS: Final = ("protocol", "ttl", "tcp_flags", "wscale", "sack_count", "message_type", "message_code")
U8_COLUMNS: Final = ("ip_version", "frag", "tunnel", "recovered", "outer_version")
F32_COLUMNS: Final = ("hw_sub_ns",)

(TIME, HW_TIME, FRAME, PAYLOAD, SEQ, ACK, TS_VAL, TS_ECR, SACK0_LO, SACK0_HI, SACK1_LO, SACK1_HI, TUNNEL_ID, L3_END) = (
    range(14)
)
SRC_HI, SRC_LO, DST_HI, DST_LO, OSRC_HI, OSRC_LO, ODST_HI, ODST_LO, HEAD0, HEAD1, HEAD2 = range(11)
(IFACE, CAP, WIRE, LINK, ETYPE, SPORT, DPORT, IPID, PLEN, PCAP, WINDOW, MSS, VLAN, VLAN2, HW_DEV, HW_PORT) = range(16)
PROTO, TTL, FLAGS, WSCALE, SACKS, MTYPE, MCODE = range(7)
VERSION, FRAG, TUNNEL, RECOVERED, OVERSION = range(5)
HW_SUB = 0

# What a batch dirtied beyond the columns that every row gets; told by the decode kernel, undone by Arena.clean.
HAS_VLAN, HAS_TCP, HAS_TS, HAS_SACK, HAS_SYN, HAS_TUNNEL, HAS_MESSAGE, HAS_HW, HAS_RECOVERED, HAS_IP6 = (
    1 << i for i in range(10)
)
# Not columns, but reasons to look for hardware stamps: bytes past the IP length; a frame like a keyframe.
HAS_TRAILER, HAS_KEYFRAME = 1 << 10, 1 << 11

int64: Any = np.int64
uint64: Any = np.uint64
"""The same functions, untyped: inside kernels numba types them."""

U8s: TypeAlias = NDArray[np.uint8]
U64s: TypeAlias = NDArray[np.uint64]
I64s: TypeAlias = NDArray[np.int64]
I32s: TypeAlias = NDArray[np.int32]
I16s: TypeAlias = NDArray[np.int16]
F32s: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Packets:
    """Packets ``[0, n)`` of one file, in file order.

    The arrays are views of buffers that the next batch overwrites: take what you need, or `copy`.
    Missing: times `NULL`; other integers -1; `hw_sub_ns` NaN; addresses where `ip_version` (or, for the
    outer ones, `outer_version`) is 0. Lengths in bytes.

    Parameters
    ----------
    n : int
    source : str
        The file ("-" is standard input); `file` its number in the set, from 0.
    has : int
        Which sparse columns have values in this batch (``HAS_VLAN``, ``HAS_TCP``, ...); the others are all missing.
    data : (bytes,) uint8
        The buffer that `frame_off` and `payload_off` point into.
    time_ns : (n,) int64
        Capture time. `NULL` for pcapng simple packets.
    hw_time_ns, hw_sub_ns, hw_device, hw_port
        Hardware stamp: ns, fraction of a ns in [0, 1), device and port numbers.
    frame_off, cap_len, wire_len
        ``data[frame_off:frame_off + cap_len]`` is the frame as captured; it was `wire_len` long.
    interface : (n,) int32
        pcapng interface index (ERF: port); 0 for single-interface containers.
    linktype : (n,) int32
        LINKTYPE_* of the frame. Link types that are not decoded still have times and lengths.
    ether_type : (n,) int32
        The innermost EtherType after VLAN tags (of the outermost frame); -1 if the link has none.
    vlan, vlan_inner : (n,) int32
        VLAN id of the outermost tag, and of the next.
    ip_version : (n,) uint8
        4, 6 or 0. Addresses, ports, ttl and TCP fields are the innermost decoded packet's.
    src_hi, src_lo, dst_hi, dst_lo : (n,) uint64
        IPv6 addresses in two halves; IPv4 in the low one. ARP has its protocol addresses here, with `ip_version` 0.
    protocol, ttl, ip_id
        IP protocol number (IPv6: after extension headers), TTL or hop limit, IPv4 identification.
    frag : (n,) uint8
        1 for a fragment that is not the first (so there are no ports), 2 for a first one that more follow.
    tcp_seq, tcp_ack, tcp_flags, tcp_window, ts_val, ts_ecr, mss, wscale
        TCP; flags are the 12 bits of the header; window unscaled.
    sack_count, sack0_lo, sack0_hi, sack1_lo, sack1_hi
        Number of SACK blocks, and the first two.
    message_type, message_code
        ICMP and ICMPv6 type and code, IGMP type, ARP operation.
    payload_off, payload_len, payload_cap
        UDP or TCP payload (else the IP payload): where, how long by the IP length, how much of it was captured.
    head0, head1, head2 : (n,) uint64
        The first 20 bytes of a UDP payload as big-endian numbers of 8, 8 and 4 bytes (0 if fewer were captured): most
        of what a feed's packet says, taken while it is near. A batch's bytes are more than a cache holds.
    tunnel, tunnel_id, outer_version, outer_src_hi, ...
        Code of the outermost tunnel (`TUNNELS`), its id (VXLAN network, GRE key, ERSPAN session), and its IP addresses.
    l3_end : (n,) int64
        Where the outermost network packet ends in `data` by its own length (-1 unknown); padding or a trailer follows.
    recovered : (n,) uint8
        1 for what was found past damage.
    """

    n: int
    source: str
    file: int
    has: int
    data: U8s
    time_ns: I64s
    hw_time_ns: I64s
    frame_off: I64s
    payload_off: I64s
    tcp_seq: I64s
    tcp_ack: I64s
    ts_val: I64s
    ts_ecr: I64s
    sack0_lo: I64s
    sack0_hi: I64s
    sack1_lo: I64s
    sack1_hi: I64s
    tunnel_id: I64s
    l3_end: I64s
    src_hi: U64s
    src_lo: U64s
    dst_hi: U64s
    dst_lo: U64s
    outer_src_hi: U64s
    outer_src_lo: U64s
    outer_dst_hi: U64s
    outer_dst_lo: U64s
    head0: U64s
    head1: U64s
    head2: U64s
    interface: I32s
    cap_len: I32s
    wire_len: I32s
    linktype: I32s
    ether_type: I32s
    src_port: I32s
    dst_port: I32s
    ip_id: I32s
    payload_len: I32s
    payload_cap: I32s
    tcp_window: I32s
    mss: I32s
    vlan: I32s
    vlan_inner: I32s
    hw_device: I32s
    hw_port: I32s
    protocol: I16s
    ttl: I16s
    tcp_flags: I16s
    wscale: I16s
    sack_count: I16s
    message_type: I16s
    message_code: I16s
    ip_version: U8s
    frag: U8s
    tunnel: U8s
    recovered: U8s
    outer_version: U8s
    hw_sub_ns: F32s

    def __len__(self) -> int:
        return self.n

    def copy(self) -> Packets:
        """A batch of its own, safe to keep."""
        own: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            own[f.name] = value.copy() if isinstance(value, np.ndarray) else value
        return Packets(**own)


_PAD = 72  # elements: columns start in different cache sets


class Arena:
    """The memory of a batch: one block per dtype, and a clean-up of only what the last batch wrote."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        width = rows + _PAD
        self.i64 = np.full((len(I64_COLUMNS), width), -1, np.int64)
        self.u64 = np.zeros((len(U64_COLUMNS), width), np.uint64)
        self.i32 = np.full((len(I32_COLUMNS), width), -1, np.int32)
        self.i16 = np.full((len(I16_COLUMNS), width), -1, np.int16)
        self.u8 = np.zeros((len(U8_COLUMNS), width), np.uint8)
        self.f32 = np.full((1, width), np.nan, np.float32)
        self.i64[TIME] = self.i64[HW_TIME] = NULL
        self._n = 0
        self._columns: list[Any] = []  # of the first `_n` rows
        self.dirty = 0

    def clean(self) -> None:
        """Put nulls back where the last batch wrote sparse columns."""
        n, dirty = self._n, self.dirty
        if dirty & HAS_VLAN:
            self.i32[VLAN : VLAN2 + 1, :n] = -1
        if dirty & HAS_TCP:
            self.i64[SEQ : ACK + 1, :n] = -1
            self.i32[WINDOW, :n] = -1
            self.i16[FLAGS, :n] = -1
        if dirty & HAS_TS:
            self.i64[TS_VAL : TS_ECR + 1, :n] = -1
        if dirty & HAS_SACK:
            self.i64[SACK0_LO : SACK1_HI + 1, :n] = -1
            self.i16[SACKS, :n] = -1
        if dirty & HAS_SYN:
            self.i32[MSS, :n] = -1
            self.i16[WSCALE, :n] = -1
        if dirty & HAS_TUNNEL:
            self.u8[TUNNEL, :n] = 0
            self.u8[OVERSION, :n] = 0
            self.i64[TUNNEL_ID, :n] = -1
            self.u64[OSRC_HI : ODST_LO + 1, :n] = 0
        if dirty & HAS_MESSAGE:
            self.i16[MTYPE : MCODE + 1, :n] = -1
        if dirty & HAS_HW:
            self.i64[HW_TIME, :n] = NULL
            self.i32[HW_DEV : HW_PORT + 1, :n] = -1
            self.f32[HW_SUB, :n] = np.nan
        if dirty & HAS_IP6:
            self.u64[SRC_HI, :n] = 0
            self.u64[DST_HI, :n] = 0
        if dirty & HAS_RECOVERED:
            self.u8[RECOVERED, :n] = 0
        self.dirty = 0

    def packets(self, n: int, data: U8s, source: str, file: int) -> Packets:
        """The first `n` rows, as named columns."""
        if n != self._n or not self._columns:  # most batches are as long as the one before
            blocks = (self.i64, self.u64, self.i32, self.i16, self.u8, self.f32)
            self._columns = [column for block in blocks for column in block[:, :n]]
        self._n = n
        return Packets(n, source, file, self.dirty, data, *self._columns)
