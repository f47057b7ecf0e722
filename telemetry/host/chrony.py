"""What chronyd says of the clock: its command protocol, version 6, the ``tracking`` report alone.

A request of 104 bytes (as long as the reply, so that it cannot be used to amplify) and a reply of 104, big endian;
floats are 7 bits of exponent and 25 of coefficient, both signed. The layout is that of chrony's ``candm.h``.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Sequence
from typing import NamedTuple

from telemetry.errors import InputError
from telemetry.host.ask import TIMEOUT_S, asking_socket
from telemetry.types import Int64, Nanos, SeriesKey

__all__ = ["Chrony", "Tracking", "parse_tracking", "request"]

SOCKETS = ("/run/chrony/chronyd.sock", "/var/run/chrony/chronyd.sock")
UDP = ("127.0.0.1", 323)
_REQUEST = struct.Struct("!BBxxHHI8x")
_REPLY = struct.Struct("!BBxxHHH6xI8x")
_TRACKING = struct.Struct("!I20xHHIII9I")
_VERSION, _ASKED, _ANSWERED = 6, 1, 2
_TRACKING_ASKED, _TRACKING_ANSWERED = 33, 5
_NOT_SYNCHRONISED = 3  # the leap status
_METRICS = (
    "clock_offset_ns", "clock_max_error_ns", "clock_frequency_ppb", "clock_unsynchronized",
    "clock_stratum", "clock_rms_offset_ns", "clock_reference_age_ns",
)  # fmt: skip


class Tracking(NamedTuple):
    """The ``tracking`` report.

    `offset_s` is what is still to be added to the system clock (positive: it is behind), `frequency_ppm` how fast it
    would run if nobody corrected it.
    """

    reference: int
    stratum: int
    leap: int
    reference_ns: Nanos
    offset_s: float
    rms_offset_s: float
    frequency_ppm: float
    root_delay_s: float
    root_dispersion_s: float

    @property
    def synchronised(self) -> bool:
        return self.leap != _NOT_SYNCHRONISED and self.reference != 0

    @property
    def max_error_s(self) -> float:
        """How far the clock is off at most: half of the way to the reference, its dispersion, what is not yet set."""
        return abs(self.offset_s) + self.root_dispersion_s + self.root_delay_s / 2


def request(sequence: int) -> bytes:
    """Ask for ``tracking``."""
    size = _REPLY.size + _TRACKING.size
    return _REQUEST.pack(_VERSION, _ASKED, _TRACKING_ASKED, 0, sequence & 0xFFFFFFFF).ljust(size, b"\0")


def parse_tracking(data: bytes, sequence: int) -> Tracking:
    """Read a reply.

    Raises
    ------
    InputError
        Of another version, refused, or no answer to this question.
    """
    if len(data) < _REPLY.size:
        raise InputError(f"chrony: expected a reply of {_REPLY.size + _TRACKING.size} bytes, got {len(data)}")
    version, kind, command, reply, status, echo = _REPLY.unpack_from(data)
    if version != _VERSION or kind != _ANSWERED:
        raise InputError(f"chrony: expected a reply of protocol {_VERSION}, got {version} (type {kind})")
    if echo != sequence & 0xFFFFFFFF:
        raise InputError("chrony: an answer to another question")
    if status:
        raise InputError(f"chrony: the daemon refused (status {status})")
    if command != _TRACKING_ASKED or reply != _TRACKING_ANSWERED or len(data) < _REPLY.size + _TRACKING.size:
        raise InputError(f"chrony: expected the tracking report, got reply {reply} of {len(data)} bytes")
    reference, stratum, leap, high, low, nanos, *floats = _TRACKING.unpack_from(data, _REPLY.size)
    offset, _last, rms, ppm, _residual, _skew, delay, dispersion, _interval = map(_float, floats)
    seconds = low if high == 0x7FFFFFFF else (high << 32) | low  # that high word: not known
    return Tracking(
        reference, stratum, leap, seconds * 1_000_000_000 + nanos, offset, rms, ppm, delay, dispersion
    )  # fmt: skip


def _float(raw: int) -> float:
    exponent = raw >> 25
    coefficient = raw & 0x1FFFFFF
    if exponent >= 64:
        exponent -= 128
    if coefficient >= 1 << 24:
        coefficient -= 1 << 25
    return float(coefficient) * 2.0 ** (exponent - 25)


class Chrony:
    """The daemon's view of this host's clock, over its Unix socket, else over UDP on loopback.

    Parameters
    ----------
    sockets : sequence of str
        Paths to try.
    udp : (address, port)
        Of monitoring commands, which need no rights.
    """

    name = "chrony"

    def __init__(
        self, host: str, sockets: Sequence[str] = SOCKETS, udp: tuple[str, int] = UDP, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._keys = [SeriesKey.of(host, m, source="chrony") for m in _METRICS]
        self._sockets, self._udp, self._timeout_s = sockets, udp, timeout_s
        self._path: str | None = ""
        self._sequence = 0

    def ask(self) -> Tracking:
        """One report.

        Raises
        ------
        OSError, InputError
            Nobody answers, or not as chronyd does.
        """
        self._sequence += 1
        if self._path == "":
            self._path = self._find()
        question = request(self._sequence)
        if self._path is not None:
            with asking_socket(self._path, self._timeout_s, beside=True) as asking:
                asking.send(question)
                return parse_tracking(asking.recv(4096), self._sequence)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
            asking.settimeout(self._timeout_s)
            asking.connect(self._udp)
            asking.send(question)
            return parse_tracking(asking.recv(4096), self._sequence)

    def discover(self) -> Sequence[SeriesKey]:
        self._path = ""
        self.ask()
        return self._keys

    def read(self, out: Int64) -> bool:
        t = self.ask()
        age = max(0, time.time_ns() - t.reference_ns) if t.reference_ns else 0
        nanos = (round(x * 1e9) for x in (t.offset_s, t.max_error_s))
        out[:] = (
            *nanos,
            -round(t.frequency_ppm * 1e3),
            not t.synchronised,
            t.stratum,
            round(t.rms_offset_s * 1e9),
            age,
        )
        return True

    def close(self) -> None:
        return

    def _find(self) -> str | None:
        """The socket that answers us; None stands for UDP."""
        for path in self._sockets:
            with contextlib.suppress(OSError, InputError), asking_socket(path, self._timeout_s, beside=True) as asking:
                asking.send(request(0))
                parse_tracking(asking.recv(4096), 0)
                return path
        return None
