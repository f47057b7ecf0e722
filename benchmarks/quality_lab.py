"""Quality in the lab: five recorded faults, the light model on 100 ms windows, little history.

The detector is fitted on the run without a fault, then sees each run from its start; from the 16th second on its alerts
count, those that say "more than usual" (latency, loss, load). Right: an alert in the fault (or its grace of 5 s), none
before it, and none in the run without a fault.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.rows import Row, attempt
from telemetry.errors import NoDataError
from telemetry.types import Label, Panel, Part

__all__ = ["FEATURES", "alerts_of", "lab_panels", "run"]

_SECOND = 10**9
_WINDOW = "100ms"
FAULTS = ("delay_step", "gc_pause", "loss", "rt_contention", "softirq_flood")
FEATURES = (
    Part("window", {"select": "app_latency_ns", "window": _WINDOW, "columns": ["p99"]}),
    Part("window", {"select": 'wire_latency_ns{flow!~"igmp.*"}', "window": _WINDOW, "columns": ["p99"]}),
    Part(
        "window",
        {
            "select": ["app_lost_messages", "wire_lost_packets", "feed_gap_packets"],
            "window": _WINDOW,
            "columns": ["sum"],
        },
    ),
    Part(
        "rate",
        {
            "select": [
                'softirq_total{type=~"NET_RX|NET_TX|TIMER|SCHED"}',
                "softnet_processed_total",
                "softnet_squeezed_total",
                "context_switches_total",
                "thread_run_ns_total",
                "thread_wait_ns_total",
                "udp_socket_drops_total",
            ],
            "window": _WINDOW,
            "columns": ["rate"],
        },
    ),
)


def lab_panels(folder: Path) -> tuple[list[Panel], Label]:
    """Windowed features of a run, and its label."""
    from features.spec import build_features
    from telemetry.labfolder import LabFolder

    lab = LabFolder(folder)
    builder = build_features(FEATURES, lateness_ns=_SECOND // 2)
    last = 0
    for events in lab.source().read(0, 2**62):
        builder.push(events)
        last = max(last, int(events.time_ns.max()))
    return list(builder.close(last + _SECOND)), lab.label


def alerts_of(panels: list[Panel], before: list[Panel], per_day: float = 1.0) -> list[tuple[int, str, float]]:
    """Alerts (end_ns, channel, score) of a run after the detector was fitted on `before`, by the default policy."""
    from detectors.policy import ALERT, BudgetPolicy
    from models.light import LightModel

    model, policy = LightModel(), BudgetPolicy(per_day=per_day)
    out = []
    for panel in before:
        model.fit(panel)
    for panel in panels:
        model.align(panel.keys)
        scores = model.advance(panel)
        policy.align(panel.keys, scores.columns)
        decision = policy.decide(panel.end_ns, panel.window_ns, scores.surprise)
        for w, s, c in np.argwhere((decision.grade >= ALERT) & (scores.side > 0)):
            name = f"{panel.keys[s]} {scores.columns[c]}"
            out.append((int(panel.end_ns[w]), name, float(decision.score[w, s, c])))
    return sorted(out)


def run(*, data: str | None, quick: bool = False) -> list[Row]:
    """One delay a fault, and the false alerts; alerts less than 60 s apart are one."""
    rows = [Row(f"lab_{f}_s", None, "s", 3.0, "<=", "delay of the first alert in the fault") for f in FAULTS]
    rows += [Row("lab_false", None, "runs", 0.0, "<=", "with an alert before the onset, or without a fault")]

    def measure() -> list[float]:
        places = [] if data is None else [Path(data) / "lab", Path(data)]
        root = next((p for p in places if (p / "baseline" / "label.json").is_file()), None)
        if root is None:
            raise NoDataError("expected a folder lab with baseline and the faults' runs")
        baseline, _ = lab_panels(root / "baseline")
        start = int(baseline[0].end_ns[0])
        false = int(any(t > start + 15 * _SECOND for t, _, _ in alerts_of(baseline, baseline)))
        found = []
        for fault in FAULTS:
            panels, label = lab_panels(root / fault)
            begin = int(panels[0].end_ns[0])
            alerts = [t for t, _, _ in alerts_of(panels, baseline) if t > begin + 15 * _SECOND]
            early = [t for t in alerts if t <= label.start_ns]
            false += 1 if early else 0
            hits = [t for t in alerts if label.start_ns < t <= label.end_ns + 5 * _SECOND]
            found.append((hits[0] - label.start_ns) / _SECOND if hits else float("inf"))
        return [*found, float(false)]

    return attempt(rows, measure)
