"""Pandas in and out: events from long frames, scores as long frames. For notebooks and the served model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detectors.build import build
from detectors.policy import ALERT, Decision
from detectors.spec import DetectorSpec, duration_ns
from telemetry.errors import InputError
from telemetry.labels import format_time
from telemetry.source import Source
from telemetry.types import Events, Incident, Nanos, Panel, Scores, SeriesKey, Snapshot

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CaptureSummary", "capture_summary", "events_from_frame", "incident_html", "packets_frame",
    "score_frame", "scores_frame", "series_frame",
]  # fmt: skip


def events_from_frame(frame: pd.DataFrame) -> Events:
    """Events from a long frame with columns ``series, time_ns, value``, sorted by time (stable).

    Raises
    ------
    InputError
        A column is missing or of another type.
    """
    for name in ("series", "time_ns", "value"):
        if name not in frame.columns:
            raise InputError(
                f"frame: expected columns series, time_ns, value; got {', '.join(map(str, frame.columns))}"
            )
    codes, names = frame["series"].astype(str).factorize()
    try:
        time_ns = frame["time_ns"].to_numpy(np.int64)
        value = frame["value"].to_numpy(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"frame: time_ns must be whole nanoseconds and value a number: {error}") from None
    order = np.argsort(time_ns, kind="stable")
    keys = tuple(SeriesKey.parse(str(n)) for n in names)
    return Events(keys, codes.astype(np.int64)[order], time_ns[order], time_ns[order], value[order])


def score_frame(spec: DetectorSpec, snapshot: Snapshot | None, frame: pd.DataFrame) -> pd.DataFrame:
    """Score a long frame with a detector restored from `snapshot` (None: cold) and then forgotten.

    Returns
    -------
    pandas.DataFrame
        ``series, end_ns, surprise, anomaly_score, alert``: per series and window the strongest channel.
        All windows that the frame reaches into are closed at its end; series that the state knows and the frame
        does not name are left out.
    """
    import pandas as pd

    detector = build(spec)
    if snapshot is not None:
        detector.restore(snapshot)
    rows: list[dict[str, Any]] = []
    events = events_from_frame(frame)
    first = int(events.time_ns[0]) if len(events) else 0
    plain = all(p.kind in ("window", "rate") for p in spec.features)  # a panel's series are the frame's own
    asked = set(events.keys)

    def observe(panel: Panel, scores: Scores, decision: Decision) -> None:
        surprise = np.where(np.isnan(scores.surprise), -1.0, scores.surprise).max(axis=2, initial=-1.0)
        score = np.where(np.isnan(decision.score), 0.0, decision.score).max(axis=2, initial=0.0)
        alert = (decision.grade == ALERT).any(axis=2)
        last = alert.shape[1] - 1  # a joint model decides once for the group
        for w, end in enumerate(panel.end_ns):
            if end <= first:  # left over from the registered state
                continue
            for s, key in enumerate(panel.keys):
                if np.isnan(panel.values[w, s]).all() or (plain and key not in asked):
                    continue
                value = float(surprise[w, s])
                rows.append(
                    {
                        "series": str(key),
                        "end_ns": int(end),
                        "surprise": value if value >= 0 else float("nan"),
                        "anomaly_score": float(score[w, min(s, last)]),
                        "alert": int(alert[w, min(s, last)]),
                    }
                )

    detector.observer = observe
    if len(events):
        detector.push(events)
        widest = max((int(p) for p in _windows(spec)), default=0)
        detector.close(int(events.time_ns[-1]) + widest + 1)
    columns = ["series", "end_ns", "surprise", "anomaly_score", "alert"]
    out = pd.DataFrame(rows, columns=columns)
    return out.astype(
        {"series": str, "end_ns": "int64", "surprise": "float64", "anomaly_score": "float64", "alert": "int64"}
    )


def _windows(spec: DetectorSpec) -> list[int]:
    return [duration_ns(p.params.get("window", "1s"), "window") for p in spec.features]


def scores_frame(scores: Scores) -> pd.DataFrame:
    """Surprise as a long DataFrame ``end, series, column, surprise, side``; windows without a score are left out."""
    import pandas as pd

    w, s, c = np.nonzero(np.isfinite(scores.surprise))
    names = np.array([str(k) for k in scores.keys], object)
    return pd.DataFrame(
        {
            "end": pd.to_datetime(scores.end_ns[w], utc=True),
            "series": names[s],
            "column": np.array(scores.columns, object)[c],
            "surprise": scores.surprise[w, s, c],
            "side": scores.side[w, s, c],
        }
    )


@dataclass(frozen=True, slots=True)
class CaptureSummary:
    """What a capture holds: totals, and its flows (protocol, source, destination, port, packets, bytes) by size."""

    path: str
    packets: int
    bytes: int
    first_ns: Nanos
    last_ns: Nanos
    flows: tuple[tuple[int, str, str, int, int, int], ...]

    def frame(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(self.flows, columns=["protocol", "src", "dst", "port", "packets", "bytes"])

    def _repr_html_(self) -> str:
        from telemetry.display import table_html

        names = {6: "TCP", 17: "UDP", 1: "ICMP", 2: "IGMP"}
        rows = [(names.get(p, p), *rest) for p, *rest in self.flows[:12]]
        seconds = (self.last_ns - self.first_ns) / 1e9
        title = f"{self.path}: {self.packets} packets, {self.bytes} bytes in {seconds:.3f} s from "
        title += format_time(self.first_ns) if self.packets else "nothing"
        head = ("protocol", "source", "destination", "port", "packets", "bytes")
        return table_html(title, head, rows, len(self.flows) - len(rows))


def capture_summary(path: str | Path) -> CaptureSummary:
    """Read a whole capture and add up its flows (without source ports)."""
    from pipelines.addresses import address_text
    from telemetry.capture.packets import read_packets

    names = ("protocol", "ip_version", "src_hi", "src_lo", "dst_hi", "dst_lo", "dst_port")
    flows: dict[tuple[int, ...], list[int]] = {}
    first, last, packets, size = 2**62, 0, 0, 0
    for batch in read_packets([str(path)]):
        if not batch.n:
            continue
        first, last = min(first, int(batch.time_ns[: batch.n].min())), max(last, int(batch.time_ns[: batch.n].max()))
        wire = batch.wire_len[: batch.n].astype(np.int64)
        packets, size = packets + batch.n, size + int(wire.sum())
        table = np.stack([getattr(batch, n)[: batch.n].astype(np.uint64).view(np.int64) for n in names], axis=1)
        kinds, at = np.unique(table, axis=0, return_inverse=True)
        counts, sums = np.bincount(at.ravel()), np.bincount(at.ravel(), wire)
        for row, n, b in zip(kinds.tolist(), counts.tolist(), sums.tolist(), strict=True):
            have = flows.setdefault(tuple(row), [0, 0])
            have[0] += n
            have[1] += int(b)
    whole = 2**64 - 1
    named: dict[tuple[int, str, str, int], list[int]] = {}
    for (protocol, version, src_hi, src_lo, dst_hi, dst_lo, port), (n, b) in flows.items():
        src = address_text(version, src_hi & whole, src_lo & whole) if version > 0 else ""
        dst = address_text(version, dst_hi & whole, dst_lo & whole) if version > 0 else ""
        have = named.setdefault((protocol, src, dst, port), [0, 0])
        have[0] += n
        have[1] += b
    out = [(*flow, n, b) for flow, (n, b) in named.items()]
    out.sort(key=lambda f: (-f[4], f))
    return CaptureSummary(str(path), packets, size, first if packets else 0, last, tuple(out))


def packets_frame(path: str | Path, limit: int = 100_000) -> pd.DataFrame:
    """The first packets of a capture as a DataFrame; times are int64 nanoseconds, addresses text, missing is NA."""
    import pandas as pd

    from pipelines.addresses import address_text
    from telemetry.capture.packets import read_packets

    parts = []
    left = limit
    for batch in read_packets([str(path)]):
        n = min(batch.n, left)
        left -= n
        versions, hi, lo = (getattr(batch, f)[:n].tolist() for f in ("ip_version", "src_hi", "src_lo"))
        to_hi, to_lo = batch.dst_hi[:n].tolist(), batch.dst_lo[:n].tolist()
        columns: dict[str, Any] = {"time_ns": batch.time_ns[:n].copy()}
        columns["src"] = [address_text(v, a, b) if v else None for v, a, b in zip(versions, hi, lo, strict=True)]
        columns["dst"] = [address_text(v, a, b) if v else None for v, a, b in zip(versions, to_hi, to_lo, strict=True)]
        for name in ("protocol", "src_port", "dst_port", "wire_len", "payload_len", "tcp_seq", "tcp_flags"):
            values = pd.array(getattr(batch, name)[:n].copy(), dtype="Int64")
            values[np.asarray(values == -1)] = pd.NA
            columns[name] = values
        parts.append(pd.DataFrame(columns))
        if not left:
            break
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def series_frame(source: Source, metric: str, from_ns: Nanos = 0, to_ns: Nanos = 2**62) -> pd.DataFrame:
    """All events of a metric as a long DataFrame ``time, value, <labels>``; `time` is exact to the nanosecond."""
    import pandas as pd

    parts = []
    for batch in source.read(from_ns, to_ns):
        for i, key in enumerate(batch.keys):
            if key.metric != metric:
                continue
            rows = batch.series == i
            if rows.any():
                frame = pd.DataFrame(
                    {"time": pd.to_datetime(batch.time_ns[rows], utc=True), "value": batch.value[rows]}
                )
                parts.append(frame.assign(host=key.host, **dict(key.labels)))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["time", "value", "host"])


def incident_html(incident: Incident, source: Source | None = None) -> str:
    """An incident as HTML, as the report shows it."""
    from pipelines.report.page import render

    return render([incident], source, title=incident.kind)
