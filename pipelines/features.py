"""The windowed features of a spec, over a store, as Parquet."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from telemetry.errors import ConfigError, InputError, NoDataError
from telemetry.source import Source
from telemetry.types import Nanos, Panel

if TYPE_CHECKING:
    from features.feature_set import FeatureSet

__all__ = ["Written", "load_spec", "panels", "write_features"]


@dataclass(frozen=True, slots=True)
class Written:
    """What was written; `lost` says what was not, in words."""

    rows: int
    windows: int
    series: int
    events: int
    lost: str
    digest: str


def load_spec(path: str | os.PathLike[str], calendar: str | None = None) -> tuple[FeatureSet, str]:
    """Build the ``[[features]]`` of a TOML file (a detector's own file will do); also their digest.

    Raises
    ------
    ConfigError
        The file cannot be read, is not TOML, or declares what is not known.
    """
    import tomllib

    from features.grid import duration_ns
    from features.spec import build_features, digest, parts_from_toml

    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    parts = parts_from_toml(text, str(path))
    data = tomllib.loads(text)
    top = data.get("detector", data)
    lateness = duration_ns(top.get("lateness", 0), f"{path}: lateness")
    idle = duration_ns(top.get("idle_timeout", "5s"), f"{path}: idle_timeout")
    try:
        made = build_features(parts, lateness_ns=lateness, idle_timeout_ns=idle, calendar=calendar)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return made, digest(parts)


def panels(features: FeatureSet, source: Source, seen_from_ns: Nanos, seen_to_ns: Nanos) -> Iterable[Panel]:
    """Every panel of the events seen in ``[from, to)``; at the end, every window that had ended by the last event."""
    for batch in source.read(seen_from_ns, seen_to_ns):
        features.push(batch)
        yield from (p for p in features.close(features.watermark_ns) if len(p.end_ns))
    if features.newest_ns > 0:
        yield from (p for p in features.close(features.newest_ns) if len(p.end_ns))


def write_features(
    spec: str | os.PathLike[str],
    source: Source,
    out: str | os.PathLike[str],
    *,
    seen_from_ns: Nanos,
    seen_to_ns: Nanos,
    calendar: str | None = None,
    ends: tuple[Nanos, Nanos] | None = None,
    sketches: str | os.PathLike[str] | None = None,
) -> Written:
    """Write the features of `spec` as one Parquet file: a row per window and series, a column per feature.

    The file appears whole or not at all. With `ends`, only windows that end in ``(ends[0], ends[1]]`` are written. With
    `sketches`, the sketches of the parts with ``keep_sketches`` go to that file (``Sketches.from_arrow`` reads it): any
    longer window or group of series is computed from them, without the events.

    Raises
    ------
    NoDataError
        If the store has no events in the range.
    ConfigError
        If sketches are wanted, but no part keeps any, or parts of several window lengths do.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from features.frames import to_arrow
    from telemetry.types import Events

    features, digest = load_spec(spec, calendar)
    lengths = features.sketched_ns
    if sketches is not None and len(lengths) != 1:
        raise ConfigError(
            f"{spec}: expected parts of one window length with keep_sketches = true, got {len(lengths) or 'none'}"
        )
    seen = [0]

    class Counted:
        def read(self, lo: Nanos, hi: Nanos) -> Iterable[Events]:
            for batch in source.read(lo, hi):
                seen[0] += len(batch)
                yield batch

    partial, kept = Path(f"{out}.partial"), Path(f"{sketches}.partial")
    rows = windows = 0
    series: set[str] = set()
    writer: pq.ParquetWriter | None = None
    keeper: pq.ParquetWriter | None = None
    try:
        for panel in panels(features, Counted(), seen_from_ns, seen_to_ns):  # type: ignore[arg-type]
            for sketch in features.sketches() if sketches is not None else ():
                stored = sketch.to_arrow()
                keeper = pq.ParquetWriter(kept, stored.schema, compression="zstd") if keeper is None else keeper
                keeper.write_table(stored)
            if ends is not None:
                lo, hi = np.searchsorted(panel.end_ns, ends, "right")
                panel = panel._replace(end_ns=panel.end_ns[lo:hi], values=panel.values[lo:hi])
                if lo == hi:
                    continue
            table = to_arrow(panel, features.columns)
            table = table.replace_schema_metadata({"tailwatch_features": digest})
            if writer is None:
                writer = pq.ParquetWriter(partial, table.schema, compression="zstd")
            writer.write_table(table)
            rows, windows = rows + table.num_rows, windows + len(panel.end_ns)
            series.update(str(k) for k in panel.keys)
        if writer is None:
            raise NoDataError("store: expected events in the range that fill at least one window, found none")
        writer.close()
        writer = None
        if keeper is not None and sketches is not None:
            keeper.close()
            keeper = None
            kept.replace(sketches)
        partial.replace(out)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{out}: cannot be written: {error}") from None
    finally:
        for opened in (writer, keeper):
            if opened is not None:
                opened.close()
        partial.unlink(missing_ok=True)
        kept.unlink(missing_ok=True)
    return Written(rows, windows, len(series), seen[0], features.report(), digest)
