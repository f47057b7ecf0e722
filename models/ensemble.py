"""The full detector: 27 views of a series, each with its own tails, one surprise.

Evidence is the mean over views of (surprise of the view)^1.5, all views alike, and up to halved where the season
explains what a row does (an open, a nightly job); where a series' own evidence is lighter than usual it is raised
(`own_evidence`); a value that is stuck where it hardly ever was is evidence in itself. Counts are looked at on the
scale of their square root (`count_scale`). `evidence_of` and `surprise_of` translate between evidence and -log10 p, by
what evidence is on series without anomalies. See `views` for what the views are and `surprise` for the tails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.careful import MEMO, creep, middle, weigh
from models.count_scale import EARLY, EARLY_FIELDS, counts_in, from_root, to_root
from models.keyed import ChannelState, within
from models.novelty import LAG, MEMORIES, STRETCH
from models.own_evidence import OWN, compare
from models.seasonal_slots import PROFILE
from models.surprise import (
    FIT,
    GENERATION,
    GENERATIONS,
    KEEP,
    REFIT_EVERY,
    WARM_UP,
    tail_put,
    tail_refit,
    tail_score,
)
from models.views import DIRECTED, RANKS, REGISTERS, RING, RLS, VIEWS, step_views
from telemetry.errors import ConfigError, StoreError
from telemetry.types import Float64, Int8, Int64, Panel, Scores, SeriesKey, State

__all__ = ["FullModel", "evidence_of", "surprise_of"]

_VERSION = 3
_DAY_S = 86_400
_DAY_SLOTS = 288
_CLOCK_SLOTS = 2049
_N = len(VIEWS)
_PRECEDENT = 0.8
_YOUNG = 1000.0
_EXPLAINED = 4.0
_LEAST_SHARE = 0.5
_STUCK = 60.0
_STUCK_EVIDENCE = 2.5
_ENOUGH = 2.0
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


@njit(cache=True, nogil=True)
def _score_views(
    views: Float64,
    directed: NDArray[np.bool_],
    seen: int,
    counts: Int64,
    top: NDArray[np.float32],
    held: NDArray[np.int32],
    moments: Float64,
    fit: Float64,
) -> tuple[float, int]:
    """Evidence of one row of views and its side; then the tails learn it. NaN while warming up."""
    evidence: float = 0.0
    lean: float = 0.0
    total = counts.sum()
    g = (seen // GENERATION) % GENERATIONS
    if seen % GENERATION == 0:
        counts[g] = 0
        held[:, :, g] = 0
    counts[g] += 1
    gain = max(1.0 / (seen + 1.0), 1.0 / GENERATION)
    every = REFIT_EVERY if seen < 1000 else 2 * REFIT_EVERY
    for v in range(len(views)):
        x = float(np.float32(views[v]))
        if not np.isfinite(x):
            x = 0.0
        if seen >= WARM_UP:
            high: float = 0.0  # rows of arrays cost atomic counts: only the few values that need them
            low: float = 0.0
            if x > fit[v, 0, 0]:
                high = tail_score(x, top[v, 0], held[v, 0], total, seen, fit[v, 0], _PRECEDENT)
            if -x > fit[v, 1, 0]:
                low = tail_score(-x, top[v, 1], held[v, 1], total, seen, fit[v, 1], _PRECEDENT)
            best = max(high, low)
            if best > 0.0:
                best *= np.sqrt(best)
                evidence += best
                if directed[v]:
                    lean += best if high >= low else -best
        d = x - moments[v, 0]
        moments[v, 0] += gain * d
        moments[v, 1] += gain * (d * d * (1.0 - gain) - moments[v, 1])
        if held[v, 0, g] < KEEP or x > top[v, 0, g, 0]:
            held[v, 0, g] = tail_put(top[v, 0, g], held[v, 0, g], x)
        if held[v, 1, g] < KEEP or -x > top[v, 1, g, 0]:
            held[v, 1, g] = tail_put(top[v, 1, g], held[v, 1, g], -x)
        if seen + 1 == WARM_UP or (seen >= WARM_UP and (seen + 7 * v) % every == 0):
            spread = np.sqrt(max(moments[v, 1], 0.0))
            tail_refit(top[v, 0], held[v, 0], counts, spread, fit[v, 0])
            tail_refit(top[v, 1], held[v, 1], counts, spread, fit[v, 1])
    if seen < WARM_UP:
        return np.nan, 0
    return evidence / len(views), int(np.sign(lean))


@njit(cache=True, nogil=True)
def _advance(
    values: Float64,
    width: int,
    slots: NDArray[np.int32],
    others: Int8,
    angles: Float64,
    directed: NDArray[np.bool_],
    end_ns: Int64,
    need: float,
    creeps: bool,
    reg: Float64,
    rings: Float64,
    medians: Float64,
    ranks: Float64,
    profile: Float64,
    weights: Float64,
    cov: Float64,
    memory: NDArray[np.float32],
    waiting: NDArray[np.float32],
    counts: Int64,
    top: NDArray[np.float32],
    held: NDArray[np.int32],
    moments: Float64,
    fit: Float64,
    memo: Float64,
    early: Float64,
    begun: Int64,
    own: Float64,
    evidence: Float64,
    side: Int8,
    bands: Float64,
) -> None:
    views = np.zeros(len(directed))
    band = np.zeros(4)
    for c in range(values.shape[1]):
        clock = (c // width) % slots.shape[1]
        for w in range(values.shape[0]):
            x = values[w, c]
            if not np.isfinite(x):
                continue
            seen = int(begun[c, 0])
            begun[c, 0] += 1
            if need > 0.0:
                x = middle(x, seen, memo[c])
            if seen < EARLY:  # they wait, until it is clear what kind of series this is
                row = early[c, seen]
                row[0], row[1], row[2] = x, slots[w, clock], others[w, clock]
                row[3], row[4] = angles[w, 0], angles[w, 1]
                if creeps:
                    time_ns = float(end_ns[w]) if len(end_ns) else np.nan
                    creep(x, seen, time_ns, max(need, _ENOUGH), 0.0, memo[c])
                if seen + 1 < EARLY:
                    continue
                begun[c, 1] = 1 if counts_in(early[c]) else 0
            for k in range(0 if seen + 1 == EARLY else EARLY - 1, EARLY):
                if seen + 1 > EARLY:
                    v, slot, other, cosine, sine = x, slots[w, clock], others[w, clock], angles[w, 0], angles[w, 1]
                else:
                    v, cosine, sine = early[c, k, 0], early[c, k, 3], early[c, k, 4]
                    slot, other = int(early[c, k, 1]), int(early[c, k, 2])
                step_views(
                    to_root(v) if begun[c, 1] else v,
                    slot,
                    other,
                    cosine,
                    sine,
                    reg[c],
                    rings[c],
                    medians[c],
                    ranks[c],
                    profile[c],
                    weights[c],
                    cov[c],
                    memory[c],
                    waiting[c],
                    views,
                    band,
                )
                at = seen if seen + 1 > EARLY else k
                evidence[w, c], side[w, c] = _score_views(
                    views, directed, at, counts[c], top[c], held[c], moments[c], fit[c]
                )
            if seen < EARLY:
                continue
            evidence[w, c] *= min(max(band[2] / _EXPLAINED, _LEAST_SHARE), 1.0)
            evidence[w, c] = compare(evidence[w, c], need > 0.0, own[c])
            if seen < _YOUNG:  # tails of few values promise too much
                evidence[w, c] *= np.sqrt(seen / _YOUNG)
            if need > 0.0:
                evidence[w, c] = weigh(x, evidence[w, c], memo[c])
            least = max(_STUCK_EVIDENCE, need)
            if band[3] >= _STUCK and evidence[w, c] < least:  # NaN while warming up stays
                evidence[w, c] = least
            if creeps:
                time_ns = float(end_ns[w]) if len(end_ns) else np.nan
                evidence[w, c] = creep(x, seen, time_ns, max(need, _ENOUGH), evidence[w, c], memo[c])
            if len(bands) > 0:
                for k in range(3):
                    edge = band[0] + (0.0, -3.0, 3.0)[k] * band[1]
                    bands[k, w, c] = from_root(edge) if begun[c, 1] else edge


class FullModel:
    """The strongest univariate surprise here: 27 views, one set of parameters for all series.

    Uses the panel's ``clock_slot`` and ``clock_holiday`` if they are there, else the time of day (five-minute slots)
    and the weekend of `end_ns`. About 4 us a point and 240 kB a channel (350 kB with a session clock).

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
        _advance(
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
            *(k["early"], k["begun"], k["own"]),
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
