"""What an analysis of captures met, and how far each capture is to be trusted."""

from __future__ import annotations

from dataclasses import dataclass, field

from telemetry.capture.stats import CaptureStats
from telemetry.wire.quality import Quality
from telemetry.wire.tap import Tap

__all__ = ["WireReport"]


@dataclass(slots=True)
class WireReport:
    """What the reading met: filled in while `wire_events` runs.

    Parameters
    ----------
    stats : dict of tap -> CaptureStats
    pairing : dict
        Packets by fate (`telemetry.wire.pairing.COUNTS`).
    quality : dict of tap -> Quality
        How far each capture is to be trusted.
    doubles, snapped_unpaired : dict of tap -> int
        Packets that a mirror port gave twice, and those too short to be told apart (not looked for in a single
        capture with ``detail="windows"``).
    warnings : list of str
        Each lowers confidence in what was measured, and says why.
    """

    stats: dict[str, CaptureStats] = field(default_factory=dict)
    taps: dict[str, Tap] = field(default_factory=dict)
    pairing: dict[str, int] = field(default_factory=dict)
    quality: dict[str, Quality] = field(default_factory=dict)
    doubles: dict[str, int] = field(default_factory=dict)
    snapped_unpaired: dict[str, int] = field(default_factory=dict)
    late: int = 0
    warnings: list[str] = field(default_factory=list)
