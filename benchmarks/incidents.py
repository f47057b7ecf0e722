"""Incidents on a corpus of recorded lab runs: found, where, why, how late, and how often for nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from benchmarks.rows import Row

__all__ = ["run"]


def run(*, data: str | None, quick: bool = False) -> list[Row]:
    """Judge the shipped catalogue.

    Parameters
    ----------
    data : str or None
        Folder of the test data; its ``lab`` is taken where ``TAILWATCH_LAB`` names no corpus.
    quick : bool
        At most six runs.
    """
    from pipelines.corpus import corpus_runs, reliability, run_folder
    from pipelines.evaluate import share

    folder = os.environ.get("TAILWATCH_LAB") or (str(Path(data) / "lab") if data else "")
    goals: tuple[tuple[str, str, float, Literal[">=", "<="]], ...] = (
        ("detected", "share", 0.95, ">="),
        ("place", "share", 0.95, ">="),
        ("cause1", "share", 0.85, ">="),
        ("cause3", "share", 0.95, ">="),
        ("one_per_fault", "share", 0.95, ">="),
        ("delay_p50_s", "s", 3.0, "<="),
        ("false_per_hour", "1/h", 1.0, "<="),
    )
    if not folder or not Path(folder).is_dir():
        why = "no corpus: set TAILWATCH_LAB to a folder of recorded runs"
        return [Row(name, None, unit, goal, direction, why) for name, unit, goal, direction in goals]
    paths = corpus_runs(folder)
    results = [run_folder(p) for p in (paths[:: max(1, len(paths) // 6)][:6] if quick else paths)]
    faults = [r for r in results if r.label != "none" and r.moved is not False]
    found = [r for r in faults if r.delay_s is not None]
    placed = [r for r in found if r.place_right is not None]
    delays = sorted(r.delay_s for r in found if r.delay_s is not None)
    hours = sum(r.clean_s for r in results) / 3600
    counts = {
        "detected": (len(found), len(faults)),
        "place": (sum(bool(r.place_right) for r in placed), len(placed)),
        "cause1": (sum(r.first for r in found), len(found)),
        "cause3": (sum(r.third for r in found), len(found)),
        "one_per_fault": (sum(r.incidents == 1 for r in found), len(found)),
    }
    rows = []
    for name, unit, goal, direction in goals:
        if name in counts:
            k, n = counts[name]
            why = share(k, n) if n else "no run says where its fault is" if name == "place" else "no run has a fault"
            rows.append(Row(name, k / n if n else None, unit, goal, direction, why))
        elif name == "delay_p50_s":
            rows.append(Row(name, delays[len(delays) // 2] if delays else None, unit, goal, direction))
        else:
            false = sum(r.false for r in results)
            why = f"{false} in {hours:.2f} clean hours"
            rows.append(Row(name, false / hours if hours else None, unit, goal, direction, why))
    # seeds 1 and 2 were there to be learnt from; whether a confidence is what it says is told by the others
    told = [r for r in results if not re.search("-s[12]$", r.run)] if os.environ.get("TAILWATCH_LAB") else results
    for x in reliability(told):
        why = f"said {x.said:.0%}, right {share(x.right, x.n)}" if x.n else "no incident of such a confidence"
        off = abs(x.said - x.right / x.n) if x.n else None
        rows.append(Row(f"confidence_{x.lo:.2f}_{x.hi:.2f}_off", off, "share", 0.15, "<=", why))
    return rows
