"""Taps: one-way latency, loss, translation, twins, clocks; equal for any batches."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.errors import InputError
from telemetry.types import Events
from telemetry.wire.clock import Clock, estimate_clock
from telemetry.wire.hops import HopTable
from telemetry.wire.report import WireReport
from telemetry.wire.taps import wire_events
from tests.naive.wire_frames import ACK, START, pcap, tcp, udp

MS = 1_000_000
Frames = list[tuple[int, bytes]]


def _run(taps: dict[str, Frames], **options: object) -> tuple[Events, WireReport]:
    report = WireReport()
    captures = {name: io.BytesIO(pcap(sorted(frames, key=lambda f: f[0]))) for name, frames in taps.items()}
    events = Events.concat(wire_events(captures, report=report, **options))  # type: ignore[arg-type]
    return events, report


def _values(events: Events, metric: str, **labels: str) -> list[int]:
    wanted = [
        i for i, k in enumerate(events.keys) if k.metric == metric and all(k.label(n) == v for n, v in labels.items())
    ]
    return [int(v) for v in events.value[np.isin(events.series, wanted)]]


def _message(n: int, **more: object) -> bytes:
    return udp("10.0.0.1", 4000, "10.0.0.2", 5000, b"message %06d" % n, **more)  # type: ignore[arg-type]


def test_latency_and_loss_are_exact_and_every_packet_is_accounted_for() -> None:
    lost = {7, 8, 30}
    a = [(START + n * MS, _message(n)) for n in range(100)]
    b = [(START + n * MS + 1000 + n, _message(n, ttl=63, vlan=5)) for n in range(100) if n not in lost]
    events, report = _run({"a": a, "b": b})
    assert _values(events, "wire_latency_ns") == [1000 + n for n in range(100) if n not in lost]
    losses = events.value.astype(bool) & np.array([events.keys[s].metric == "wire_lost_packets" for s in events.series])
    assert events.time_ns[losses].tolist() == [START + n * MS for n in sorted(lost)]
    assert report.pairing["matched"] == 97
    assert report.pairing["lost"] == 3
    keys = {k for k in events.keys if k.metric == "wire_latency_ns"}
    assert {(k.label("from"), k.label("to")) for k in keys} == {("a", "b")}
    assert not report.warnings
    assert (np.diff(events.seen_ns) >= 0).all()


def test_zeros_say_that_a_loss_was_looked_for() -> None:
    a = [(START + n * 20 * MS, _message(n)) for n in range(50)]
    b = [(t + 500, f) for t, f in a]
    events, _ = _run({"a": a, "b": b})
    lost = _values(events, "wire_lost_packets")
    assert set(lost) == {0}
    assert len(lost) == 10  # a second of windows of 100 ms


def test_an_address_translator_between_the_taps() -> None:
    a = [(START + n * MS, _message(n)) for n in range(50)]
    b = [
        (START + n * MS + 900, udp("192.0.2.9", 61_000, "10.0.0.2", 5000, b"message %06d" % n, ttl=63))
        for n in range(50)
        if n != 20
    ]
    events, report = _run({"a": a, "b": b})
    assert _values(events, "wire_latency_ns", flow="udp 10.0.0.1:4000>10.0.0.2:5000") == [900] * 49
    assert report.pairing["translated"] == 1
    assert report.pairing["lost"] == 1


def test_lines_with_equal_payload_are_not_mixed_up() -> None:
    def line(n: int, port: int) -> bytes:
        return udp("10.0.0.1", port, "239.1.1.1", port, b"same %06d" % n)

    a = [(START + n * MS + port, line(n, port)) for n in range(60) for port in (1, 2)]
    b = [(t + 5000, f) for t, f in a if f != line(25, 1)]
    events, report = _run({"a": a, "b": b})
    assert set(_values(events, "wire_latency_ns")) == {5000}
    assert report.pairing["lost"] == 1
    assert sum(_values(events, "wire_lost_packets", flow="udp 10.0.0.1:1>239.1.1.1:1")) == 1


def test_copies_of_a_mirror_port_are_neither_loss_nor_latency_but_lower_confidence() -> None:
    a = [(START + n * MS + d, _message(n)) for n in range(40) for d in (0, 100)]
    b = [(START + n * MS + 5000, _message(n)) for n in range(40)]
    events, report = _run({"a": a, "b": b})
    assert report.pairing["lost"] == 0
    assert report.pairing["duplicates"] == 40
    assert report.doubles == {"a": 40, "b": 0}
    assert report.quality["a"].confidence < report.quality["b"].confidence == 1.0
    assert any("mirror" in w for w in report.warnings)
    assert report.pairing["ambiguous"] == 40  # two candidates each: no latency is better than a wrong one
    assert _values(events, "wire_latency_ns") == []


def test_what_one_tap_could_not_see_is_no_loss() -> None:
    a = [(START + n * MS, _message(n)) for n in range(100)]
    b = [(t + 500, f) for t, f in a[30:60]]
    _, report = _run({"a": a, "b": b})
    assert report.pairing["lost"] == 0
    assert report.pairing["outside"] == 70
    _, report = _run({"a": a, "b": [(START, udp("10.9.9.9", 1, "10.9.9.8", 2, b"else"))]})
    assert report.pairing["lost"] == 0
    assert report.pairing["one_tap"] == 101


def test_three_taps_give_hops_and_the_hop_that_loses() -> None:
    a = [(START + n * MS, _message(n)) for n in range(50)]
    b = [(START + n * MS + 300, _message(n)) for n in range(50) if n != 9]
    c = [(START + n * MS + 1000, _message(n)) for n in range(50) if n not in (9, 20)]
    events, _ = _run({"a": a, "b": b, "c": c})
    table = HopTable()
    table.push(events)
    rows = {(h.tap_from, h.tap_to): h for h in table.rows()}
    assert rows["a", "b"].p50_ns == 300
    assert rows["b", "c"].p50_ns == 700
    assert rows["b", "c"].lost == 1
    assert rows["a", "b"].lost == 1
    assert rows["b", "c"].share == pytest.approx(0.7)
    assert table.rows()[0].tap_from == "b"


def _talk(offset: int, drift_ppb: float = 0.0, seconds: int = 20) -> dict[str, Frames]:
    """A TCP conversation seen at both ends of a path of 50 us; b's clock is ahead."""
    a, b = [], []

    def clock(t: int) -> int:
        return t + offset + round((t - START) * drift_ppb * 1e-9)

    for n in range(seconds * 20):
        t = START + n * 50 * MS
        jitter = (n * 7919) % 20_000
        data = tcp("10.0.0.1", 1, "10.0.0.2", 2, seq=1 + n * 10, ack=1, flags=ACK, payload=b"0123456789", ident=n)
        reply = tcp("10.0.0.2", 2, "10.0.0.1", 1, seq=1, ack=11 + n * 10, ident=n)
        a += [(t, data), (t + 130_000 + jitter, reply)]
        b += [(clock(t + 50_000 + jitter), data), (clock(t + 80_000), reply)]
    return {"a": a, "b": b}


@pytest.mark.parametrize(("offset", "drift"), [(0, 0.0), (3_000_000, 0.0), (-20_000_000, 0.0), (400_000, 2000.0)])
def test_offset_and_drift_are_estimated_and_taken_off(offset: int, drift: float) -> None:
    taps = _talk(offset, drift)
    events, _ = _run(taps)
    found = estimate_clock([events], "a", "b")
    assert found is not None
    assert found.clock.drift_ppb == pytest.approx(drift, abs=200)
    assert abs(int(found.clock.correct(np.array([START + offset]))[0]) - START) < 5000
    fixed, report = _run(taps, clocks={"b": found.clock})
    latency = _values(fixed, "wire_latency_ns")
    assert len(latency) == 800
    assert 40_000 < min(latency) <= max(latency) < 85_000
    assert report.pairing["negative"] == 0


def test_a_clock_that_steps_shows_as_negative_latency_and_a_warning() -> None:
    a = [(START + n * MS, _message(n)) for n in range(200)]
    b = [(START + n * MS + 20_000 - (500_000 if n >= 100 else 0), _message(n)) for n in range(200)]
    events, report = _run({"a": a, "b": b})
    assert sorted(set(_values(events, "wire_latency_ns", **{"from": "a", "to": "b"}))) == [-480_000, 20_000]
    assert report.pairing["negative"] == 100
    assert any("clocks disagree" in w for w in report.warnings)


def test_no_connection_means_no_estimate_and_nulls_stay() -> None:
    assert estimate_clock([], "a", "b") is None
    null = np.array([np.iinfo(np.int64).min, START])
    assert Clock(5, 0.0, 0).correct(null).tolist() == [np.iinfo(np.int64).min, START - 5]


traffic = st.lists(
    st.tuples(st.integers(0, 30 * MS), st.integers(0, 3), st.sampled_from(["ok", "ok", "ok", "lost", "twice", "late"])),
    min_size=1,
    max_size=60,
)


@given(traffic, st.integers(1, 40), st.sampled_from(["packets", "windows"]))
@settings(max_examples=25, deadline=None)
def test_events_do_not_depend_on_batches(moves: list[tuple[int, int, str]], rows: int, detail: str) -> None:
    a, b, t = [], [], START
    for n, (wait, flow, fate) in enumerate(moves):
        t += wait
        frame = udp("10.0.0.1", 4000 + flow, "10.0.0.2", 5000, b"m%05d" % n, ident=n)
        if flow == 3:
            frame = tcp("10.0.0.3", 9, "10.0.0.4", 8, seq=n * 5, ack=1, payload=b"12345", ident=n)
        a.append((t, frame))
        if fate != "lost":
            b.append((t + (40 * MS if fate == "late" else 900), frame))
        if fate == "twice":
            b.append((t + 950, frame))
    whole, one = _run({"a": a, "b": b}, detail=detail)
    parts, other = _run({"a": a, "b": b}, detail=detail, batch_rows=rows)
    assert one.pairing == other.pairing
    assert [str(whole.keys[s]) for s in whole.series] == [str(parts.keys[s]) for s in parts.series]
    for column in ("time_ns", "seen_ns", "value"):
        assert np.array_equal(getattr(whole, column), getattr(parts, column))
    told = sum(one.pairing[k] for k in ("lost", "duplicates", "upstream_missed", "outside", "one_tap"))
    # Every packet was matched with another, or has a fate of its own.
    assert len(a) + len(b) == 2 * one.pairing["matched"] + told + 2 * _consumed(one)


def _consumed(report: WireReport) -> int:
    return report.pairing["ambiguous"]


def test_windows_hold_what_the_packets_said() -> None:
    a = [(START + n * MS, _message(n)) for n in range(3000)]
    b = [(START + n * MS + 1000 + n, _message(n)) for n in range(3000)]
    each, _ = _run({"a": a, "b": b})
    windowed, _ = _run({"a": a, "b": b}, detail="windows")
    latency = np.array(_values(each, "wire_latency_ns"))
    assert sum(_values(windowed, "wire_latency_ns", stat="count")) == len(latency)
    assert max(_values(windowed, "wire_latency_ns", stat="max")) == latency.max()
    assert sum(_values(windowed, "wire_packets", tap="a", window="1ms")) == 3000
    assert sum(_values(windowed, "wire_packets", tap="a", flow="udp 10.0.0.1:4000>10.0.0.2:5000")) == 3000
    counts = Counter(k.metric for k in windowed.keys)
    assert counts["wire_latency_ns"] == 5


def test_rotated_files_of_a_tap_are_one_capture() -> None:
    frames = [(START + n * MS, tcp("10.0.0.1", 1, "10.0.0.2", 2, seq=1 + n, ack=1, payload=b"x")) for n in range(10)]
    frames += [(START + 20 * MS, tcp("10.0.0.2", 2, "10.0.0.1", 1, seq=1, ack=11))]
    whole = [io.BytesIO(pcap(frames))]
    parts = [io.BytesIO(pcap(frames[:4])), io.BytesIO(pcap(frames[4:]))]
    one, two = (Events.concat(wire_events({"t": files})) for files in (whole, parts))
    assert np.array_equal(one.value, two.value)
    assert _values(one, "tcp_rtt_ns") == [11 * MS]


def test_wrong_numbers_of_taps() -> None:
    with pytest.raises(InputError, match="1 to 8"):
        list(wire_events({}))
