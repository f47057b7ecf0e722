"""TCP analysis against the naive rule, and against tshark on real captures."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.capture.packets import read_packets
from telemetry.types import Int64
from telemetry.wire.flows import FlowTable
from telemetry.wire.tcp import Tcp
from telemetry.wire.tcpkernel import EVENTS
from tests.naive.wire import Segment, round_trips
from tests.naive.wire_frames import ACK, FIN, PSH, RST, START, SYN, packets, tcp

A, B = ("10.0.0.1", 40_000), ("10.0.0.2", 9000)


def _frame(s: Segment, **more: object) -> tuple[int, bytes]:
    source, destination = (A, B) if s.side == 0 else (B, A)
    body = bytes(s.length)
    return s.time, tcp(
        *source, *destination, seq=s.seq, ack=s.ack, flags=s.flags, payload=body, window=s.window, **more
    )  # type: ignore[arg-type]


def _rows(frames: list[tuple[int, bytes]], rows: int = 8192) -> Int64:
    flows = FlowTable()
    analysis = Tcp(flows)
    return np.concatenate([analysis.push(b, flows.assign(b)).copy() for b in packets(frames, rows)])


def _kinds(rows: Int64) -> Counter[str]:
    return Counter(EVENTS[k] for k in rows[:, 0].tolist())


@st.composite
def conversations(draw: st.DrawFn) -> list[Segment]:
    """Two sides that send, acknowledge all or part, lose and repeat, near the wrap of the sequence space."""
    base = [draw(st.sampled_from([1000, 2**32 - 500])), draw(st.sampled_from([7, 2**32 - 100]))]
    sent = [base[0], base[1]]
    ends: list[list[int]] = [[base[0]], [base[1]]]
    out, time = [], START
    for _ in range(draw(st.integers(1, 40))):
        time += draw(st.integers(1, 50_000_000))
        side = draw(st.integers(0, 1))
        length = draw(st.sampled_from([0, 0, 10, 100, 300]))
        again = draw(st.integers(0, 5)) == 0 and len(ends[side]) > 1
        seq = draw(st.sampled_from(ends[side][-3:])) if again else sent[side]
        ack = draw(st.sampled_from(ends[1 - side][-4:])) + draw(st.sampled_from([0, 0, 0, 5]))
        out.append(Segment(time, side, seq % 2**32, ack % 2**32, ACK, length))
        if not again:
            sent[side] += length
            ends[side].append(sent[side])
    return out


@given(conversations(), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_round_trips_are_the_naive_ones_for_any_batches(segments: list[Segment], rows: int) -> None:
    got = _rows([_frame(s) for s in segments], rows)
    side = segments[0].side  # flow 0 is the first sender's
    # The rule needs the other direction's flow: before its first packet there is nothing to acknowledge.
    mine = [(int(f) ^ side, int(t), int(v)) for k, f, t, v in got.tolist() if k == EVENTS.index("rtt")]
    assert mine == round_trips(segments)


def test_handshake_loss_repair_and_end() -> None:
    ms = 1_000_000
    s = [
        Segment(START, 0, 100, 0, SYN, 0),
        Segment(START + 20 * ms, 1, 500, 101, SYN | ACK, 0),
        Segment(START + 21 * ms, 0, 101, 501, ACK, 0),
        Segment(START + 22 * ms, 0, 101, 501, ACK | PSH, 100),
        Segment(START + 23 * ms, 0, 301, 501, ACK | PSH, 100),  # 201..300 is missing here
        Segment(START + 42 * ms, 1, 501, 201, ACK, 0),
        Segment(START + 43 * ms, 1, 501, 201, ACK, 0),
        Segment(START + 44 * ms, 1, 501, 201, ACK, 0),
        Segment(START + 45 * ms, 0, 201, 501, ACK, 100),
        Segment(START + 65 * ms, 1, 501, 401, ACK, 0, 0),
        Segment(START + 900 * ms, 0, 101, 501, ACK, 100),
        Segment(START + 950 * ms, 1, 501, 401, RST | ACK, 0),
    ]
    rows = _rows([_frame(x) for x in s])
    kinds = _kinds(rows)
    assert kinds["syn_rtt"] == 1
    assert rows[rows[:, 0] == EVENTS.index("syn_rtt")][0, 3] == 21 * ms
    assert kinds["hole"] == 1
    assert kinds["duplicate_ack"] == 2
    assert kinds["fast"] == 1
    assert kinds["zero_window"] == 1
    assert kinds["spurious"] == 1
    assert kinds["reset"] == 1


def test_timeout_retransmission_counts_once_and_ports_used_again_start_anew() -> None:
    s = [
        Segment(START, 0, 1, 1, ACK, 100),
        Segment(START + 1, 1, 1, 1, ACK, 0),
        Segment(START + 300_000_000, 0, 1, 1, ACK, 100),
    ]
    assert _kinds(_rows([_frame(x) for x in s]))["retransmission"] == 1
    again = [*s, Segment(START + 10**9, 0, 77, 0, SYN, 0), Segment(START + 10**9 + 5, 1, 900, 78, SYN | ACK, 0)]
    rows = _rows([_frame(x) for x in again])
    assert rows[rows[:, 0] == EVENTS.index("rtt")][-1, 3] == 5


def test_timestamps_option_times_a_value_from_first_sight_to_first_echo() -> None:
    s = [Segment(START, 0, 1, 1, ACK, 10), *(Segment(START + t, 1, 1, 11, ACK, 0) for t in (700, 900))]
    frames = [_frame(s[0], stamps=(50, 9)), _frame(s[1], stamps=(80, 50)), _frame(s[2], stamps=(80, 50))]
    rows = _rows(frames)
    assert rows[rows[:, 0] == EVENTS.index("ts_rtt")][:, 3].tolist() == [700]


def test_nagle_against_delayed_acknowledgement() -> None:
    ms = 1_000_000
    s = [Segment(START - 3 * ms, 1, 1, 1, ACK, 0), Segment(START - 2 * ms, 0, 1, 1, ACK, 20)]
    s.append(Segment(START - ms, 1, 1, 21, ACK, 0))
    time, seq = START, 21
    for _ in range(5):
        s.append(Segment(time, 0, seq, 1, ACK | PSH, 16))
        s.append(Segment(time + 40 * ms, 1, 1, seq + 16, ACK, 0))
        s.append(Segment(time + 40 * ms + 50_000, 0, seq + 16, 1, ACK | PSH, 32))
        s.append(Segment(time + 41 * ms, 1, 1, seq + 48, ACK, 0))
        time, seq = time + 100 * ms, seq + 48
    rows = _rows([_frame(x) for x in s])
    assert _kinds(rows)["nagle"] == 5
    assert set(rows[rows[:, 0] == EVENTS.index("nagle")][:, 3].tolist()) == {40 * ms}
    # Acknowledged at once, the same writes are no stall.
    prompt = [x._replace(time=x.time - 39 * ms) if x.side == 1 and x.time > START else x for x in s]
    assert _kinds(_rows([_frame(x) for x in sorted(prompt)]))["nagle"] == 0


def test_unanswered_segments_are_bounded_and_counted() -> None:
    frames = [_frame(Segment(START + i, 0, 1 + 10 * i, 1, ACK, 10)) for i in range(12_000)]
    flows = FlowTable()
    analysis = Tcp(flows)
    for b in packets(frames):
        analysis.push(b, flows.assign(b))
    assert analysis.forgotten == 2000
    table = FlowTable()
    tiny = Tcp(table, pool=64)
    for b in packets(frames[:1000]):
        tiny.push(b, table.assign(b))
    assert tiny.forgotten == 1000 - 64


def _tshark(path: Path) -> Counter[tuple[int, int]]:
    def ns(text: str) -> int:
        whole, _, part = text.partition(".")
        return int(whole) * 10**9 + int(part.ljust(9, "0")[:9])

    run = subprocess.run(
        ["tshark", "-r", str(path), "-o", "ip.defragment:false", "-o", "tcp.desegment_tcp_streams:false",
         "-Y", "tcp.analysis.ack_rtt", "-T", "fields", "-e", "frame.time_epoch", "-e", "tcp.analysis.ack_rtt"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return Counter((ns(a), ns(b)) for a, b in (line.split("\t") for line in run.stdout.splitlines()))


@pytest.mark.corpus
@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("TAILWATCH_DATA"), reason="TAILWATCH_DATA is not set")
@pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed")
@pytest.mark.parametrize("run", ["loss", "delay_step", "gc_pause"])
@pytest.mark.parametrize("tap", ["exch", "trd"])
def test_round_trips_equal_tsharks_to_the_nanosecond(run: str, tap: str) -> None:
    path = Path(os.environ["TAILWATCH_DATA"]) / "lab" / run / f"{tap}.pcap.gz"
    flows = FlowTable()
    analysis = Tcp(flows)
    got: Counter[tuple[int, int]] = Counter()
    for b in read_packets(path):
        rows = analysis.push(b, flows.assign(b))
        rows = rows[rows[:, 0] == EVENTS.index("rtt")]
        got.update(zip(rows[:, 2].tolist(), rows[:, 3].tolist(), strict=True))
    assert sum(got.values()) > 4000
    assert got == _tshark(path)


def test_fin_takes_a_number() -> None:
    s = [
        Segment(START, 0, 1, 1, ACK, 0),
        Segment(START + 1, 1, 1, 1, ACK, 0),
        Segment(START + 2, 0, 1, 1, FIN | ACK, 0),
        Segment(START + 9, 1, 1, 2, ACK, 0),
    ]
    rows = _rows([_frame(x) for x in s])
    assert rows[rows[:, 0] == EVENTS.index("rtt")][:, 3].tolist() == [7]
