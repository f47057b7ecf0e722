"""One surprise for all series together, with the contribution of each.

Every channel is predicted from the last rows of all channels (ridge regression, refitted as data arrives); smoothed
residuals, steps and levels are scored against each channel's own past; the joint evidence is the mean of the few
largest, itself calibrated by its tail. What it flags hardly teaches it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.joint_kernels import MARKS, VIEWS, advance_joint
from models.joint_parts import STEPS
from models.keyed import pack_names, rows_before, unpack_names
from models.light_tail import BUCKETS
from telemetry.errors import ConfigError, StoreError
from telemetry.types import Float64, Int64, Panel, Scores, SeriesKey, State

__all__ = ["JointModel"]

_VERSION = 2
_ROWS, _TRUST = MARKS.index("rows"), MARKS.index("trust")
_ENOUGH = 4.0
"""So many times `warmup` must history have to be trusted."""


class JointModel:
    """Ridge VAR over all channels, one calibrated surprise a window.

    Parameters
    ----------
    order : int
        Rows of the past that predict the next.
    warmup : int
        Rows before the first score where there is no history to fit.
    ridge : float
    half_life : float
        Windows over which residuals are smoothed.
    share : float
        Largest part of a channel's past that counts as its tail.
    memory : int
        Windows that regression and tails remember.
    growth : float
        Refit the regression when history has grown by this share.
    hold : float
        Half-life, in windows, with which a reported surprise fades while the channel that told most is away from where
        it was; once that is back, it fades within a few windows.
    top : int
        Channels whose evidence is averaged.
    flag : float
        Surprise from which a window teaches twenty times less.
    steps, levels : float
        Weight of a channel's steps and of its level beside its residual.
    settle, pace : float
        Windows teach in full up to `settle`, then ever less, down to `pace`; after `fit` on at least four times as many
        as `warmup` at `pace` at once.
    group : int
        Most channels that are regressed on each other; more are split in the order in which they appeared.

    Notes
    -----
    ``Scores.surprise`` is the same for all channels of a window; ``Scores.parts`` is each channel's share of evidence.
    """

    def __init__(
        self,
        *,
        order: int = 3,
        warmup: int = 128,
        ridge: float = 10.0,
        half_life: float = 2.0,
        share: float = 0.15,
        memory: int = 50_000,
        growth: float = 0.1,
        hold: float = 32.0,
        top: int = 3,
        flag: float = 2.5,
        steps: float = 0.5,
        levels: float = 0.0,
        group: int = 96,
        settle: float = 8192.0,
        pace: float = 0.002,
    ) -> None:
        for name, value, least, most in (
            ("order", order, 1, 20),
            ("warmup", warmup, 20, 10**6),
            ("ridge", ridge, 1e-9, 1e9),
            ("half_life", half_life, 0.1, 1e4),
            ("share", share, 0.001, 0.5),
            ("memory", memory, 100, 10**9),
            ("growth", growth, 0.0, 10.0),
            ("hold", hold, 0.0, 1e6),
            ("top", top, 1, 100),
            ("flag", flag, 0.5, 20.0),
            ("steps", steps, 0.0, 10.0),
            ("levels", levels, 0.0, 10.0),
            ("group", group, 2, 512),
            ("settle", settle, 1.0, 1e12),
            ("pace", pace, 0.0, 1.0),
        ):
            if not least <= value <= most:
                raise ConfigError(f"joint: {name} must be in [{least}, {most}], got {value}")
        gain = 1.0 - 0.5 ** (1.0 / half_life)
        fade = 0.5 ** (1.0 / hold) if hold > 0.0 else 0.0
        self._prm = np.array(
            [warmup, ridge, gain, share, memory, growth, fade, top, flag, steps, levels, 12.0, settle, pace]
        )
        self._order, self._group = order, group
        self._keys: tuple[SeriesKey, ...] = ()
        self._columns: tuple[str, ...] = ()
        self._allocate(0)

    def _allocate(self, channels: int) -> None:
        group = max(1, min(self._group, channels))
        groups = -(-channels // group)
        width = self._order * group + 1
        self._size = group
        self._state: dict[str, Float64] = {
            "low": np.full(channels, np.nan),
            "size": np.zeros(channels),
            "last": np.full(channels, np.nan),
            "least": np.full(channels, np.inf),
            "most": np.full(channels, -np.inf),
            "lags": np.zeros((self._order, channels)),
            "gram": np.zeros((groups, width, width)),
            "cross": np.zeros((groups, width, group)),
            "weights": np.zeros((groups, width, group)),
            "smooth": np.zeros((4, channels)),
            "away": np.zeros((3, channels)),
            "hist": np.zeros((VIEWS, channels, STEPS)),
            "tails": np.zeros((VIEWS, channels, 2)),
            "marks": np.zeros(len(MARKS)),
        }
        self._state["tails"][:, :, 1] = 1e-6
        self._table = np.zeros((1, 1, BUCKETS, 2), np.float32)

    def fit(self, history: Panel) -> None:
        """Set each channel's range from history, then pass over it once, as if it had been live."""
        self.align(history.keys)
        self._settle(history)
        values = history.channel_values().reshape(len(history.end_ns), len(self._state["low"]))
        if self._state["marks"][_ROWS] == 0.0:
            self._set_range(values)
        self._state["marks"][_TRUST] = -1.0
        self.advance(history)
        # of too little history the tails know nothing yet: live windows then teach as if there had been none
        enough = self._state["marks"][_ROWS] >= _ENOUGH * self._prm[0]
        self._state["marks"][_TRUST] = 1.0 if enough else 0.0

    def _set_range(self, values: Float64) -> None:
        finite = np.isfinite(values)
        some = finite.any(axis=0)
        low = np.where(finite, values, np.inf).min(axis=0, initial=np.inf)
        high = np.where(finite, values, -np.inf).max(axis=0, initial=-np.inf)
        self._state["low"] = np.where(some, low, np.nan)
        self._state["size"] = np.where(some, high - low, 0.0)

    def align(self, keys: Sequence[SeriesKey]) -> None:
        """Let the state follow the keys; a new series starts with no part in the regression."""
        new = tuple(keys)
        if new == self._keys:
            self._keys = new  # the caller's own tuple: the same one again costs nothing
            return
        take = rows_before(self._keys, new, len(self._columns))
        self._keys = new
        if self._columns:
            self._carry(take)

    def _carry(self, take: Int64) -> None:
        """Rebuild all arrays: new channel `i` was old channel ``take[i]`` (-1: it is new)."""
        old, table, old_group = self._state, self._table, self._size
        before = len(old["low"])
        self._allocate(len(take))
        kept = np.flatnonzero(take >= 0)
        was = take[kept]
        for name, array in self._state.items():
            if name in ("low", "size", "last", "least", "most"):
                array[kept] = old[name][was]
            elif name in ("lags", "smooth", "away", "hist", "tails"):
                array[:, kept] = old[name][:, was]
        self._state["marks"][:] = old["marks"]
        self._table = table
        for g in range(len(self._state["gram"])):
            for h in range(len(old["gram"])):
                both = kept[(kept // self._size == g) & (take[kept] // old_group == h)]
                if not len(both):
                    continue
                new_rows = _rows(both, self._size, len(take), self._order)
                old_rows = _rows(take[both], old_group, before, self._order)
                gram = old["gram"][h] + np.tril(old["gram"][h], -1).T
                self._state["gram"][g][np.ix_(new_rows, new_rows)] = np.tril(gram[np.ix_(old_rows, old_rows)])
                targets, were = both % self._size, take[both] % old_group
                for name in ("cross", "weights"):
                    self._state[name][g][np.ix_(new_rows, targets)] = old[name][h][np.ix_(old_rows, were)]

    def _settle(self, panel: Panel) -> None:
        if not self._columns:
            self._columns = panel.channels
            self._allocate(len(self._keys) * len(self._columns))
        elif panel.channels != self._columns:
            raise ConfigError(f"joint: learnt columns {self._columns}, got {panel.channels}")
        if panel.keys is not self._keys:
            self.align(panel.keys)

    def advance(self, panel: Panel, *, explain: bool = False) -> Scores:
        """Score then learn; see `Model.advance`.

        Raises
        ------
        ConfigError
            If the columns are not those that it learnt.
        """
        self._settle(panel)
        windows, series, width = panel.values.shape[0], len(panel.keys), len(self._columns)
        channels = series * width
        values = panel.channel_values().reshape(windows, channels)
        joint = np.empty(windows)
        side = np.empty((windows, channels), np.int8)
        parts, expected = np.empty((windows, channels)), np.empty((windows, channels))
        s = self._state
        # ranges come from the first rows where no history was fitted; each row's scale is fixed before it is scored
        done = 0
        while done < windows:
            upto = windows
            rows = int(s["marks"][_ROWS])
            warmup = int(self._prm[0])
            if rows < warmup:
                finite = np.isfinite(values[done:]).any(axis=1).cumsum()
                upto = done + int(np.searchsorted(finite, warmup - rows)) + 1
                upto = min(upto, windows)
            self._run(values[done:upto], joint[done:upto], side[done:upto], parts[done:upto], expected[done:upto])
            done = upto
        shape = (windows, series, width)
        return Scores(
            panel.keys,
            self._columns,
            panel.end_ns,
            np.repeat(joint, channels).reshape(shape),
            side.reshape(shape),
            expected.reshape(shape) if explain else None,
            None,
            None,
            parts.reshape(shape),
        )

    def _run(self, values: Float64, joint: Float64, side: object, parts: Float64, expected: Float64) -> None:
        s = self._state
        width = s["gram"].shape[1] if len(s["gram"]) else 1
        advance_joint(
            np.ascontiguousarray(values),
            self._prm,
            self._size,
            self._order,
            s["low"],
            s["size"],
            s["last"],
            s["least"],
            s["most"],
            s["lags"],
            s["gram"],
            s["cross"],
            s["weights"],
            np.zeros((width, width)),
            s["smooth"],
            s["away"],
            s["hist"],
            s["tails"],
            self._table,
            s["marks"],
            joint,
            side,
            parts,
            expected,
        )

    def snapshot(self) -> State:
        """All memory as plain arrays, with the keys and columns that they belong to."""
        return {
            "version": np.array([_VERSION, self._order, self._group]),
            **pack_names(self._keys, self._columns),
            "table": self._table.copy(),
            **{name: array.copy() for name, array in self._state.items()},
        }

    def restore(self, state: State) -> None:
        """Continue exactly where `snapshot` was taken.

        Raises
        ------
        StoreError
            If the state is of another version, order or group size.
        """
        found = [int(v) for v in state["version"]]
        if found != [_VERSION, self._order, self._group]:
            raise StoreError(
                f"joint: state of version, order, group {found}, expected {[_VERSION, self._order, self._group]}"
            )
        self._keys, self._columns = unpack_names(state)
        self._allocate(len(self._keys) * len(self._columns))
        self._table = np.array(state["table"], np.float32)
        self._state = {name: np.array(state[name], np.float64) for name in self._state}


def _rows(channels: Int64, group: int, total: int, order: int) -> Int64:
    """Rows of these channels' lags, and of the constant, in their group's regression."""
    count = min(group, total - int(channels[0]) // group * group)
    lags = np.arange(order)[:, None] * count + (channels % group)[None, :]
    return np.append(lags.ravel(), order * count)
