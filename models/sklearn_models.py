"""scikit-learn's models over all features of a host: trained offline, frozen, scored as a stream, with why.

Scoring runs without BLAS (plain loops over trained arrays; trees and k-d trees of scikit-learn itself), so it is equal
bit for bit everywhere. A score turns into surprise by the tail of the scores before it, begun on held-out history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numba import njit

from models.keyed import pack_names, unpack_names
from models.pickled import pack, unpack
from models.surprise import Calibrator
from telemetry.errors import ConfigError, NoDataError, StoreError
from telemetry.types import Float64, Panel, Scores, SeriesKey, State

__all__ = ["KINDS", "SklearnModel"]

_VERSION = 1
_LIBRARIES = ("scikit-learn", "numpy")
KINDS = ("forest", "pca", "covariance", "lof")
_HELD_OUT = 0.3
_LEAST = 64


@njit(cache=True, nogil=True)
def _quadratic(z: Any, matrix: Any, out: Any, parts: Any) -> None:
    """Rows of `z` through a symmetric form: parts = z * (matrix z), out = their sum, in index order."""
    for w in range(z.shape[0]):
        total = 0.0
        for i in range(z.shape[1]):
            s = 0.0
            for j in range(z.shape[1]):
                s += matrix[i, j] * z[w, j]
            parts[w, i] = z[w, i] * s
            total += parts[w, i]
        out[w] = total


class SklearnModel:
    """One trained model over all channels of each host.

    Parameters
    ----------
    kind : {"forest", "pca", "covariance", "lof"}
        Isolation forest, PCA reconstruction error, robust (minimum covariance determinant) distance, local outlier
        factor as novelty.
    params : mapping, optional
        Parameters of scikit-learn's class (of `PCA`: `n_components`, default 0.9 of the variance).
    least : float
        Share of a host's channels that must be present for a window to be scored; the others count as usual.
    seed : int

    Notes
    -----
    With one host, ``Scores.surprise`` is the same for all channels and ``Scores.parts`` holds the contributions. With
    several, a host's surprise stands at its top contributor (0 elsewhere) and `parts` is None.
    """

    def __init__(
        self, kind: str = "forest", params: Mapping[str, Any] | None = None, *, least: float = 0.5, seed: int = 0
    ) -> None:
        if kind not in KINDS:
            raise ConfigError(f"sklearn: expected one of {', '.join(KINDS)}, got {kind!r}")
        if not 0.0 < least <= 1.0:
            raise ConfigError(f"sklearn: least must be in (0, 1], got {least}")
        self._kind, self._params, self._least, self._seed = kind, dict(params or {}), least, seed
        self._keys: tuple[SeriesKey, ...] = ()
        self._columns: tuple[str, ...] = ()
        self._hosts: dict[str, _Host] = {}
        self._tail = Calibrator(0)

    def fit(self, history: Panel) -> None:
        """Train a model per host on the first 70 % of history, and its tail on the rest.

        Raises
        ------
        NoDataError
            With fewer than 64 windows.
        ConfigError
            If scikit-learn refuses a parameter.
        """
        self._keys, self._columns = history.keys, history.channels
        values = history.channel_values()
        cut = int(len(values) * (1.0 - _HELD_OUT))
        if len(values) < _LEAST:
            raise NoDataError(
                f"sklearn {self._kind}: expected at least {_LEAST} windows to train on, got {len(values)}"
            )
        self._hosts = {}
        for host in dict.fromkeys(k.host for k in history.keys):
            names = [str(k) for k in history.keys if k.host == host]
            trained = _Host(self._kind, self._params, self._seed, names, self._columns)
            trained.train(self._of(host, values)[:cut])
            self._hosts[host] = trained
        self._tail = Calibrator(len(self._hosts))
        raw = np.stack(
            [h.score(self._of(name, values)[cut:], self._least)[0] for name, h in self._hosts.items()], axis=1
        )
        self._tail.advance(raw)

    def _of(self, host: str, values: Float64) -> Float64:
        at = [i for i, k in enumerate(self._keys) if k.host == host]
        return values[:, at].reshape(len(values), -1)

    def align(self, keys: Sequence[SeriesKey]) -> None:
        """Series come and go; one that was not there in training has no part, one that left counts as usual."""
        self._keys = tuple(keys)

    def advance(self, panel: Panel, *, explain: bool = False) -> Scores:
        """Score each window; only the tail learns.

        Raises
        ------
        NoDataError
            If it was never trained.
        """
        if not self._hosts:
            raise NoDataError(f"sklearn {self._kind}: not trained yet: fit it on history first")
        if panel.channels != self._columns:
            raise ConfigError(f"sklearn: trained on columns {self._columns}, got {panel.channels}")
        self._keys = panel.keys
        values = panel.channel_values()
        windows, width = len(values), values.shape[2]
        raw = np.full((windows, len(self._hosts)), np.nan)
        shares: dict[str, tuple[list[int], Float64]] = {}
        for n, (host, trained) in enumerate(self._hosts.items()):
            at = [i for i, k in enumerate(panel.keys) if k.host == host]
            rows, place = trained.arrange([str(panel.keys[i]) for i in at], values[:, at])
            raw[:, n], parts = trained.score(rows, self._least)
            own = np.full((windows, len(at) * width), np.nan)
            own[:, place >= 0] = parts[:, place[place >= 0]]
            shares[host] = at, own.reshape(windows, len(at), width)
        surprise, _ = self._tail.advance(raw)
        out = np.full(values.shape, np.nan)
        all_parts = np.full(values.shape, np.nan)
        for n, (at, own) in enumerate(shares.values()):
            all_parts[:, at] = own
            if len(self._hosts) == 1:
                out[:, :] = surprise[:, n, None, None]
                continue
            if not at:  # none of the host's series is in the panel
                continue
            flat = np.where(np.isnan(own), -np.inf, own).reshape(windows, len(at) * width)
            place = np.zeros(flat.shape)
            place[np.isnan(surprise[:, n])] = np.nan
            known = ~np.isnan(surprise[:, n])
            place[np.flatnonzero(known), flat.argmax(axis=1)[known]] = surprise[known, n]
            out[:, at] = place.reshape(windows, len(at), width)
        side = np.zeros(values.shape, np.int8)
        for host, (at, _) in shares.items():
            side[:, at] = self._hosts[host].sides([str(panel.keys[i]) for i in at], values[:, at])
        joint = all_parts if len(self._hosts) == 1 else None
        return Scores(panel.keys, self._columns, panel.end_ns, out, side, parts=joint)

    def snapshot(self) -> State:
        """Trained objects as checked bytes, the tail as plain arrays."""
        return {
            "version": np.array([_VERSION]),
            "kind": np.array(self._kind),
            **pack_names(self._keys, self._columns),
            "hosts": np.array(list(self._hosts), dtype=np.str_),
            **pack({name: host.state() for name, host in self._hosts.items()}, _LIBRARIES),
            **{f"tail_{k}": v for k, v in self._tail.snapshot().items()},
        }

    def restore(self, state: State) -> None:
        """Continue exactly where `snapshot` was taken.

        Raises
        ------
        StoreError
            If it is of another kind, another version of scikit-learn, or damaged.
        """
        if int(state["version"][0]) != _VERSION or str(state["kind"]) != self._kind:
            raise StoreError(f"sklearn: expected state of {self._kind} version {_VERSION}, got {state['kind']}")
        trained = unpack(state, _LIBRARIES, f"sklearn {self._kind}")
        self._keys, self._columns = unpack_names(state)
        self._hosts = {}
        for name in [str(h) for h in state["hosts"]]:
            host = _Host(self._kind, self._params, self._seed, [], self._columns)
            host.load(trained[name])
            self._hosts[name] = host
        self._tail = Calibrator(len(self._hosts))
        self._tail.restore({k.removeprefix("tail_"): v for k, v in state.items() if k.startswith("tail_")})


class _Host:
    """The trained model of one host and how its rows are made from a panel's series."""

    def __init__(
        self, kind: str, params: Mapping[str, Any], seed: int, names: list[str], columns: tuple[str, ...]
    ) -> None:
        self.kind, self.params, self.seed = kind, params, seed
        self.names, self.columns = names, columns
        self.usual = self.unit = self.matrix = np.zeros(0)
        self.model: Any = None
        self.ask = np.inf  # raw score from which contributions are worked out

    def train(self, rows: Float64) -> None:
        some = np.isfinite(rows).any(axis=0)
        clean = np.where(np.isfinite(rows), rows, np.nan)
        self.usual = np.zeros(rows.shape[1])
        self.unit = np.ones(rows.shape[1])
        if some.any():
            low, mid, high = np.nanpercentile(clean[:, some], [25.0, 50.0, 75.0], axis=0)
            spread = np.nanstd(clean[:, some], axis=0)
            unit = np.maximum((high - low) / 1.349, 0.1 * spread)
            self.usual[some] = mid
            self.unit[some] = np.where(unit > 0.0, unit, np.maximum(np.abs(mid) * 1e-3, 1e-9))
        z, _ = self._scaled(rows)
        z = z[np.isfinite(rows).any(axis=1)]
        if len(z) < _LEAST // 2:
            raise NoDataError(f"sklearn {self.kind}: expected at least {_LEAST // 2} windows with values, got {len(z)}")
        try:
            self._train(z)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"sklearn {self.kind}: {error}") from None
        if self.model is not None:
            self.ask = float(np.quantile(-np.asarray(self.model.score_samples(z), np.float64), 0.9))

    def _train(self, z: Float64) -> None:
        if self.kind == "forest":
            from sklearn.ensemble import IsolationForest

            self.model = IsolationForest(**{"random_state": self.seed, "n_estimators": 100, **self.params}).fit(z)
        elif self.kind == "lof":
            from sklearn.neighbors import LocalOutlierFactor

            defaults = {"n_neighbors": 20, "algorithm": "kd_tree"}
            self.model = LocalOutlierFactor(**{**defaults, **self.params, "novelty": True}).fit(z)
        elif self.kind == "pca":
            from sklearn.decomposition import PCA

            known = {"n_components": 0.9, "svd_solver": "full", **self.params}
            axes = PCA(**known).fit(z).components_
            self.matrix = np.eye(z.shape[1]) - axes.T @ axes
        else:
            from sklearn.covariance import MinCovDet

            ridge = 1e-3 * np.eye(z.shape[1])
            found = MinCovDet(**{"random_state": self.seed, **self.params}).fit(
                z + np.random.default_rng(self.seed).normal(0.0, 1e-3, z.shape)
            )
            self.matrix = np.linalg.inv(found.covariance_ + ridge)

    def arrange(self, names: list[str], values: Float64) -> tuple[Float64, np.ndarray]:
        """Rows in the order of training (missing where a series is gone), and where each present channel went."""
        width = len(self.columns)
        rows = np.full((len(values), len(self.names) * width), np.nan)
        where = {name: i for i, name in enumerate(self.names)}
        place = np.full(len(names) * width, -1)
        for i, name in enumerate(names):
            if name in where:
                to = where[name] * width
                rows[:, to : to + width] = values[:, i]
                place[i * width : (i + 1) * width] = np.arange(to, to + width)
        return rows, place

    def _scaled(self, rows: Float64) -> tuple[Float64, Float64]:
        """Deviations in robust units, missing ones 0, cut at 20; and the share of values present."""
        z = (np.where(np.isfinite(rows), rows, self.usual) - self.usual) / self.unit
        return np.clip(z, -20.0, 20.0), np.isfinite(rows).mean(axis=1)

    def score(self, rows: Float64, least: float) -> tuple[Float64, Float64]:
        """Raw score of each row (NaN where too much is missing) and the contributions."""
        z, present = self._scaled(rows)
        out, parts = np.zeros(len(z)), np.zeros(z.shape)
        if self.kind in ("pca", "covariance"):
            _quadratic(z, self.matrix, out, parts)
        elif len(z):
            out = -np.asarray(self.model.score_samples(z), np.float64)
            # why: what the score loses when one feature is as usual, for the rows where it is worth asking
            far = np.flatnonzero(out >= self.ask)
            if len(far):
                probe = np.repeat(z[far], z.shape[1], axis=0)
                each = np.tile(np.arange(z.shape[1]), len(far))
                probe[np.arange(len(probe)), each] = 0.0
                without = -np.asarray(self.model.score_samples(probe), np.float64)
                parts[far] = out[far, None] - without.reshape(len(far), -1)
        out = np.where(present >= least, out, np.nan)
        parts = np.where(np.isfinite(rows), parts, np.nan)
        return out, parts

    def sides(self, names: list[str], values: Float64) -> np.ndarray:
        rows, place = self.arrange(names, values)
        sign = np.sign(np.where(np.isfinite(rows), rows - self.usual, 0.0)).astype(np.int8)
        out = np.zeros((len(values), len(place)), np.int8)
        out[:, place >= 0] = sign[:, place[place >= 0]]
        return out.reshape(values.shape)

    def state(self) -> dict[str, Any]:
        return {n: getattr(self, n) for n in ("names", "usual", "unit", "matrix", "model", "ask")}

    def load(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
