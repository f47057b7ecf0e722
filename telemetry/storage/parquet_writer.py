"""Long rows as Parquet: ``metric, labels, time_ns, seen_ns, arrival, row, value``.

Within a row group rows lie by series and then by arrival, because a counter beside its own past compresses to
almost nothing; `row` is the place in the order of arrival within the row group, so that the reader restores that
order by one scatter instead of a sort; `arrival` is the rank among rows of equal seen_ns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from telemetry.storage.columns import Columns
from telemetry.storage.layout import labels_text
from telemetry.types import Int64, SeriesKey

__all__ = ["ROW_GROUP", "FileWriter"]

ROW_GROUP: Final = 1 << 18
"""Most rows of a row group."""


class FileWriter:
    """Writes one Parquet file from rows in the order of arrival.

    Parameters
    ----------
    path : Path
    keys : list of SeriesKey
        What codes index; may grow until `close`.
    kind : {"int64", "float64"}
    """

    def __init__(self, path: Path, keys: Sequence[SeriesKey], kind: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._keys = keys
        self._metrics = _Texts(keys, lambda key: key.metric)
        self._labels = _Texts(keys, lambda key: labels_text(key.labels))
        text = pa.dictionary(pa.int32(), pa.string())
        self._schema = pa.schema(
            [
                ("metric", text),
                ("labels", text),
                ("time_ns", pa.int64()),
                ("seen_ns", pa.int64()),
                ("arrival", pa.int32()),
                ("row", pa.int32()),
                ("value", pa.int64() if kind == "int64" else pa.float64()),
            ]
        )
        encoding = {"time_ns": "PLAIN", "seen_ns": "PLAIN", "row": "DELTA_BINARY_PACKED"}
        encoding["value"] = "DELTA_BINARY_PACKED" if kind == "int64" else "PLAIN"
        self._file = pq.ParquetWriter(
            path,
            self._schema,
            compression="zstd",
            compression_level=3,
            use_dictionary=["metric", "labels", "arrival"],
            column_encoding=encoding,
            write_statistics=["metric", "time_ns", "seen_ns"],
            version="2.6",
            data_page_size=1 << 20,
        )
        self.rows = 0
        self.seen_min = self.time_min = np.iinfo(np.int64).max
        self.seen_max = self.time_max = np.iinfo(np.int64).min

    @property
    def metrics(self) -> list[str]:
        return sorted({key.metric for key in self._metrics.used()})

    def write(self, rows: Columns, row: NDArray[np.int32]) -> None:
        """Append one row group, in order of code and then of arrival; `row` is the place in the order of arrival."""
        import pyarrow as pa

        n = len(rows)
        starts = np.concatenate(([0], np.flatnonzero(np.diff(rows.code)) + 1))
        lengths = np.diff(np.append(starts, n))
        codes = rows.code[starts]
        table = pa.Table.from_arrays(
            [
                self._metrics.column(codes, lengths),
                self._labels.column(codes, lengths),
                _arrow(rows.time_ns),
                _arrow(rows.seen_ns),
                _arrow(rows.arrival.astype(np.int32)),
                _arrow(row),
                _arrow(rows.value),
            ],
            schema=self._schema,
        )
        self._file.write_table(table, row_group_size=n)
        self.rows += n
        self.seen_min = min(self.seen_min, int(rows.seen_ns.min()))
        self.seen_max = max(self.seen_max, int(rows.seen_ns.max()))
        self.time_min = min(self.time_min, int(rows.time_ns.min()))
        self.time_max = max(self.time_max, int(rows.time_ns.max()))

    def close(self) -> None:
        host = next((key.host for key in self._metrics.used()), "")
        self._file.add_key_value_metadata({"tailwatch.host": json.dumps(host)})
        self._file.close()


class _Texts:
    """A column of texts by series: each text is made once a file, a row group's dictionary is picked from them."""

    def __init__(self, keys: Sequence[SeriesKey], text: Callable[[SeriesKey], str]) -> None:
        self._keys, self._text = keys, text
        self._number = np.empty(0, np.int32)  # of the text of each code; -1: not met yet
        self._numbers: dict[bytes, int] = {}
        self._texts: list[bytes] = []

    def used(self) -> list[SeriesKey]:
        """The series met so far."""
        return [self._keys[c] for c in np.flatnonzero(self._number >= 0).tolist()]

    def column(self, codes: NDArray[np.int32], lengths: Int64) -> Any:
        """The texts of `codes`, each as many times as its length says."""
        import pyarrow as pa

        if len(self._keys) > len(self._number):
            more = np.full(2 * len(self._keys) - len(self._number), -1, np.int32)
            self._number = np.concatenate([self._number, more])
        new = codes[self._number[codes] < 0]
        if len(new):
            texts = (self._text(self._keys[code]).encode("utf-8", "replace") for code in new.tolist())
            self._number[new] = [self._numbers.setdefault(text, len(self._numbers)) for text in texts]
            self._texts += islice(self._numbers, len(self._texts), None)
        chosen, index = np.unique(self._number[codes], return_inverse=True)
        texts = _strings([self._texts[t] for t in chosen.tolist()])
        return pa.DictionaryArray.from_arrays(_arrow(np.repeat(index.astype(np.int32), lengths)), texts)


def _arrow(values: NDArray[Any]) -> Any:
    """The same memory as an Arrow array (``pyarrow.array`` would import pandas to see whether it is one of its own)."""
    import pyarrow as pa

    kind = {"i4": pa.int32(), "i8": pa.int64(), "f8": pa.float64()}[values.dtype.str[1:]]
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def _strings(encoded: Sequence[bytes]) -> Any:
    import pyarrow as pa

    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)))
