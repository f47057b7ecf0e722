"""A detector trained again: folds and trials judged, the best fitted on all of the range, registered; resumable."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectors.spec import DetectorSpec
from pipelines.cluster import Here, run_all
from pipelines.dossier import Dossier, code_digest
from pipelines.search import Ledger, Sweep, Trial, fold_ranges, run_trials
from pipelines.tracking import Logged, Tracker
from pipelines.train import Trained, learn, warm
from telemetry.errors import ConfigError, NoDataError
from telemetry.store import Store
from telemetry.types import Label, Nanos

__all__ = ["Retrained", "retrain"]

Progress = Callable[[str, str, int | None], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True, slots=True)
class Retrained:
    """A new version; `again` says that the same training had been done before and was not repeated.

    `notes` names channels whose baseline is simpler than asked for, and why.
    """

    detector: str
    version: str
    run_id: str
    params: Mapping[str, Any]
    figures: Mapping[str, float]
    series: int
    events: int
    alerts_per_day: float
    trials: int
    again: bool = False
    notes: Sequence[str] = ()


def retrain(
    spec: DetectorSpec,
    store_path: str,
    from_ns: Nanos,
    to_ns: Nanos,
    labels: Sequence[Label],
    tracker: Tracker,
    pool: Executor,
    folder: Path,
    *,
    folds: int = 0,
    sweep: Sweep | None = None,
    alias: str = "challenger",
    anew: bool = False,
    progress: Progress,
) -> Retrained:
    """Train `spec` (or the best of a sweep over it) on what was first seen in ``[from_ns, to_ns)`` and register it.

    Everything finished is a line of a ledger in `folder`, named by what the training is made of (spec, sweep, folds,
    range, labels, code): killed and started again, it goes on; done already, it is not done twice unless `anew`.

    Raises
    ------
    NoDataError
        Nothing in the range.
    ConfigError
        A sweep without labelled incidents or with unknown parameters.
    """
    sweep = sweep or Sweep()
    if sweep.grid and not labels:
        raise ConfigError("a sweep compares by labelled incidents: give --incidents, or label some")
    folds = max(folds, 1) if sweep.grid else folds
    with Store(store_path, create=False) as store:
        first, last = store.first_seen_ns(), store.last_seen_ns()
    if first is None or last is None or last < from_ns or first >= to_ns:
        raise NoDataError(f"{spec.name}: nothing in the training range; nothing was learnt")
    lo, hi = max(from_ns, first), min(to_ns, last + 1)
    text = f"{spec.digest} {sweep} {folds} {lo} {hi} {list(labels)} {code_digest()}"
    key = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    ledger = Ledger(folder / f"{spec.name}-{key}.jsonl")
    if anew:
        ledger.path.unlink(missing_ok=True)
        ledger = Ledger(ledger.path)
    if "registered" in ledger.done:
        return Retrained(**{**ledger.done["registered"], "again": True})
    parent, best, count = "", Trial({}, spec, ()), 0
    if folds:
        ranges = fold_ranges(lo, hi, folds, labels)
        if not ranges:
            raise ConfigError("no fold is left: incidents fill the range; use fewer folds or a longer range")
        parent = _parent(spec, sweep, ranges, key, tracker, ledger)
        trials = []
        work = len(ranges) * (sweep.trials or len(sweep.choices()))
        with progress(f"judging {spec.name}", "folds", work) as tell:
            for trial in run_trials(pool, spec, sweep, ranges, store_path, labels, ledger, tell):
                _log_trial(trial, parent, ranges, tracker, ledger)
                trials.append(trial)
        best, count = max(trials, key=lambda t: t.worth(sweep.by)), len(trials)

    def spread(task: Callable[[Any], Any], work: Sequence[Any]) -> list[Any]:
        with progress(f"fitting {spec.name}", "parts", len(work)) as tell:
            return run_all(pool, task, work, tell)

    with Store(store_path, create=False) as store:
        learnt = learn(best.spec, store, lo, hi, masked=labels, spread=spread, split=not isinstance(pool, Here))
        with progress(f"warming {spec.name}", "events", None) as tell:
            trained = warm(learnt, store, lo, hi, tell)
    made, per_day = _register(best, trained, parent, alias, key, tracker)
    figures = {k: v for k, v in best.figures.items() if not math.isnan(v)} if folds else {}
    done: dict[str, Any] = {
        "detector": spec.name, "version": made.version, "run_id": made.run_id, "params": dict(best.params),
        "figures": figures, "series": len(trained.series_events), "events": trained.events,
        "alerts_per_day": per_day, "trials": count, "notes": learnt.notes,
    }  # fmt: skip
    ledger.add("registered", done)
    return Retrained(**done)


def _parent(
    spec: DetectorSpec,
    sweep: Sweep,
    ranges: Sequence[tuple[Nanos, Nanos, Nanos]],
    key: str,
    tracker: Tracker,
    ledger: Ledger,
) -> str:
    """The run that folds, trials and the version hang under; made once."""
    if "parent" not in ledger.done:
        params = {"folds": len(ranges), "by": sweep.by, "seed": sweep.seed, "sampler": sweep.sampler}
        params |= {f"grid.{name}": list(values) for name, values in sweep.grid.items()}
        params |= {"train.from_ns": ranges[0][0], "train.to_ns": ranges[-1][2]}
        about = Dossier(params=params, tags={"tailwatch.search": key})
        ledger.add("parent", tracker.log(spec, about).run_id)
    return str(ledger.done["parent"])


def _log_trial(
    trial: Trial, parent: str, ranges: Sequence[tuple[Nanos, Nanos, Nanos]], tracker: Tracker, ledger: Ledger
) -> None:
    """A run for the trial, one below it for each fold; each is logged once."""
    name = f"trial {trial.spec.digest}"
    if name not in ledger.done:
        about = Dossier(metrics={"folds": trial.figures}, params=_named(trial.params), tags={"tailwatch.part": "trial"})
        ledger.add(name, tracker.log(trial.spec, about, parent=parent).run_id)
    for i, (figures, (start, cut, stop)) in enumerate(zip(trial.folds, ranges, strict=True)):
        if f"{name} {i}" not in ledger.done:
            params = {"fold": i, "train.from_ns": start, "train.to_ns": cut, "judged.to_ns": stop}
            about = Dossier(metrics={"fold": figures}, params=params, tags={"tailwatch.part": "fold"})
            ledger.add(f"{name} {i}", tracker.log(trial.spec, about, parent=str(ledger.done[name])).run_id)


def _named(params: Mapping[str, Any]) -> dict[str, Any]:
    return {f"sweep.{name}": value for name, value in params.items()}


def _register(
    best: Trial, trained: Trained, parent: str, alias: str, key: str, tracker: Tracker
) -> tuple[Logged, float]:
    import pandas as pd

    days = max((trained.to_ns - trained.from_ns) / 86_400e9, 1e-9)
    alerts = [a for a in trained.alerts if a.grade == "alert"]
    series = sorted(trained.series_events.items())[:10_000]
    metrics: dict[str, Mapping[str, float]] = {
        "training": {"alerts_per_day": len(alerts) / days, "windows": float(trained.windows)}
    }
    if best.folds:
        metrics["folds"] = best.figures
    dossier = Dossier(
        metrics=metrics,
        params={
            "train.from_ns": trained.from_ns,
            "train.to_ns": trained.to_ns,
            "train.events": trained.events,
            **_named(best.params),
        },
        tags={"tailwatch.trained": "yes", "tailwatch.search": key},
        alerts=alerts[:10_000],
        data=pd.DataFrame({"series": [s for s, _ in series], "events": [float(n) for _, n in series]}),
        data_digest=trained.data_digest,
        context="training",
    )
    made = tracker.log(best.spec, dossier, snapshot=trained.snapshot, register=True, alias=alias, parent=parent)
    return made, len(alerts) / days
