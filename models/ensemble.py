"""The full detector: 27 views of a series, each with its own tails, one surprise.

Evidence is the mean over views of (surprise of the view)^1.5, all views alike, and up to halved where the season
explains what a row does (an open, a nightly job); where a series' own evidence is lighter than usual it is raised
(`own_evidence`); a value that is stuck where it hardly ever was is evidence in itself. Counts are looked at on the
scale of their square root (`count_scale`). A shape that a series which repeats itself has never had is evidence too
(`discord`). `evidence_of` and `surprise_of` translate between evidence and -log10 p, by what evidence is on series
without anomalies. See `views` for what the views are and `surprise` for the tails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.careful import MEMO
from models.count_scale import EARLY, EARLY_FIELDS
from models.discord import fresh_discords
from models.ensemble_kernels import advance_full
from models.keyed import ChannelState, within
from models.novelty import LAG, MEMORIES, STRETCH
from models.own_evidence import OWN
from models.rolling import RING
from models.seasonal_slots import PROFILE
from models.surprise import FIT, GENERATIONS, KEEP
from models.views import DIRECTED, RANKS, REGISTERS, RLS, VIEWS
from telemetry.errors import ConfigError, StoreError
from telemetry.types import Float64, Int8, Panel, Scores, SeriesKey, State

__all__ = ["FullModel", "evidence_of", "surprise_of"]

_VERSION = 4
_DAY_S = 86_400
_DAY_SLOTS = 288
_CLOCK_SLOTS = 2049
_N = len(VIEWS)
_IS_DIRECTED = np.array([i in DIRECTED for i in range(_N)])
# pooled over fourteen kinds of anomaly-free series (light and heavy tails, counts, zeros, autocorrelation, seasons)
_EVIDENCE = np.array([0.0, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0])
_SURPRISE = np.array([0.0, 0.52, 0.70, 1.05, 1.45, 1.79, 2.41, 2.93, 3.38, 3.69, 4.18])


def surprise_of(evidence: Float64) -> Float64:
    """-log10 of how often series without anomalies show at least this evidence."""
    last = (_SURPRISE[-1] - _SURPRISE[-2]) / (_EVIDENCE[-1] - _EVIDENCE[-2])
    over = np.maximum(evidence - _EVIDENCE[-1], 0.0) * last
    return np.asarray(np.interp(evidence, _EVIDENCE, _SURPRISE) + over)


def evidence_of(surprise: Float64) -> Float64:
    """The inverse of `surprise_of`."""
    last = (_SURPRISE[-1] - _SURPRISE[-2]) / (_EVIDENCE[-1] - _EVIDENCE[-2])
    over = np.maximum(surprise - _SURPRISE[-1], 0.0) / last
    return np.asarray(np.interp(surprise, _SURPRISE, _EVIDENCE) + over)


class FullModel:
    """The strongest univariate surprise here: 27 views, one set of parameters for all series.

    Uses the panel's ``clock_slot`` and ``clock_holiday`` if they are there, else the time of day (five-minute slots)
    and the weekend of `end_ns`. About 5 us a point and 295 kB a channel (410 kB with a session clock).

    Parameters
    ----------
    clock : bool
        Whether to learn a profile over the time of day at all.
    creep : bool
        Whether a level that has left a slow reference by far is evidence in itself, once.
    careful : float
        Evidence that alerts at a budget so small that rows must agree and matter (see `careful`); 0 if it is not. Such
        a model is two rows late, and one or two odd values never speak.

    Examples
    --------
    >>> import numpy as np
    >>> from telemetry.types import Panel, SeriesKey
    >>> x = np.random.default_rng(0).normal(100.0, 3.0, (600, 1, 1)); x[590:] += 50.0
    >>> key = SeriesKey("a", "latency_ns")
    >>> model = FullModel()
    >>> model.align([key])
    >>> scores = model.advance(Panel((key,), ("p99",), 10**9, np.arange(600) * 10**9, x))
    >>> bool(scores.surprise[590, 0, 0] > 3.0), int(scores.side[590, 0, 0])
    (True, 1)
    """

    def __init__(self, *, clock: bool = True, creep: bool = True, careful: float = 0.0) -> None:
        self._clock = bool(clock)
        within("full", ("careful", careful, 0.0, 1e6))
        self._creep, self._careful = bool(creep), float(careful)
        self._slots = 0
        self._state = ChannelState("full", self._fresh)

    def _fresh(self, channels: int) -> dict[str, Any]:
        return {
            "reg": np.zeros((channels, REGISTERS)),
            "rings": np.zeros((channels, 4, RING)),
            "medians": np.zeros((channels, 2, 144)),
            "ranks": np.zeros((channels, 2, RANKS)),
            "profile": np.zeros((channels, PROFILE, self._slots)),
            "weights": np.zeros((channels, RLS)),
            "cov": np.zeros((channels, RLS, RLS)),
            "memory": np.zeros((channels, STRETCH, MEMORIES), np.float32),
            "waiting": np.zeros((channels, LAG, STRETCH), np.float32),
            "counts": np.zeros((channels, GENERATIONS), np.int64),
            "top": np.zeros((channels, _N, 2, GENERATIONS, KEEP), np.float32),
            "held": np.zeros((channels, _N, 2, GENERATIONS), np.int32),
            "moments": np.zeros((channels, _N, 2)),
            "fit": np.zeros((channels, _N, 2, FIT)),
            "memo": np.zeros((channels, MEMO)),
            "early": np.zeros((channels, EARLY, EARLY_FIELDS)),
            "begun": np.zeros((channels, 2), np.int64),
            "own": np.zeros((channels, OWN)),
            **fresh_discords(channels),
        }

    def fit(self, history: Panel) -> None:
        """Learn from history by passing over it once, as if it had been live."""
        self.align(history.keys)
        self.advance(history)

    def align(self, keys: Sequence[SeriesKey]) -> None:
        """Let the state follow the keys; new ones start cold, those that left are forgotten."""
        self._state.align(keys)

    def _settle(self, panel: Panel) -> None:
        slots = (_CLOCK_SLOTS if "clock_slot" in panel.columns else _DAY_SLOTS) if self._clock else 1
        if not self._state.columns:
            self._slots = slots
        elif slots != self._slots:
            raise ConfigError(f"full: learnt {self._slots} slots of the clock; got columns {panel.columns}")
        self._state.settle(panel)

    def _calendar(self, panel: Panel) -> tuple[NDArray[np.int32], Int8, Float64]:
        second = panel.end_ns // 1_000_000_000
        of_day = second % _DAY_S
        turn = of_day * (2.0 * np.pi / _DAY_S)
        angles = np.stack([np.cos(turn), np.sin(turn)], axis=1) if self._clock else np.zeros((len(second), 2))
        other = ((second // _DAY_S + 3) % 7 >= 5).astype(np.int8)[:, None]
        slot = (of_day // (_DAY_S // _DAY_SLOTS)).astype(np.int32)[:, None]
        if not self._clock:
            return np.zeros_like(slot), np.zeros_like(other), angles
        if self._slots == _CLOCK_SLOTS:
            raw = panel.column("clock_slot")
            slot = np.where(np.isfinite(raw), np.clip(raw, 0, _CLOCK_SLOTS - 2), _CLOCK_SLOTS - 1).astype(np.int32)
            other = np.zeros(slot.shape, np.int8)
            if "clock_holiday" in panel.columns:
                other = (panel.column("clock_holiday") > 0.0).astype(np.int8)
        return slot, other, angles

    def evidence(self, panel: Panel, *, explain: bool = False) -> tuple[Float64, Int8, Float64]:
        """Raw evidence, side and band (empty unless `explain`), each (W, channels): score, then learn."""
        self._settle(panel)
        values = panel.channel_values()
        windows, channels = len(panel.end_ns), values.shape[1] * values.shape[2]
        slots, others, angles = self._calendar(panel)
        evidence = np.full((windows, channels), np.nan)
        side = np.zeros((windows, channels), np.int8)
        bands = np.full((3, windows, channels) if explain else (0, 0, 0), np.nan)
        k = self._state.rows
        advance_full(
            values.reshape(windows, channels),
            len(panel.channels),
            slots,
            others,
            angles,
            _IS_DIRECTED,
            panel.end_ns if self._clock else panel.end_ns[:0],
            self._careful,
            self._creep or self._careful > 0.0,
            *(k["reg"], k["rings"], k["medians"], k["ranks"], k["profile"], k["weights"], k["cov"]),
            *(k["memory"], k["waiting"], k["counts"], k["top"], k["held"], k["moments"], k["fit"], k["memo"]),
            *(k["early"], k["begun"], k["own"], k["shape_reg"], k["shape_ring"], k["shape_middle"], k["shape_gap"]),
            *(k["shape_counts"], k["shape_top"], k["shape_held"], k["shape_fit"]),
            evidence,
            side,
            bands,
        )
        return evidence, side, bands

    def advance(self, panel: Panel, *, explain: bool = False) -> Scores:
        """Score then learn; see `Model.advance`.

        Raises
        ------
        ConfigError
            If columns or clock are not those that it learnt.
        """
        evidence, side, bands = self.evidence(panel, explain=explain)
        shape = (len(panel.end_ns), len(panel.keys), len(panel.channels))
        band = [b.reshape(shape) for b in bands] if explain else [None, None, None]
        return Scores(
            panel.keys, panel.channels, panel.end_ns, surprise_of(evidence).reshape(shape), side.reshape(shape), *band
        )

    def snapshot(self) -> State:
        """All memory as plain arrays, with the keys and columns that they belong to."""
        return {"version": np.array([_VERSION, self._slots]), **self._state.pack()}

    def restore(self, state: State) -> None:
        """Continue exactly where `snapshot` was taken.

        Raises
        ------
        StoreError
            If the state is of another version or shape.
        """
        version = int(state["version"][0])
        if version != _VERSION:
            raise StoreError(f"full: state of version {version}, expected {_VERSION}")
        self._slots = int(state["version"][1])
        self._state.unpack(state)
