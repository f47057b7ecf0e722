"""Pictures as PNG bytes (matplotlib, no display)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from telemetry.errors import InputError
from telemetry.types import Alert, Float64, Int64, Label, Panel

if TYPE_CHECKING:
    from pipelines.backtest import Outcome
    from pipelines.casebook import BacktestReport
    from pipelines.intervals import Track

__all__ = ["Picture", "costs_png", "moment_png", "plot", "series_png", "timeline_png"]


@dataclass(frozen=True, slots=True)
class Picture:
    """PNG bytes that a notebook shows."""

    png: bytes

    def _repr_png_(self) -> bytes:
        return self.png


def plot(thing: Panel | Outcome | BacktestReport, series: str = "", column: str = "") -> Picture:
    """A picture of a panel's series (by name or part of it), an outcome's timeline, or what budgets cost in a report.

    Raises
    ------
    InputError
        The panel has no such series or column, or the thing has no picture.
    """
    if isinstance(thing, Panel):
        key = next((i for i, k in enumerate(thing.keys) if series in str(k)), None)
        name = column or (thing.channels[0] if thing.channels else "")
        if key is None or name not in thing.columns:
            raise InputError(f"plot: expected a series and a column of the panel, got {series!r} and {column!r}")
        values = thing.column(name)[:, key]
        return Picture(series_png(thing.end_ns, values, f"{thing.keys[key]} {name}"))
    from pipelines.backtest import Outcome
    from pipelines.casebook import BacktestReport

    if isinstance(thing, Outcome):
        inside = [m.label for m in thing.evaluation.matches]
        return Picture(timeline_png(*thing.timeline, thing.alerts, inside, thing.candidate.label))
    if isinstance(thing, BacktestReport):
        return Picture(thing.plot())
    raise InputError(f"plot: expected a panel, an outcome or a backtest report, got {type(thing).__name__}")


def _figure(width: float = 9.0, height: float = 3.0, rows: int = 1) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(rows, figsize=(width, height), layout="constrained", sharex=True)


def _png(figure: Any) -> bytes:
    import matplotlib.pyplot as plt

    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
    return out.getvalue()


def _spans(axis: Any, labels: Sequence[Label], origin: int) -> None:
    for i, label in enumerate(labels):
        start, stop = (label.start_ns - origin) / 1e9, (label.end_ns - origin) / 1e9
        axis.axvspan(start, stop, color="#f4b183", alpha=0.35, lw=0, label="labelled incident" if i == 0 else None)


def timeline_png(
    end_ns: Int64, surprise: Float64, alerts: Sequence[Alert], labels: Sequence[Label], title: str
) -> bytes:
    """Largest surprise of each window, alerts and labels, over seconds since the first window."""
    figure, axis = _figure()
    origin = int(end_ns[0])
    seconds = (end_ns - origin) / 1e9
    keep = np.isfinite(surprise)
    axis.plot(seconds[keep], surprise[keep], lw=0.7, color="#2f5597", label="surprise (max)")
    _spans(axis, labels, origin)
    hits = [(a.end_ns - origin) / 1e9 for a in alerts if a.grade == "alert"]
    top = float(surprise[keep].max(initial=1.0))
    axis.plot(hits, [top * 1.05] * len(hits), "v", color="#c00000", ms=5, label="alert")
    axis.set(title=title, xlabel="seconds", ylabel="-log10 p")
    axis.legend(loc="upper left", fontsize=8)
    return _png(figure)


def moment_png(track: Track, from_ns: int, to_ns: int, title: str) -> bytes:
    """Score and alerts around a stretch of time (an incident, or an alert by itself)."""
    window = int(np.median(track.end_ns - track.start_ns))
    pad = max((to_ns - from_ns) // 2, 40 * window)
    lo, hi = np.searchsorted(track.end_ns, [from_ns - pad, to_ns + pad + window])
    figure, (above, below) = _figure(height=3.2, rows=2)
    some = slice(max(int(lo) - 1, 0), int(hi))
    seconds = (track.end_ns[some] - from_ns) / 1e9
    surprise = np.where(np.isfinite(track.surprise[some]), track.surprise[some], np.nan)
    above.plot(seconds, surprise, lw=0.8, color="#2f5597")
    above.set(title=title[:110], ylabel="-log10 p")
    above.title.set_fontsize(9)
    below.plot(seconds, track.score[some], lw=0.8, color="#2f5597", label="anomaly score")
    below.axhline(0.5, color="#808080", lw=0.8, ls="--", label="alert")
    first, last = track.end_ns[some][[0, -1]] if len(seconds) else (from_ns, to_ns)
    hits = seconds[track.alert[some]]
    below.plot(hits, [1.05] * len(hits), "v", color="#c00000", ms=5)
    below.set(ylabel="score", xlabel="seconds", ylim=(-0.05, 1.15))
    for axis in (above, below):
        _spans(axis, [x for x in track.labels if x.start_ns <= last and x.end_ns >= first], from_ns)
    return _png(figure)


def series_png(
    time_ns: Int64,
    value: Float64,
    title: str,
    *,
    unit: str = "",
    expected: Float64 | None = None,
    lo: Float64 | None = None,
    hi: Float64 | None = None,
    onset_ns: int | None = None,
    labels: Sequence[Label] = (),
    log: bool = False,
) -> bytes:
    """One series with its expected band."""
    figure, axis = _figure(height=2.6)
    origin = int(time_ns[0])
    seconds = (time_ns - origin) / 1e9
    if lo is not None and hi is not None:
        axis.fill_between(seconds, lo, hi, color="#9dc3e6", alpha=0.5, lw=0, label="expected band")
    if expected is not None:
        axis.plot(seconds, expected, color="#2f5597", lw=0.8, label="expected")
    axis.plot(seconds, value, color="#404040", lw=0.9, label="value")
    _spans(axis, labels, origin)
    if onset_ns is not None:
        axis.axvline((onset_ns - origin) / 1e9, color="#c00000", lw=1, ls="--", label="onset")
    axis.set(title=title, xlabel="seconds", ylabel=unit)
    if log:
        axis.set_yscale("log")
    axis.legend(loc="upper left", fontsize=8)
    return _png(figure)


def costs_png(costs: Mapping[str, Mapping[float, tuple[float, float]]], title: str) -> bytes:
    """Recall against false alarms per day over budgets, a line per detector."""
    figure, axis = _figure(6.0, 3.6)
    for name, curve in costs.items():
        points = [(false, recall) for _, (recall, false) in sorted(curve.items()) if recall == recall]
        if points:
            axis.plot(*zip(*points, strict=True), marker="o", ms=4, label=name)
    axis.set(title=title, xlabel="false alarms per day", ylabel="recall", ylim=(-0.03, 1.03))
    axis.set_xscale("symlog", linthresh=1)
    if axis.lines:
        axis.legend(fontsize=8)
    return _png(figure)
