from __future__ import annotations

import numpy as np
import pytest

from detectors.build import build
from detectors.incidents import Grouper
from detectors.spec import DetectorSpec
from telemetry.types import Alert, Events, SeriesKey

SECOND = 1_000_000_000
FEATURE = """
[[features]]
kind = "window"
select = "m"
window = "{}"
columns = ["max"]
"""
REST = """
[model]
kind = "{}"
[policy]
kind = "budget"
threshold = 3.0
"""


def bursts(host: str) -> Events:
    """Three series at 20 Hz, with a second of trouble every 40 s, between whole seconds."""
    n = 20 * 400
    at = np.arange(n) / 20
    level = np.where((at > 150) & (at % 40 >= 20.75) & (at % 40 < 21.75), 1000.0, 0.0)
    keys = tuple(SeriesKey.of(host, "m", i=i) for i in range(3))
    time = np.repeat(1000 * SECOND + np.arange(n) * SECOND // 20, 3)
    value = np.repeat(level, 3) + np.random.default_rng(1).normal(0, 1, 3 * n)
    return Events(keys, np.tile(np.arange(3), n), time, time, value)


@pytest.mark.parametrize(("windows", "model"), [(("1s", "500ms"), "light"), (("1s",), "subspace")])
def test_no_two_alerts_share_an_id(windows: tuple[str, ...], model: str) -> None:
    """Of windows of two lengths that end at once, nor of the joint models of two hosts."""
    spec = DetectorSpec.from_toml('name = "d"\n' + "".join(FEATURE.format(w) for w in windows) + REST.format(model))
    alerts: list[Alert] = []
    for host in "ab":
        detector = build(spec, "1")
        detector.push(bursts(host))
        alerts += detector.close(detector.watermark_ns)
    assert {a.series.host for a in alerts} == {"a", "b"}
    assert {a.window_ns for a in alerts} == {1_000_000_000, 500_000_000} or len(windows) == 1
    assert len({a.id for a in alerts}) == len(alerts)
    Grouper().push(alerts, 2000 * SECOND)
