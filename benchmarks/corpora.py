"""Public series with labels, read from the folder that the user points at."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.series_files import Table, read_table

__all__ = ["NabFile", "RttFile", "load_nab", "load_rtt", "match", "published"]


@dataclass(frozen=True, slots=True)
class NabFile:
    """A series of the Numenta Anomaly Benchmark with its label windows as (first, last) rows."""

    name: str
    table: Table
    windows: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class RttFile:
    """A trace of round trips with the rows at which people saw a change."""

    name: str
    table: Table
    changes: NDArray[np.int64]


def load_nab(folder: Path) -> list[NabFile]:
    """Read ``windows.json`` and the files that it names."""
    from datetime import UTC, datetime

    labels = json.loads((folder / "windows.json").read_text())
    out = []
    for name, windows in labels.items():
        path = folder / "data" / name
        if not path.is_file():
            continue
        table = read_table(path)
        rows = []
        for edges in windows:
            at = [int(datetime.fromisoformat(e).replace(tzinfo=UTC).timestamp()) * 10**9 for e in edges]
            first, last = (int(np.flatnonzero(table.time_ns == t)[0]) for t in at)
            rows.append((first, last))
        out.append(NabFile(name, table, rows))
    return out


def published(folder: Path, detector: str, name: str) -> NDArray[np.float64]:
    """Published anomaly scores of another detector."""
    table = read_table(folder / "published" / detector / name)
    return np.nan_to_num(table.values[:, table.names.index("anomaly_score")])


def load_rtt(folder: Path) -> list[RttFile]:
    """Read all traces (``epoch;rtt;cp``)."""
    out = []
    for path in sorted(folder.glob("*.csv")):
        table = read_table(path, values=["rtt"])
        labels = read_table(path, values=["cp"]).values[:, 0]
        out.append(RttFile(path.stem, table, np.flatnonzero(labels == 1.0)))
    return out


def match(
    alerts: NDArray[np.int64], changes: NDArray[np.int64], before: int = 2, after: int = 15
) -> tuple[int, list[bool]]:
    """One-to-one matches of alerts within [change - before, change + after]; which alerts were used."""
    used = [False] * len(alerts)
    found = 0
    for change in sorted(changes.tolist()):
        for j, at in enumerate(alerts.tolist()):
            if not used[j] and change - before <= at <= change + after:
                used[j] = True
                found += 1
                break
    return found, used
