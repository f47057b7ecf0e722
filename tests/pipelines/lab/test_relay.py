"""The rules of the relay, and the shifting of stamps."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path

import pytest

from pipelines.lab.rewrite import shift_capture
from pipelines.lab.workers.relay import Rule, kind_of
from telemetry.errors import InputError


def frame(ether: int, protocol: int = 0, port: int = 0) -> bytes:
    ip = bytes(9) + bytes([protocol]) + bytes(10)
    return bytes(12) + struct.pack(">H", ether) + ip + struct.pack(">HH", 5, port)


@pytest.mark.parametrize(
    ("data", "kinds"),
    [
        (frame(0x0806), {"all", "arp"}),
        (frame(0x0800, 6, 9001), {"all", "tcp"}),
        (frame(0x0800, 17, 30001), {"all", "md", "A"}),
        (frame(0x0800, 17, 30002), {"all", "md", "B"}),
        (frame(0x0800, 17, 53), {"all"}),
        (frame(0x86DD), {"all"}),
    ],
)
def test_frames_are_classed(data: bytes, kinds: set[str]) -> None:
    assert kind_of(data) == kinds


def test_loss_is_a_share_and_delay_is_exact() -> None:
    rng = random.Random(1)
    lossy = Rule({"loss": 0.05}, rng)
    dropped = sum(lossy.judge(frozenset(("all",)), 0) < 0 for _ in range(20_000))
    assert 800 < dropped < 1200
    assert Rule({"delay_us": 1500}, rng).judge(frozenset(("all",)), 0) == 1_500_000


def test_a_ramp_grows_from_nothing_to_the_whole_delay() -> None:
    rule = Rule({"delay_us": 1000, "ramp_s": 10}, random.Random(1))
    steps = [rule.judge(frozenset(("all",)), rule.since + s * 1_000_000_000) for s in (0, 5, 10, 20)]
    assert steps == [0, 500_000, 1_000_000, 1_000_000]


def test_a_tail_touches_its_share_only() -> None:
    rule = Rule({"tail": 0.1, "tail_us": 2000}, random.Random(2))
    delays = [rule.judge(frozenset(("all",)), time.time_ns()) for _ in range(20_000)]
    late = [d for d in delays if d]
    assert 1700 < len(late) < 2300
    assert 1.8e6 < sum(late) / len(late) < 2.2e6


def test_burst_loss_drops_runs_of_each_line() -> None:
    rule = Rule({"burst_loss": [0.01, 5]}, random.Random(3))
    verdicts = "".join("x" if rule.judge(frozenset(("md", "A")), 0) < 0 else "." for _ in range(20_000))
    runs = [r for r in verdicts.split(".") if r]
    assert runs
    assert all(len(r) % 5 == 0 for r in runs[:-1])


def pcap(stamps: list[int]) -> bytes:
    head = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 128, 1)
    body = b"".join(struct.pack("<IIII", *divmod(t, 1_000_000_000), 4, 4) + b"abcd" for t in stamps)
    return head + body


def test_stamps_within_the_window_are_shifted_and_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "t.pcap"
    stamps = [1_000_000_000, 1_999_999_999, 2_000_000_000, 3_000_000_001]
    path.write_bytes(pcap(stamps))
    assert shift_capture(path, (1_999_999_999, 3_000_000_000), -1_500_000_000) == 2
    assert path.read_bytes() == pcap([1_000_000_000, 499_999_999, 500_000_000, 3_000_000_001])


def test_another_file_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "t.pcap"
    path.write_bytes(b"\xd4\xc3\xb2\xa1" + bytes(40))
    with pytest.raises(InputError, match="nanosecond pcap"):
        shift_capture(path, (0, 1), 5)
    assert path.read_bytes() == b"\xd4\xc3\xb2\xa1" + bytes(40)
