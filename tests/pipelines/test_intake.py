"""Captures in `watch`: growing files, a rotated set, a pipe; killed, behind, missing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from msgspec import structs

from pipelines.config import Captures, Config, Scoring, Sinks
from pipelines.intake import taps_of
from pipelines.state import StateDB
from pipelines.watch import Watcher
from telemetry.errors import ConfigError
from telemetry.store import Store
from tests.naive.wire_frames import START, pcap, udp

ROOT = Path(__file__).parents[2]
SECOND = 1_000_000_000
SECONDS, RATE = 50, 100


def frames(tap: int) -> list[tuple[int, bytes]]:
    """A flow at 100 packets a second between two taps; for ten seconds the way takes 3 ms, else 0.2 ms."""
    rng = random.Random(4)
    out = []
    for i in range(SECONDS * RATE):
        at = START + i * SECOND // RATE + rng.randrange(100_000)
        slow = 25 * RATE <= i < 35 * RATE
        way = round(rng.lognormvariate(0, 0.1) * (3_000_000 if slow else 200_000))
        frame = udp("10.0.0.1", 9, "10.0.0.2", 4000, b"%09d" % i + b"x" * 30, ident=i & 0xFFFF)
        out.append((at + (way if tap else 0), frame))
    return sorted(out)


@pytest.fixture(scope="module")
def whole() -> dict[str, bytes]:
    return {"a": pcap(frames(0)), "b": pcap(frames(1))}


def config(folder: Path, taps: dict[str, str]) -> Config:
    folder.mkdir(parents=True, exist_ok=True)
    return Config(
        store=str(folder / "store"),
        state=str(folder / "state.db"),
        checkpoints=str(folder / "ck"),
        scoring=Scoring(detectors=["tail_latency_creep"], checkpoint_s=0.3),
        sinks=Sinks(jsonl=str(folder / "out.jsonl")),
        captures=Captures(taps=taps),
    )


def settled(watcher: Watcher, limit_s: float = 60) -> None:
    """Run until nothing more comes."""
    thread = threading.Thread(target=watcher.run)
    thread.start()
    before, since, begun = (-1, 0), time.monotonic(), time.monotonic()
    while time.monotonic() - begun < limit_s and thread.is_alive():
        time.sleep(0.1)
        now = watcher.counters.events, watcher.counters.steps
        if now != before:
            before, since = now, time.monotonic()
        elif time.monotonic() - since > 1.0:
            break
    watcher.stop.set()
    thread.join()


def stored(folder: Path) -> tuple[list[str], list[str]]:
    with StateDB(folder / "state.db", create=False) as state:
        return [repr(a) for a in state.alerts()], [repr(i) for i in state.incidents()]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, whole: dict[str, bytes]) -> Path:
    """The undisturbed run."""
    folder = tmp_path_factory.mktemp("calm")
    taps = {}
    for tap, data in whole.items():
        (folder / f"{tap}.pcap").write_bytes(data)
        taps[tap] = str(folder / f"{tap}.pcap")
    watcher = Watcher(config(folder, taps), host="h", harvest=False)
    settled(watcher)
    watcher.close()
    return folder


def digest(folder: Path) -> str:
    with Store(folder / "store", create=False) as store:
        return store.digest(0, START + (SECONDS - 4) * SECOND)


def test_a_growing_capture_alerts(calm: Path) -> None:
    alerts, incidents = stored(calm)
    assert alerts
    (incident,) = incidents
    assert "3.43 ms" in incident
    assert "host='wire'" in incident
    assert len(identities(calm)) >= 2


def identities(folder: Path) -> list[str]:
    return [json.loads(line)["id"] for line in (folder / "out.jsonl").read_text().splitlines()]


def test_it_goes_on_where_it_stopped_or_died(calm: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    taps = {tap: str(tmp_path / f"{tap}.pcap") for tap in whole}
    for turn, share in enumerate((0.3, 0.55, 0.56, 0.8, 1.0)):
        for tap, path in taps.items():
            Path(path).write_bytes(whole[tap][: int(share * len(whole[tap]))])
        watcher = Watcher(config(tmp_path, taps), host="h", harvest=False)
        settled(watcher)
        if turn % 2:
            watcher.close()
        else:
            del watcher  # died: no checkpoint, no flush
    assert stored(tmp_path) == stored(calm)
    assert digest(tmp_path) == digest(calm)


@pytest.mark.slow
def test_killed_it_says_what_an_undisturbed_one_does(calm: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    rng = random.Random(11)
    taps = {tap: str(tmp_path / f"{tap}.pcap") for tap in whole}
    settings = config(tmp_path, taps)
    (tmp_path / "tailwatch.toml").write_text(
        f'store = "{settings.store}"\nstate = "{settings.state}"\ncheckpoints = "{settings.checkpoints}"\n'
        '[scoring]\ndetectors = ["tail_latency_creep"]\ncheckpoint_s = 0.1\n'
        f'[sinks]\njsonl = "{settings.sinks.jsonl}"\n'
    )
    command = [sys.executable, "-m", "pipelines.cli", "--config", str(tmp_path / "tailwatch.toml"), "watch"]
    command += ["--no-harvest", "--listen", "", *(f"--capture={tap}={path}" for tap, path in taps.items())]
    share, kills = 0.05, 0
    for tap, path in taps.items():
        Path(path).write_bytes(whole[tap][: int(share * len(whole[tap]))])
    while share < 1:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
        end = time.monotonic() + rng.uniform(3.5, 5.0)
        while time.monotonic() < end:
            time.sleep(0.05)
            share = min(1.0, share + 0.004)
            for tap, path in taps.items():
                have = os.path.getsize(path)
                with open(path, "ab") as f:
                    f.write(whole[tap][have : int(share * len(whole[tap]))])
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    watcher = Watcher(settings, host="h", harvest=False)
    settled(watcher)
    watcher.close()
    assert kills >= 3
    assert stored(tmp_path) == stored(calm)
    assert digest(tmp_path) == digest(calm)
    assert set(identities(tmp_path)) == set(identities(calm))


def test_a_rotated_folder_is_one_capture(calm: Path, tmp_path: Path) -> None:
    for tap in (0, 1):
        folder = tmp_path / "ab"[tap]
        folder.mkdir()
        every = frames(tap)
        for number in range(5):
            part = every[number * len(every) // 5 : (number + 1) * len(every) // 5]
            (folder / f"ring{number}.pcap").write_bytes(pcap(part))
    watcher = Watcher(config(tmp_path, {t: str(tmp_path / t) for t in "ab"}), host="h", harvest=False)
    settled(watcher)
    watcher.close()
    assert stored(tmp_path) == stored(calm)


def test_a_pipe_is_scored_to_its_end_and_a_gap_is_an_event(tmp_path: Path, whole: dict[str, bytes]) -> None:
    every = frames(0)
    pieces = [pcap(every[:2000]), pcap(every[3000:])]
    settings = structs.replace(config(tmp_path, {"a": str(tmp_path / "fifo")}), scoring=Scoring(checkpoint_s=0.3))
    os.mkfifo(tmp_path / "fifo")
    for piece in pieces:

        def write(data: bytes = piece) -> None:
            with open(tmp_path / "fifo", "wb") as f:
                f.write(data)

        writer = threading.Thread(target=write)
        writer.start()
        watcher = Watcher(settings, host="h", harvest=False)
        watcher.run(60)
        assert watcher.captures is not None
        assert watcher.captures.finished
        watcher.close()
        writer.join()
    with Store(tmp_path / "store", create=False) as store:
        (gap,) = [e for b in store.read(0, 2**62, select="input_gap_ns") for e in b.value]
        rows = list(store.read(0, 2**62, select="wire_packets"))
    assert 8 * SECOND < gap < 12 * SECOND
    assert sum(int(b.value.sum()) for b in rows) == 2000 + len(every) - 3000


def test_a_pipe_that_bursts_makes_its_writer_wait(tmp_path: Path, whole: dict[str, bytes]) -> None:
    """A hundred times the rate, and then some: nothing is lost, nothing is queued."""
    import resource

    os.mkfifo(tmp_path / "fifo")
    data = pcap([f for i in range(40) for f in [(t + i * SECONDS * SECOND, b) for t, b in frames(0)]])
    settings = config(tmp_path, {"a": str(tmp_path / "fifo")})

    def write() -> None:
        with open(tmp_path / "fifo", "wb") as f:
            f.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    watcher = Watcher(settings, host="h", harvest=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    watcher.run(120)
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    watcher.close()
    writer.join()
    with Store(tmp_path / "store", create=False) as store:
        packets = sum(int(b.value.sum()) for b in store.read(0, 2**62, select="wire_packets"))
    assert packets == 40 * SECONDS * RATE
    assert grown_mb < 150


def test_taps_by_name(tmp_path: Path) -> None:
    assert taps_of(["-"]) == {"pipe": "-"}
    assert taps_of(["core=/c/x.pcap", "/d/edge.pcap"]) == {"core": "/c/x.pcap", "edge": "/d/edge.pcap"}
    with pytest.raises(ConfigError, match="twice"):
        taps_of(["/a/x.pcap", "/b/x.pcap"])
    with pytest.raises(ConfigError, match=r"captures\.host"):
        Watcher(config(tmp_path, {"a": "x"}), host="wire")


def test_nothing_there_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "watch", "--no-harvest", "--listen", "", "--capture", "no.pcap"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("tailwatch: error: no.pcap")
    assert "Traceback" not in done.stderr


def test_what_is_no_capture_on_a_pipe_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "watch", "--no-harvest", "--listen", "", "--capture", "-"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, input=b"garbage\n" * 9, capture_output=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(b"tailwatch: error: -: expected a capture")
