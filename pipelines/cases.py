"""What a backtest runs on: a store, a folder of lab recordings, or a folder of labelled series (NAB's layout).

A case is plain data, so any process of a pool can open it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pipelines.corpus import corpus_runs, gathered
from telemetry.errors import InputError, NoDataError
from telemetry.labels import labels_from_nab
from telemetry.labfolder import LabFolder, is_lab_folder
from telemetry.source import ArraySource, Source
from telemetry.types import Events, Label, Nanos, SeriesKey

__all__ = ["Case", "corpus_cases", "open_case", "series_source"]

FOREVER = 2**62


@dataclass(frozen=True, slots=True)
class Case:
    """One stretch of history with its labels; a detector starts afresh in each.

    `form` says what `path` is; `select` restricts a store to some series (a selector).
    """

    name: str
    form: Literal["store", "lab", "series"]
    path: str
    labels: tuple[Label, ...]
    from_ns: Nanos = 0
    to_ns: Nanos = FOREVER
    select: str = ""


class _Selected:
    """A store's source of some series, or a lab run's in batches that are worth their while."""

    def __init__(self, source: object, select: str = "", gather: bool = False) -> None:
        self._source, self._select, self._gather = source, select, gather

    def read(self, seen_from_ns: Nanos, seen_to_ns: Nanos) -> Iterator[Events]:
        if self._gather:
            return gathered(self._source.read(seen_from_ns, seen_to_ns))  # type: ignore[attr-defined]
        return self._source.read(seen_from_ns, seen_to_ns, select=self._select)  # type: ignore[attr-defined]


@contextmanager
def open_case(case: Case) -> Iterator[Source]:
    """The source of a case."""
    if case.form == "store":
        from telemetry.store import Store

        with Store(case.path, create=False) as store:
            yield _Selected(store, case.select) if case.select else store
    elif case.form == "lab":
        yield _Selected(LabFolder(case.path).source(), gather=True)
    else:
        yield series_source(Path(case.path), case.name)


def series_source(path: Path, name: str) -> Source:
    """The numeric columns of a table as series ``<column>{file="<name>"}``; a row was seen when it happened."""
    from pipelines.series_files import read_table

    table = read_table(path)
    keys = tuple(SeriesKey.of("", column, file=name) for column in table.names)
    n, width = table.values.shape
    value = table.values.ravel()
    time_ns = np.repeat(table.time_ns, width)
    series = np.tile(np.arange(width, dtype=np.int64), n)
    good = np.isfinite(value)
    order = np.argsort(time_ns[good], kind="stable")
    at = time_ns[good][order]
    return ArraySource(Events(keys, series[good][order], at, at, value[good][order]))


def corpus_cases(folder: str | Path) -> list[Case]:
    """The cases of a corpus: recorded lab runs, or series with label windows (``windows.json`` beside ``data/``).

    Raises
    ------
    InputError, NoDataError
        Neither of both, or empty.
    """
    here = Path(folder)
    windows = next((here / n for n in ("windows.json", "combined_windows.json") if (here / n).is_file()), None)
    if windows is not None:
        return _series_cases(here, windows)
    if here.is_dir() and not is_lab_folder(here) and not any(is_lab_folder(p) for p in here.iterdir()):
        raise NoDataError(
            f"{here}: expected recorded runs (folders with label.json), or windows.json with series in data"
        )
    out = []
    for path in corpus_runs(here):
        run = LabFolder(path)
        out.append(Case(run.run, "lab", str(path.absolute()), (run.label,)))
    return out


def _series_cases(here: Path, windows: Path) -> list[Case]:
    try:
        names: Sequence[str] = sorted(json.loads(windows.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{windows}: expected JSON of label windows by file: {error}") from None
    labels = labels_from_nab(windows)
    root = here / "data" if (here / "data").is_dir() else here
    found = [n for n in names if (root / n).is_file()]
    if not found:
        raise NoDataError(f"{root}: none of the {len(names)} files that {windows.name} names is there")
    return [
        Case(n, "series", str((root / n).absolute()), tuple(x for x in labels if x.scope == f"file={n}")) for n in found
    ]
