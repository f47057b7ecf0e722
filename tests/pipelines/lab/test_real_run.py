"""A real run: layout, label, conservation of packets, and everything put back. Needs root and the tools."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.lab.journal import state_dir
from pipelines.lab.needs import missing
from pipelines.lab.record import record
from pipelines.lab.run import ROOT
from pipelines.lab.scenarios import SCENARIOS
from telemetry.errors import ConfigError
from telemetry.labfolder import LabFolder

BACKLOG = Path("/proc/sys/net/core/netdev_max_backlog")

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root (network namespaces)"),
    pytest.mark.skipif(bool(missing()), reason=f"missing commands: {', '.join(missing())}"),
]


def spaces() -> set[str]:
    """Names of the lab's network namespaces that are there now."""
    return {p.name for p in Path("/run/netns").glob("tw*")} if Path("/run/netns").exists() else set()


def market_data(path: Path) -> set[tuple[int, int]]:
    """(line, sequence) of the market data packets of a nanosecond pcap."""
    data, at, found = gzip.decompress(path.read_bytes()), 24, set()
    assert data[:4] == b"\x4d\x3c\xb2\xa1"
    while at + 16 <= len(data):
        size = struct.unpack_from("<I", data, at + 8)[0]
        frame = data[at + 16 : at + 16 + size]
        at += 16 + size
        if frame[12:14] == b"\x08\x00" and frame[23] == 17:
            port = struct.unpack_from(">H", frame, 36)[0]
            if port in (30001, 30002):
                found.add((port - 30001, struct.unpack_from(">Q", frame, 52)[0]))
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lab")
    record(SCENARIOS["loss"], "test", 10.0, out, rate=200.0)
    return out / "loss-stest"


def test_the_layout_is_whole_and_the_label_says_what_happened(run: Path) -> None:
    assert {p.name for p in run.iterdir()} == {
        "label.json", "proc_10hz.csv.gz", "exch.pcap.gz", "trd.pcap.gz", "app_raw.npz",
    }  # fmt: skip
    assert [p.name for p in run.parent.iterdir()] == [run.name]  # no scratch left behind
    label = json.loads((run / "label.json").read_text())
    assert label["fault"] == "loss"
    assert label["kind"] == "network_gap"
    assert label["t0"] < label["fault_sched_start"] < label["fault_sched_end"] < label["t0"] + 10
    assert abs(label["fault_start"] - label["fault_sched_start"]) < 0.5
    assert label["moved"]["moved"]
    with gzip.open(run / "proc_10hz.csv.gz", "rt") as f:
        rows = f.read().splitlines()
    assert 85 <= len(rows) - 1 <= 101
    head = rows[0].split(",")
    assert {"softnet.cpu0.dropped", "trd.snmp.Udp:RcvbufErrors", "proc.strat.wait_ns", "trd.udp.30001.drops"} <= set(
        head
    )


def test_packets_are_conserved_from_tap_to_tap_to_application(run: Path) -> None:
    label = json.loads((run / "label.json").read_text())
    assert label["captures"]["exch"]["dropped"] == label["captures"]["trd"]["dropped"] == 0
    sent = {(line, seq) for line in (0, 1) for seq in range(1, label["sent"]["last_seq"] + 1)}
    exch, trd = market_data(run / "exch.pcap.gz"), market_data(run / "trd.pcap.gz")
    with np.load(run / "app_raw.npz") as z:
        app = {(int(row[0]), int(row[1])) for row in z["md"]}
        orders = z["orders"]
    assert exch == sent
    assert trd < exch
    assert app == trd
    lost = len(exch) - len(trd)
    assert 0 < lost <= label["relay"]["dropped"]  # the rest of what the relay dropped was order entry
    assert label["moved"]["lost"] + label["moved"]["lost_before"] == lost
    assert len(orders) > 50
    assert (orders[:, 3] > orders[:, 2]).all()


def test_the_reader_of_lab_folders_takes_it(run: Path) -> None:
    folder = LabFolder(run)
    assert folder.missing == ()
    assert folder.label.kind == "network_gap"
    metrics = {k.metric for batch in folder.source().read(0, 2**62) for k in batch.keys}
    assert {"softnet_processed_total", "wire_latency_ns", "app_latency_ns", "tcp_rtt_ns"} <= metrics


def test_a_folder_is_never_overwritten(run: Path) -> None:
    with pytest.raises(ConfigError, match="exists"):
        record(SCENARIOS["loss"], "test", 10.0, run.parent)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write to"):
        record(SCENARIOS["loss"], "test", 10.0, tmp_path / "file")


def eventually(what: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if what():
            return True
        time.sleep(0.05)
    return what()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_leaves_nothing_behind(tmp_path: Path, how: signal.Signals) -> None:
    original = BACKLOG.read_text()
    argv = [sys.executable, "-m", "pipelines.cli", "lab", "run", "softirq_flood", "--out", str(tmp_path)]
    child = subprocess.Popen([*argv, "--seconds", "20"], cwd=ROOT, start_new_session=True)
    mine: set[str] = set()

    def journal() -> dict[str, list[str]] | None:
        for path in state_dir().glob("*.json"):
            with contextlib.suppress(OSError, ValueError):
                data = json.loads(path.read_text())
                if data["owner"][0] == child.pid:
                    return {**data, "path": str(path)}
        return None

    try:
        # waits for its turn if another lab runs on this machine
        assert eventually(lambda: bool((data := journal()) and data["settings"]), 300)
        data = journal()
        assert data is not None
        mine = set(data["spaces"])
        processes = [pid for pid, _ in data["processes"]]
        assert mine <= spaces()
        assert eventually(lambda: BACKLOG.read_text() != original, 5)
        os.kill(child.pid, how)
        child.wait(60)
        assert eventually(lambda: journal() is None, 15)
        assert BACKLOG.read_text() == original
        assert not mine & spaces()
        assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes), 10)
    finally:
        child.kill()
    if how != signal.SIGKILL:
        assert child.returncode not in (0, None)
    assert list(tmp_path.iterdir()) == []
