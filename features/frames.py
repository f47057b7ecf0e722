"""Panels as pandas DataFrames and Arrow tables (both libraries imported when called)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from telemetry.errors import InputError
from telemetry.types import Panel

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["to_arrow", "to_pandas", "to_tensor"]


def to_pandas(panel: Panel) -> pd.DataFrame:
    """One row per window (its end, UTC), one column per (series, feature); shares the panel's memory."""
    import pandas as pd

    w, s, c = panel.values.shape
    names = [str(k) for k in panel.keys]
    columns = pd.MultiIndex.from_product([names, list(panel.columns)], names=["series", "feature"])
    index = pd.DatetimeIndex(panel.end_ns.astype("datetime64[ns]"), tz="UTC", name="end")
    frame = pd.DataFrame(panel.values.reshape(w, s * c), index=index, columns=columns, copy=False)
    frame.attrs["window_ns"] = panel.window_ns
    return frame


def to_arrow(panel: Panel, columns: Sequence[str] | None = None) -> Any:
    """A long ``pyarrow.Table``: ``end, window_ns, host, metric, series`` and one column per feature.

    Rows without any value are left out; missing values are null. With `columns`, exactly those, null where the panel
    has none.
    """
    import pyarrow as pa

    s = len(panel.keys)
    clock = np.array([c.startswith("clock_") for c in panel.columns], np.bool_)
    there = ~np.isnan(panel.values[:, :, ~clock]).all(axis=2)
    window, series = np.nonzero(there)
    rows = panel.values[there]
    made = {
        "end": pa.array(panel.end_ns[window], pa.timestamp("ns", tz="UTC")),
        "window_ns": pa.array(np.full(len(window), panel.window_ns, np.int64)),
    }
    index = pa.array(series.astype(np.int32))
    for name, texts in (
        ("host", [k.host for k in panel.keys]),
        ("metric", [k.metric for k in panel.keys]),
        ("series", [str(k) for k in panel.keys]),
    ):
        # Distinct words once; a dictionary column refers to them.
        words = list(dict.fromkeys(texts))
        code = {t: i for i, t in enumerate(words)}
        codes = np.array([code[t] for t in texts], np.int32)[series] if s else index
        made[name] = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(words, pa.string()))
    for name in panel.columns if columns is None else columns:
        if name in panel.columns:
            made[name] = pa.array(rows[:, panel.columns.index(name)], from_pandas=True)
        else:
            made[name] = pa.nulls(len(window), pa.float64())
    return pa.table(made)


def to_tensor(panel: Panel) -> Any:
    """A ``pyarrow.Table`` of ``end`` and ``values``, a tensor (series, features) per window; shares the memory.

    The names are in the schema's metadata (``series``, ``features``: one a line, ``window_ns``).

    Raises
    ------
    InputError
        If the panel is empty: a tensor needs at least one series and feature.
    """
    import pyarrow as pa

    s, c = panel.values.shape[1:]
    if not s or not c:
        raise InputError("panel: expected at least one series and one feature, got none")
    flat = pa.array(np.ascontiguousarray(panel.values).reshape(-1))
    kind = pa.fixed_shape_tensor(pa.float64(), (s, c))
    tensor = pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(flat, s * c))
    meta = {
        "series": "\n".join(str(k).replace("\n", "\\n") for k in panel.keys),
        "features": "\n".join(panel.columns),
        "window_ns": str(panel.window_ns),
    }
    end = pa.array(panel.end_ns, pa.timestamp("ns", tz="UTC"))
    return pa.table({"end": end, "values": tensor}).replace_schema_metadata(meta)
