"""Captures that grow, analysed step by step: the same events as of the whole files, each once, whatever is killed."""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.types import Events
from telemetry.wire.live import Live, Step
from telemetry.wire.taps import wire_events
from tests.naive.wire_frames import ACK, PSH, START, mold, pcap, tcp, udp

SECOND = 1_000_000_000


def frames(seed: int, late: int = 0) -> list[tuple[int, bytes]]:
    """24 s of a feed with gaps and a connection that asks and is answered; without `late`, the first tap."""
    rng = random.Random(seed)
    out, number, seq = [], 1, 1
    for i in range(480):
        t = START + i * 50_000_000 + rng.randrange(1_000_000)
        number += 1 if rng.random() > 0.03 else 3
        out.append((t, udp("10.0.0.1", 1, "239.1.1.1", 5001, mold(b"S", number, [b"x" * 30]), ident=i)))
        ask = tcp("10.0.0.2", 40000, "10.0.0.3", 80, seq=seq, ack=1, flags=PSH | ACK, payload=b"ask!", ident=i)
        seq += 4
        answer = tcp("10.0.0.3", 80, "10.0.0.2", 40000, seq=1, ack=seq, ident=i)
        out += [(t + 1000, ask), (t + 200_000 + rng.randrange(9999), answer)]
    gone = random.Random(seed + 1)
    return [(t + late, f) for t, f in out if not late or gone.random() > 0.01]


def told(batches: Iterable[Events]) -> Counter[tuple[str, int, int]]:
    return Counter(
        (str(b.keys[s]), t, v)
        for b in batches
        for s, t, v in zip(b.series.tolist(), b.time_ns.tolist(), b.value.tolist(), strict=True)
    )


def events(steps: Iterable[Step]) -> list[Events]:
    return [e for step in steps for e in step.events]


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 99),
    cuts=st.lists(st.floats(0.02, 1), min_size=1, max_size=8),
    kill=st.integers(0, 255),
    taps=st.sampled_from([1, 2]),
    detail=st.sampled_from(["packets", "windows"]),
)
def test_steps_are_the_events_of_the_whole_capture(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cuts: list[float], kill: int, taps: int, detail: Any
) -> None:
    folder = tmp_path_factory.mktemp("live")
    whole = {f"t{n}": pcap(frames(seed, n * 3000)) for n in range(taps)}
    want = told(wire_events({n: io.BytesIO(b) for n, b in whole.items()}, window_ns=SECOND, detail=detail))  # type: ignore[misc]
    paths = {name: folder / name for name in whole}
    for path in paths.values():
        path.write_bytes(b"")
    got: Counter[tuple[str, int, int]] = Counter()
    live, position = Live(paths, detail=detail), None
    for turn, cut in enumerate(sorted([*cuts, 1.0])):
        for name, path in paths.items():
            path.write_bytes(whole[name][: int(cut * len(whole[name]))])
        for step in live.poll():
            got += told(step.events)
            position = json.loads(json.dumps(step.position))
            if kill >> turn & 1:  # in the middle of what is there
                live.close()
                live = Live(paths, detail=detail, start=position, run_up_ns=4 * SECOND)
                break
    got += told(events(live.finish()))
    assert got == want
    assert live.finished


def test_only_the_run_up_is_read_again(tmp_path: Path) -> None:
    path, whole = tmp_path / "c.pcap", pcap(frames(5))
    path.write_bytes(b"")
    live, steps = Live({"c": path}, run_up_ns=3 * SECOND), list[Step]()
    for cut in range(1, 51):
        path.write_bytes(whole[: cut * len(whole) // 50])
        steps += list(live.poll())
    assert 0.75 < steps[-1].position["taps"]["c"]["at"]["offset"] / len(whole) < 0.85


def test_after_the_last_event_of_a_store(tmp_path: Path) -> None:
    path = tmp_path / "c.pcap"
    path.write_bytes(pcap(frames(7)))
    batches = list(wire_events({"c": path}, detail="windows"))
    want = told(batches)
    cut = int(batches[0].time_ns[len(batches[0]) // 2])
    again = Live({"c": path}, after_ns=cut)
    got = told(events([*again.poll(), *again.finish()]))
    assert got == Counter({k: n for k, n in want.items() if k[1] >= cut})


def test_what_lowers_confidence_is_told_second_by_second(tmp_path: Path) -> None:
    rows = frames(3)
    back = [*rows[:200], (rows[200][0] - 5_000_000, rows[200][1]), rows[10], *rows[201:]]
    path = tmp_path / "c.pcap"
    path.write_bytes(pcap([*back, (back[-1][0] + 1000, back[-1][1])], snap=60) + b"\1\2\3")
    live = Live({"c": path}, detail="packets")
    got = Counter[str]()
    for (name, time, value), n in told(events([*live.poll(), *live.finish()])).items():
        got[name.partition("{")[0]] += value * n
        if name.startswith("capture_"):
            assert time % SECOND == SECOND - 1
    stats = live.report.stats["c"]
    assert got["capture_snapped_packets"] == stats.snapped > 400
    assert got["capture_steps_back"] == stats.backwards == 2
    assert got["capture_damages"] == stats.damage_count == 1
    assert got["capture_doubles"] == live.report.doubles["c"] >= 1
