"""Long rows as Parquet: ``metric, labels, time_ns, seen_ns, arrival, row, value``.

Within a row group rows lie by series and then by arrival, because a counter beside its own past compresses to
almost nothing; `row` is the place in the order of arrival within the row group, so that the reader restores that
order by one scatter instead of a sort; `arrival` is the rank among rows of equal seen_ns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from telemetry.errors import StoreError
from telemetry.storage.layout import labels_text, parse_labels
from telemetry.types import Float64, Int64, Nanos, SeriesKey

__all__ = ["ROW_GROUP", "Columns", "FileWriter", "KeyTable", "read_file", "read_keys"]

ROW_GROUP = 1 << 17


class Columns:
    """Rows in the order of arrival: `code` indexes `keys`."""

    __slots__ = ("arrival", "code", "seen_ns", "time_ns", "value")

    def __init__(
        self, code: NDArray[np.int32], time_ns: Int64, seen_ns: Int64, arrival: Int64, value: Int64 | Float64
    ) -> None:
        self.code = code
        self.time_ns = time_ns
        self.seen_ns = seen_ns
        self.arrival = arrival
        self.value = value

    def __len__(self) -> int:
        return len(self.code)

    def __getitem__(self, at: Any) -> Columns:
        return Columns(self.code[at], self.time_ns[at], self.seen_ns[at], self.arrival[at], self.value[at])

    @staticmethod
    def concat(parts: Sequence[Columns]) -> Columns:
        if len(parts) == 1:
            return parts[0]
        return Columns(*(np.concatenate([getattr(p, n) for p in parts]) for n in _ORDER))


_ORDER = ("code", "time_ns", "seen_ns", "arrival", "value")


class KeyTable:
    """Series met in one reading: `code` numbers them; -1 stands for those not asked for."""

    __slots__ = ("_codes", "_wanted", "keys")

    def __init__(self, wanted: Callable[[SeriesKey], bool] | None = None) -> None:
        self.keys: list[SeriesKey] = []
        self._codes: dict[SeriesKey, int] = {}
        self._wanted = wanted

    def code(self, key: SeriesKey) -> int:
        found = self._codes.get(key)
        if found is None:
            if self._wanted is not None and not self._wanted(key):
                found = -1
            else:
                found = len(self.keys)
                self.keys.append(key)
            self._codes[key] = found
        return found


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

    def write(self, rows: Columns) -> None:
        """Append one row group."""
        if not len(rows):
            return
        top = int(rows.code.max())
        code = rows.code.astype(np.uint16) if top < 65_536 else rows.code  # 16 bits: numpy sorts by radix
        order = np.argsort(code, kind="stable")
        self.write_sorted(rows[order], order.astype(np.int32))

    def write_sorted(self, rows: Columns, row: NDArray[np.int32]) -> None:
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
        for code in codes[self._number[codes] < 0].tolist():
            text = self._text(self._keys[code]).encode("utf-8", "replace")
            self._number[code] = number = self._numbers.setdefault(text, len(self._texts))
            if number == len(self._texts):
                self._texts.append(text)
        chosen, index = np.unique(self._number[codes], return_inverse=True)
        texts = _strings([self._texts[t] for t in chosen.tolist()])
        return pa.DictionaryArray.from_arrays(_arrow(np.repeat(index.astype(np.int32), lengths)), texts)


def read_file(
    path: str | Path,
    host: str,
    table: KeyTable,
    seen: tuple[Nanos, Nanos],
    time: tuple[Nanos, Nanos] | None,
    filesystem: Any = None,
) -> Iterator[Columns]:
    """Yield the rows of a file that are asked for, in the order of arrival, a row group at a time.

    Parameters
    ----------
    table : KeyTable
        Series known to this reading; grows.
    seen, time : half-open intervals

    Raises
    ------
    StoreError
        If the file is not what the store wrote. FileNotFoundError passes: the caller knows where else to look.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, filesystem=filesystem, read_dictionary=["metric", "labels"])
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{path}: expected a Parquet file of the store, got: {_line(error)}") from None
    with file:
        where = file.schema_arrow.get_field_index("seen_ns")
        for group in range(file.metadata.num_row_groups):
            stats = file.metadata.row_group(group).column(where).statistics
            if stats is not None and stats.has_min_max and (stats.max < seen[0] or stats.min >= seen[1]):
                continue
            try:
                names = file.read_row_group(group, columns=["metric", "labels"], use_threads=False).combine_chunks()
                code = _series(names, host, table)
                if not (code >= 0).any():
                    continue
                rest = ["row", *_ORDER[1:]]
                read = file.read_row_group(group, columns=rest, use_threads=False).combine_chunks()
            except (pa.ArrowException, OSError) as error:
                raise StoreError(f"{path}: row group {group} cannot be read: {_line(error)}") from None
            rows = _columns(read, code)
            keep = (rows.seen_ns >= seen[0]) & (rows.seen_ns < seen[1]) & (rows.code >= 0)
            if time is not None:
                keep &= (rows.time_ns >= time[0]) & (rows.time_ns < time[1])
            if not keep.all():
                rows = rows[keep]
            if len(rows):
                yield rows


def read_keys(path: str | Path, host: str, filesystem: Any = None) -> set[SeriesKey]:
    """The series of a file, from its two columns of names alone."""
    import pyarrow.parquet as pq

    found: set[SeriesKey] = set()
    with pq.ParquetFile(path, filesystem=filesystem, read_dictionary=["metric", "labels"]) as file:
        for group in range(file.metadata.num_row_groups):
            table = file.read_row_group(group, columns=["metric", "labels"], use_threads=False).combine_chunks()
            known = KeyTable()
            _series(table, host, known)
            found.update(known.keys)
    return found


def _arrow(values: NDArray[Any]) -> Any:
    """The same memory as an Arrow array (``pyarrow.array`` would import pandas to see whether it is one of its own)."""
    import pyarrow as pa

    kind = {"i4": pa.int32(), "i8": pa.int64(), "f8": pa.float64()}[values.dtype.str[1:]]
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def _strings(encoded: Sequence[bytes]) -> Any:
    import pyarrow as pa

    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)))


def _columns(table: Any, code: NDArray[np.int32]) -> Columns:
    """The rows in the order of arrival; where few of them are wanted, only those."""
    row = _numpy(table["row"].chunk(0))
    n = len(row)
    sources = (code, *(_numpy(table[name].chunk(0)) for name in _ORDER[1:]))
    wanted = np.flatnonzero(code >= 0)
    out: list[Any] = []
    if 2 * len(wanted) < n:
        wanted = wanted[np.argsort(row[wanted], kind="stable")]
        for source in sources:
            some = source[wanted]
            out.append(some.astype(np.int64) if some.dtype == np.int32 and source is not code else some)
        return Columns(*out)
    for source in sources:
        column = np.empty(n, np.int64 if source.dtype == np.int32 and source is not code else source.dtype)
        column[row] = source
        out.append(column)
    return Columns(*out)


def _series(table: Any, host: str, known: KeyTable) -> NDArray[np.int32]:
    """Codes of the rows in file order; -1 where not wanted."""
    metric, labels = (_dictionary(table[name]) for name in ("metric", "labels"))
    m, t = metric[0], labels[0]
    n = len(m)
    if n == 0:
        return np.empty(0, np.int32)
    starts = np.concatenate(([0], np.flatnonzero((np.diff(m) != 0) | (np.diff(t) != 0)) + 1))
    of_run = np.empty(len(starts), np.int32)
    parsed: dict[int, tuple[tuple[str, str], ...]] = {}
    for i, (a, b) in enumerate(zip(m[starts].tolist(), t[starts].tolist(), strict=True)):
        if b not in parsed:
            parsed[b] = parse_labels(labels[1][b])
        of_run[i] = known.code(SeriesKey(host, metric[1][a], parsed[b]))
    return np.repeat(of_run, np.diff(np.append(starts, n)))


def _dictionary(column: Any) -> tuple[NDArray[np.int32], list[str]]:
    chunk = column.chunk(0) if column.num_chunks else column.combine_chunks()
    return _numpy(chunk.indices), _texts(chunk.dictionary)


def _numpy(array: Any) -> NDArray[Any]:
    """An Arrow array without gaps, as it lies (``to_numpy`` would import pandas)."""
    kind = {"int32": np.int32, "int64": np.int64, "double": np.float64}[str(array.type)]
    return np.frombuffer(array.buffers()[1], kind, len(array), array.offset * np.dtype(kind).itemsize)


def _texts(array: Any) -> list[str]:
    _, where, data = array.buffers()
    ends = np.frombuffer(where, np.int32, len(array) + 1, array.offset * 4).tolist()
    text = data.to_pybytes() if data is not None else b""
    return [text[lo:hi].decode() for lo, hi in pairwise(ends)]


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
