"""Anyone's table of series (CSV of any delimiter, Parquet): which column is the time, which are values.

A whole file is read before it is scored, so deciding its delimiter and date order by the whole column looks at no
value's future: scores see values only.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from telemetry.errors import InputError
from telemetry.types import Float64, Int64

__all__ = ["SUFFIXES", "Table", "parse_times", "read_table"]

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet", ".pq")
MISSING = frozenset(("", "nan", "na", "n/a", "null", "none", "-", "nat", "<na>"))
_NAMES = ("timestamp", "time", "date", "datetime", "epoch", "ts", "t")
_ORDERS = (
    ("%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M:%S"),
    ("%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M"),
    ("%d/%m/%Y", "%m/%d/%Y"),
    ("%d.%m.%Y %H:%M:%S", "%m.%d.%Y %H:%M:%S"),
    ("%d.%m.%Y %H:%M", "%m.%d.%Y %H:%M"),
    ("%d-%m-%Y %H:%M:%S", "%m-%d-%Y %H:%M:%S"),
    ("%d-%m-%Y %H:%M", "%m-%d-%Y %H:%M"),
)
_OTHERS = ("%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y%m%d %H:%M:%S", "%Y%m%d%H%M%S", "%b %d %Y %H:%M:%S")


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
    """

    time: Sequence[str]
    time_ns: Int64
    names: tuple[str, ...]
    text: tuple[Sequence[str], ...]
    values: Float64
    backward: int
    timed: bool = True


def _from_epoch(cells: Sequence[str]) -> Int64 | None:
    """Numbers as seconds, ms, us or ns since the epoch, told by their size; smaller ones as seconds."""
    try:
        exact = [int(c) for c in cells]
        numbers = np.array(exact, np.float64)
    except ValueError:
        try:
            numbers = np.array([float(c) for c in cells])
        except ValueError:
            return None
        exact = []
    if not np.isfinite(numbers).all():
        return None
    largest = float(np.abs(numbers).max()) if len(numbers) else 0.0
    unit = next((u for limit, u in ((1e11, 10**9), (1e14, 10**6), (1e17, 10**3), (9.2e18, 1)) if largest < limit), 0)
    if not unit:
        return None
    if exact:
        return np.array([e * unit for e in exact], np.int64)
    return np.round(numbers * unit).astype(np.int64)


def _stamp(moment: datetime) -> int:
    from datetime import UTC

    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000


def _by_format(cells: Sequence[str], pattern: str) -> Int64 | None:
    try:
        return np.array([_stamp(datetime.strptime(c, pattern)) for c in cells], np.int64)
    except ValueError:
        return None


def parse_times(cells: Sequence[str]) -> Int64 | None:
    """Nanoseconds of a whole column of times, or None if some cell is not one.

    ISO 8601, numbers since the epoch, and day/month orders; where both orders fit all cells, the one whose times run
    forward more often is taken.
    """
    cells = [c.strip() for c in cells]
    if not cells or not cells[0] or not any(ch.isdigit() for ch in cells[0]):
        return None
    numbers = _from_epoch(cells)
    if numbers is not None:
        return numbers
    try:
        return np.array([_stamp(datetime.fromisoformat(c)) for c in cells], np.int64)
    except ValueError:
        pass
    for pair in _ORDERS:
        parsed = [t for p in pair if (t := _by_format(cells, p)) is not None]
        if parsed:
            return min(parsed, key=lambda t: int((np.diff(t) <= 0).sum()))
    for pattern in _OTHERS:
        times = _by_format(cells, pattern)
        if times is not None:
            return times
    return None


def _numbers(cells: Sequence[str]) -> tuple[Float64, list[int]]:
    """Cells as floats (NaN where missing) and the rows that are neither number nor missing."""
    out = np.full(len(cells), np.nan)
    bad: list[int] = []
    for i, cell in enumerate(cells):
        try:
            out[i] = float(cell)
        except ValueError:
            if cell.strip().lower() not in MISSING:
                bad.append(i)
    out[~np.isfinite(out)] = np.nan
    return out, bad


def _read_text(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """Names, columns of cells, line number of each row."""
    try:
        raw = path.read_bytes()
        if path.name.endswith(".gz"):
            raw = gzip.decompress(raw)
    except (OSError, EOFError) as error:
        raise InputError(
            f"{path}: {error.strerror if isinstance(error, OSError) and error.strerror else error}"
        ) from None
    if not raw.strip():
        raise InputError(f"{path}: expected a table, the file is empty")
    if b"\x00" in raw[:4096]:
        raise InputError(f"{path}: expected text (CSV) or Parquet, got binary data")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8 text, byte {error.start} is not") from None
    first = next(line for line in text.splitlines() if line.strip())
    delimiter = max(";\t,|", key=lambda d: (first.count(d), d == ","))
    if not first.count(delimiter):
        delimiter = ","
    names: list[str] = []
    columns: list[list[str]] = []
    lines: list[int] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for row in reader:
            if not row or all(not cell.strip() for cell in row):
                if names and len(names) == 1 and row:
                    columns[0].append("")
                    lines.append(reader.line_num)
                continue
            if not names:
                if all(_is_number(cell) for cell in row):
                    names = [f"column{i + 1}" for i in range(len(row))]
                    columns = [[] for _ in names]
                else:
                    names = [cell.strip() or f"column{i + 1}" for i, cell in enumerate(row)]
                    columns = [[] for _ in names]
                    continue
            if len(row) != len(names):
                raise InputError(f"{path}, line {reader.line_num}: expected {len(names)} cells, got {len(row)}")
            for column, cell in zip(columns, row, strict=True):
                column.append(cell.strip())
            lines.append(reader.line_num)
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}") from None
    return names, columns, lines


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _read_parquet(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    import pyarrow as pa
    import pyarrow.compute as pc
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
            # strings to the nanosecond would not parse as ISO in Python; the number is exact
            nanos = pc.cast(pc.cast(column, pa.timestamp("ns"), safe=False), pa.int64())
            columns.append(["" if v is None else str(v) for v in nanos.to_pylist()])
        else:
            columns.append(["" if v is None else str(v) for v in column.to_pylist()])
    return list(table.column_names), columns, list(range(1, table.num_rows + 1))


def _find_time(names: list[str], columns: list[list[str]], wanted: str | None, path: Path) -> tuple[int, Int64 | None]:
    if wanted is not None:
        if wanted not in names:
            raise InputError(f"{path}: no column {wanted!r} for the time; it has {', '.join(names)}")
        at = names.index(wanted)
        times = parse_times(columns[at])
        if times is None:
            raise InputError(f"{path}: column {wanted!r} is not a time: {_first_bad(columns[at])}")
        return at, times
    order = sorted(range(len(names)), key=lambda i: (names[i] != "timestamp", i))
    for i in order:
        named = names[i].strip().lower() in _NAMES
        cells = columns[i]
        if not named and _from_epoch(cells[:50]) is not None and abs(float(cells[0])) < 1e8:
            continue  # plain numbers are values unless the name says time
        times = parse_times(cells)
        if times is not None:
            return i, times
        if names[i] == "timestamp":
            raise InputError(f"{path}: column 'timestamp' is not a time: {_first_bad(cells)}")
    return -1, None


def _first_bad(cells: Sequence[str]) -> str:
    bad = next((i for i, c in enumerate(cells) if parse_times([c]) is None), None)
    return "its cells are of different forms" if bad is None else f"row {bad + 1} is {cells[bad]!r}"


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
    parquet = path.name.endswith((".parquet", ".pq"))
    names, columns, lines = _read_parquet(path) if parquet else _read_text(path)
    rows = len(columns[0]) if columns else 0
    if not rows:
        raise InputError(f"{path}: expected rows of data below the header, got none")
    at, times = _find_time(names, columns, time, path)
    for name in values:
        if name not in names:
            raise InputError(f"{path}: no column {name!r}; it has {', '.join(names)}")
    chosen: list[str] = []
    text: list[Sequence[str]] = []
    numbers: list[Float64] = []
    skipped: list[str] = []
    candidates = [names.index(v) for v in values] if values else [i for i in range(len(names)) if i != at]
    for i in candidates:
        parsed, bad = _numbers(columns[i])
        present = sum(1 for c in columns[i] if c.lower() not in MISSING)
        if bad and (values or len(candidates) == 1 or 2 * len(bad) <= present):
            where = f"row {lines[bad[0]]}" if parquet else f"line {lines[bad[0]]}"
            raise InputError(f"{path}, {where}: expected a number in column {names[i]!r}, got {columns[i][bad[0]]!r}")
        if bad:
            skipped.append(names[i])  # a column of text, not of numbers
            continue
        if "rtt" in names[i].lower():
            parsed[parsed < 0.0] = np.nan  # a round trip cannot be negative: a lost probe
        chosen.append(names[i])
        text.append(columns[i])
        numbers.append(parsed)
    if not chosen:
        raise InputError(f"{path}: expected a column of numbers, got {', '.join(names)}")
    if times is None:
        times = np.arange(rows, dtype=np.int64) * 1_000_000_000
    stamps = columns[at] if at >= 0 else [str(i) for i in range(rows)]
    backward = int((np.diff(times) <= 0).sum()) if rows > 1 else 0
    return Table(stamps, times, tuple(chosen), tuple(text), np.stack(numbers, axis=1), backward, at >= 0)
