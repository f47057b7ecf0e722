"""Quality of the joint model on SMD and ASD: training part as history, test part scored strictly causally."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.rows import Row, attempt
from pipelines.measures import auc_pr, best_f1, segments, vus_pr
from telemetry.errors import NoDataError
from telemetry.types import Float64, Int64, Panel, SeriesKey

__all__ = ["corpus", "run", "score_joint"]

THRESHOLD = 3.0
"""Surprise above which a row counts as an alert, fixed without labels."""
RECOVERY = 30
"""Rows after a label that count neither way."""

Machine = tuple[str, Float64, Float64, Int64]
Scorer = Callable[[Float64, Float64], Float64]


def _table(path: Path) -> Float64:
    for suffix in (".npy", ".txt", ".csv", ".pkl"):
        file = path.with_name(path.name + suffix)
        if not file.is_file() or suffix == ".pkl":
            continue
        if suffix == ".npy":
            return np.asarray(np.load(file), np.float64)
        with file.open() as lines:
            comma = "," in lines.readline()
        return np.loadtxt(file, delimiter="," if comma else None)
    raise NoDataError(f"{path}: expected .npy, .txt or .csv, found none")


def corpus(data: str | None, name: str) -> Iterator[Machine]:
    """Machines of a corpus laid out as OmniAnomaly's and InterFusion's: train, test, test_label.

    Raises
    ------
    NoDataError
        If `data` holds no such folder.
    """
    places = [] if data is None else [Path(data) / "series" / name, Path(data) / name, Path(data) / name.upper()]
    root = next((p for p in places if (p / "test").is_dir()), None)
    if root is None:
        raise NoDataError(f"{name}: no data: expected a folder series/{name} or {name} with train, test and test_label")
    for file in sorted((root / "test").iterdir()):
        stem = file.name.removesuffix(file.suffix)
        label = _table(root / "test_label" / stem).astype(np.int64).ravel()
        yield stem, _table(root / "train" / stem), _table(root / "test" / stem), label


def _panel(rows: Float64, first: int = 0) -> Panel:
    keys = tuple(SeriesKey("", f"metric_{i}") for i in range(rows.shape[1]))
    minute = 60 * 10**9
    return Panel(keys, ("value",), minute, (np.arange(len(rows)) + 1 + first) * minute, rows[:, :, None])


def score_joint(train: Float64, test: Float64) -> Float64:
    """Surprise of the test rows by the joint model with its defaults; with no `train` it warms up on their start."""
    from models.joint import JointModel

    model = JointModel()
    if len(train):
        model.fit(_panel(train))
    model.align(_panel(test).keys)
    return np.nan_to_num(model.advance(_panel(test, len(train))).surprise[:, 0, 0], nan=0.0)


def _score_pca(train: Float64, test: Float64) -> Float64:
    from sklearn.decomposition import PCA

    mean, spread = train.mean(axis=0), train.std(axis=0) + 1e-6
    z, rest = np.clip((test - mean) / spread, -20.0, 20.0), PCA(0.9, svd_solver="full").fit((train - mean) / spread)
    away: Float64 = z - rest.inverse_transform(rest.transform(z))
    return np.asarray((away**2).sum(axis=1))


def _score_forest(train: Float64, test: Float64) -> Float64:
    from sklearn.ensemble import IsolationForest

    return -np.asarray(IsolationForest(random_state=0).fit(train[:: max(1, len(train) // 8_000)]).score_samples(test))


def false_events(score: Float64, labels: Int64, threshold: float = THRESHOLD) -> float:
    """Alerts (runs of rows at or above the threshold) outside of labels and their recovery, per 1,000 rows."""
    excused = labels > 0
    for _, last in segments(labels):
        excused[last : last + RECOVERY] = True
    hot = score >= threshold
    runs = [r for r in segments(hot.astype(np.int64)) if not excused[r[0]]]
    return 1_000.0 * len(runs) / len(score)


def found(score: Float64, labels: Int64, threshold: float = THRESHOLD) -> float:
    """Share of labelled incidents with a row at or above the threshold."""
    return float(np.mean([(score[a : b + 1] >= threshold).any() for a, b in segments(labels)]))


def repaired(score: Float64, labels: Int64) -> tuple[float, float, float, float]:
    """AUC-PR if one fault of the scores were mended with the labels' help: what each costs, not what can be reached.

    Returns
    -------
    tuple of float
        With every incident's peak from its first row on; with nothing lost after it within a label; without scores in
        the recovery after a label; without scores far from labels (10 rows before to the end of recovery).
    """
    early, held, ended, quiet = score.copy(), score.copy(), score.copy(), np.zeros_like(score)
    runs = segments(labels)
    for first, last in runs:
        inside = slice(first, last + 1)
        peak = first + int(np.argmax(score[inside]))
        early[first:peak] = score[peak]
        held[inside] = np.maximum.accumulate(score[inside])
        ended[last + 1 : last + 1 + RECOVERY] = 0.0
        around = slice(max(first - 10, 0), last + 1 + RECOVERY)
        quiet[around] = score[around]
    hot = labels > 0
    ended[hot] = score[hot]
    return auc_pr(labels, early), auc_pr(labels, held), auc_pr(labels, ended), auc_pr(labels, quiet)


def _figures(machines: list[Machine], scorer: Scorer, history: bool = True, explain: bool = False) -> list[float]:
    rows = []
    for _, train, test, labels in machines:
        s = scorer(train if history else train[:0], test)
        row = (auc_pr(labels, s), best_f1(labels, s)[0], vus_pr(labels, s), false_events(s, labels), found(s, labels))
        rows.append(row + repaired(s, labels) if explain else row)
    return [float(v) for v in np.mean(rows, axis=0)]


def run(*, data: str | None, quick: bool = False) -> list[Row]:
    """Rows for each corpus: ours with and without history, and what scikit-learn reaches."""
    rows: list[Row] = []
    goals: dict[str, tuple[float | None, float | None]] = {"smd": (0.52, None), "asd": (0.55, 0.70)}
    for name, (area, volume) in goals.items():

        def columns(label: str, a: float | None, v: float | None, false: float | None, n: str = name) -> list[Row]:
            return [
                Row(f"{n}_{label}_auc_pr", None, "", a, ">="),
                Row(f"{n}_{label}_f1", None, "", None, ">=", "best threshold, no point adjustment"),
                Row(f"{n}_{label}_vus_pr", None, "", v, ">="),
                Row(f"{n}_{label}_false", None, "/1000", false, "<=", f"events at a surprise of {THRESHOLD}"),
                Row(f"{n}_{label}_found", None, "share", None, ">=", f"incidents at a surprise of {THRESHOLD}"),
            ]

        try:
            machines = list(corpus(data, name))[: 2 if quick else None]
        except NoDataError as error:
            rows += [
                Row(r.name, None, r.unit, r.goal, r.direction, str(error)) for r in columns("joint", area, volume, 2.0)
            ]
            continue
        costs = [
            Row(f"{name}_joint_auc_pr_if_{part}", None, "", None, ">=", f"{note}, by the labels")
            for part, note in (
                ("early", "incidents told from their first row"),
                ("held", "told until their end"),
                ("ended", "silent right after"),
                ("quiet", "silent elsewhere"),
            )
        ]
        rows += attempt(
            columns("joint", area, volume, 2.0) + costs,
            lambda m=machines: _figures(m, score_joint, explain=True),  # type: ignore[misc]
        )
        rows += attempt(
            columns("joint_cold", None, None, 2.0),
            lambda m=machines: _figures(m, score_joint, history=False),  # type: ignore[misc]
        )
        for label, peer in (("pca", _score_pca), ("forest", _score_forest)):
            rows += attempt(columns(label, None, None, None)[:3], lambda m=machines, p=peer: _figures(m, p)[:3])  # type: ignore[misc]
    return rows
