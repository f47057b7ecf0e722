"""The one loop: events -> windows -> surprise -> decision -> alerts. Live and backtest run it alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from detectors.policy import ALERT, Decision, Policy
from detectors.spec import DetectorSpec
from features.base import FeatureBuilder
from models.base import Model
from models.spread import PER_SERIES, FitsOver, Spread, fit_by_series
from telemetry.errors import StoreError
from telemetry.types import Alert, Events, Nanos, Panel, Scores, SeriesKey, Snapshot, alert_id

__all__ = ["Detector"]

Observer = Callable[[Panel, Scores, Decision], None]
FORMAT = 1


class Detector:
    """Features, a model and a policy per window length, run in event time.

    Parameters
    ----------
    spec : DetectorSpec
    version : str
        Named in every alert.
    features : FeatureBuilder
    make_model, make_policy : callables
        One of each is made per window length of the panels.
    """

    def __init__(
        self,
        spec: DetectorSpec,
        version: str,
        features: FeatureBuilder,
        make_model: Callable[[], Model],
        make_policy: Callable[[], Policy],
    ) -> None:
        self.spec, self.version, self.features = spec, version, features
        self._make_model, self._make_policy = make_model, make_policy
        self._lanes: dict[Nanos, tuple[Model, Policy]] = {}
        self.observer: Observer | None = None  # sees every scored panel (reports, stored scores, threshold sweeps)

    @property
    def watermark_ns(self) -> Nanos:
        """Event time up to which nothing more is awaited."""
        return self.features.watermark_ns

    def push(self, events: Events) -> None:
        """Take in a batch of events in seen order."""
        self.features.push(events)

    def close(self, watermark_ns: Nanos) -> list[Alert]:
        """Score the windows that end by `watermark_ns`; alerts in (end_ns, id) order."""
        alerts: list[Alert] = []
        for panel in self.features.close(watermark_ns):
            if len(panel.end_ns) and panel.keys:
                alerts += self._score(panel)
        if len(alerts) > 1:  # where windows of two lengths end at once, the stronger tells
            alerts.sort(key=lambda a: (a.end_ns, a.id, a.grade, -a.score))
            alerts = [a for i, a in enumerate(alerts) if not i or a.id != alerts[i - 1].id]
        return alerts

    def fit(self, history: tuple[Panel, ...], spread: Spread | None = None, *, split: bool = False) -> None:
        """Let the models learn from history (panels as `features` makes them).

        Parameters
        ----------
        spread : callable, optional
            Runs the pieces of a model that can hand its fit out (see `models.spread`); the result is the same.
        split : bool
            Whether `spread` has other processes: only then is a fit worth splitting by series.
        """
        for panel in history:
            model, _ = self._lane(panel.window_ns)
            model.align(panel.keys)
            if spread is not None and isinstance(model, FitsOver):
                model.fit_over(panel, spread)
            elif spread is not None and split and self.spec.model.kind in PER_SERIES:
                fit_by_series(model, panel, spread)
            else:
                model.fit(panel)

    def rewind(self, features: FeatureBuilder) -> None:
        """Keep what the models learnt; forget windows, the watermark and what the policy said.

        For a detector that was trained beyond the point from which it is to score: with the watermark of its training,
        everything up to there would be late. `features` are fresh ones of the same spec; they await the series that are
        known, or what was learnt of those that come later would be lost.
        """
        features.expect(self.features.series)
        self.features = features
        self._lanes = {window_ns: (model, self._make_policy()) for window_ns, (model, _) in self._lanes.items()}

    def model(self, window_ns: Nanos) -> Model:
        """The model of a window length (made when first asked for)."""
        return self._lane(window_ns)[0]

    def _lane(self, window_ns: Nanos) -> tuple[Model, Policy]:
        if window_ns not in self._lanes:
            self._lanes[window_ns] = (self._make_model(), self._make_policy())
        return self._lanes[window_ns]

    def _score(self, panel: Panel) -> list[Alert]:
        model, policy = self._lanes.get(panel.window_ns) or self._lane(panel.window_ns)
        model.align(panel.keys)
        scores = model.advance(panel, explain=True)
        joint = scores.parts is not None
        if joint:  # one surprise for the group: decide once, name the top contributor
            policy.align((SeriesKey("", self.spec.name),), ("joint",))
            surprise = scores.surprise[:, :1, :1]
        else:
            policy.align(panel.keys, scores.columns)
            surprise = scores.surprise
        decision = policy.decide(panel.end_ns, panel.window_ns, surprise)
        if self.observer is not None:
            self.observer(panel, scores, decision)
        if not decision.graded:  # nearly always
            return []
        columns = len(scores.columns) if not joint else 1
        cells = dict.fromkeys(
            divmod(i // columns, decision.grade.shape[1]) for i in np.flatnonzero(decision.grade).tolist()
        )
        return [self._alert(panel, scores, decision, w, s) for w, s in cells]

    def _alert(self, panel: Panel, scores: Scores, decision: Decision, w: int, s: int) -> Alert:
        """The alert of a series' window: its column of the strongest grade, then of the strongest score."""
        grades, said = decision.grade[w, s].tolist(), decision.score[w, s].tolist()
        c = max((i for i, g in enumerate(grades) if g > 0), key=lambda i: said[i] + grades[i])
        at: tuple[int, int, int] = (w, s, c)
        cell = at
        if scores.parts is not None:
            top = int(np.nanargmax(np.where(np.isnan(scores.parts[w]), -np.inf, scores.parts[w])))
            cell = (w, *(int(i) for i in np.unravel_index(top, scores.parts.shape[1:])))  # type: ignore[assignment]
        key, column, end = panel.keys[cell[1]], scores.columns[cell[2]], int(panel.end_ns[w])
        return Alert(
            id=alert_id(self.spec.name, key if scores.parts is None else SeriesKey(key.host, self.spec.name), end),
            detector=self.spec.name,
            version=self.version,
            kind=self.spec.kind,
            series=key,
            column=column,
            window_ns=panel.window_ns,
            end_ns=end,
            onset_ns=int(decision.onset_ns[at]) or end - panel.window_ns,
            surprise=float(scores.surprise[cell]),
            score=said[c],
            side=int(scores.side[cell]),
            value=float(panel.values[w, cell[1], panel.columns.index(column)]),
            expected=_at(scores.expected, cell),
            lo=_at(scores.lo, cell),
            hi=_at(scores.hi, cell),
            grade="alert" if grades[c] >= ALERT else "evidence",
        )

    def snapshot(self) -> Snapshot:
        """All memory, as JSON-able meta and plain arrays."""
        parts = [("features", self.features.snapshot())]
        for window_ns, (model, policy) in self._lanes.items():
            parts += [(f"model-{window_ns}", model.snapshot()), (f"policy-{window_ns}", policy.snapshot())]
        meta = {
            "format": FORMAT,
            "spec": self.spec.to_dict(),
            "digest": self.spec.digest,
            "version": self.version,
            "windows": list(self._lanes),
        }
        return Snapshot(meta, Snapshot.nest(parts))

    def restore(self, snapshot: Snapshot) -> None:
        """Continue exactly where `snapshot` was taken.

        Raises
        ------
        StoreError
            If it is of another format or another spec, or not readable any more (the detector is then unusable).
        """
        meta = snapshot.meta
        if meta.get("format") != FORMAT:
            raise StoreError(f"detector state: expected format {FORMAT}, got {meta.get('format')!r}")
        if meta.get("digest") != self.spec.digest:
            raise StoreError(
                f"detector state: expected one of spec {self.spec.digest} ({self.spec.name}), got {meta.get('digest')}"
            )
        try:
            self._restore(snapshot)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise StoreError(
                f"detector state of {self.spec.name}: written by another Tailwatch, and not readable by this one "
                f"({type(error).__name__}: {error})"
            ) from None

    def _restore(self, snapshot: Snapshot) -> None:
        self.features.restore(Snapshot.unnest(snapshot.arrays, "features"))
        self._lanes.clear()
        for window_ns in snapshot.meta["windows"]:
            model, policy = self._lane(int(window_ns))
            model.restore(Snapshot.unnest(snapshot.arrays, f"model-{window_ns}"))
            policy.restore(Snapshot.unnest(snapshot.arrays, f"policy-{window_ns}"))


def _at(band: np.ndarray | None, cell: tuple[int, int, int]) -> float:
    return float("nan") if band is None else float(band[cell])
