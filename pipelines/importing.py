"""Other people's samples into a store, with their own times: a Prometheus server, exporters' text, tables.

``seen_ns`` is the sample's time, so a replay sees history as it was. Doing it again adds nothing: the same rows are
one row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pipelines.config import Harvest
from pipelines.links import read_token
from pipelines.ranges import BEGINNING, END, time_range
from pipelines.ui import counter
from telemetry.errors import InputError
from telemetry.exposition import Exposition, events_of
from telemetry.prometheus import PrometheusSource
from telemetry.storage.layout import parse_labels
from telemetry.store import Store
from telemetry.types import Events, Float64, Int64, Nanos, SeriesKey

__all__ = ["backfill", "copy", "import_file", "read_samples"]

TEXTS = (".prom", ".om", ".txt", ".metrics", ".openmetrics")
_CHUNK = 1 << 18


def copy(
    where: str,
    host: str,
    files: Sequence[str],
    prometheus: str | None,
    query: str,
    metric: str,
    settings: Harvest,
    from_time: str | None,
    to_time: str | None,
    as_json: bool,
) -> str:
    """Copy files and what a Prometheus server has into a store; return what there is to say of it."""
    said = []
    with Store(where) as store:
        for path in files:
            samples, bad = import_file(store, path, host)
            said.append({"from": path, "samples": samples, "bad": bad})
        if prometheus:
            token = read_token(settings.token_file)
            lo, hi = time_range(from_time, to_time)
            hi = time.time_ns() if hi == END else hi
            lo = hi - 3600 * 1_000_000_000 if lo == BEGINNING else lo
            source = PrometheusSource(prometheus, query, name=metric, host=host, token=token, ca=settings.tls_ca)
            with counter(f"copying from {prometheus}", "samples") as tell:
                samples = backfill(store, source, lo, hi, tell)
            said.append({"from": prometheus, "samples": samples, "bad": source.bad})
    if as_json:
        return msgspec.json.format(msgspec.json.encode(said), indent=1).decode()
    return "\n".join(f"{s['from']}: {s['samples']} samples, {s['bad']} not understood" for s in said)


def backfill(
    store: Store, source: PrometheusSource, lo: Nanos, hi: Nanos, tell: Callable[[int], None] | None = None
) -> int:
    """Copy what a Prometheus server has of ``[lo, hi)``; returns the samples."""
    total = 0
    for batch in source.read(lo, hi):
        store.append(batch)
        total += len(batch)
        if tell is not None:
            tell(total)
    store.flush()
    return total


def import_file(store: Store, path: str | Path, host: str) -> tuple[int, int]:
    """Copy a file's samples; returns how many, and how many lines or rows were none.

    Raises
    ------
    InputError
        If the file is not what its name says.
    """
    found = Exposition()
    total = 0
    for batch in read_samples(path, host, found):
        store.append(batch)
        total += len(batch)
    store.flush()
    return total, found.bad


def read_samples(path: str | Path, host: str, found: Exposition) -> Iterator[Events]:
    """Read OpenMetrics (or Prometheus) text with times, or a table: long (``metric`` and ``value`` columns) or wide.

    A long table has ``time_ns``, ``metric``, ``value``, and may have ``host`` and ``labels`` (``a="b",...``); each
    further column is a label. A wide one has a time and a column for each metric. Rows are put in order of time.
    """
    path = Path(path)
    try:
        if path.suffix.lower() in TEXTS:
            yield from _text(path.read_text(errors="replace"), host, found)
            return
        long = _long(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if long is not None:
        yield from _long_events(path, long, host, found)
        return
    yield from _wide(path, host)


def _text(text: str, host: str, found: Exposition) -> Iterator[Events]:
    for batch in events_of(text, host, -1, found):
        timed = batch[batch.time_ns >= 0]
        found.bad += len(batch) - len(timed)  # without a time it is no history
        yield from _ordered(timed.keys, timed.series, timed.time_ns, timed.value)


def _long(path: Path) -> Any:
    """The table if it is a long one."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            names = parquet.read_schema(path).names
            return parquet.read_table(path) if {"metric", "value"} <= set(names) else None
        with path.open("rb") as file:
            head = file.readline(65_536).decode("utf-8", "replace")
        columns = [c.strip().strip('"') for c in head.split(",")]
        if not {"metric", "value"} <= set(columns):
            return None
        strings = {c: pa.string() for c in columns if c not in ("time_ns", "value")}
        return csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=strings))
    except pa.ArrowException as error:
        raise InputError(f"{path}: {str(error).splitlines()[0]}") from None


def _long_events(path: Path, table: Any, host: str, found: Exposition) -> Iterator[Events]:
    columns = {name: table[name].to_pylist() for name in table.column_names}
    times = columns.pop("time_ns", None)
    if times is None:
        raise InputError(f"{path}: expected a column time_ns (nanoseconds since the epoch)")
    metrics, values = columns.pop("metric"), columns.pop("value")
    hosts = columns.pop("host", [host] * len(times))
    labels = columns.pop("labels", [""] * len(times))
    keys: dict[SeriesKey, int] = {}
    rows: dict[bool, list[tuple[int, int, Any]]] = {False: [], True: []}
    for i, (at, metric, value) in enumerate(zip(times, metrics, values, strict=True)):
        try:
            pairs = dict(parse_labels(labels[i] or ""))
            pairs |= {name: str(cells[i]) for name, cells in columns.items() if cells[i] not in (None, "")}
            if not metric or not isinstance(at, int) or not isinstance(value, (int, float)) or value != value:
                raise InputError("not a sample")
        except InputError:
            found.bad += 1
            continue
        key = SeriesKey(str(hosts[i] or host), str(metric), tuple(sorted(pairs.items())))
        if key.metric.endswith("_total") and isinstance(value, float) and value.is_integer():
            value = int(value)
        rows[isinstance(value, float)].append((keys.setdefault(key, len(keys)), at, value))
        found.samples += 1
    for real, some in rows.items():
        if some:
            series, stamps, cells = zip(*some, strict=True)
            numbers: Int64 | Float64 = np.array(cells, np.float64) if real else np.array(cells, np.int64)
            yield from _ordered(tuple(keys), np.array(series), np.array(stamps, np.int64), numbers)


def _wide(path: Path, host: str) -> Iterator[Events]:
    from pipelines.series_files import read_table

    table = read_table(path)
    for i, name in enumerate(table.names):
        value = table.values[:, i]
        good = np.isfinite(value)
        if not good.any():
            continue
        numbers: Int64 | Float64 = value[good]
        if name.endswith("_total") and (numbers == np.rint(numbers)).all():
            numbers = np.rint(numbers).astype(np.int64)
        count = int(good.sum())
        yield from _ordered((SeriesKey(host, name),), np.zeros(count, np.int64), table.time_ns[good], numbers)


def _ordered(keys: tuple[SeriesKey, ...], series: Int64, times: Int64, values: Int64 | Float64) -> Iterator[Events]:
    order = np.argsort(times, kind="stable")
    for at in range(0, len(order), _CHUNK):
        some = order[at : at + _CHUNK]
        yield Events(keys, series[some], times[some], times[some], values[some])
