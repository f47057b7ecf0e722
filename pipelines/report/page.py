"""One self-contained HTML page (no network): incidents of a period, each with evidence, cause and change."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from detectors.signature import load_catalogue
from pipelines.plots import series_png
from pipelines.report.gather import Around, balance, gather, hops, irq_heat, waterfall
from telemetry.labels import format_time
from telemetry.source import Source
from telemetry.types import Alert, Incident, SeriesKey

__all__ = ["render"]

SERIES = 5


def render(
    incidents: Sequence[Incident],
    source: Source | None,
    *,
    title: str = "Tailwatch report",
    sections: Sequence[tuple[str, str, Sequence[bytes]]] = (),
) -> str:
    """The page.

    Parameters
    ----------
    incidents : newest first
    source : where the series are read from; None leaves pictures out
    sections : (heading, text, PNG pictures) to be put after the incidents (backtests, ...)
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    env = Environment(loader=PackageLoader("pipelines.report", "."), autoescape=True, undefined=StrictUndefined)
    env.filters["time"] = _time
    env.filters["png"] = lambda data: "data:image/png;base64," + base64.b64encode(data).decode()
    views = [_view(i, source) for i in incidents]
    template = env.get_template("page.html.j2")
    return template.render(title=title, views=views, sections=sections, overview=_overview(incidents))


def _time(ns: int) -> str:
    return format_time(ns)[:23].replace("T", " ")


def _view(incident: Incident, source: Source | None) -> dict[str, Any]:
    view: dict[str, Any] = {
        "incident": incident,
        "headline": incident.title.partition("; likely")[0],
        "alerts": sorted(incident.alerts, key=lambda a: (-a.score, a.end_ns, a.id))[:12],
        "more": max(0, len(incident.alerts) - 12),
        "delay_s": (incident.opened_ns - incident.onset_ns) / 1e9,
        "pictures": [],
        "hops": [],
        "waterfall": [],
        "balance": "",
        "heat": None,
        "tail": None,
    }
    if source is None:
        return view
    around = gather(source, incident)
    view["pictures"] = _pictures(incident, around)
    view["hops"] = hops(around)
    view["waterfall"] = waterfall(around)
    balanced = balance(around)
    view["balance"] = balanced.text if balanced is not None else ""
    names, cpus, grid = irq_heat(around)
    if grid.size:
        view["heat"] = _heat_png(names, [f"cpu{c}" for c in cpus], grid, "interrupts: log2(while / before)")
    view["tail"] = _tail_png(around)
    return view


def _pictures(incident: Incident, around: Around) -> list[tuple[str, bytes]]:
    best: dict[SeriesKey, Alert] = {}
    for a in incident.alerts:
        if a.series in around.series and (a.series not in best or a.score > best[a.series].score):
            best[a.series] = a
    out = []
    told = _weights(incident)

    def rank(item: tuple[SeriesKey, Alert]) -> tuple[float, float, str]:
        key, a = item
        return (-told(key, a.column), -a.score, str(key))

    for key, a in sorted(best.items(), key=rank)[:SERIES]:
        t, v = around.rate(key)
        if len(t) < 2:
            continue
        unit = "per second" if key.metric.endswith("_total") else key.metric.rsplit("_", 1)[-1]
        t, v = _thin(t, v)
        positive = v[v > 0]
        wide = len(positive) > 2 and float(positive.max()) > 30 * float(np.median(positive))
        plain = a.column in ("rate", "last", "mean", "p50", "p99", "max", "min")
        level, lo, hi = (np.full(len(t), x) if plain and x == x else None for x in (a.expected, a.lo, a.hi))
        png = series_png(
            t, v, f"{key} ({a.column})"[:110], unit=unit, expected=level, lo=lo, hi=hi, onset_ns=incident.onset_ns,
            log=wide,
        )  # fmt: skip
        out.append((str(key), png))
    return out


def _weights(incident: Incident) -> Callable[[SeriesKey, str], float]:
    """How much a channel says for the incident's kind: what its signature requires first, then by weight."""
    signature = next((s for s in load_catalogue() if s.kind == incident.kind), None)
    evidence = [e for e in signature.evidence if e.role != "quiet"] if signature else []

    def weight(key: SeriesKey, column: str) -> float:
        return max((e.weight + 10.0 * (e.role == "required") for e in evidence if e.selects(key, column)), default=0.0)

    return weight


def _thin(t: np.ndarray, v: np.ndarray, most: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` points, the largest of each stretch (a peak must not vanish from a picture)."""
    if len(t) <= most:
        return t, v
    edges = np.linspace(0, len(t), most + 1).astype(int)[:-1]
    pick = [e + int(np.argmax(v[e:f])) for e, f in zip(edges, [*edges[1:], len(t)], strict=True)]
    return t[pick], v[pick]


def _heat_png(rows: Sequence[str], columns: Sequence[str], grid: np.ndarray, title: str) -> bytes:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(2.5 + 0.5 * len(columns), 1 + 0.26 * len(rows)), layout="constrained")
    bound = max(1.0, float(np.nanmax(np.abs(grid))))
    image = axis.imshow(grid, aspect="auto", cmap="RdBu_r", vmin=-bound, vmax=bound)
    axis.set_xticks(range(len(columns)), columns, fontsize=8)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    axis.set_title(title, fontsize=9)
    figure.colorbar(image)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    plt.close(figure)
    return out.getvalue()


def _tail_png(around: Around) -> bytes | None:
    """Quantiles of one-way latency over time, of the flow that moved most."""
    keys = [k for k in around.series if k.metric in ("wire_latency_ns", "tcp_rtt_ns")]
    keys = [k for k in keys if all(len(x) > 50 for x in around.split(k))]
    if not keys:
        return None

    def moved(k: SeriesKey) -> float:
        before, during = around.split(k)
        return float(np.quantile(during, 0.99) / max(np.quantile(before, 0.99), 1.0))

    key = max(sorted(keys), key=moved)
    t, v = around.series[key]
    edges = np.linspace(around.from_ns, around.to_ns, 61)
    levels = [0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0]
    grid = np.full((len(levels), 60), np.nan)
    which = np.clip(np.searchsorted(edges, t, side="right") - 1, 0, 59)
    for b in range(60):
        inside = v[which == b]
        if len(inside):
            grid[:, b] = np.log10(np.maximum(np.quantile(inside, levels), 1) / 1e3)
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 2.6), layout="constrained")
    seconds = (edges - around.onset_ns) / 1e9
    mesh = axis.pcolormesh(seconds, np.arange(len(levels) + 1), grid, cmap="magma")
    axis.set_yticks(np.arange(len(levels)) + 0.5, ["p50", "p75", "p90", "p95", "p99", "p99.9", "max"], fontsize=8)
    axis.axvline(0, color="w", ls="--", lw=1)
    axis.set(xlabel="seconds since onset", title=f"{key}"[:100])
    figure.colorbar(mesh, label="log10 us")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    plt.close(figure)
    return out.getvalue()


def _overview(incidents: Sequence[Incident]) -> bytes | None:
    if not incidents:
        return None
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 0.8 + 0.28 * len(incidents)), layout="constrained")
    origin = min(i.onset_ns for i in incidents)
    colours = {"critical": "#c00000", "warning": "#ed7d31", "info": "#5b9bd5"}
    for row, i in enumerate(reversed(incidents)):
        start, stop = (i.onset_ns - origin) / 1e9, ((i.resolved_ns or i.updated_ns) - origin) / 1e9
        axis.barh(row, max(stop - start, 0.1), left=start, color=colours[i.severity], height=0.6)
        axis.plot((i.opened_ns - origin) / 1e9, row, "k|", ms=9)
    axis.set_yticks(range(len(incidents)), [f"{i.kind} {i.id[:6]}" for i in reversed(incidents)], fontsize=8)
    axis.set(xlabel=f"seconds since {_time(origin)} UTC")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    plt.close(figure)
    return out.getvalue()
