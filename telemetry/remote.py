"""Samples over the wire as OTLP (OpenTelemetry's metrics protocol, protobuf over HTTP).

Why OTLP: it is what agents and collectors at hand already speak, it has one library for the messages, and, unlike
Prometheus' remote write (milliseconds and float64), it carries nanoseconds and 64 bit integers unchanged.

A point bears the extra attribute ``seen_ns`` when another Tailwatch sent it, so that the receiver's store replays
it as the sender's would.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from telemetry.errors import InputError
from telemetry.types import Events, Nanos, SeriesKey

__all__ = ["decode", "encode"]

_SEEN = "seen_ns"
_CUMULATIVE = 2
_NOT_NAME = re.compile(r"[^A-Za-z0-9_:]")


def encode(events: list[Events]) -> bytes:
    """Write batches as one ``ExportMetricsServiceRequest``; a resource for each host, a metric for each name."""
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    request = ExportMetricsServiceRequest()
    hosts: dict[str, Any] = {}
    metrics: dict[tuple[str, str], Any] = {}
    for batch in events:
        real = batch.value.dtype.kind == "f"
        columns = (c.tolist() for c in (batch.series, batch.time_ns, batch.seen_ns, batch.value))
        for number, at, seen, value in zip(*columns, strict=True):
            key = batch.keys[number]
            points = metrics.get((key.host, key.metric))
            if points is None:
                points = metrics[(key.host, key.metric)] = _metric(request, hosts, key)
            point = points.add(time_unix_nano=max(at, 0))
            if real:
                point.as_double = value
            else:
                point.as_int = value
            for name, text in key.labels:
                point.attributes.add(key=name).value.string_value = text
            point.attributes.add(key=_SEEN).value.int_value = seen
    body: bytes = request.SerializeToString()
    return body


def decode(body: bytes, host: str, now_ns: Nanos) -> tuple[list[Events], int]:
    """Read a request.

    Parameters
    ----------
    host : str
        Of resources that do not name theirs.
    now_ns : int
        seen_ns of points that bear none.

    Returns
    -------
    (batches, bad) : in the order in which they were seen, one value type a batch; and how many points were none.

    Raises
    ------
    InputError
        If the body is no such message.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    try:
        request = ExportMetricsServiceRequest.FromString(body)
    except DecodeError:
        raise InputError(f"otlp: expected a metrics request, got {len(body)} bytes of something else") from None
    rows: list[tuple[Nanos, SeriesKey, Nanos, int | float]] = []
    bad = 0
    for resource in request.resource_metrics:
        name = next((a.value.string_value for a in resource.resource.attributes if a.key == "host.name"), "") or host
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                bad += _points(metric, name, now_ns, rows)
    rows.sort(key=lambda r: r[0])
    return _batches(rows), bad


def _metric(request: Any, hosts: dict[str, Any], key: SeriesKey) -> Any:
    """The points of a new metric."""
    if key.host not in hosts:
        resource = request.resource_metrics.add()
        resource.resource.attributes.add(key="host.name").value.string_value = key.host
        hosts[key.host] = resource.scope_metrics.add()
        hosts[key.host].scope.name = "tailwatch"
    metric = hosts[key.host].metrics.add(name=key.metric)
    if not key.metric.endswith("_total"):
        return metric.gauge.data_points
    metric.sum.is_monotonic = True
    metric.sum.aggregation_temporality = _CUMULATIVE
    return metric.sum.data_points


def _points(metric: Any, host: str, now_ns: Nanos, rows: list[tuple[Nanos, SeriesKey, Nanos, int | float]]) -> int:
    kind = metric.WhichOneof("data")
    name = _NOT_NAME.sub("_", metric.name)
    if kind not in ("gauge", "sum") or not name:
        return len(getattr(metric, kind).data_points) if kind else 1
    points = getattr(metric, kind).data_points
    if kind == "sum":
        if metric.sum.aggregation_temporality != _CUMULATIVE:
            return len(points)  # differences cannot be told from one another after a loss
        if metric.sum.is_monotonic and not name.endswith("_total"):
            name += "_total"
    bad = 0
    for point in points:
        which = point.WhichOneof("value")
        if which is None or not 0 <= point.time_unix_nano < 2**63:
            bad += 1
            continue
        labels, seen = [], now_ns
        for a in point.attributes:
            if a.key == _SEEN:
                seen = a.value.int_value
            else:
                labels.append((_NOT_NAME.sub("_", a.key), _text(a.value)))
        value: int | float = point.as_int if which == "as_int" else point.as_double
        if isinstance(value, float) and value != value:
            bad += 1
            continue
        if isinstance(value, float) and name.endswith("_total") and value.is_integer() and abs(value) < 2**53:
            value = int(value)
        rows.append((seen, SeriesKey(host, name, tuple(sorted(dict(labels).items()))), point.time_unix_nano, value))
    return bad


def _text(value: Any) -> str:
    which = value.WhichOneof("value")
    return "" if which is None else str(getattr(value, which))


def _batches(rows: list[tuple[Nanos, SeriesKey, Nanos, int | float]]) -> list[Events]:
    out = []
    at = 0
    while at < len(rows):
        real = isinstance(rows[at][3], float)
        end = at
        while end < len(rows) and isinstance(rows[end][3], float) == real:
            end += 1
        keys: dict[SeriesKey, int] = {}
        some = rows[at:end]
        series = np.array([keys.setdefault(k, len(keys)) for _, k, _, _ in some], np.int64)
        seen = np.array([s for s, _, _, _ in some], np.int64)
        times = np.array([t for _, _, t, _ in some], np.int64)
        values = [v for _, _, _, v in some]
        if real:
            out.append(Events(tuple(keys), series, times, seen, np.array(values, np.float64)))
        else:
            out.append(Events(tuple(keys), series, times, seen, np.array(values, np.int64)))
        at = end
    return out
