from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from telemetry.errors import InputError
from telemetry.host.chrony import Chrony, parse_tracking, request
from telemetry.host.clock import KernelClock
from telemetry.host.ptp import (
    CURRENT_DATA_SET,
    TIME_STATUS_NP,
    HardwareClock,
    Ptp4l,
    management,
    parse_management,
    phc_offset,
    read_stamps,
)

# As chronyd 4.3 answered question 7; chronyc said at that moment: stratum 11, 1.788 us fast, rms 162 ns,
# frequency 0.017 ppm fast, root delay 4.852 us.
TRACKING = bytes.fromhex(
    "060200000021000500000000000000000000000700000000000000007f0000017f00000100000000000000000000000000010000"
    "000b0000000000006b04938d08afda7cdd100e2dd28d59cdd6ae0436f887582ef0cf8c44fc815807e0a2ce5ddaaf9d0700824e27"
)
# As ptp4l 3.1.1 (domain 5, one step from its master) answered; pmc said: offset -683 ns, path delay 1825 ns.
CURRENT = bytes.fromhex(
    "0d020048050000000000000000000000000000001ef459fffe3cb21000000000047f00000000000070cd70cd0000020000010014"
    "20010001fffffffffd5500000000000007210000"
)
STATUS = bytes.fromhex(
    "0d020068050000000000000000000000000000001ef459fffe3cb21000000000047f00000000000070cd70cd0000020000010034"
    "c000fffffffffffffd5518eac3530d86520c000000000000000000000000000000000000000000000000000172212bfffebdfe89"
)


@contextmanager
def daemon(path: Path, answer: Callable[[bytes], bytes | None]) -> Iterator[None]:
    """A datagram socket that answers (or, given None, does not)."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(str(path))

    def serve() -> None:
        while True:
            data, sender = server.recvfrom(4096)
            if data == b"end":
                return
            said = answer(data)
            if said is not None:
                server.sendto(said, sender)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"end", str(path))
        thread.join()
        server.close()


def test_the_kernels_clock() -> None:
    clock = KernelClock("h")
    keys = clock.discover()
    assert keys[0].metric == "clock_offset_ns"
    out = np.full(len(keys), -(2**62), np.int64)
    assert clock.read(out)
    assert abs(out[0]) < 10**9
    assert out[3] in (0, 1)
    assert out[4] == clock.tai_s
    assert 0 <= out[4] < 60


def test_tracking_as_chronyd_sent_it() -> None:
    t = parse_tracking(TRACKING, 7)
    assert (t.stratum, t.leap, t.synchronised) == (11, 0, True)
    assert t.reference_ns == 1795462029_145742460
    assert t.offset_s * 1e9 == pytest.approx(-1787.7, abs=0.1)  # fast: to be taken away
    assert t.rms_offset_s * 1e9 == pytest.approx(162, abs=0.5)
    assert t.frequency_ppm == pytest.approx(0.0165, abs=1e-4)
    assert t.max_error_s * 1e9 == pytest.approx(1787.7 + 654.0 + 4852 / 2, abs=0.5)


def test_the_question_is_as_long_as_its_answer() -> None:
    asked = request(7)
    assert len(asked) == len(TRACKING)
    assert asked[:6] == bytes([6, 1, 0, 0, 0, 33])
    assert asked[8:12] == struct.pack("!I", 7)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d[:27], "expected a reply of 104 bytes, got 27"),
        (lambda d: d[:60], "tracking report"),
        (lambda d: b"\x05" + d[1:], "protocol 6, got 5"),
        (lambda d: d[:16] + b"\0\0\0\x08" + d[20:], "another question"),
        (lambda d: d[:8] + b"\0\x02" + d[10:], "refused .status 2."),
        (lambda d: d[:6] + b"\0\x01" + d[8:], "reply 1"),
    ],
)
def test_what_is_no_tracking_report(change: Callable[[bytes], bytes], said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_tracking(change(TRACKING), 7)


def test_chrony_over_its_socket_then_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "chronyd.sock"
    clock = Chrony("h", [str(tmp_path / "none"), str(path)], ("127.0.0.1", 9))
    with pytest.raises(OSError, match="refused"):
        clock.discover()
    with daemon(path, lambda d: TRACKING[:16] + d[8:12] + TRACKING[20:]):
        keys = clock.discover()
        assert str(keys[0]) == 'clock_offset_ns{host="h",source="chrony"}'
        out = np.zeros(len(keys), np.int64)
        assert clock.read(out)
        got = dict(zip((k.metric for k in keys), out.tolist(), strict=True))
        assert got["clock_offset_ns"] == -1788
        assert got["clock_frequency_ppb"] == -17  # what is to be added
        assert got["clock_stratum"] == 11
        assert got["clock_unsynchronized"] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["chronyd.sock"]  # ours is gone
    with pytest.raises(OSError, match="refused"):
        clock.read(out)


def test_a_daemon_that_hangs_costs_no_more_than_the_time_given(tmp_path: Path) -> None:
    path = tmp_path / "chronyd.sock"
    with daemon(path, lambda _: None):
        clock = Chrony("h", [str(path)], ("127.0.0.1", 9))
        begun = time.monotonic()
        with pytest.raises(OSError, match="refused"):
            clock.discover()
        assert time.monotonic() - begun < 0.5


@pytest.mark.service
@pytest.mark.skipif(shutil.which("chronyd") is None, reason="chronyd is not installed")
def test_a_real_chronyd(tmp_path: Path) -> None:
    """It does not touch this machine's clock (-x), and takes itself for a reference of stratum 10."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path / "run"
    folder.mkdir(mode=0o750)
    (tmp_path / "chrony.conf").write_text(
        f"local stratum 10\nport 0\ncmdport {port}\nbindcmdaddress 127.0.0.1\n"
        f"bindcmdaddress {folder}/chronyd.sock\npidfile {tmp_path}/pid\n"
    )
    command = ["chronyd", "-x", "-d", "-u", "root", "-f", str(tmp_path / "chrony.conf")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        by_udp = Chrony("h", [], ("127.0.0.1", port), timeout_s=0.5)
        for _ in range(100):
            try:
                by_udp.discover()
                break
            except OSError:
                if process.poll() is not None:
                    pytest.skip(f"chronyd does not run here: {process.communicate()[0][-200:]!r}")
                time.sleep(0.05)
        tracking = by_udp.ask()
        assert tracking.stratum == 10
        assert tracking.synchronised
        if (folder / "chronyd.sock").exists():
            assert Chrony("h", [str(folder / "chronyd.sock")], ("127.0.0.1", 9), timeout_s=0.5).ask().stratum == 10
    finally:
        process.terminate()
        process.wait(10)


def test_ptp4l(tmp_path: Path) -> None:
    """Domain 5 alone answers, as ptp4l does."""
    path = tmp_path / "ptp4l"

    def answer(data: bytes) -> bytes | None:
        if data[4] != 5 or data[0] >> 4:
            return None
        return {CURRENT_DATA_SET: CURRENT, TIME_STATUS_NP: STATUS}[struct.unpack_from("!H", data, 52)[0]]

    clock = Ptp4l("h", [str(tmp_path / "ptp4lro"), str(path)], timeout_s=1.0)
    with pytest.raises(FileNotFoundError):
        clock.discover()
    with daemon(path, answer):
        keys = clock.discover()
        out = np.zeros(len(keys), np.int64)
        assert clock.read(out)
    assert dict(zip((k.metric for k in keys), out.tolist(), strict=True)) == {
        "clock_offset_ns": 683, "clock_unsynchronized": 0, "clock_path_delay_ns": 1825, "clock_steps_removed": 1,
    }  # fmt: skip


def test_what_is_no_management_response() -> None:
    for data, said in (
        (b"", "got 0 bytes"),
        (b"\0" * 60, "something else"),
        (CURRENT, "expected data set 0xc000, got 0x2001"),
        (STATUS[:80], "torn after 26 bytes"),
        (management(TIME_STATUS_NP), "expected data set"),  # a question
    ):
        with pytest.raises(InputError, match=said):
            parse_management(data, TIME_STATUS_NP)


def test_offset_of_a_hardware_clock() -> None:
    second = 10**9
    wide, narrow = (1000, 37 * second + 9000, 5000), (2000, 37 * second + 2350, 2600)
    assert phc_offset([wide, narrow], 37) == (50, 300)
    assert phc_offset([narrow]) == (50, 300)  # the kernel does not know TAI
    assert phc_offset([(2000, 2350, 2600)], 37) == (50, 300)  # it keeps UTC
    assert phc_offset([(2000, 36 * second, 2600)], 36)[0] == -2300


@pytest.mark.parametrize("extended", [True, False])
def test_stamps_of_the_kernel(extended: bool) -> None:
    threes = [(1, 10, 2), (3, 12, 4)]
    flat = [x for t in threes for x in t] if extended else [1, 10, 3, 12, 4]
    buffer = struct.pack("=I12x", 2) + b"".join(struct.pack("=qII", 5, x, 0) for x in flat) + bytes(64)
    base = 5 * 10**9
    wanted = threes if extended else [(1, 10, 3), (3, 12, 4)]
    assert read_stamps(buffer, extended) == [(base + a, base + b, base + c) for a, b, c in wanted]
    with pytest.raises(InputError, match="no reading"):
        read_stamps(bytes(1216), extended)


def test_a_device_that_is_no_clock(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/ptp0").write_text("x")
    clock = HardwareClock(tmp_path, "h", "ptp0")
    with pytest.raises(OSError, match="ioctl"):
        clock.discover()
    clock.close()
    with pytest.raises(FileNotFoundError):
        HardwareClock(tmp_path, "h", "ptp1").discover()
