"""What an incident's page shows, read from the store: series around it, hops, losses, interrupts by CPU."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from detectors.evidence import Waterfall
from detectors.evidence import waterfall as waterfall_of
from telemetry.host.bypass import RING_LOSSES
from telemetry.source import Source
from telemetry.types import Float64, Incident, Int64, Nanos, SeriesKey

__all__ = ["Around", "Balance", "Hop", "balance", "gather", "hops", "irq_heat", "waterfall"]

BEFORE_NS = 20_000_000_000
AFTER_NS = 10_000_000_000
MOST_NS = 180_000_000_000


@dataclass(frozen=True, slots=True)
class Around:
    """Samples of every series from before an incident to after it."""

    from_ns: Nanos
    onset_ns: Nanos
    end_ns: Nanos
    to_ns: Nanos
    series: dict[SeriesKey, tuple[Int64, Float64]]

    def split(self, key: SeriesKey) -> tuple[Float64, Float64]:
        """Values before the onset and while it lasted."""
        t, v = self.series[key]
        return v[t < self.onset_ns], v[(t >= self.onset_ns) & (t < self.end_ns)]

    def rate(self, key: SeriesKey) -> tuple[Int64, Float64]:
        """A counter's increase per second (resets left out); any other series as it is."""
        t, v = self.series[key]
        if not key.metric.endswith("_total") or len(v) < 2:
            return t, v
        step, dt = np.diff(v), np.diff(t) / 1e9
        ok = (dt > 0) & (step >= 0)
        return t[1:][ok], step[ok] / dt[ok]

    def matching(self, metric: str, **labels: str) -> list[SeriesKey]:
        """Keys of a metric, by name."""
        return sorted(k for k in self.series if k.metric == metric and all(k.label(a) == b for a, b in labels.items()))


def gather(source: Source, incident: Incident) -> Around:
    """Read the store around an incident (a long one: its first minutes)."""
    end = incident.resolved_ns or incident.updated_ns
    end = min(max(end, incident.opened_ns), incident.onset_ns + MOST_NS)
    lo, hi = incident.onset_ns - BEFORE_NS, end + AFTER_NS
    parts: dict[SeriesKey, list[tuple[Int64, Float64]]] = {}
    for batch in source.read(lo, hi + AFTER_NS):
        order = np.argsort(batch.series, kind="stable")
        series = batch.series[order]
        edges = np.flatnonzero(np.diff(series)) + 1
        for rows in np.split(order, edges):
            key = batch.keys[batch.series[rows[0]]]
            t = batch.time_ns[rows]
            keep = (t >= lo) & (t < hi)
            parts.setdefault(key, []).append((t[keep], batch.value[rows][keep].astype(np.float64)))
    series_of = {}
    for key, pieces in parts.items():
        t, v = np.concatenate([p[0] for p in pieces]), np.concatenate([p[1] for p in pieces])
        at = np.argsort(t, kind="stable")
        series_of[key] = (t[at], v[at])
    return Around(lo, incident.onset_ns, end, hi, series_of)


@dataclass(frozen=True, slots=True)
class Hop:
    """One-way latency of a flow between two taps, before and while."""

    name: str
    flow: str
    p50_before: float
    p99_before: float
    p50_while: float
    p99_while: float

    @property
    def factor(self) -> float:
        return self.p99_while / self.p99_before if self.p99_before > 0 else float("nan")


def hops(around: Around) -> list[Hop]:
    """Where the time goes: the hop table, worst first. Times in microseconds."""
    out = []
    for metric in ("wire_latency_ns", "tcp_rtt_ns", "app_latency_ns", "tick_to_trade_ns"):
        for key in around.matching(metric):
            before, during = around.split(key)
            if len(before) < 5 or len(during) < 5:
                continue
            where = f"{key.label('from')} to {key.label('to')}" if key.label("from") else metric.removesuffix("_ns")
            name = key.label("flow") or ",".join(f"{k}={v}" for k, v in key.labels)
            q = [float(x) / 1e3 for x in (*np.quantile(before, [0.5, 0.99]), *np.quantile(during, [0.5, 0.99]))]
            out.append(Hop(where, name, *q))
    return sorted(out, key=lambda h: -h.factor)[:12]


def waterfall(around: Around) -> list[tuple[str, float, float]]:
    """Messages a second at each layer, before and while: where they go missing."""
    rows: list[tuple[str, float, float]] = []
    spans = ((around.onset_ns - around.from_ns) / 1e9, max((around.end_ns - around.onset_ns) / 1e9, 1e-9))
    for tap in sorted({k.label("tap") for k in around.series if k.metric == "wire_packets"}):
        rows.append(_total(around, f"tap {tap}: packets", around.matching("wire_packets", tap=tap), spans))
    for lost in around.matching("wire_lost_packets"):
        rows.append(_total(around, f"lost {lost.label('from')} to {lost.label('to')}", [lost], spans))
    rings = _rings(around)
    if rings:
        rows.append(_total(around, "descriptor rings: lost", rings, spans))
    steps = (
        ("device: received", "nic_rx_packets_total"),
        ("softnet: dropped", "softnet_dropped_total"),
        ("IP: received", "netstat_Ip_InReceives_total"),
        ("UDP: delivered", "netstat_Udp_InDatagrams_total"),
        ("UDP: buffer errors", "netstat_Udp_RcvbufErrors_total"),
        ("application: lost messages", "app_lost_messages"),
    )
    for name, metric in steps:
        for netns in sorted({k.label("netns") for k in around.matching(metric)}):
            keys = around.matching(metric, netns=netns) if netns else around.matching(metric)
            rows.append(_total(around, f"{name}{' (' + netns + ')' if netns else ''}", keys, spans))
    return [r for r in rows if r[1] or r[2]]


def _rings(around: Around) -> list[SeriesKey]:
    """Counters of what NICs lost in their rings; of a device only those that saw most of it.

    The kernel, the driver and its queues may each count the same packet. Where flows go round the kernel, its own
    counters show nothing and this stage is what lies between the tap and the application.
    """
    found: dict[str, dict[str, list[SeriesKey]]] = {}
    for key in around.series:
        if key.metric.endswith("_total") and RING_LOSSES.search(key.metric):
            device = key.label("device") or f"port {key.label('port')}"
            found.setdefault(device, {}).setdefault(key.metric, []).append(key)
    best = (max(metrics.values(), key=lambda keys: sum(_since(around, k) for k in keys)) for metrics in found.values())
    return sorted(k for keys in best for k in keys)


def _total(
    around: Around, name: str, keys: Iterable[SeriesKey], spans: tuple[float, float]
) -> tuple[str, float, float]:
    before = during = 0.0
    for key in keys:
        a, b = around.split(key)
        if key.metric.endswith("_total"):
            before += float(np.clip(np.diff(a), 0, None).sum())
            during += float(np.clip(np.diff(b), 0, None).sum())
        else:
            before, during = before + float(a.sum()), during + float(b.sum())
    return name, before / spans[0], during / spans[1]


@dataclass(frozen=True, slots=True)
class Balance:
    """Messages of the feeds on their way, and what the host's own counters say it dropped meanwhile.

    `drops` counts all traffic of the host, so it may explain more than was lost; what it leaves `unexplained` is in no
    counter (a firewall drops without one).
    """

    path: Waterfall
    drops: dict[str, int]
    unexplained: int

    @property
    def text(self) -> str:
        """For people."""
        steps = " > ".join(f"{s} {n:,}" for s, n in zip(self.path.stages, self.path.counts, strict=True))
        lost = f"most is lost at {self.path.at}" if self.path.at else "nothing is lost"
        told = ", ".join(f"{n:,} {name}" for name, n in self.drops.items()) or "none"
        rest = f"{self.unexplained:,} are in no counter (a firewall?)" if self.unexplained else "it adds up"
        return f"{steps}: {lost}; dropped by the host: {told}; {rest}"


def balance(around: Around) -> Balance | None:
    """Does the waterfall add up: from tap to tap to the application; None without captures and application records."""
    taps = sorted({k.label("tap") for k in around.matching("feed_packets")})
    first = {k.label("from") for k in around.matching("wire_lost_packets") if k.label("flow").startswith("udp")}
    taps.sort(key=lambda t: t not in first)
    counts = {f"tap {t}": round(sum(_since(around, k) for k in around.matching("feed_packets", tap=t))) for t in taps}
    handed = around.matching("app_latency_ns", stage="kernel_to_user")
    if not counts or not handed:
        return None
    counts["application"] = sum(int((around.series[k][0] >= around.onset_ns).sum()) for k in handed)

    def host(metric: str) -> int:
        return round(sum(_since(around, k) for k in around.matching(metric)))

    drops = {
        "in descriptor rings": round(sum(_since(around, k) for k in _rings(around))),
        "in sockets": host("netstat_Udp_RcvbufErrors_total"),
        "in softirq backlogs": host("softnet_dropped_total"),
        "in kernel-bypass sockets": host("onload_oflow_drop_total") + host("onload_mem_drop_total"),
    }
    path = waterfall_of(counts, drops.values())
    inside = sum(path.lost[len(taps) - 1 :])
    slack = max(5, round(0.0005 * max(counts.values())))
    missing = inside - sum(drops.values())
    return Balance(path, {name: n for name, n in drops.items() if n}, missing if missing > slack else 0)


def _since(around: Around, key: SeriesKey) -> float:
    """What came from the onset to the end of the picture (what waited has been handed on by then)."""
    t, v = around.series[key]
    first = int(np.searchsorted(t, around.onset_ns))
    if key.metric.endswith("_total"):
        return float(np.clip(np.diff(v[max(0, first - 1) :]), 0, None).sum())
    return float(v[first:].sum())


def irq_heat(around: Around) -> tuple[list[str], list[str], Float64]:
    """Interrupts and softirqs by CPU: (rows, CPUs, log2 of the rate while over the rate before)."""
    cells: dict[tuple[str, str], float] = {}
    for metric, label in (("irq_total", "irq"), ("softirq_total", "type")):
        for key in around.matching(metric):
            t, rate = around.rate(key)
            before, during = rate[t < around.onset_ns], rate[(t >= around.onset_ns) & (t < around.end_ns)]
            if len(before) and len(during):
                name = f"{key.label(label)} {key.label('name')}".strip()
                cells[(name[:24], key.label("cpu"))] = float(np.log2((during.mean() + 1) / (before.mean() + 1)))
    cpus = sorted({c for _, c in cells}, key=lambda c: (len(c), c))
    strength = {n: max(abs(v) for (m, _), v in cells.items() if m == n) for n in {n for n, _ in cells}}
    names = sorted(strength, key=lambda n: (-strength[n], n))[:16]
    grid = np.array([[cells.get((n, c), np.nan) for c in cpus] for n in names]) if names else np.empty((0, 0))
    return names, cpus, grid
