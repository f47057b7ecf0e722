"""A record in shared memory or in a file, described in TOML like a C struct: counters of a C++ component.

::

    path = "/dev/shm/strategy.stats"
    size = 64                            # of one record; more may follow (`count`)
    byte_order = "little"
    sequence = {offset = 0, type = "u32"}    # seqlock: odd while it is being written
    labels = {process = "strategy"}

    [fields.app_orders_total]            # metric; counters end in _total
    offset = 8
    type = "u64"

    [fields.app_latency_ns]
    offset = 16
    type = "i64"
    labels = {stage = "tick_to_ack"}
"""

from __future__ import annotations

import mmap
import os
import struct
import time
import tomllib
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from telemetry.errors import ConfigError
from telemetry.types import Events, Float64, Int64, SeriesKey

__all__ = ["RecordReader", "RecordSpec", "read_record_spec"]

_CODES = {
    "u8": "B",
    "i8": "b",
    "u16": "H",
    "i16": "h",
    "u32": "I",
    "i32": "i",
    "u64": "Q",
    "i64": "q",
    "f32": "f",
    "f64": "d",
}
Kind = Literal["u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64"]


class Place(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A number within a record."""

    offset: int
    type: Kind
    scale: float = 1
    labels: dict[str, str] = {}


class RecordSpec(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How to read a record. With ``count`` > 1, records follow each other and bear the label `index_label`."""

    path: str
    fields: dict[str, Place | list[Place]]
    size: int = 0
    count: int = 1
    index_label: str = "slot"
    byte_order: Literal["little", "big"] = "little"
    sequence: Place | None = None
    labels: dict[str, str] = {}


def read_record_spec(path: str | Path) -> RecordSpec:
    """Read and check a description.

    Raises
    ------
    ConfigError
        Not TOML, an unknown key or type, a field that lies outside the record.
    """
    try:
        spec = msgspec.convert(tomllib.loads(Path(path).read_text()), RecordSpec)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if not spec.fields:
        raise ConfigError(f"{path}: expected at least one [fields.METRIC]")
    places = [(m, p) for m, ps in spec.fields.items() for p in (ps if isinstance(ps, list) else [ps])]
    if spec.sequence is not None:
        places.append(("sequence", spec.sequence))
    ends = {m: p.offset + struct.calcsize(_CODES[p.type]) for m, p in places}
    if min(p.offset for _, p in places) < 0:
        raise ConfigError(f"{path}: expected offsets of 0 and more")
    size = spec.size or max(ends.values())
    for metric, end in ends.items():
        if end > size:
            raise ConfigError(f"{path}: {metric}: ends at byte {end}, beyond the record's {size}")
    if spec.count < 1:
        raise ConfigError(f"{path}: expected a count of 1 or more, got {spec.count}")
    return msgspec.structs.replace(spec, size=size)


class RecordReader:
    """Reads the record at each `poll`.

    Notes
    -----
    With a `sequence` the read is repeated while the number is odd or moves (a seqlock); after 100 tries the sample
    is left out and counted in `torn`. A file that is gone, too short or replaced is opened anew.
    """

    def __init__(self, spec: RecordSpec, host: str) -> None:
        self.torn = 0
        self.missing = ""
        self._spec = spec
        self._map: mmap.mmap | None = None
        self._inode = -1
        mark = "<" if spec.byte_order == "little" else ">"
        self._sequence = (
            None if spec.sequence is None else (struct.Struct(mark + _CODES[spec.sequence.type]), spec.sequence)
        )
        fields: dict[bool, list[tuple[SeriesKey, struct.Struct, int, float]]] = {False: [], True: []}
        for slot in range(spec.count):
            for metric, many in spec.fields.items():
                for place in many if isinstance(many, list) else [many]:
                    labels = {**spec.labels, **place.labels}
                    if spec.count > 1:
                        labels[spec.index_label] = str(slot)
                    key = SeriesKey.of(host, metric, **labels)
                    real = place.type in ("f32", "f64") or not float(place.scale).is_integer()
                    real = real and not metric.endswith("_total")
                    code = struct.Struct(mark + _CODES[place.type])
                    fields[real].append((key, code, slot * spec.size + place.offset, place.scale))
        self._fields = fields
        self._keys = {real: tuple(f[0] for f in some) for real, some in fields.items()}

    def poll(self) -> list[Events]:
        """One sample of all fields."""
        data = self._read()
        if data is None:
            return []
        now = time.time_ns()
        out = []
        for real, some in self._fields.items():
            if some:
                raw = [code.unpack_from(data, at)[0] * (scale if scale != 1 else 1) for _, code, at, scale in some]
                if not real:
                    raw = [((round(v) + 2**63) % 2**64) - 2**63 for v in raw]
                values: Int64 | Float64 = np.array(raw, np.float64) if real else np.array(raw, np.int64)
                stamp = np.full(len(some), now, np.int64)
                out.append(Events(self._keys[real], np.arange(len(some)), stamp, stamp, values))
        return out

    @property
    def trouble(self) -> str:
        """The record is not there, or was being written all the time."""
        if self.missing:
            return self.missing
        return f"{self._spec.path}: {self.torn} samples torn: its writer never rests" if self.torn else ""

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None

    def _read(self) -> bytes | None:
        try:
            if self._map is None or os.stat(self._spec.path).st_ino != self._inode:
                self._open()
        except (OSError, ValueError) as error:
            self.close()
            self.missing = f"{self._spec.path}: {error}"
            return None
        if self._map is None:
            return None
        need = self._spec.size * self._spec.count
        if self._sequence is None:
            return self._map[:need]
        code, place = self._sequence
        for _ in range(100):
            before = code.unpack_from(self._map, place.offset)[0]
            data = self._map[:need]
            if before % 2 == 0 and code.unpack_from(self._map, place.offset)[0] == before:
                return data
        self.torn += 1
        return None

    def _open(self) -> None:
        self.close()
        fd = os.open(self._spec.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            need = self._spec.size * self._spec.count
            if status.st_size < need:
                raise ValueError(f"expected {need} bytes, got {status.st_size}")
            self._map = mmap.mmap(fd, need, prot=mmap.PROT_READ)
            self._inode = status.st_ino
            self.missing = ""
        finally:
            os.close(fd)
