"""The light detector: thousands of series at ten windows a second, a few dozen nanoseconds a point.

Per channel: a robust level and scale, the residual of a profile of clock slots, a slow level, a cumulative sum and
a reference that creeps by at most 5 % a day, each scored by a tail fitted to a log histogram of the channel's own
deviations. See `light_kernels`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from models.keyed import pack_names, rows_that_stay, unpack_names, within
from models.light_kernels import BUCKETS, UNSEEN, advance_light
from models.light_layout import FIELDS, blocks_of, no_blocks, rows_of
from telemetry.errors import ConfigError, StoreError
from telemetry.types import Float64, Panel, Scores, SeriesKey, State

__all__ = ["LightModel", "quantum_of"]

_VERSION = 2
_DAY_NS = 86_400 * 10**9
_NO_SLOTS = np.empty((0, 0))
_STAGGER = FIELDS.index("stagger")


def quantum_of(column: str, window_ns: int) -> float:
    """Smallest step of a column that means something: one event, as a count or as a rate per second."""
    if column.startswith("rate"):
        return 1e9 / window_ns
    if column.startswith(("count", "increase", "delta", "sum")):
        return 1.0
    return 1e-3


def _season(panel: Panel) -> Float64:
    """Slots of the profile: NaN on days without a session, -2 where a half day differs from other days.

    From five minutes before an early close nothing is as on other days, and the clock knows it: those windows are
    learnt but not scored.
    """
    slots = np.ascontiguousarray(panel.column("clock_slot"), np.float64)
    have = set(panel.columns)
    holiday = panel.column("clock_holiday") if "clock_holiday" in have else np.zeros(slots.shape)
    free = holiday >= 1.0
    if "clock_phase" not in have:
        return np.where(free, np.nan, slots)
    phase = panel.column("clock_phase")
    if "clock_weekday" in have:
        free = free | ((panel.column("clock_weekday") >= 5.0) & (phase == 0.0))
    half = (holiday > 0.0) & (holiday < 1.0)
    over = np.zeros(slots.shape, np.bool_)
    if "clock_to_open_s" in have:
        over |= half & ((phase == 0.0) | (phase == 4.0)) & (panel.column("clock_to_open_s") > 43_200.0)
    if "clock_to_close_s" in have:
        over |= half & (phase == 2.0) & (panel.column("clock_to_close_s") < 300.0)
    return np.where(over, -2.0, np.where(free, np.nan, slots))


class LightModel:
    """Calibrated surprise of each channel, in one compiled pass over the panel.

    Parameters
    ----------
    alpha : float
        Gain of the level, per window.
    beta : float
        Gain of the scale.
    clip : float
        Residuals are cut at this many scales before they are learnt.
    warmup : int
        Windows before the first score (NaN until then).
    memory : int
        Windows that the tails remember.
    refit : int
        Windows between refits of a tail (staggered by series; more often while young).
    relearn : int or None
        Windows after which a lasting deviation is the new normal; None: 10 minutes, 60 to 600 windows.
    flag : float
        Surprise from which a window teaches ten times less.
    creep_per_day : float
        How far the slow reference may follow, as a share of itself.
    slots : int
        Size of the profile; 0 to ignore the clock.
    seasonal_gain : float
        Weight of a new day in a slot's profile.
    claim : float
        Surprise is at most ``claim * log10(windows + 1)``: little history cannot claim much.

    Examples
    --------
    >>> import numpy as np
    >>> from telemetry.types import Panel, SeriesKey
    >>> x = np.random.default_rng(0).normal(100.0, 3.0, (400, 1, 1)); x[390:] += 50.0
    >>> key = SeriesKey("a", "latency_ns")
    >>> model = LightModel()
    >>> model.align([key])
    >>> scores = model.advance(Panel((key,), ("p99",), 10**8, np.arange(400) * 10**8, x))
    >>> bool(scores.surprise[390, 0, 0] > 3.0), int(scores.side[390, 0, 0])
    (True, 1)
    """

    def __init__(
        self,
        *,
        alpha: float = 0.05,
        beta: float = 0.02,
        clip: float = 3.0,
        warmup: int = 40,
        memory: int = 30_000,
        refit: int = 512,
        relearn: int | None = None,
        flag: float = 2.5,
        creep_per_day: float = 0.05,
        slots: int = 2048,
        seasonal_gain: float = 0.3,
        claim: float = 1.5,
    ) -> None:
        within(
            "light",
            ("alpha", alpha, 1e-6, 1.0),
            ("beta", beta, 1e-6, 1.0),
            ("clip", clip, 1.0, 20.0),
            ("warmup", warmup, 16, 10**6),
            ("memory", memory, 100, 10**9),
            ("refit", refit, 16, 10**6),
            ("relearn", 60 if relearn is None else relearn, 1, 10**9),
            ("flag", flag, 0.5, 20.0),
            ("creep_per_day", creep_per_day, 0.0, 1.0),
            ("slots", slots, 0, 4096),
            ("seasonal_gain", seasonal_gain, 0.01, 1.0),
            ("claim", claim, 1.0, 3.0),
        )
        self._params = (alpha, beta, clip, warmup, memory, refit, relearn, flag, creep_per_day, seasonal_gain, claim)
        self._slots = slots
        self._keys: tuple[SeriesKey, ...] = ()
        self._columns: tuple[str, ...] = ()
        self._window_ns = 0
        self._seen: tuple[str, ...] = ()  # columns of the last panel, and whether there is a clock among them
        self._clock = False
        self._ready: tuple[Float64, Float64] | None = None
        self._allocate(0)

    def _allocate(self, channels: int, slots: int = 0) -> None:
        self._registers = no_blocks(channels)
        self._tails = np.zeros((channels, 3, BUCKETS, 2), np.float32)
        self._profile = np.full((channels, slots, 2), UNSEEN, np.uint16)

    def fit(self, history: Panel) -> None:
        """Learn from history by passing over it once, as if it had been live."""
        self.align(history.keys)
        self.advance(history)

    def align(self, keys: Sequence[SeriesKey]) -> None:
        """Let the state follow the keys; new ones start cold, those that left are forgotten."""
        new = tuple(keys)
        if new is self._keys:
            return
        if new == self._keys:
            self._keys = new  # the caller's own tuple: the same one again costs nothing
            return
        width = len(self._columns)
        to, at = rows_that_stay(self._keys, new, width)
        registers, tails, profile = self._registers, self._tails, self._profile
        self._keys = new
        if not width:
            return
        self._allocate(len(new) * width, profile.shape[1])
        rows = self._stagger()
        rows[to] = rows_of(registers, len(tails))[at]
        self._registers = blocks_of(rows)
        self._tails[to] = tails[at]
        self._profile[to] = profile[at]

    def _stagger(self) -> Float64:
        """Registers of fresh channels, as rows: nothing but when to refit."""
        width = len(self._columns)
        rows = np.zeros((len(self._keys) * width, len(FIELDS)))
        for i, key in enumerate(self._keys):
            mark = zlib.crc32(str(key).encode())
            for c in range(width):
                rows[i * width + c, _STAGGER] = float((mark + 7919 * c) % 65521)
        return rows

    def _settle(self, panel: Panel) -> None:
        """Take columns and window length from the first panel."""
        channels = panel.channels
        if self._columns:
            if channels != self._columns or panel.window_ns != self._window_ns:
                raise ConfigError(
                    f"light: learnt columns {self._columns} of {self._window_ns} ns windows, "
                    f"got {channels} of {panel.window_ns} ns"
                )
        else:
            self._columns, self._window_ns = channels, panel.window_ns
            self._allocate(len(self._keys) * len(self._columns))
            self._registers = blocks_of(self._stagger())
        if panel.keys is not self._keys:
            self.align(panel.keys)
        if self._slots and not self._profile.shape[1] and "clock_slot" in panel.columns:
            self._profile = np.full((len(self._tails), self._slots, 2), UNSEEN, np.uint16)
        self._seen, self._clock = panel.columns, channels != panel.columns

    def _settings(self) -> tuple[Float64, Float64]:
        if self._ready is None:
            alpha, beta, clip, warmup, memory, refit, relearn, flag, per_day, gain, claim = self._params
            window = max(1, self._window_ns)
            if relearn is None:
                relearn = int(min(600, max(60, 600 * 10**9 // window)))
            day = max(1.0, _DAY_NS / window)
            prm = np.array(
                [
                    *(alpha, beta, clip, warmup, memory, refit, relearn, max(4.0 * relearn, day / 12.0)),
                    *(per_day / day, 1.0 / day, max(1.0, day / 96.0), flag, gain, claim),
                ]
            )
            self._ready = prm, np.array([quantum_of(c, window) for c in self._columns])
        return self._ready

    def advance(self, panel: Panel, *, explain: bool = False) -> Scores:
        """Score then learn; see `Model.advance`.

        Raises
        ------
        ConfigError
            If columns or window length are not those that it learnt.
        """
        keys, columns, window_ns, end_ns, values = panel
        if keys is not self._keys or columns != self._seen or window_ns != self._window_ns:
            self._settle(panel)  # not as the one before
        slots = _NO_SLOTS
        if self._clock:
            values = panel.channel_values()
            if self._profile.shape[1] and "clock_slot" in columns:
                slots = _season(panel)
        shape = values.shape
        said, side = np.empty((4 if explain else 1, *shape)), np.empty(shape, np.int8)
        prm, quanta = self._ready or self._settings()
        advance_light(
            np.ascontiguousarray(values), slots, prm, quanta, self._registers, self._tails, self._profile, said, side,
            True if len(self._tails) == 1 else None,
        )  # fmt: skip
        if explain:
            return Scores(keys, self._columns, end_ns, said[0], side, said[1], said[2], said[3])
        return Scores(keys, self._columns, end_ns, said[0], side)

    def peek(self, panel: Panel) -> Float64:
        """Surprise of a panel's windows, scored in order as `advance` would, with the state left as it was."""
        self._settle(panel)
        kept = self._registers, self._tails, self._profile
        registers, tails, profile = kept
        self._registers, self._tails, self._profile = no_blocks(len(tails)), tails.copy(), profile.copy()
        self._registers[:] = registers
        try:
            return self.advance(panel).surprise
        finally:
            self._registers, self._tails, self._profile = kept

    def snapshot(self) -> State:
        """All memory as plain arrays, with the keys and columns that they belong to."""
        return {
            "version": np.array([_VERSION, self._window_ns]),
            **pack_names(self._keys, self._columns),
            "registers": rows_of(self._registers, len(self._tails)),
            "tails": self._tails.copy(),
            "profile": self._profile.copy(),
        }

    def restore(self, state: State) -> None:
        """Continue exactly where `snapshot` was taken.

        Raises
        ------
        StoreError
            If the state is of another version or shape.
        """
        version = int(state["version"][0])
        if version != _VERSION:
            raise StoreError(f"light: state of version {version}, expected {_VERSION}")
        registers = np.array(state["registers"], np.float64)
        if registers.ndim != 2 or registers.shape[1] != len(FIELDS):
            raise StoreError(f"light: registers of shape {registers.shape}, expected (channels, {len(FIELDS)})")
        self._keys, self._columns = unpack_names(state)
        self._window_ns = int(state["version"][1])
        self._registers = blocks_of(registers)
        self._tails = np.array(state["tails"], np.float32)
        self._profile = np.array(state["profile"], np.uint16)
        self._ready, self._seen = None, ()
