"""``tailwatch detect``: anomalies in anyone's series, row by row, strictly causal."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from models.base import Model
from pipelines.series_files import FLAGS, SUFFIXES, Table, read_table
from telemetry.errors import ConfigError, InputError, NoDataError, StoreError, TailwatchError
from telemetry.types import Bool, Float64, Panel, SeriesKey

__all__ = ["SMALL_PER_ROW", "Budget", "Scored", "detect_files", "find_inputs", "parse_budget", "score_table"]

Purpose = Literal["events", "shifts", "all"]
SHIFT_NOTE = 0.25
"""Score of a level change that is not itself an event: told, but below whatever the policy mentions."""
SMALL_PER_ROW = 0.0004
"""Below as many false alerts a row the model must be careful."""
_PER_DAY = {"hour": 24.0, "day": 1.0, "week": 1.0 / 7.0}


@dataclass(frozen=True, slots=True)
class Budget:
    """False alerts that the user accepts: in 1,000 rows, or in a day."""

    per_1000: float = 1.0
    per_day: float | None = None


def parse_budget(text: str) -> Budget:
    """Read ``N/1000rows``, ``N/hour``, ``N/day`` or ``N/week``.

    Raises
    ------
    ConfigError
    """
    number, slash, unit = text.strip().partition("/")
    try:
        amount = float(number)
    except ValueError:
        amount = 0.0
    if not slash or not 0 < amount < float("inf") or unit not in ("1000rows", *_PER_DAY):
        raise ConfigError(f"budget: expected N/1000rows, N/hour, N/day or N/week with N above 0, got {text!r}")
    if unit == "1000rows":
        return Budget(per_1000=amount)
    return Budget(per_day=amount * _PER_DAY[unit])


@dataclass(frozen=True, slots=True)
class Scored:
    """Per (row, column) of a table; one column with joint scoring, and then `contributors` per row."""

    surprise: Float64
    score: Float64
    alert: Bool
    contributors: Sequence[str] | None = None


def _per_row(table: Table, budget: Budget) -> float:
    """The budget as false alerts a row, by the spacing of the first hundred rows (a setting, not a score)."""
    if budget.per_day is None:
        return budget.per_1000 / 1000.0
    head = table.time_ns[:100]
    spacing = float(np.median(np.diff(head))) if len(head) > 1 else 0.0
    return budget.per_day * max(spacing, 0.0) / 86_400e9


def _panel(table: Table) -> Panel:
    keys = tuple(SeriesKey("", f"v{i}") for i in range(table.values.shape[1]))
    return Panel(keys, ("value",), 1, table.time_ns, np.ascontiguousarray(table.values[:, :, None]))


def _fitted(model: Model, panel: Panel, history: Table | None) -> Model:
    if history is not None:
        model.fit(_panel(history))
    model.align(panel.keys)
    return model


def score_table(
    table: Table,
    *,
    purpose: Purpose = "all",
    budget: Budget | None = None,
    joint: bool = False,
    history: Table | None = None,
) -> Scored:
    """Score each row by the rows before it.

    Parameters
    ----------
    table : Table
    purpose : "events", "shifts" or "all"
    budget : Budget, optional
    joint : bool
        One surprise over all columns, with the columns that contribute most.
    history : Table, optional
        Rows of the same columns from before, to learn from.
    """
    from detectors.policy import ALERT
    from detectors.policy_rows import KEEP, RowsPolicy, needed

    budget = budget or Budget()
    panel = _panel(table)
    if joint:
        return _score_joint(table, panel, budget, history)
    surprise = np.full(table.values.shape, np.nan)
    score = np.zeros(table.values.shape)
    alert = np.zeros(table.values.shape, np.bool_)
    if purpose != "shifts":
        from models.ensemble import FullModel

        per_row = _per_row(table, budget)
        careful = needed(max(per_row, 1e-9)) if per_row < SMALL_PER_ROW else 0.0
        model = _fitted(FullModel(clock=table.timed, creep=False, careful=careful), panel, history)
        found = model.advance(panel).surprise
        policy = RowsPolicy(budget.per_1000, budget.per_day)
        policy.align(panel.keys, panel.channels)
        decision = policy.decide(panel.end_ns, panel.window_ns, found)
        surprise, score = found[:, :, 0], decision.score[:, :, 0]
        alert = decision.grade[:, :, 0] == ALERT
    if purpose != "events":
        from models.shift import BAR, ShiftModel

        moved = _fitted(ShiftModel(), panel, history).advance(panel).surprise[:, :, 0]
        told = moved >= BAR
        if purpose == "shifts":
            surprise = moved
            score = np.where(told, moved / (moved + BAR), 0.0)
            alert = told
        else:
            score = np.where(_apart(told, KEEP), np.maximum(score, SHIFT_NOTE), score)
    return Scored(surprise, score, alert)


def _apart(told: Bool, rows: int) -> Bool:
    """Those that come at least `rows` after the last one kept: a series that always moves is noted now and then."""
    out = np.zeros_like(told)
    for c in range(told.shape[1]):
        last = -rows
        for i in np.flatnonzero(told[:, c]).tolist():
            if i - last >= rows:
                out[i, c], last = True, i
    return out


def _score_joint(table: Table, panel: Panel, budget: Budget, history: Table | None) -> Scored:
    from detectors.policy import ALERT
    from detectors.policy_rows import RowsPolicy
    from models.joint import JointModel

    scores = _fitted(JointModel(), panel, history).advance(panel)
    surprise = scores.surprise[:, :1, :]
    policy = RowsPolicy(budget.per_1000, budget.per_day)
    policy.align(panel.keys[:1], panel.channels)
    decision = policy.decide(panel.end_ns, panel.window_ns, surprise)
    parts = scores.parts[:, :, 0] if scores.parts is not None else np.zeros(table.values.shape)
    who = []
    for row, s in zip(parts, surprise[:, 0, 0], strict=True):
        if not s > 0.0:
            who.append("")
            continue
        order = np.argsort(-np.nan_to_num(row), kind="stable")[:3]
        who.append(" ".join(f"{table.names[i]}:{row[i]:.2f}" for i in order if row[i] > 0.0))
    return Scored(surprise[:, :, 0], decision.score[:, :, 0], decision.grade[:, :, 0] == ALERT, who)


def _columns(table: Table, scored: Scored) -> list[tuple[str, Sequence[str]]]:
    """Output columns as text."""
    out: list[tuple[str, Sequence[str]]] = [("timestamp", table.time)]
    out += list(zip(table.names, table.text, strict=True))
    plain = scored.contributors is not None or len(table.names) == 1
    for i in range(scored.surprise.shape[1]):
        tail = "" if plain else f":{table.names[i]}"
        out.append((f"surprise{tail}", ["" if np.isnan(v) else f"{v:.4f}" for v in scored.surprise[:, i]]))
        out.append((f"anomaly_score{tail}", [f"{v:.6f}" if v else "0" for v in scored.score[:, i]]))
        out.append((f"alert{tail}", ["1" if v else "0" for v in scored.alert[:, i]]))
    if scored.contributors is not None:
        out.append(("contributors", scored.contributors))
    return out


def _write(path: Path, table: Table, scored: Scored) -> None:
    """Write beside the target, then rename: an interrupted run leaves no half file."""
    columns = _columns(table, scored)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name.endswith((".parquet", ".pq")):
            _write_parquet(part, table, scored, columns)
        elif path.name.endswith(".gz"):
            import gzip

            with gzip.open(part, "wt", newline="", encoding="utf-8") as file:
                _rows(file, path, columns)
        else:
            with open(part, "w", newline="", encoding="utf-8") as file:
                _rows(file, path, columns)
        os.replace(part, path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)


def _rows(file: object, path: Path, columns: list[tuple[str, Sequence[str]]]) -> None:
    writer = csv.writer(file, delimiter="\t" if ".tsv" in path.name else ",", lineterminator="\n")  # type: ignore[arg-type]
    writer.writerow([name for name, _ in columns])
    writer.writerows(zip(*(cells for _, cells in columns), strict=True))


def _write_parquet(path: Path, table: Table, scored: Scored, columns: list[tuple[str, Sequence[str]]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = []
    at = 1 + len(table.names)
    for i, (name, cells) in enumerate(columns):
        if i == 0:
            arrays.append(pa.array(table.time_ns, pa.timestamp("ns")) if table.timed else pa.array(list(cells)))
        elif i < at:
            arrays.append(pa.array(table.values[:, i - 1], from_pandas=True))
        elif name == "contributors":
            arrays.append(pa.array(list(cells)))
        else:
            c, kind = divmod(i - at, 3)
            source = (scored.surprise, scored.score, scored.alert)[kind][:, c]
            arrays.append(pa.array(source.astype(np.int8)) if kind == 2 else pa.array(source, from_pandas=True))
    pq.write_table(pa.table(arrays, names=[name for name, _ in columns]), path)


def find_inputs(inputs: Sequence[Path], out: Path) -> list[tuple[Path, Path]]:
    """Pairs of (file, where its result goes): a file to OUT/name, a directory's tree mirrored below OUT.

    Raises
    ------
    InputError
        If two inputs would be written to one place.
    """
    pairs: list[tuple[Path, Path]] = []
    inside = out.resolve()
    for given in inputs:
        if given.is_dir():
            for path in sorted(p for p in given.rglob("*") if p.is_file() and p.name.lower().endswith(SUFFIXES)):
                if inside != given.resolve() and inside in path.resolve().parents:
                    continue
                pairs.append((path, out / path.relative_to(given)))
        elif str(given) == "-":
            pairs.append((Path("/dev/stdin"), out / "stdin.csv"))
        else:
            pairs.append((given, out / given.name))
    targets: dict[Path, Path] = {}
    for source, target in pairs:
        if target in targets:
            raise InputError(f"{source} and {targets[target]} would both be written to {target}")
        if target.resolve() == source.resolve():
            raise InputError(f"{source}: --out would overwrite the input; choose another folder")
        targets[target] = source
    return pairs


def _passed_over(inputs: Sequence[Path], pairs: Sequence[tuple[Path, Path]], out: Path) -> list[str]:
    """Files in the folders given that are no tables by their names (hidden ones and results aside)."""
    read, inside = {source for source, _ in pairs}, out.resolve()
    return [
        str(path)
        for given in inputs
        if given.is_dir()
        for path in sorted(given.rglob("[!.]*"))
        if path not in read and path.is_file() and inside not in path.resolve().parents
    ]


def _series_only(table: Table) -> Table:
    """Without columns of labels, which tell what is to be found, and without row numbers."""
    keep, aside = [], list(table.aside)
    for i, name in enumerate(table.names):
        column = table.values[:, i]
        if name.lower() in FLAGS and np.isin(column[~np.isnan(column)], (0.0, 1.0)).all():
            aside.append(f"{name} (labels)")
        elif len(column) > 2 and (np.diff(column) == 1.0).all():
            aside.append(f"{name} (row numbers)")
        else:
            keep.append(i)
    if not keep:
        return table
    names, text = tuple(table.names[i] for i in keep), tuple(table.text[i] for i in keep)
    return replace(table, names=names, text=text, values=table.values[:, keep], aside=tuple(aside))


def _read_history(history: Path, name: Path, time: str | None, table: Table, source: Path) -> Table:
    """The rows before a table: the same columns, and nothing from its time or later.

    Raises
    ------
    InputError
    """
    path = history / name if history.is_dir() else history
    before = read_table(path, time=time, values=table.names)
    if before.timed != table.timed:
        raise InputError(f"{path}: history of {source}: only one of the two has a time column")
    if table.timed and before.time_ns.max() >= table.time_ns.min():
        last, first = (np.datetime64(int(t), "ns") for t in (before.time_ns.max(), table.time_ns.min()))
        raise InputError(f"{path}: history of {source} must end before it begins at {first}, ends at {last}")
    return before


def detect_files(
    inputs: Sequence[Path],
    out: Path,
    *,
    time: str | None = None,
    values: Sequence[str] = (),
    joint: bool = False,
    purpose: Purpose = "all",
    budget: Budget | None = None,
    history: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
    warn: Callable[[str], None] = lambda _: None,
) -> tuple[int, int]:
    """Score files; returns how many were written and how many could not be read.

    `values` are all columns of numbers but labels and row numbers, unless named. `history` is a file for all, or a
    folder with a file of the same name for each. All good files are written before the bad ones are reported by `warn`.

    Raises
    ------
    NoDataError
        If there is no file to read.
    StoreError
        If `out` cannot be written.
    """
    pairs = find_inputs(inputs, out)
    if history is not None and not history.exists():
        raise NoDataError(f"{history}: no such file or folder of history")
    if not pairs:
        raise NoDataError(f"no CSV or Parquet files in {', '.join(map(str, inputs))}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{out}: cannot be written: {error.strerror or error}") from None
    other = _passed_over(inputs, pairs, out)
    if other:
        warn(f"{len(other)} files are neither CSV nor Parquet by their names, {other[0]} the first")
    bad: list[str] = []
    written = 0
    for source, target in pairs:
        try:
            table = read_table(source, time=time, values=values)
            table = table if values else _series_only(table)
            before = None if history is None else _read_history(history, target.relative_to(out), time, table, source)
        except TailwatchError as error:
            bad.append(str(error))
            continue
        if table.aside:
            warn(f"{source}: not scored: {', '.join(table.aside)}")
        if not table.timed:
            warn(f"{source}: no time column; rows are counted instead, as seconds")
        elif table.backward:
            warn(f"{source}: {table.backward} rows with a repeated or backward time, scored in row order")
        scored = score_table(table, purpose=purpose, budget=budget, joint=joint, history=before)
        _write(target, table, scored)
        written += 1
        tell(f"{target}: {len(table.time)} rows, {int(scored.alert.sum())} alerts")
    for line in bad:
        warn(line)
    return written, len(bad)
