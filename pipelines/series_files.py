"""Anyone's table of series (CSV of any delimiter, Parquet): which column is the time, which are values.

A whole file is read before it is scored, so deciding its delimiter and date order by the whole column looks at no
value's future: scores see values only.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.series_times import first_unreadable, from_epoch, parse_times, plausible
from telemetry.errors import InputError
from telemetry.types import Float64, Int64

__all__ = ["FLAGS", "SUFFIXES", "Table", "read_table"]

SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz", ".parquet", ".pq")
MISSING = frozenset(("", "nan", "na", "n/a", "#n/a", "#na", "null", "none", "-", "--", "?", "nat", "<na>", "\\n"))
FLAGS = frozenset(("label", "labels", "is_anomaly", "anomaly", "flag", "is_outlier", "outlier", "changepoint"))
"""Names of columns that say what was an anomaly, where they hold 0 and 1 only."""
_NAMES = ("timestamp", "time", "date", "datetime", "epoch", "ts", "t")
_COMMA = re.compile(r"[+-]?(\d+|\d{1,3}(\.\d{3})+)?(,\d+)?(e[+-]?\d+)?", re.IGNORECASE)
_TRUTH = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True, slots=True)
class Table:
    """A file's rows in input order.

    Parameters
    ----------
    time : sequence of str
        As written in the file (row numbers where it has no time).
    time_ns : (n,) int64
    names : tuple of str
        Value columns.
    text : tuple of sequence of str
        Value cells as written.
    values : (n, columns) float64
    backward : int
        Rows whose time is not after the row before.
    timed : bool
        Whether the file has a time column.
    aside : tuple of str
        Columns that are no series, each with the reason, and a time that no name told.
    """

    time: Sequence[str]
    time_ns: Int64
    names: tuple[str, ...]
    text: tuple[Sequence[str], ...]
    values: Float64
    backward: int
    timed: bool = True
    aside: tuple[str, ...] = ()


def _numbers(cells: Sequence[str], comma: bool) -> tuple[Float64, list[int]]:
    """Cells as floats (NaN where missing) and the rows that are neither number nor missing."""
    out = np.full(len(cells), np.nan)
    bad: list[int] = []
    for i, cell in enumerate(cells):
        try:
            out[i] = float(cell)
        except ValueError:
            word = cell.strip().lower()
            if word in _TRUTH:
                out[i] = _TRUTH[word]
            elif word not in MISSING:
                bad.append(i)
    if comma and any("," in cells[i] for i in bad) and _decimal_commas(cells):
        points = [c.replace(".", "").replace(",", ".") if _COMMA.fullmatch(c) else c for c in cells]
        return _numbers(points, False)
    out[~np.isfinite(out)] = np.nan
    return out, bad


def _decimal_commas(cells: Sequence[str]) -> bool:
    """Whether commas are decimal points: not beside 12.5, and not in 1,234 beside 999."""
    if any(re.search(r"\.(?!\d{3}(\D|$))", c) for c in cells):
        return False
    return {len(c.rpartition(",")[2]) if "," in c else 0 for c in cells if c.lower() not in MISSING} != {0, 3}


class _Cells(NamedTuple):
    """A file as it was written; `lines` has the line (of Parquet: the row) of each row."""

    names: list[str]
    columns: list[list[str]]
    lines: list[int]
    commas: bool = False
    """Whether a comma may be a decimal point."""


def _read_text(path: Path) -> _Cells:
    try:
        raw = path.read_bytes()
        if raw.startswith(b"\x1f\x8b"):
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: {error.strerror if isinstance(error, OSError) and error.strerror else error}"
        ) from None
    wide = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    if not wide and b"\x00" in raw[:4096]:
        raise InputError(f"{path}: expected text (CSV) or Parquet, got binary data")
    try:
        text = raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + raw[: error.start].count(b"\n")
        raise InputError(f"{path}, line {line}: expected UTF-8 text, byte {error.start} is not") from None
    if not text.strip():
        raise InputError(f"{path}: expected a table, the file is empty")
    delimiter = _delimiter(text)
    names: list[str] = []
    columns: list[list[str]] = []
    lines: list[int] = []
    line = 0
    try:
        for line, row in _rows(text, delimiter):
            if not row or all(not cell.strip() for cell in row):
                if names and len(names) == 1 and row:
                    columns[0].append("")
                    lines.append(line)
                continue
            if not names:
                header = _is_header(row)
                names = [cell.strip() if header and cell.strip() else f"column{i + 1}" for i, cell in enumerate(row)]
                columns = [[] for _ in names]
                if header:
                    continue
            if len(row) != len(names):
                raise InputError(f"{path}, line {line}: expected {len(names)} cells, got {len(row)}")
            for column, cell in zip(columns, row, strict=True):
                column.append(cell.strip())
            lines.append(line)
    except csv.Error as error:
        raise InputError(f"{path}, line {line + 1}: {error}") from None
    if delimiter == " " and len(lines) == 1 and len(names) > 1:  # a series written in one line
        return _Cells(["column1"], [[column[0] for column in columns]], lines * len(names))
    return _Cells(names, columns, lines, delimiter != ",")


def _rows(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Cells of each row, and the line where it begins."""
    if delimiter == " ":
        yield from ((i, line.split()) for i, line in enumerate(text.splitlines(), 1))
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    line = 1
    for row in reader:
        yield line, row
        line = reader.line_num + 1


def _delimiter(text: str) -> str:
    """The one that splits the first rows into equally many cells; the comma last, because it may be a decimal point."""
    for delimiter in "\t;|,":
        try:
            rows = [row for _, row in islice(_rows(text, delimiter), 20) if any(cell.strip() for cell in row)]
        except csv.Error:
            continue
        if rows and len(rows[0]) > 1 and len({len(row) for row in rows}) == 1:
            return delimiter
    lines = list(islice((line for line in io.StringIO(text) if line.strip()), 20))
    cells = lines[-1].split()
    if len(cells) > 1 and all(map(_is_number, cells)) and len({len(line.split()) for line in lines}) == 1:
        return " "
    return max(",;\t|", key=lines[0].count)


def _is_header(row: Sequence[str]) -> bool:
    """Whether a first row names columns: it holds words, or counts from 0 as pandas does."""
    cells = [cell.strip() for cell in row]
    counts = [str(i) for i in range(len(cells))]
    if len(cells) > 2 and (cells == counts or cells == ["", *counts[:-1]]):
        return True
    data = (c.lower() in MISSING or _is_number(c.replace(",", ".")) or parse_times([c]) is not None for c in cells)
    return not all(data)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _read_parquet(path: Path) -> _Cells:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None
    columns = []
    for column in table.columns:
        kind = column.type
        if pa.types.is_floating(kind):
            columns.append(["" if v is None else repr(v) for v in column.to_pylist()])
        elif pa.types.is_timestamp(kind):
            text = np.datetime_as_string(column.to_numpy())  # UTC, to the nanosecond
            columns.append(["" if v == "NaT" else v for v in text.tolist()])
        else:
            columns.append(["" if v is None else str(v) for v in column.to_pylist()])
    return _Cells(list(table.column_names), columns, list(range(1, table.num_rows + 1)))


def _find_time(
    names: list[str], columns: list[list[str]], wanted: str | None, path: Path, where: Callable[[int], str]
) -> tuple[int, Int64 | None]:
    if wanted is not None and wanted not in names:
        raise InputError(f"{path}: no column {wanted!r} for the time; it has {_listed(names)}")
    broken: str | None = None
    for i in sorted(range(len(names)), key=lambda i: (names[i] != "timestamp", i)):
        if wanted not in (None, names[i]):
            continue
        cells = columns[i]
        must = wanted is not None or names[i] == "timestamp"
        named = must or _named(names[i])
        head = from_epoch(cells[:50])
        if not named and head is not None and not plausible(head):
            continue  # plain numbers are values unless the name says time
        times = parse_times(cells)
        if times is not None and (named or head is None or plausible(times)):
            return i, times
        begins = (named or not _is_number(cells[0])) and parse_times(cells[:1]) is not None
        if times is None and (must or (begins and broken is None)):
            bad = first_unreadable(cells)
            why = "its cells are of different forms" if bad is None else f"{where(bad)} is {_shown(cells[bad])}"
            broken = f"{path}: column {_shown(names[i])} is not a time: {why}"
            if must:
                break
    if broken is not None:
        raise InputError(broken)
    return -1, None


def _named(name: str) -> bool:
    return name.strip().lower() in _NAMES


def _shown(cell: str) -> str:
    return repr(cell if len(cell) <= 40 else cell[:40] + "...")


def _listed(names: Sequence[str]) -> str:
    short = ", ".join(" ".join(name.split())[:40] for name in names[:20])
    return short if len(names) <= 20 else f"{short} and {len(names) - 20} more"


def read_table(path: Path, *, time: str | None = None, values: Sequence[str] = ()) -> Table:
    """Read one file.

    Parameters
    ----------
    path : Path
    time : str, optional
        Name of the time column; default ``timestamp``, else the first that parses.
    values : sequence of str
        Names of the value columns; default all columns of numbers.

    Raises
    ------
    InputError
        Empty, foreign or ragged file, no such column, or a cell that is neither a number nor missing.
    """
    parquet = path.name.lower().endswith((".parquet", ".pq"))
    names, columns, lines, commas = _read_parquet(path) if parquet else _read_text(path)
    rows = len(columns[0]) if columns else 0
    if not rows:
        raise InputError(f"{path}: expected rows of data below the header, got none")

    def where(row: int) -> str:
        return f"row {lines[row]}" if parquet else f"line {lines[row]}"

    at, times = _find_time(names, columns, time, path, where)
    for name in values:
        if name not in names:
            raise InputError(f"{path}: no column {name!r}; it has {_listed(names)}")
    chosen: list[str] = []
    text: list[Sequence[str]] = []
    numbers: list[Float64] = []
    aside: list[str] = []
    candidates = [names.index(v) for v in dict.fromkeys(values)] or [i for i in range(len(names)) if i != at]
    for i in candidates:
        parsed, bad = _numbers(columns[i], commas)
        present = sum(1 for c in columns[i] if c.lower() not in MISSING)
        if bad and (values or len(candidates) == 1 or 2 * len(bad) <= present):
            got = f"expected a number in column {_shown(names[i])}, got {_shown(columns[i][bad[0]])}"
            raise InputError(f"{path}, {where(bad[0])}: {got}")
        if bad:
            aside.append(f"{names[i]} (no numbers)")
            continue
        if "rtt" in names[i].lower():
            parsed[parsed < 0.0] = np.nan  # a round trip cannot be negative: a lost probe
        chosen.append(names[i])
        text.append(columns[i])
        numbers.append(parsed)
    if at >= 0 and time is None and not _named(names[at]) and from_epoch(columns[at][:1]) is not None:
        aside.append(f"{names[at]} (taken for the time)")
    if not chosen:
        raise InputError(f"{path}: expected a column of numbers, got {_listed(names)}")
    if times is None:
        times = np.arange(rows, dtype=np.int64) * 1_000_000_000
    stamps = columns[at] if at >= 0 else [str(i) for i in range(rows)]
    backward = int((np.diff(times) <= 0).sum()) if rows > 1 else 0
    value = np.stack(numbers, axis=1)
    return Table(stamps, times, tuple(chosen), tuple(text), value, backward, at >= 0, tuple(aside))
