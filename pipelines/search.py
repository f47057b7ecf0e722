"""Folds in time order and sweeps over parameters: trials that are tasks, a ledger of what is done, the best of them.

A fold learns from everything before it (an expanding window, incidents masked as far as they were known by then) and is
judged on what comes next. Trials and folds are plain tasks, so they run in parallel; each finished one is a line of the
ledger, so a search that was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from detectors.build import build
from detectors.spec import DetectorSpec
from pipelines.backtest import backtest
from pipelines.resolve import Candidate
from pipelines.train import train
from telemetry.errors import ConfigError, NoDataError
from telemetry.types import Label, Nanos

__all__ = ["BY", "Fold", "Ledger", "Sweep", "Trial", "fold_ranges", "run_trials", "with_params"]

BY = {"event_f1": 1, "event_recall": 1, "vus_pr": 1, "auc_pr": 1, "range_f1": 1, "false_per_day": -1, "delay_p50_s": -1}
"""Figures that a sweep may go by, and whether more is better."""

RECOVERY_NS = 30_000_000_000
COUNTS = ("labels", "found", "false", "clean_days")


@dataclass(frozen=True, slots=True)
class Sweep:
    """Parameters to try: every combination, or `trials` of them drawn by `seed`.

    `grid` maps ``model.x``, ``policy.x``, ``features.0.x`` or a key of the spec to its values. `sampler` ``tpe`` asks
    Optuna (extra ``sweeps``) instead of drawing; its trials follow each other.
    """

    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    trials: int | None = None
    seed: int = 0
    by: str = "event_f1"
    sampler: str = "random"

    def __post_init__(self) -> None:
        if self.by not in BY:
            raise ConfigError(f"sweep: 'by' must be one of {', '.join(BY)}, got {self.by!r}")
        if self.sampler not in ("random", "tpe"):
            raise ConfigError(f"sweep: 'sampler' must be random or tpe, got {self.sampler!r}")
        for name, values in self.grid.items():
            if not isinstance(values, (list, tuple)) or not values:
                raise ConfigError(f"sweep: {name}: expected a list of values, got {values!r}")

    @staticmethod
    def from_file(path: str | Path) -> Sweep:
        """Read ``seed``, ``trials``, ``by``, ``sampler`` and the table ``[grid]`` of a TOML file."""
        try:
            raw = tomllib.loads(Path(path).read_text())
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not a sweep in TOML: {error}") from None
        known = ("grid", "trials", "seed", "by", "sampler")
        for key in raw:
            if key not in known:
                raise ConfigError(f"{path}: unknown key {key!r}; known: {', '.join(known)}")
        return Sweep(**raw)

    @staticmethod
    def from_options(options: Sequence[str]) -> dict[str, list[Any]]:
        """``model.alpha=0.02,0.05`` -> its values (numbers where they are numbers)."""
        out: dict[str, list[Any]] = {}
        for text in options:
            name, sign, values = text.partition("=")
            if not sign or not name or not values:
                raise ConfigError(f"--grid: expected NAME=VALUE,VALUE..., got {text!r}")
            out[name] = [_value(v) for v in values.split(",")]
        return out

    def choices(self) -> list[dict[str, Any]]:
        """The combinations to try, in the order of the grid."""
        if not self.grid:
            return [{}]
        whole = [dict(zip(self.grid, v, strict=True)) for v in itertools.product(*self.grid.values())]
        if self.trials is None or self.trials >= len(whole):
            return whole
        drawn = np.random.default_rng(self.seed).choice(len(whole), self.trials, replace=False)
        return [whole[i] for i in sorted(drawn.tolist())]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def with_params(spec: DetectorSpec, params: Mapping[str, Any]) -> DetectorSpec:
    """The spec with other parameters; it is built once, so that a wrong name is told before any work.

    Raises
    ------
    ConfigError
    """
    data = spec.to_dict()
    for name, value in params.items():
        at: Any = data
        *path, last = name.split(".")
        try:
            for step in path:
                at = at[int(step)] if isinstance(at, list) else at[step]
            at[last] = value
        except (KeyError, IndexError, ValueError, TypeError):
            raise ConfigError(
                f"sweep: {name!r}: expected model.x, policy.x, features.N.x or a key of the spec"
            ) from None
    made = DetectorSpec.from_dict(data, "sweep")
    build(made)
    return made


def fold_ranges(lo: Nanos, hi: Nanos, folds: int, labels: Sequence[Label] = ()) -> list[tuple[Nanos, Nanos, Nanos]]:
    """(start of learning, end of learning = start of judging, end of judging) of each fold, in time order.

    A border inside of an incident, or of the recovery after it, moves behind that; folds without time are left out.
    """
    cuts: list[Nanos] = []
    for i in range(1, folds + 1):
        cut = lo + (hi - lo) * i // (folds + 1)
        for x in sorted(labels, key=lambda x: x.start_ns):
            if x.kind != "none" and x.start_ns < cut < x.end_ns + RECOVERY_NS:
                cut = x.end_ns + RECOVERY_NS
        if cut < hi and (not cuts or cut > cuts[-1]):
            cuts.append(cut)
    return [(lo, a, b) for a, b in itertools.pairwise([*cuts, hi])]


@dataclass(frozen=True, slots=True)
class Fold:
    """One task: learn from ``[from_ns, cut_ns)``, be judged on ``[cut_ns, to_ns)``."""

    spec: DetectorSpec
    store: str
    labels: tuple[Label, ...]
    from_ns: Nanos
    cut_ns: Nanos
    to_ns: Nanos

    @property
    def digest(self) -> str:
        text = f"{self.spec.digest} {self.from_ns} {self.cut_ns} {self.to_ns} {self.labels}"
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def run_fold(fold: Fold) -> dict[str, float]:
    """Figures of a fold; NaN throughout where one of its two parts has no data."""
    from telemetry.store import Store

    known = [x for x in fold.labels if x.known_ns <= fold.cut_ns]
    with Store(fold.store, create=False) as store:
        try:
            trained = train(fold.spec, store, fold.from_ns, fold.cut_ns, masked=known)
            candidate = Candidate(fold.spec, "fold", trained.detector.snapshot())
            outcome = backtest(candidate, store, fold.labels, fold.cut_ns, fold.to_ns, draws=0)
        except NoDataError:
            return dict.fromkeys(COUNTS, 0.0)
    return {**outcome.figures(), "clean_days": outcome.evaluation.clean_ns / 86_400e9, "cpu_s": outcome.seconds}


@dataclass(frozen=True, slots=True)
class Trial:
    """Parameters and how they did: figures by fold, and over all folds."""

    params: Mapping[str, Any]
    spec: DetectorSpec
    folds: tuple[Mapping[str, float], ...]

    @property
    def figures(self) -> dict[str, float]:
        """Counts are added up over the folds, other measures averaged."""
        labels, found, false, days = (sum(f.get(n, 0.0) for f in self.folds) for n in COUNTS)
        out = {"labels": labels, "found": found, "false": false}
        out["event_recall"] = found / labels if labels else math.nan
        out["event_precision"] = found / (found + false) if found + false else math.nan
        out["event_f1"] = 2 * found / (labels + found + false) if labels else math.nan
        out["false_per_day"] = false / days if days else math.nan
        for name in ("delay_p50_s", "vus_pr", "auc_pr", "range_f1"):
            some = [f[name] for f in self.folds if not math.isnan(f.get(name, math.nan))]
            out[name] = float(np.mean(some)) if some else math.nan
        return out

    def worth(self, by: str) -> tuple[float, float]:
        """What trials are compared by (more is better): the figure, then fewer false alarms."""
        figures = self.figures
        value = BY[by] * figures[by]
        return (-math.inf if math.isnan(value) else value), -figures["false"]


class Ledger:
    """Finished tasks by digest, a line each; a line that a crash cut short does not count."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[str, Any] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    key, value = json.loads(line)
                    self.done[key] = value
                except ValueError:
                    continue

    def add(self, key: str, value: Any) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.done[key] = value
        with self.path.open("a") as file:
            file.write("\n" * (file.tell() > 0 and not self._whole()) + json.dumps([key, value]) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _whole(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


def run_trials(
    pool: Executor,
    spec: DetectorSpec,
    sweep: Sweep,
    ranges: Sequence[tuple[Nanos, Nanos, Nanos]],
    store: str,
    labels: Sequence[Label],
    ledger: Ledger,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Trial]:
    """Yield trials as all their folds are there; what the ledger knows is not run again."""

    def folds_of(params: Mapping[str, Any]) -> list[Fold]:
        made = with_params(spec, params)
        return [Fold(made, store, tuple(labels), *r) for r in ranges]

    if sweep.sampler == "tpe":
        yield from _asked(pool, sweep, folds_of, ledger, progress)
        return
    todo = [(params, folds_of(params)) for params in sweep.choices()]
    wanted = {f.digest: f for _, folds in todo for f in folds}
    fresh = [f for d, f in wanted.items() if d not in ledger.done]
    futures: list[Future[dict[str, float]]] = []

    def keep(digest: str, future: Future[dict[str, float]]) -> None:
        if not future.cancelled() and future.exception() is None:
            ledger.add(digest, future.result())
        if progress is not None:
            progress(len(wanted) - len(fresh) + sum(f.done() for f in futures))

    for fold in fresh:
        futures.append(pool.submit(run_fold, fold))
        futures[-1].add_done_callback(partial(keep, fold.digest))
    waiting = list(todo)

    def ripe() -> Iterator[Trial]:
        for params, folds in list(waiting):
            if all(f.digest in ledger.done for f in folds):
                waiting.remove((params, folds))
                yield Trial(params, folds[0].spec, tuple(ledger.done[f.digest] for f in folds))

    yield from ripe()
    for future in as_completed(futures):
        future.result()
        yield from ripe()


def _asked(
    pool: Executor,
    sweep: Sweep,
    folds_of: Callable[[Mapping[str, Any]], list[Fold]],
    ledger: Ledger,
    progress: Callable[[int], None] | None,
) -> Iterator[Trial]:
    """Trials that Optuna's TPE proposes one after the other; told in order, so a seed gives the same ones again."""
    try:
        import optuna
    except ImportError:
        raise ConfigError("sweep: sampler tpe needs Optuna: pip install 'tailwatch[sweeps]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=sweep.seed))
    for n in range(sweep.trials or 20):
        asked = study.ask()
        params = {name: asked.suggest_categorical(name, list(values)) for name, values in sweep.grid.items()}
        folds = folds_of(params)
        fresh = [f for f in folds if f.digest not in ledger.done]
        for fold, figures in zip(fresh, pool.map(run_fold, fresh), strict=True):
            ledger.add(fold.digest, figures)
        trial = Trial(params, folds[0].spec, tuple(ledger.done[f.digest] for f in folds))
        study.tell(asked, max(trial.worth(sweep.by)[0], -1e9))
        if progress is not None:
            progress((n + 1) * len(folds))
        yield trial
