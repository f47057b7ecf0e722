"""Ingest of captures still being written: parts, kills, ends for now, pipes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from pipelines.ingest_live import follow_into
from telemetry.bulk import holds_part
from telemetry.store import Store
from telemetry.types import Events
from telemetry.wire.taps import wire_events
from tests.naive.wire_frames import START, mold, pcap, udp

MS = 1_000_000


def _capture(count: int = 4000) -> bytes:
    """40 s of a feed, a number missing in every 50."""
    return pcap(
        [
            (START + n * 10 * MS, udp("10.0.0.1", 1, "239.1.1.1", 5001, mold(b"S", n, [b"x" * 30]), ident=n))
            for n in range(1, count)
            if n % 50
        ]
    )


def _told(batches: list[Events]) -> Counter[tuple[str, int, int]]:
    return Counter(
        (str(b.keys[s]), t, v)
        for b in batches
        for s, t, v in zip(b.series.tolist(), b.time_ns.tolist(), b.value.tolist(), strict=True)
    )


def _stored(store: Path) -> Counter[tuple[str, int, int]]:
    return _told(list(Store(store).read(-(2**63), 2**63 - 1)))


def test_a_file_that_grows_from_run_to_run_gives_what_the_whole_one_gives(tmp_path: Path) -> None:
    path, store, whole = tmp_path / "c.pcap", tmp_path / "s", _capture()
    for cut in (0.2, 0.21, 0.6, 0.6, 1.0):
        path.write_bytes(whole[: int(cut * len(whole))])
        list(follow_into({"c": str(path)}, str(store), name="c", part_s=0.0, idle_s=0.1))
        assert holds_part(store, "wire\0c\0windows followed", "tail")
    assert _stored(store) == _told(list(wire_events({"c": path}, detail="windows")))


_RUN = """
import sys, time
from pipelines.ingest_live import follow_into
for rows in follow_into({"c": sys.argv[1]}, sys.argv[2], name="c", part_s=0.0, idle_s=float(sys.argv[3])):
    print(rows, flush=True)
"""


def test_killed_anywhere_no_packet_is_lost_or_counted_twice(tmp_path: Path) -> None:
    path, store, whole = tmp_path / "c.pcap", tmp_path / "s", _capture()
    path.write_bytes(whole[:24])
    list(follow_into({"c": str(path)}, str(store), name="c", idle_s=0.0))

    def grow() -> None:
        with path.open("ab", buffering=0) as file:
            for at in range(24, len(whole), 4000):
                file.write(whole[at : at + 4000])
                time.sleep(0.015)

    writer = threading.Thread(target=grow)
    writer.start()
    for kill in (0, 1, 3, None):
        run = subprocess.Popen(
            [sys.executable, "-c", _RUN, str(path), str(store), "2"], stdout=subprocess.PIPE, cwd=Path.cwd()
        )
        assert run.stdout is not None
        if kill is None:
            run.communicate()
            assert run.returncode == 0
        else:
            for _ in range(kill):
                run.stdout.readline()
            time.sleep(0.2 * kill)
            run.send_signal(signal.SIGKILL)
            run.communicate()
    writer.join()
    list(follow_into({"c": str(path)}, str(store), name="c", idle_s=0.1))
    assert _stored(store) == _told(list(wire_events({"c": path}, detail="windows")))


def test_a_pipe_is_loaded_until_it_is_closed(tmp_path: Path) -> None:
    pipe, store, whole = tmp_path / "pipe", tmp_path / "s", _capture(900)
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(whole))
    writer.start()
    list(follow_into({"c": str(pipe)}, str(store), name="c"))
    writer.join()
    (tmp_path / "c.pcap").write_bytes(whole)
    assert _stored(store) == _told(list(wire_events({"c": tmp_path / "c.pcap"}, detail="windows")))
