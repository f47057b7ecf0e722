"""What a host says of its settings reaches the change that a scheduled job proposes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.config import Config
from pipelines.score import score
from pipelines.state import StateDB
from telemetry.store import Store
from telemetry.types import Events, SeriesKey

START = 1_763_000_000_000_000_000
TICK = 100_000_000


def _events(key: SeriesKey, at_ns: list[int], values: list[int]) -> Events:
    stamp = np.array(at_ns, np.int64)
    return Events((key,), np.zeros(len(stamp), np.int64), stamp, stamp, np.array(values, np.int64))


def test_a_job_proposes_a_change_with_this_hosts_values(tmp_path: Path) -> None:
    drops = SeriesKey.of("tx07", "udp_socket_drops_total", port="30001", netns="root")
    total = np.concatenate([np.zeros(150, int), np.cumsum(np.full(100, 40)), np.full(300, 4000)])
    at = [START + i * TICK for i in range(len(total))]
    with Store(tmp_path / "store") as store:
        store.append(_events(SeriesKey.of("tx07", "sysctl", name="net.core.rmem_max"), [START], [425984]))
        store.append(_events(SeriesKey.of("tx08", "sysctl", name="net.core.rmem_max"), [START + 1], [1]))
        store.append(_events(drops, at, [int(x) for x in total]))
    config = Config(store=str(tmp_path / "store"), state=str(tmp_path / "state.db"), checkpoints=str(tmp_path / "ck"))
    assert score(config).incidents == 1
    with StateDB(config.state, create=False) as state:
        (found,) = state.incidents()
    assert (found.kind, found.state) == ("udp_overflow", "resolved")
    assert found.changes[0].undo == "sysctl -w net.core.rmem_max=425984"
    assert not found.changes[0].command.startswith("OLD="), "the value is known: nothing needs to be saved first"
