"""A recorded minute of a real host: what the counters counted is what the windows add up to."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from features.spec import build_features
from telemetry.labfolder import LabFolder
from telemetry.types import Events, Part

DATA = os.environ.get("TAILWATCH_DATA")
pytestmark = [
    pytest.mark.corpus,
    pytest.mark.skipif(not DATA, reason="TAILWATCH_DATA is not set (a folder with lab/)"),
]


@pytest.fixture(scope="module")
def host() -> Events:
    return Events.concat(LabFolder(Path(str(DATA)) / "lab" / "softirq_flood").host_events())


def test_increments_add_up_to_what_was_counted(host: Events) -> None:
    part = Part("rate", {"select": 'metric=~".*_total"', "window": "1s", "columns": "increment,resets"})
    builder = build_features([part])
    builder.push(host)
    (panel,) = builder.close(int(host.time_ns.max()) + 1_000_000_000)
    up, resets = panel.column("increment"), panel.column("resets")
    whole = 0
    for s, key in enumerate(panel.keys):
        mine = host.value[host.series == host.keys.index(key)]
        if np.nansum(resets[:, s]) == 0 and len(mine) > 1:
            assert np.nansum(up[:, s]) == mine[-1] - mine[0], key
            whole += 1
    assert whole > 100
    flood = panel.keys.index(
        next(k for k in panel.keys if k.metric == "softnet_dropped_total" and np.nansum(up[:, panel.keys.index(k)]) > 0)
    )
    assert np.nanmax(up[:, flood]) > 100 * np.nanmedian(up[:, flood]) + 100, "the flood is seen"


def test_closing_often_changes_nothing(host: Events) -> None:
    """100 ms windows, pushed sample by sample and closed each time, equal one push."""
    few = host[:40_000]
    part = Part(
        "shape", {"select": "softirq_total", "over": "cpu", "window": "100ms", "columns": "total,entropy,mover"}
    )
    whole, live = build_features([part]), build_features([part])
    whole.push(few)
    (wanted,) = whole.close(whole.watermark_ns)
    got = []
    for a in range(0, len(few), 997):
        live.push(few[a : a + 997])
        got += [p for p in live.close(live.watermark_ns) if len(p.end_ns)]
    np.testing.assert_array_equal(np.concatenate([p.end_ns for p in got]), wanted.end_ns)
    np.testing.assert_array_equal(np.concatenate([p.values for p in got]), wanted.values)
