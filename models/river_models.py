"""river's anomaly models, drift detectors and forecasters behind `Model`, one a channel, by name and parameters.

What is guarded against (river 0.26): one NaN that spoils a detector for ever or panics (missing values never reach
river); scores that saturate or differ in scale (each channel's own past turns them into surprise); 0 for "not yet"
(it is NaN); forecasts that raise while cold; scoring that changes the state (a copy is scored).
"""

from __future__ import annotations

import copy
import inspect
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from models.keyed import pack_names, rows_before, unpack_names
from models.pickled import pack, unpack
from models.surprise import Calibrator
from telemetry.errors import ConfigError, StoreError
from telemetry.types import Panel, Scores, SeriesKey, State

__all__ = ["KINDS", "RiverModel"]

_VERSION = 1
_LIBRARIES = ("river", "numpy")

KINDS: dict[str, tuple[str, str]] = {
    "HalfSpaceTrees": ("anomaly", "features"),
    "LODA": ("anomaly", "features"),
    "LocalOutlierFactor": ("anomaly", "features"),
    "OneClassSVM": ("anomaly", "features"),
    "GaussianScorer": ("anomaly", "value"),
    "StandardAbsoluteDeviation": ("anomaly", "value"),
    "PredictiveAnomalyDetection": ("anomaly", "copy"),
    "ADWIN": ("drift", "drift"),
    "PageHinkley": ("drift", "drift"),
    "KSWIN": ("drift", "drift"),
    "HoltWinters": ("time_series", "forecast"),
    "SNARIMAX": ("time_series", "forecast"),
}
"""Name to (river's module, how it is driven)."""

_DEFAULTS: dict[str, dict[str, Any]] = {
    "HoltWinters": {"alpha": 0.3, "beta": 0.05},
    "SNARIMAX": {"p": 3, "d": 0, "q": 1},
}
_REFUSED = {
    "QuantileFilter": "a filter that decides; the policy decides here",
    "ThresholdFilter": "a filter that decides, and with protection off never learns; the policy decides here",
    "NoDrift": "it never fires",
    "DummyDriftDetector": "it fires at random",
}


class _Channel:
    """One river object, its running scale, and what it needs to be asked safely."""

    __slots__ = ("count", "fast", "mean", "model", "seen", "var")

    def __init__(self, model: Any) -> None:
        self.model = model
        self.count = 0
        self.mean = 0.0
        self.var = 0.0
        self.fast = 0.0
        self.seen = 0

    def scale(self, x: float) -> float:
        """Deviation of `x` from what came before, in standard deviations (learns x afterwards, clipped)."""
        sd = math.sqrt(self.var) if self.var > 0.0 else max(abs(self.mean) * 1e-3, 1e-9)
        z = (x - self.mean) / sd if self.count else 0.0
        z = min(max(z, -50.0), 50.0)
        self.count += 1
        gain = max(1.0 / self.count, 1e-3)
        d = x - self.mean if self.count < 8 else min(max(x - self.mean, -5.0 * sd), 5.0 * sd)
        self.mean += gain * d
        self.var += gain * (d * d * (1.0 - gain) - self.var)
        return z


def _features(c: _Channel, x: float) -> float:
    row = {"value": 1.0 / (1.0 + math.exp(-c.scale(x) / 3.0))}  # half-space trees want [0, 1]
    score = c.model.score_one(row)
    c.model.learn_one(row)
    return float(score)


def _value(c: _Channel, x: float) -> float:
    z = c.scale(x)
    score = c.model.score_one(None, z) if c.count > 1 else 0.0
    c.model.learn_one(None, z)
    return float(score)


def _copied(c: _Channel, x: float) -> float:
    z, row = c.scale(x), {"before": c.fast}
    c.fast = z
    probe = copy.deepcopy(c.model)  # its score_one learns
    score = probe.score_one(row, z) if c.count > 1 else 0.0
    c.model.learn_one(row, z)
    return float(score)


def _drift(c: _Channel, x: float) -> float:
    z = c.scale(x)
    c.fast += 0.2 * (z - c.fast)
    c.model.update(z)
    # fired or not says little: how far the recent mean is from the usual one ranks it
    return 1.0 + abs(c.fast) if c.model.drift_detected else 0.0


def _forecast(c: _Channel, x: float) -> float:
    if c.count < 64:
        z = c.scale(x)
    else:  # a forecaster needs one unit for ever
        z = min(max((x - c.mean) / (math.sqrt(c.var) if c.var > 0.0 else 1.0), -1e3), 1e3)
    miss = math.nan
    if c.seen >= 8:
        try:
            guess = float(c.model.forecast(horizon=1)[0])
        except (NotImplementedError, IndexError, ZeroDivisionError, ValueError, TypeError, AttributeError):
            guess = math.nan  # cold
        if math.isfinite(guess) and abs(guess) < 1e6:
            miss = z - guess
    c.model.learn_one(z)
    c.seen += 1
    return miss


_DRIVE: dict[str, Callable[[_Channel, float], float]] = {
    "features": _features,
    "value": _value,
    "copy": _copied,
    "drift": _drift,
    "forecast": _forecast,
}


def _resolve(name: str, params: Mapping[str, Any]) -> tuple[type, str]:
    if name in _REFUSED:
        raise ConfigError(f"river: {name} is not a model here: {_REFUSED[name]}")
    if name not in KINDS:
        raise ConfigError(f"river: expected one of {', '.join(sorted(KINDS))}, got {name!r}")
    import importlib

    module, how = KINDS[name]
    made: type = getattr(importlib.import_module(f"river.{module}"), name)
    known = inspect.signature(made).parameters
    for key in params:
        if key not in known:
            raise ConfigError(f"river {name}: unknown parameter {key!r}, expected one of {', '.join(known)}")
    return made, how


class RiverModel:
    """A river model per channel, calibrated by that channel's own past.

    Parameters
    ----------
    name : str
        A key of `KINDS`.
    params : mapping, optional
        Its parameters (JSON types). Where it takes a `seed` and none is given, each channel gets one from its name.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(100.0, 3.0, (400, 1, 1)); x[-1] += 90.0
    >>> key = SeriesKey("a", "latency_ns")
    >>> model = RiverModel("HalfSpaceTrees", {"n_trees": 5, "window_size": 100})
    >>> model.align([key])
    >>> s = model.advance(Panel((key,), ("p99",), 10**9, np.arange(400) * 10**9, x)).surprise
    >>> bool(np.isnan(s[0, 0, 0])), bool(s[-1, 0, 0] > 1.5)
    (True, True)
    """

    def __init__(self, name: str = "HalfSpaceTrees", params: Mapping[str, Any] | None = None) -> None:
        self._name, self._params = name, {**_DEFAULTS.get(name, {}), **(params or {})}
        self._class, self._how = _resolve(name, self._params)
        self._both = self._how == "forecast"
        self._keys: tuple[SeriesKey, ...] = ()
        self._columns: tuple[str, ...] = ()
        self._channels: list[_Channel] = []
        self._tail = Calibrator(0, both=self._both)
        made = self._make("", "").model  # wrong values of parameters are said now, not at the first window
        # until then river answers 0, or divides by a variance of nothing
        self._cold = max(32, *(int(getattr(made, a, 0) or 0) for a in ("window_size", "grace_period", "min_instances")))

    def _make(self, key: str, column: str) -> _Channel:
        params = dict(self._params)
        if "seed" in inspect.signature(self._class).parameters and params.get("seed") is None:
            params["seed"] = zlib.crc32(f"{key}\x00{column}".encode())
        try:
            return _Channel(self._class(**params))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"river {self._name}: {error}") from None

    def fit(self, history: Panel) -> None:
        """Learn from history by passing over it once."""
        self.align(history.keys)
        self.advance(history)

    def align(self, keys: Sequence[SeriesKey]) -> None:
        """Let the state follow the keys; new ones start cold."""
        new = tuple(keys)
        if new == self._keys:
            return
        before = rows_before(self._keys, new, len(self._columns))
        names = [(str(k), c) for k in new for c in self._columns]
        self._channels = [
            self._channels[b] if b >= 0 else self._make(*n) for b, n in zip(before.tolist(), names, strict=True)
        ]
        self._tail.take(before)
        self._keys = new

    def _settle(self, panel: Panel) -> None:
        if not self._columns:
            self._columns = panel.channels
            self._channels = [self._make(str(k), c) for k in self._keys for c in self._columns]
            self._tail = Calibrator(len(self._channels), both=self._both)
        elif panel.channels != self._columns:
            raise ConfigError(f"river: learnt columns {self._columns}, got {panel.channels}")
        self.align(panel.keys)

    def advance(self, panel: Panel, *, explain: bool = False) -> Scores:
        """Score then learn, window by window, each channel by its own river model."""
        self._settle(panel)
        values = panel.channel_values()
        flat = values.reshape(len(values), values.shape[1] * values.shape[2])
        raw, mean = np.full(flat.shape, np.nan), np.full(flat.shape, np.nan)
        drive, cold = _DRIVE[self._how], self._cold
        for i, channel in enumerate(self._channels):
            for w in np.flatnonzero(np.isfinite(flat[:, i])):
                score = drive(channel, float(flat[w, i]))
                mean[w, i] = channel.mean
                if math.isfinite(score) and channel.count > cold:
                    raw[w, i] = score
        surprise, side = self._tail.advance(raw)
        if not self._both:  # a one-sided score does not say where it points: the value's side of its running mean does
            side = np.where(side != 0, np.sign(flat - mean), 0.0).astype(np.int8)
        return Scores(
            panel.keys, self._columns, panel.end_ns, surprise.reshape(values.shape), side.reshape(values.shape)
        )

    def snapshot(self) -> State:
        """river's objects as checked bytes; everything else as plain arrays."""
        tail = {f"tail_{k}": v for k, v in self._tail.snapshot().items()}
        rows = [(c.count, c.mean, c.var, c.fast, c.seen) for c in self._channels]
        return {
            "version": np.array([_VERSION]),
            "name": np.array(self._name),
            **pack_names(self._keys, self._columns),
            "scales": np.array(rows, np.float64).reshape(-1, 5),
            **pack([c.model for c in self._channels], _LIBRARIES),
            **tail,
        }

    def restore(self, state: State) -> None:
        """Continue exactly where `snapshot` was taken.

        Raises
        ------
        StoreError
            If it is of another model, another version of river, or damaged.
        """
        if int(state["version"][0]) != _VERSION or str(state["name"]) != self._name:
            raise StoreError(f"river: expected state of {self._name} version {_VERSION}, got {state['name']}")
        objects = unpack(state, _LIBRARIES, f"river {self._name}")
        self._keys, self._columns = unpack_names(state)
        self._channels = []
        for model, row in zip(objects, np.asarray(state["scales"], np.float64), strict=True):
            channel = _Channel(model)
            channel.count, channel.seen = int(row[0]), int(row[4])
            channel.mean, channel.var, channel.fast = float(row[1]), float(row[2]), float(row[3])
            self._channels.append(channel)
        self._tail = Calibrator(len(self._channels), both=self._both)
        self._tail.restore({k.removeprefix("tail_"): v for k, v in state.items() if k.startswith("tail_")})
