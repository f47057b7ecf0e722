"""How the live champions hold: calibration and inputs since their training, day by day; challengers beside them.

Calibration: a surprise of 2 should come once in a hundred windows, so the share of windows at or above 1, 2 and 3,
divided by what is due, should be about 1 (a probability integral transform at three points). Inputs: PSI of each
channel against the deciles kept with the version (`pipelines.reference`). Labelled incidents are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detectors.build import build
from detectors.policy import Decision
from detectors.spec import DetectorSpec
from pipelines.config import Config
from pipelines.evaluate import wilson
from pipelines.reference import Reference, Tally
from pipelines.replay import replay
from pipelines.savefile import load_snapshots
from pipelines.state import Champion, StateDB
from pipelines.train import mask
from telemetry.errors import NoDataError
from telemetry.labels import format_time
from telemetry.store import Store
from telemetry.types import Float64, Label, Nanos, Panel, Scores

__all__ = ["CALIBRATION", "PSI", "Drift", "drift_of", "exposition", "remember", "survey"]

DAY_NS = 86_400_000_000_000
LEVELS = (1, 2, 3)
CALIBRATION = 3.0
PSI = 0.25


@dataclass(frozen=True, slots=True)
class Drift:
    """One champion over a time.

    Parameters
    ----------
    days : tuple of (day, windows, ratios)
        `ratios` of the windows at or above a surprise of 1, 2 and 3 to what is due; `windows` counts channels' windows.
    channels : tuple of (channel, PSI, distance, windows)
        The most drifted first; empty where the version keeps no reference.
    noisy : bool
        Calibration left its bound, beyond chance.
    drifted : int
        Channels beyond the bound of the PSI.
    """

    detector: str
    version: str
    days: tuple[tuple[str, int, tuple[float, ...]], ...]
    channels: tuple[tuple[str, float, float, int], ...]
    noisy: bool
    drifted: int
    reference: bool

    def plain(self) -> dict[str, Any]:
        """JSON types; at most a hundred channels."""
        return {
            "detector": self.detector,
            "version": self.version,
            "days": [
                {"day": d, "windows": n, "ratios": [None if math.isnan(x) else x for x in r]} for d, n, r in self.days
            ],
            "channels": [{"channel": c, "psi": p, "distance": x, "windows": n} for c, p, x, n in self.channels[:100]],
            "watched": len(self.channels),
            "drifted": self.drifted,
            "noisy": self.noisy,
            "reference": self.reference,
        }

    @property
    def verdict(self) -> str:
        """What is out of bounds; empty if nothing is."""
        what = [f"{self.drifted} channels drifted"] if self.drifted else []
        what += ["more surprise than is due"] if self.noisy else []
        return " and ".join(what)

    def lines(self) -> Iterator[str]:
        """For people."""
        name = f"{self.detector} v{self.version}"
        for day, n, ratios in self.days:
            shown = ", ".join(f"{r:.2f}" for r in ratios)
            yield f"calibration {name} {day}: {n} windows; seen / due at p = 0.1, 0.01, 0.001: {shown}"
        if not self.reference:
            yield f"inputs      {name}: the version keeps no reference (train it again to watch its inputs)"
        elif self.channels:
            yield f"inputs      {name}: {self.drifted} of {len(self.channels)} channels drifted"
            for channel, psi, far, _ in self.channels[:5]:
                yield f"            PSI {psi:.2f}, distance {far:.2f}  {channel}"


def drift_of(
    champion: Champion,
    store: Store,
    from_ns: Nanos,
    to_ns: Nanos,
    labels: Sequence[Label],
    *,
    calibration: float = CALIBRATION,
    psi: float = PSI,
) -> Drift:
    """Replay a champion from its registered state over ``[from_ns, to_ns)`` and count.

    Raises
    ------
    NoDataError
        No windows of its series in the range.
    """
    detector = build(DetectorSpec.from_dict(champion.spec, champion.detector), champion.version)
    reference = None
    if champion.path is not None:
        snapshot = load_snapshots(Path(champion.path), champion.digest)["detector"]
        detector.restore(snapshot)
        reference = Reference.of(snapshot)
    tally = Tally(reference) if reference is not None else None
    days: dict[int, Float64] = {}

    def observe(panel: Panel, scores: Scores, decision: Decision) -> None:
        clean = mask(panel, labels)
        if tally is not None:
            tally.add(clean)
        surprise = scores.surprise[:, :1, :1] if scores.parts is not None else scores.surprise
        quiet = np.isfinite(clean.values).any(axis=(1, 2)) & (panel.end_ns > from_ns)
        for day in np.unique(panel.end_ns[quiet] // DAY_NS).tolist():
            some = surprise[quiet & (panel.end_ns // DAY_NS == day)]
            row = days.setdefault(day, np.zeros(1 + len(LEVELS)))
            row[0] += np.isfinite(some).sum()
            row[1:] += [(some >= level).sum() for level in LEVELS]  # NaN is not

    detector.observer = observe
    for _ in replay(detector, store, from_ns, to_ns):
        pass
    if not days:
        raise NoDataError(f"{champion.detector} v{champion.version}: no windows of its series in the range")
    whole = np.sum(list(days.values()), axis=0)
    noisy = any(
        wilson(int(k), int(whole[0]))[0] > min(calibration * 10.0**-level, 0.5)
        for k, level in zip(whole[1:], LEVELS, strict=True)
    )
    channels = tuple(tally.drift()) if tally is not None else ()
    shown = []
    for day, row in sorted(days.items()):
        ratios = tuple(_ratio(k, row[0], x) for k, x in zip(row[1:], LEVELS, strict=True))
        shown.append((format_time(day * DAY_NS)[:10], int(row[0]), ratios))
    drifted = sum(1 for _, value, _, _ in channels if value > psi)
    return Drift(champion.detector, champion.version, tuple(shown), channels, noisy, drifted, reference is not None)


def _ratio(k: float, n: float, level: int) -> float:
    return float(k / n * 10**level) if n else math.nan


def survey(
    config: Config, names: Sequence[str], days: float, *, calibration: float = CALIBRATION, psi: float = PSI
) -> tuple[list[Drift], list[dict[str, Any]], list[str]]:
    """All champions (or those of `names`) over the last `days` of the store, the shadow report by day, what failed.

    Raises
    ------
    NoDataError
        No champion, or nothing in the store.
    """
    with StateDB(config.state) as state, Store(config.store, create=False) as store:
        champions = [c for c in state.champions() if not names or c.detector in names]
        if not champions:
            raise NoDataError("drift: no champion is live yet; promote a version first")
        last = store.last_seen_ns()
        if last is None:
            raise NoDataError(f"{config.store}: the store is empty")
        to_ns = last + 1
        from_ns = to_ns - round(days * DAY_NS)
        labels = state.labels()
        found, silent = [], []
        for champion in champions:
            try:
                found.append(drift_of(champion, store, from_ns, to_ns, labels, calibration=calibration, psi=psi))
            except NoDataError as error:
                silent.append(str(error))
        shadow = []
        for day in range(from_ns // DAY_NS, to_ns // DAY_NS + 1):
            for row in state.shadow_report(max(from_ns, day * DAY_NS), min(to_ns, (day + 1) * DAY_NS)):
                if not names or row["detector"] in names:
                    shadow.append({"day": format_time(day * DAY_NS)[:10], **row})
    return found, shadow, silent


def remember(config: Config, found: Sequence[Drift], now_ns: Nanos) -> None:
    """Note the verdicts in the state database, for ``tailwatch status``."""
    with StateDB(config.state) as state:
        for d in found:
            state.note("drift", now_ns, "drift", {"detector": d.detector, "version": d.version, "verdict": d.verdict})


def exposition(found: Sequence[Drift]) -> str:
    """Gauges in Prometheus' text format, for node exporter's textfile collector."""
    lines = []
    metrics = (
        ("tailwatch_calibration_ratio", "Windows at or above a surprise, by what is due, on the last day."),
        ("tailwatch_drifted_channels", "Channels whose inputs left the bound since training."),
        ("tailwatch_input_psi_max", "Largest population stability index of a channel."),
    )
    for name, text in metrics:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
        for d in found:
            who = f'detector="{d.detector}",version="{d.version}"'
            if name == "tailwatch_calibration_ratio":
                ratios = d.days[-1][2]
                lines += [f'{name}{{{who},surprise="{x}"}} {r}' for x, r in zip(LEVELS, ratios, strict=True)]
            elif name == "tailwatch_drifted_channels" and d.reference:
                lines.append(f"{name}{{{who}}} {d.drifted}")
            elif d.channels:
                lines.append(f"{name}{{{who}}} {d.channels[0][1]}")
    return "\n".join(lines) + "\n"
