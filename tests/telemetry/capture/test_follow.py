"""Captures still being written: files that grow, sets that rotate, rings, pipes; each packet once, whatever happens."""

from __future__ import annotations

import gzip
import json
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.capture.follow import Follow
from telemetry.errors import InputError
from tests.naive.capture_build import erf, eth, ip4, pcap, pcapng, snoop, udp

T0 = 1_700_000_000_000_000_000


def records(first: int, count: int) -> list[tuple[int, bytes, int]]:
    return [
        (T0 + i * 1_000_000, eth(ip4(udp(random.Random(i).randbytes(30 + i % 20)), ident=i)), -1)
        for i in range(first, first + count)
    ]


def blob(kind: str, first: int, count: int) -> bytes:
    rows = records(first, count)
    if kind == "pcapng":
        return pcapng([(0, t, f) for t, f, _ in rows])
    return {"pcap": pcap, "snoop": snoop, "erf": erf}[kind](rows)


def ids(batches: Any) -> list[int]:
    return [i for b in batches for i in b.ip_id.tolist()]


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(["pcap", "pcapng", "snoop", "erf"]),
    cuts=st.lists(st.floats(0, 1), max_size=6),
    restarts=st.integers(0, 63),
    rows=st.sampled_from([1, 7, 4096]),
)
def test_a_growing_file_gives_each_packet_once(
    tmp_path_factory: pytest.TempPathFactory, kind: str, cuts: list[float], restarts: int, rows: int
) -> None:
    path = tmp_path_factory.mktemp("grow") / "c"
    whole = blob(kind, 0, 40)
    path.write_bytes(b"")
    follow, got = Follow(path, batch_rows=rows), []
    for turn, cut in enumerate(sorted([*cuts, 1.0])):
        path.write_bytes(whole[: int(cut * len(whole))])
        got += ids(follow.poll())
        assert list(follow.poll()) == []
        if restarts >> turn & 1:
            position = json.loads(json.dumps(follow.position()))
            follow.close()
            follow = Follow(path, batch_rows=rows, start=position)
    got += ids(follow.finish())
    assert got == list(range(40))
    assert follow.finished
    assert (follow.stats.damage_count, follow.stats.recovered) == (0, 0)


def test_killed_in_the_middle_of_a_poll_goes_on_behind_what_was_handed_out(tmp_path: Path) -> None:
    path = tmp_path / "c.pcap"
    path.write_bytes(blob("pcap", 0, 50))
    got: list[int] = []
    position: dict[str, Any] = {}
    for _ in range(60):
        follow = Follow(path, batch_rows=3, start=position)
        for batch in follow.poll():
            got += batch.ip_id.tolist()
            position = follow.position()
            break
        follow.close()
    assert got == list(range(50))


def test_a_rotated_folder_is_read_in_time_order_and_on_into_new_files(tmp_path: Path) -> None:
    (tmp_path / "b.pcap").write_bytes(blob("pcap", 0, 10))
    (tmp_path / "a.pcap").write_bytes(blob("pcap", 10, 10)[:-20])
    (tmp_path / "notes.txt").write_text("dear diary")
    follow = Follow(tmp_path)
    assert ids(follow.poll()) == list(range(19))
    (tmp_path / "a.pcap").write_bytes(blob("pcap", 10, 10))
    (tmp_path / "c.pcap").write_bytes(blob("pcap", 20, 10)[:24])  # begun, no packet yet
    assert ids(follow.poll()) == [19]
    position = follow.position()
    (tmp_path / "c.pcap").write_bytes(blob("pcap", 20, 10))
    (tmp_path / "d.pcapng").write_bytes(blob("pcapng", 30, 5))
    assert ids(follow.poll()) == list(range(20, 35))
    assert ids(Follow(tmp_path, start=position).poll()) == list(range(20, 35))
    assert ids(Follow(tmp_path, newest=True).poll()) == list(range(30, 35))
    assert ids(Follow(str(tmp_path / "[ab].pcap")).poll()) == list(range(20))


def test_files_compressed_when_full_are_no_new_ones(tmp_path: Path) -> None:
    (tmp_path / "0.pcap").write_bytes(blob("pcap", 0, 10))
    follow = Follow(tmp_path, batch_rows=4)
    batches = follow.poll()
    got = ids([next(batches)])
    position = follow.position()
    (tmp_path / "0.pcap.gz").write_bytes(gzip.compress(blob("pcap", 0, 10)))
    (tmp_path / "1.pcap").write_bytes(blob("pcap", 10, 10))
    assert ids(batches) == list(range(4, 20))
    assert ids(Follow(tmp_path, start=position).poll()) == list(range(4, 20))
    (tmp_path / "0.pcap").unlink()
    assert got + ids(Follow(tmp_path, start=position).poll()) == list(range(20))
    assert ids(follow.poll()) == []


def test_a_ring_that_writes_its_files_anew(tmp_path: Path) -> None:
    ring = [tmp_path / f"ring{n}" for n in range(3)]
    follow, got, position = Follow(str(tmp_path / "ring*")), [], {}
    for turn in range(8):
        ring[turn % 3].write_bytes(blob("pcap", 10 * turn, 10))
        if turn % 2:
            got += ids(follow.poll())
            position = follow.position()
            follow = Follow(str(tmp_path / "ring*"), start=position)
    assert got == list(range(80))
    assert follow.stats.damage_count == 0
    for turn in range(8, 14):  # too slow: what was written over is lost, and said to be
        ring[turn % 3].write_bytes(blob("pcap", 10 * turn, 10))
    assert ids(follow.poll()) == list(range(110, 140))
    assert "is there no more" in follow.stats.damages[0].what


def test_one_file_written_anew_in_place_or_by_renaming(tmp_path: Path) -> None:
    path = tmp_path / "c.pcap"
    path.write_bytes(blob("pcap", 0, 10))
    follow = Follow(path)
    assert ids(follow.poll()) == list(range(10))
    path.write_bytes(blob("pcap", 10, 3))
    assert ids(follow.poll()) == list(range(10, 13))
    with path.open("ab") as file:
        file.write(blob("pcap", 13, 2)[24:])
    (tmp_path / "new").write_bytes(blob("pcap", 15, 2))
    (tmp_path / "new").rename(path)
    with path.open("ab") as file:
        file.write(blob("pcap", 17, 2)[24:])
    assert ids(follow.poll()) == list(range(10, 19))[3:]
    assert follow.stats.damage_count == 0


@pytest.mark.parametrize("packed", [False, True])
def test_a_named_pipe(tmp_path: Path, packed: bool) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    follow = Follow(pipe)
    assert list(follow.poll()) == []
    whole = blob("pcap", 0, 40)
    whole = gzip.compress(whole) if packed else whole

    def write() -> None:
        with pipe.open("wb", buffering=0) as file:
            for at in range(0, len(whole), 700):
                file.write(whole[at : at + 700])

    writer = threading.Thread(target=write)
    writer.start()
    got = ids(follow.packets(poll_s=0.001))
    writer.join()
    assert got == list(range(40))
    assert follow.finished
    assert follow.position() == {}
    follow.close()


def test_half_a_record_at_the_end_is_damage_only_when_all_is_there(tmp_path: Path) -> None:
    path = tmp_path / "c.pcap"
    path.write_bytes(blob("pcap", 0, 10)[:-3])
    follow = Follow(path)
    assert ids(follow.poll()) == list(range(9))
    assert follow.stats.damage_count == 0
    assert ids(follow.finish()) == []
    assert "into a record" in follow.stats.damages[0].what


def test_damage_in_a_growing_file_waits_for_where_packets_go_on(tmp_path: Path) -> None:
    path = tmp_path / "c.pcap"
    a, b = blob("pcap", 0, 10), blob("pcap", 10, 10)[24:]
    path.write_bytes(a + b"\xff" * 100)
    follow = Follow(path)
    assert ids(follow.poll()) == list(range(10))
    assert list(follow.poll()) == []
    position = follow.position()
    path.write_bytes(a + b"\xff" * 100 + b)
    assert ids(follow.poll()) == list(range(10, 20))
    assert follow.stats.damage_count == 1
    again = Follow(path, start=position)
    assert ids(again.poll()) == list(range(10, 20))
    assert again.stats.recovered == 10


def test_mistakes_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is nothing"):
        Follow(tmp_path / "nowhere")
    path = tmp_path / "notes.txt"
    path.write_text("dear diary, " * 1000)
    with pytest.raises(InputError, match="expected a capture"):
        list(Follow(path).poll())
    path.write_text("")
    assert list(Follow(path).poll()) == []
    with pytest.raises(InputError, match="empty"):
        list(Follow(path).finish())
