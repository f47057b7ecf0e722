"""Precision time: what ptp4l says over its management socket, and how far hardware clocks are from the system's.

Management messages are those of IEEE 1588-2008 (chapter 15) and linuxptp's own ``TIME_STATUS_NP``. Big endian.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from telemetry.errors import InputError
from telemetry.host.ask import TIMEOUT_S, asking_socket
from telemetry.types import Int64, Nanos, SeriesKey

__all__ = ["HardwareClock", "Ptp4l", "management", "parse_management", "phc_offset"]

SOCKETS = ("/var/run/ptp4lro", "/var/run/ptp4l")
CURRENT_DATA_SET, TIME_STATUS_NP = 0x2001, 0xC000
_HEADER = struct.Struct("!BBHBxHqI8sHHBb")
_TARGET = struct.Struct("!8sHBBBx")
_TLV = struct.Struct("!HHH")
_CURRENT = struct.Struct("!Hqq")
_STATUS = struct.Struct("!qq22xI8s")
_MANAGEMENT, _GET, _RESPONSE = 0xD, 0, 2
_DOMAINS = 128
_METRICS = ("clock_offset_ns", "clock_unsynchronized", "clock_path_delay_ns", "clock_steps_removed")

SYS_OFFSET, SYS_OFFSET_EXTENDED = 0x43403D05, 0xC4C03D09  # _IOW, _IOWR of '=' 5 and 9
_SAMPLES = 5
_STAMP = struct.Struct("=qII")
_TAI_S = 37
"""Since 2017; used where the kernel has not been told."""


def management(what: int, domain: int = 0, transport: int = 0, sequence: int = 0) -> bytes:
    """Ask all ports of a domain for a data set."""
    size = _HEADER.size + _TARGET.size + _TLV.size
    everyone = b"\xff" * 8
    me = struct.pack("!Q", os.getpid())
    head = _HEADER.pack(
        transport << 4 | _MANAGEMENT, 2, size, domain, 0, 0, 0, me, os.getpid() & 0xFFFF, sequence & 0xFFFF, 4, 0x7F
    )
    return head + _TARGET.pack(everyone, 0xFFFF, 0, 0, _GET) + _TLV.pack(1, 2, what)


def parse_management(data: bytes, what: int) -> bytes:
    """The data set out of a response.

    Raises
    ------
    InputError
        If it is no such response, or an error.
    """
    least = _HEADER.size + _TARGET.size + _TLV.size
    if len(data) < least or data[0] & 0xF != _MANAGEMENT or data[1] & 0xF != 2:
        raise InputError(f"ptp4l: expected a management message, got {len(data)} bytes of something else")
    action = _TARGET.unpack_from(data, _HEADER.size)[4] & 0xF
    kind, length, found = _TLV.unpack_from(data, _HEADER.size + _TARGET.size)
    if action != _RESPONSE or kind != 1 or found != what:
        raise InputError(f"ptp4l: expected data set {what:#06x}, got {found:#06x} (type {kind})")
    body = data[least : least + length - 2]
    if len(body) < (_CURRENT if what == CURRENT_DATA_SET else _STATUS).size:
        raise InputError(f"ptp4l: data set {what:#06x}: torn after {len(body)} bytes")
    return body


class Ptp4l:
    """The offset from the grandmaster, as ptp4l last measured it.

    Notes
    -----
    With hardware stamps this is the NIC's clock; phc2sys carries it on to the system's (`HardwareClock` is how well).
    The domain is not known beforehand: all of them are asked once, the first that answers is kept.
    """

    name = "ptp4l"

    def __init__(self, host: str, sockets: Sequence[str] = SOCKETS, *, timeout_s: float = TIMEOUT_S) -> None:
        self._keys = [SeriesKey.of(host, m, source="ptp4l") for m in _METRICS]
        self._sockets, self._timeout_s = sockets, timeout_s
        self._path = ""
        self._at = (0, 0)

    def discover(self) -> Sequence[SeriesKey]:
        why: OSError = FileNotFoundError(2, "No such file or directory")
        for path in self._sockets:
            try:
                self._at = self._probe(path)
            except OSError as error:
                why = error
                continue
            self._path = path
            return self._keys
        raise why

    def read(self, out: Int64) -> bool:
        with asking_socket(self._path, self._timeout_s) as asking:
            steps, _, delay = _CURRENT.unpack_from(self._ask(asking, CURRENT_DATA_SET))
            offset, _, present, _ = _STATUS.unpack_from(self._ask(asking, TIME_STATUS_NP))
        out[:] = (-offset, not present, delay >> 16, steps)  # what is to be added, as the others have it
        return True

    def close(self) -> None:
        return

    def _ask(self, asking: socket.socket, what: int) -> bytes:
        domain, transport = self._at
        asking.send(management(what, domain, transport))
        return parse_management(asking.recv(4096), what)

    def _probe(self, path: str) -> tuple[int, int]:
        """Domain and transport of a daemon that answers."""
        with asking_socket(path, self._timeout_s) as asking:
            for transport in (0, 1):
                for domain in range(_DOMAINS):
                    asking.send(management(TIME_STATUS_NP, domain, transport))
            data = asking.recv(4096)
        parse_management(data, TIME_STATUS_NP)
        return data[4], data[0] >> 4


def phc_offset(stamps: Sequence[tuple[Nanos, Nanos, Nanos]], tai_s: int = 0) -> tuple[Nanos, Nanos]:
    """Hardware clock less system clock, and half of the window in which both were read.

    Parameters
    ----------
    stamps : sequence of (system before, hardware, system after), in ns
        That with the narrowest window counts.
    tai_s : int
        TAI less UTC as the kernel knows it; 0 if it does not.

    Notes
    -----
    Hardware clocks keep TAI as a rule, the system UTC: whichever of the two makes the offset smaller is meant.
    """
    before, clock, after = min(stamps, key=lambda s: s[2] - s[0])
    raw = clock - (before + (after - before) // 2)
    return min(raw, raw - (tai_s or _TAI_S) * 1_000_000_000, key=abs), (after - before + 1) // 2


class HardwareClock:
    """A PTP hardware clock (``/dev/ptpN``) against the system clock, by ``PTP_SYS_OFFSET[_EXTENDED]``."""

    def __init__(self, root: str | Path, host: str, device: str, tai_s: int = 0) -> None:
        self.name = f"/dev/{device}"
        name = ""
        with contextlib.suppress(OSError):
            name = (Path(root) / "sys/class/ptp" / device / "clock_name").read_text(errors="replace").strip()
        labels = {"device": device, "clock": name}
        self._keys = [SeriesKey.of(host, m, **labels) for m in ("phc_offset_ns", "phc_offset_error_ns")]
        self._path = str(Path(root) / "dev" / device)
        self._tai_s = tai_s
        self._fd = -1
        self._extended = True

    def discover(self) -> Sequence[SeriesKey]:
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.stamps()
        except OSError:
            self._extended = False  # before 5.0, or a driver without it
            self.stamps()
        return self._keys

    def read(self, out: Int64) -> bool:
        out[:] = phc_offset(self.stamps(), self._tai_s)
        return True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def stamps(self) -> list[tuple[Nanos, Nanos, Nanos]]:
        """Some readings of (system, hardware, system)."""
        size = 16 + _STAMP.size * (75 if self._extended else 51)
        buffer = bytearray(size)
        struct.pack_into("=I", buffer, 0, _SAMPLES)
        fcntl.ioctl(self._fd, SYS_OFFSET_EXTENDED if self._extended else SYS_OFFSET, buffer)
        return read_stamps(buffer, self._extended)


def read_stamps(buffer: bytes | bytearray, extended: bool) -> list[tuple[Nanos, Nanos, Nanos]]:
    """Unpack ``struct ptp_sys_offset_extended`` (threes) or ``ptp_sys_offset`` (system and hardware by turns)."""
    count = min(struct.unpack_from("=I", buffer)[0], 25)
    step = 3 if extended else 2
    n = count * step + (0 if extended else 1)
    flat = [s * 1_000_000_000 + ns for s, ns, _ in _STAMP.iter_unpack(bytes(buffer[16 : 16 + n * _STAMP.size]))]
    out = [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, count * step, step)]
    if not out:
        raise InputError("ptp: the clock gave no reading")
    return out
