"""A row group of packets: batches are copied into it, and it becomes a Parquet file in memory."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.addresses import Addresses
from telemetry.capture.columns import HAS_HW, HAS_TCP, HAS_TUNNEL, HAS_VLAN
from telemetry.capture.packets import NULL, TUNNELS, Packets

__all__ = ["COLUMNS", "ROWS", "SCHEMA", "RowGroup", "parquet"]

ROWS: Final = 1 << 17  # of a row group

# (name in the file, name in a batch, type in the file, sparse group or 0)
_PLAIN: Final[tuple[tuple[str, str, Any, int], ...]] = (
    ("time_ns", "time_ns", pa.int64(), 0),
    ("hw_time_ns", "hw_time_ns", pa.int64(), HAS_HW),
    ("hw_sub_ns", "hw_sub_ns", pa.float32(), HAS_HW),
    ("hw_device", "hw_device", pa.int32(), HAS_HW),
    ("hw_port", "hw_port", pa.int32(), HAS_HW),
    ("interface", "interface", pa.int32(), 0),
    ("link_type", "linktype", pa.int32(), 0),
    ("cap_len", "cap_len", pa.int32(), 0),
    ("wire_len", "wire_len", pa.int32(), 0),
    ("ether_type", "ether_type", pa.int32(), 0),
    ("vlan", "vlan", pa.int32(), HAS_VLAN),
    ("vlan_inner", "vlan_inner", pa.int32(), HAS_VLAN),
    ("src_port", "src_port", pa.int32(), 0),
    ("dst_port", "dst_port", pa.int32(), 0),
    ("protocol", "protocol", pa.int16(), 0),
    ("ttl", "ttl", pa.int16(), 0),
    ("ip_id", "ip_id", pa.int32(), 0),
    ("tcp_seq", "tcp_seq", pa.int64(), HAS_TCP),
    ("tcp_ack", "tcp_ack", pa.int64(), HAS_TCP),
    ("tcp_flags", "tcp_flags", pa.int16(), HAS_TCP),
    ("tcp_window", "tcp_window", pa.int32(), HAS_TCP),
    ("payload_len", "payload_len", pa.int32(), 0),
    ("tunnel_id", "tunnel_id", pa.int64(), HAS_TUNNEL),
)
_ADDRESSES: Final = (
    ("src", "src_hi", "src_lo", "ip_version", 0),
    ("dst", "dst_hi", "dst_lo", "ip_version", 0),
    ("outer_src", "outer_src_hi", "outer_src_lo", "outer_version", HAS_TUNNEL),
    ("outer_dst", "outer_dst_hi", "outer_dst_lo", "outer_version", HAS_TUNNEL),
)
COLUMNS: Final = (
    "time_ns", "hw_time_ns", "hw_sub_ns", "hw_device", "hw_port", "interface", "link_type", "cap_len", "wire_len",
    "ether_type", "vlan", "vlan_inner", "src", "dst", "src_port", "dst_port", "protocol", "ttl", "ip_id", "tcp_seq",
    "tcp_ack", "tcp_flags", "tcp_window", "payload_len", "outer_src", "outer_dst", "tunnel", "tunnel_id", "recovered",
    "file",
)  # fmt: skip
_SMALL: Final = (  # a few bits a row once they are coded: compressing them costs more than it gains
    "hw_sub_ns", "hw_device", "hw_port", "interface", "link_type", "ether_type", "vlan", "vlan_inner", "protocol",
    "ttl", "tcp_flags", "tcp_window", "tunnel", "recovered", "file",
)  # fmt: skip
_NULLS: Final[dict[str, Any]] = {
    name: NULL if name == "hw_time_ns" else np.nan if name == "hw_sub_ns" else -1 for name, *_ in _PLAIN
}
_TEXT: Final = pa.dictionary(pa.int32(), pa.string())
_ALWAYS: Final = ("interface", "link_type", "cap_len", "wire_len", "recovered", "file")
_DELTA: Final = ("time_ns", "hw_time_ns", "ip_id", "tcp_seq", "tcp_ack", "tunnel_id")


def _schema() -> pa.Schema:
    types = {name: kind for name, _, kind, _ in _PLAIN}
    types["recovered"] = pa.bool_()
    return pa.schema([pa.field(name, types.get(name, _TEXT), name not in _ALWAYS) for name in COLUMNS])


SCHEMA: Final = _schema()


class RowGroup:
    """A row group being filled.

    Parameters
    ----------
    addresses : Addresses
        Numbers those of the group; may be shared by groups that are filled one after the other.
    """

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        self.n = 0
        self.has = 0
        self.plain = {name: np.empty(ROWS, kind.to_pandas_dtype()) for name, _, kind, _ in _PLAIN}
        self.address = {name: np.empty(ROWS, np.int32) for name, *_ in _ADDRESSES}
        self.tunnel = np.empty(ROWS, np.uint8)
        self.recovered = np.empty(ROWS, np.uint8)
        self.file = np.empty(ROWS, np.int32)
        self.texts: list[str] = []
        self.files: list[str] = []

    def fill(self, batch: Packets, source: slice, into: slice) -> None:
        """Copy rows `source` of a batch to places `into`."""
        fresh = batch.has & ~self.has  # first values of a sparse column in this row group
        self.has |= batch.has
        for name, field, _, sparse in _PLAIN:
            column = self.plain[name]
            if sparse & fresh:
                column[: into.start] = _NULLS[name]
            if sparse & batch.has or not sparse:
                column[into] = getattr(batch, field)[source]
            elif sparse & self.has:
                column[into] = _NULLS[name]
        for name, hi, lo, version, sparse in _ADDRESSES:
            column = self.address[name]
            if sparse & fresh:
                column[: into.start] = -1
            if sparse & batch.has or not sparse:
                self._addresses.codes(
                    getattr(batch, hi)[source], getattr(batch, lo)[source], getattr(batch, version)[source],
                    column[into],
                )  # fmt: skip
            elif sparse & self.has:
                column[into] = -1
        self.tunnel[into] = batch.tunnel[source]
        self.recovered[into] = batch.recovered[source]
        self.file[into] = batch.file

    def encode(self) -> pa.Buffer:
        """The rows as a Parquet file in memory."""
        n = self.n
        arrays: dict[str, pa.Array] = {}
        for name, _, kind, sparse in _PLAIN:
            absent = sparse and not sparse & self.has
            values = self.plain[name][:n]
            if name in _ALWAYS:
                arrays[name] = pa.Array.from_buffers(kind, n, [None, pa.py_buffer(values)])
            else:
                arrays[name] = pa.nulls(n, kind) if absent else _nullable(values, kind)
        texts = pa.array(self.texts, pa.string())
        for name, *_, sparse in _ADDRESSES:
            absent = sparse and not sparse & self.has
            arrays[name] = pa.nulls(n, _TEXT) if absent else _dictionary(self.address[name][:n], texts)
        tunnels = pa.array(TUNNELS[1:], pa.string())
        if self.has & HAS_TUNNEL:
            arrays["tunnel"] = _dictionary(self.tunnel[:n].astype(np.int32) - 1, tunnels)
        else:
            arrays["tunnel"] = pa.nulls(n, _TEXT)
        arrays["recovered"] = _bits(self.recovered[:n])
        arrays["file"] = _dictionary(self.file[:n], pa.array(self.files, pa.string()))
        return parquet(pa.table([arrays[name] for name in COLUMNS], schema=SCHEMA))


def parquet(table: pa.Table) -> pa.Buffer:
    """One row group as a Parquet file in memory."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=max(len(table), 1),
        compression={name: "none" if name in _SMALL else "lz4" for name in COLUMNS},
        use_dictionary=[name for name in COLUMNS if name not in (*_DELTA, "hw_sub_ns")],
        column_encoding=dict.fromkeys(_DELTA, "DELTA_BINARY_PACKED"),
        write_statistics=["time_ns", "hw_time_ns"],
        data_page_size=1 << 20,
    )
    return sink.getvalue()


def _validity(valid: NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(valid, bitorder="little"))


def _nullable(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
    """Arrow over the same memory, with the batch's nulls (NULL, -1, NaN) as nulls."""
    if values.dtype.kind == "f":
        valid = _validity(values == values)
    else:
        least = values.min()
        valid = None
        if least < 0:
            if values.max() < 0:
                return pa.nulls(len(values), kind)
            # only times can be below -1: then NULL is what is missing
            valid = _validity(values != NULL if least < -1 else values != -1)
    return pa.Array.from_buffers(kind, len(values), [valid, pa.py_buffer(values)])


def _dictionary(codes: NDArray[np.int32], texts: pa.Array) -> pa.Array:
    valid = None
    if codes.min() < 0:
        if codes.max() < 0:
            return pa.nulls(len(codes), _TEXT)
        valid = _validity(codes >= 0)
    indices = pa.Array.from_buffers(pa.int32(), len(codes), [valid, pa.py_buffer(codes)])
    return pa.DictionaryArray.from_arrays(indices, texts, safe=False)  # the codes are ours: in range


def _bits(values: NDArray[np.uint8]) -> pa.Array:
    return pa.Array.from_buffers(
        pa.bool_(), len(values), [None, pa.py_buffer(np.packbits(values != 0, bitorder="little"))]
    )
