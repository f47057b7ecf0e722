"""What a reading met: counts, lengths, drops, and damage with its place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from numba import njit

from telemetry.capture.columns import (
    CAP,
    NULL,
    RECOVERED,
    TIME,
    WIRE,
    Arena,
    I32s,
    I64s,
    U8s,
    int64,
    uint64,
)

if TYPE_CHECKING:
    from telemetry.capture.reader import Reader

__all__ = ["CaptureStats", "Damage"]

MOST_DAMAGES: Final = 1000


@dataclass(frozen=True, slots=True)
class Damage:
    """What was wrong at byte `offset` of the (uncompressed) file, and where records go on (-1: nowhere)."""

    source: str
    offset: int
    what: str
    resumed: int = -1

    def __str__(self) -> str:
        on = f"; packets go on at byte {self.resumed}" if self.resumed >= 0 else ""
        return f"{self.source}: damaged at byte {self.offset}: {self.what}{on}"


@dataclass(slots=True)
class CaptureStats:
    """What a reading met, kept up to date from batch to batch.

    `read_bytes` counts bytes taken from disk (compressed ones), `total_bytes` their sum over the regular
    files met so far. `dropped` is what the containers themselves say was lost. `backwards` counts packets
    stamped earlier than the one before. `line_rate` is the highest speed that the container tells of an interface
    (bits a second, 0 if it tells none). `damages` keeps the first 1000, `damage_count` counts all.
    """

    files: int = 0
    packets: int = 0
    recovered: int = 0
    captured_bytes: int = 0
    wire_bytes: int = 0
    snapped: int = 0
    backwards: int = 0
    dropped: int = 0
    hardware: int = 0
    line_rate: int = 0
    first_ns: int = NULL
    last_ns: int = NULL
    read_bytes: int = 0
    total_bytes: int = 0
    damage_count: int = 0
    damages: list[Damage] = field(default_factory=list)
    stamp_formats: list[str] = field(default_factory=list)
    reader: Reader | None = field(default=None, repr=False, compare=False)

    def position(self) -> dict[str, Any]:
        """Where reading stands: JSON types, to be given to `read_packets` as `start` later."""
        return {} if self.reader is None else self.reader.position()

    def summary(self) -> dict[str, Any]:
        """All figures, as JSON types; times are null where there are none."""
        out: dict[str, Any] = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in ("damages", "reader", "first_ns", "last_ns")
        }
        out["first_ns"] = None if self.first_ns == NULL else self.first_ns
        out["last_ns"] = None if self.last_ns == NULL else self.last_ns
        out["damages"] = [
            {"source": d.source, "offset": d.offset, "what": d.what, "resumed": d.resumed if d.resumed >= 0 else None}
            for d in self.damages
        ]
        return out

    def note(self, damage: Damage) -> None:
        """Count a damage, and keep it if there are not too many already."""
        self.damage_count += 1
        if len(self.damages) < MOST_DAMAGES:
            self.damages.append(damage)

    def count(self, arena: Arena, n: int, last_ns: int) -> int:
        """Add the first `n` rows; return the last time in them."""
        cap, wire, snapped, recovered, backwards, least, most, last_ns = _tally(
            n, arena.i64, arena.i32, arena.u8, last_ns
        )
        self.packets += n
        self.captured_bytes += cap
        self.wire_bytes += wire
        self.snapped += snapped
        self.recovered += recovered
        self.backwards += backwards
        if least != NULL:
            self.first_ns = least if self.first_ns == NULL else min(self.first_ns, least)
            self.last_ns = max(self.last_ns, most)
        return last_ns


@njit(cache=True, nogil=True)
def _tally(n: int, i64: I64s, i32: I32s, u8: U8s, last_ns: int) -> tuple[int, int, int, int, int, int, int, int]:
    cap = int64(0)
    wire = int64(0)
    snapped = 0
    recovered = 0
    backwards = 0
    least = int64(NULL)
    most = int64(NULL)
    for number in range(n):  # apart from the times: these sums the compiler makes eight at a time
        i = uint64(number)
        cap += i32[CAP, i]
        wire += i32[WIRE, i]
        snapped += i32[CAP, i] < i32[WIRE, i]
        recovered += u8[RECOVERED, i]
    for number in range(n):
        t = i64[TIME, uint64(number)]
        if t != NULL:
            backwards += t < last_ns
            last_ns = t
            most = max(most, t)
            if t < least or least == NULL:
                least = t
    return cap, wire, snapped, recovered, backwards, least, most, last_ns
