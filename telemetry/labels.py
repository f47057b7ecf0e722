"""The catalogue of labelled incidents: read, check, write, and bring in from other places.

A catalogue is a CSV or Parquet file with the columns ``kind, scope, start, end`` and, optionally, ``id, known, source,
note``. Times are ISO 8601 with a time zone (``2026-11-23T09:31:04.2Z``) or whole nanoseconds since the epoch.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from telemetry.errors import InputError
from telemetry.types import Bool, Int64, Label, Nanos

__all__ = [
    "COLUMNS",
    "check_labels",
    "format_time",
    "labels_from_alertmanager",
    "labels_from_flags",
    "labels_from_nab",
    "matches_scope",
    "parse_scope",
    "parse_time",
    "read_labels",
    "write_labels",
]

COLUMNS = ("id", "kind", "scope", "start", "end", "known", "source", "note")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = 946_684_800 * 10**9, 4_102_444_800 * 10**9  # 2000 .. 2100


def parse_time(text: str | int, where: str) -> Nanos:
    """Exact nanoseconds of ISO 8601 with a time zone, or of a whole number of nanoseconds.

    Raises
    ------
    InputError
        Not a time, without a time zone, or outside of the years 2000 to 2100 (seconds taken for nanoseconds).
    """
    if isinstance(text, (int, np.integer)) or (text.strip().isdigit()):
        at = int(text)
    else:
        raw = text.strip().replace("Z", "+00:00").replace(" ", "T", 1)
        whole, dot, rest = raw.partition(".")
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))] if dot else ""
        try:
            when = datetime.fromisoformat(whole + rest[len(digits) :] if dot else raw)
        except ValueError:
            raise InputError(f"{where}: expected an ISO 8601 time or nanoseconds, got {text!r}") from None
        if when.tzinfo is None:
            raise InputError(f"{where}: {text!r} has no time zone; write for example {text.strip()}Z or +01:00")
        since = when - _EPOCH
        at = (since.days * 86_400 + since.seconds) * 10**9 + int(digits[:9].ljust(9, "0") or 0)
    if not _FIRST <= at < _LAST:
        raise InputError(f"{where}: {text!r} is not between the years 2000 and 2100; times are in nanoseconds")
    return at


def format_time(at_ns: Nanos) -> str:
    """ISO 8601 UTC with nanoseconds."""
    when = _EPOCH + timedelta(seconds=at_ns // 10**9)
    return f"{when:%Y-%m-%dT%H:%M:%S}.{at_ns % 10**9:09d}Z"


def parse_scope(text: str, where: str = "scope") -> dict[str, str]:
    """``host=tx07,cpu=3`` -> its matchers.

    Raises
    ------
    InputError
    """
    out: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, sign, value = part.partition("=")
        if not sign or not name.strip():
            raise InputError(f"{where}: expected label=value pairs (host=tx07,cpu=3), got {part!r}")
        out[name.strip()] = value.strip().strip('"')
    return out


def matches_scope(scope: str, place: str) -> bool:
    """Whether two places overlap: no label that both name has values without a common one (``a|b`` is a or b)."""
    one, two = parse_scope(scope), parse_scope(place)
    return all(set(one[k].split("|")) & set(two[k].split("|")) for k in one.keys() & two.keys())


def _label(row: Mapping[str, Any], where: str) -> Label:
    for name in ("kind", "start", "end"):
        if row.get(name) in (None, ""):
            raise InputError(f"{where}: expected a value for {name!r}")
    start, end = parse_time(row["start"], f"{where}: start"), parse_time(row["end"], f"{where}: end")
    if end <= start:
        raise InputError(f"{where}: expected end after start, got {row['start']} .. {row['end']}")
    known = parse_time(row["known"], f"{where}: known") if row.get("known") not in (None, "") else end
    if known < start:
        raise InputError(f"{where}: known ({row['known']}) is before start: nobody knew of it before it began")
    scope = str(row.get("scope") or "")
    parse_scope(scope, f"{where}: scope")
    kind = str(row["kind"])
    id_ = str(row.get("id") or "") or _digest(kind, scope, start, end)
    return Label(id_, kind, scope, start, end, known, str(row.get("source") or ""), str(row.get("note") or ""))


def _digest(*parts: object) -> str:
    return hashlib.blake2b("\x00".join(map(str, parts)).encode(), digest_size=8).hexdigest()


def read_labels(path: str | Path, kinds: Iterable[str] | None = None) -> list[Label]:
    """Read a catalogue, sorted by start.

    Parameters
    ----------
    path : file
        ``.csv`` or ``.parquet``.
    kinds : iterable of str, optional
        What a label may be; others are errors with the line.

    Raises
    ------
    InputError
        Not there, not a catalogue, a bad row (with its line), or two labels of one kind and scope that overlap.
    """
    file = Path(path)
    if file.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            rows = pq.read_table(file).to_pylist()
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"{file}: expected a Parquet file: {error}") from None
        for row in rows:  # datetimes lose nothing only as integers
            for name in ("start", "end", "known"):
                if isinstance(row.get(name), datetime):
                    row[name] = row[name].isoformat()
    else:
        try:
            text = file.read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: cannot be read as text: {error}") from None
        reader = csv.DictReader(io.StringIO(text))
        names = reader.fieldnames or []
        for name in ("kind", "start", "end"):
            if name not in names:
                raise InputError(
                    f"{file}: line 1: expected the columns kind, scope, start, end; got {', '.join(names)}"
                )
        rows = list(reader)
    labels = [_label(row, f"{file}: row {i + 2}") for i, row in enumerate(rows)]
    check_labels(labels, kinds, str(file))
    return sorted(labels, key=lambda x: (x.start_ns, x.end_ns, x.id))


def check_labels(labels: Sequence[Label], kinds: Iterable[str] | None = None, where: str = "labels") -> None:
    """Refuse unknown kinds, ids given twice, and labels of one kind and scope that overlap.

    Raises
    ------
    InputError
    """
    allowed = None if kinds is None else {*kinds, "unknown", "none"}
    last: dict[tuple[str, str], Label] = {}
    ids: set[str] = set()
    for label in sorted(labels, key=lambda x: x.start_ns):
        if allowed is not None and label.kind not in allowed:
            import difflib

            near = difflib.get_close_matches(label.kind, allowed, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{where}: unknown kind {label.kind!r}{hint}")
        if label.id in ids:
            raise InputError(f"{where}: two labels have the id {label.id!r}")
        ids.add(label.id)
        before = last.get((label.kind, label.scope))
        if before is not None and label.start_ns < before.end_ns:
            raise InputError(
                f"{where}: two labels of {label.kind!r} overlap in scope {label.scope!r}: "
                f"{format_time(before.start_ns)} and {format_time(label.start_ns)}"
            )
        if before is None or label.end_ns > before.end_ns:
            last[(label.kind, label.scope)] = label


def write_labels(path: str | Path, labels: Iterable[Label]) -> None:
    """Write a catalogue (CSV, or Parquet by suffix) that `read_labels` reads back to equal labels."""
    rows = [
        dict(
            zip(
                COLUMNS,
                (x.id, x.kind, x.scope, format_time(x.start_ns), format_time(x.end_ns), format_time(x.known_ns),
                 x.source, x.note),
                strict=True,
            )
        )
        for x in labels
    ]  # fmt: skip
    file = Path(path)
    if file.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema([(c, pa.string()) for c in COLUMNS])), file)
        return
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def labels_from_nab(windows: Mapping[str, Sequence[Sequence[str]]] | str | Path, kind: str = "unknown") -> list[Label]:
    """Bring in label windows of the Numenta Anomaly Benchmark (``combined_windows.json``); its times are UTC.

    The scope of a label is ``file=<name>``.
    """
    found: Mapping[str, Sequence[Sequence[str]]]
    if isinstance(windows, (str, Path)):
        try:
            found = json.loads(Path(windows).read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{windows}: expected NAB's JSON of label windows: {error}") from None
    else:
        found = windows
    out = []
    for name, spans in found.items():
        for i, (start, end) in enumerate(spans):
            a, b = (parse_time(f"{t}Z", f"{name}: window {i + 1}") for t in (start, end))
            out.append(Label(f"nab/{name}/{i}", kind, f"file={name}", a, b, b, "nab"))
    return out


def labels_from_flags(time_ns: Int64, flags: Int64 | Bool, scope: str = "", kind: str = "unknown") -> list[Label]:
    """Runs of ones in a 0/1 column, each ``[time of its first row, time of the row after its last)``.

    Raises
    ------
    InputError
        Lengths differ, times go backwards, or values other than 0 and 1.
    """
    at, on = np.asarray(time_ns, np.int64), np.asarray(flags)
    if len(at) != len(on):
        raise InputError(f"labels: {len(at)} times and {len(on)} flags")
    if not np.isin(on, (0, 1)).all():
        raise InputError("labels: expected only 0 and 1 in a label column")
    if (np.diff(at) <= 0).any():
        raise InputError(f"labels: times must increase; row {int(np.argmax(np.diff(at) <= 0)) + 2} does not")
    edge = np.diff(np.concatenate([[0], on.astype(np.int8), [0]]))
    step = int(np.median(np.diff(at))) if len(at) > 1 else 10**9
    ends = np.append(at, at[-1] + step if len(at) else 0)
    return [
        Label(_digest(scope, kind, int(at[a])), kind, scope, int(at[a]), int(ends[b]), int(ends[b]), "flags")
        for a, b in zip(np.flatnonzero(edge == 1), np.flatnonzero(edge == -1), strict=True)
    ]


def labels_from_alertmanager(alerts: Iterable[Mapping[str, Any]], where: str = "alertmanager") -> list[Label]:
    """Bring in Alertmanager's history (objects of ``/api/v2/alerts``, or of a webhook's ``alerts``).

    The kind is the label ``kind``, else ``unknown``; the scope all labels but ``alertname``, ``kind`` and ``severity``.
    An alert that is still firing (``endsAt`` before ``startsAt``) is left out.
    """
    out = []
    for i, alert in enumerate(alerts):
        here = f"{where}: alert {i + 1}"
        labels = dict(alert.get("labels", {}))
        if "startsAt" not in alert or "endsAt" not in alert:
            raise InputError(f"{here}: expected startsAt and endsAt")
        if str(alert["endsAt"]).startswith("0001-"):
            continue
        start, end = parse_time(str(alert["startsAt"]), here), parse_time(str(alert["endsAt"]), here)
        if end <= start:
            continue
        skip = ("alertname", "kind", "severity")
        scope = ",".join(f"{k}={str(v).replace(',', ';')}" for k, v in sorted(labels.items()) if k not in skip)
        note = str(alert.get("annotations", {}).get("summary", labels.get("alertname", "")))
        kind = str(labels.get("kind", "unknown"))
        id_ = str(alert.get("fingerprint") or "")
        out.append(Label(f"am/{id_ or _digest(scope)}/{start}", kind, scope, start, end, end, "alertmanager", note))
    return out
