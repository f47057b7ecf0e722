"""Lasting changes of a level: the shift head.

The last 3 to 14 values are held against those before them (32 at most, since the last change): all must lie beyond half
the way from the median of those to theirs. How likely one value is to do that is read off the channel's own last 150
deviations, so a series with spikes needs more values than a quiet one; k values in a row make k times the surprise of
one. Fewer than ten values must also move by 5 % of the level, else a short excursion would count as a change. After a
change the segment starts anew. No distribution is assumed; a spike alone never counts, and the end of a short, small
excursion is the same event as its start.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from models.keyed import ChannelState, within
from telemetry.errors import StoreError
from telemetry.types import Float64, Int8, Panel, Scores, SeriesKey, State

__all__ = ["BAR", "ShiftModel"]

BAR = 8.5
"""Surprise from which a change is a change, and the segment starts anew."""

_VERSION = 2
_RING = 128
_DEVIATIONS = 150
_REFERENCE = 32
_LEAST = 6
_HOLD = 18
"""Rows after which a deviation is learnt: longer than the longest run, so that a change is not its own precedent."""
_BACK = 25
_BACK_SHARE = 0.04
"""A return within as many rows, of a move less than this share of the level, is no new event."""
_SHORT = 10
_RUNS = (3, 4, 5, 6, 8, 10, 12, 14)
_SEEN, _START, _DEVS, _MID, _BEFORE = range(5)
_FIELDS = 5


@njit(cache=True, nogil=True)
def _gather(ring: Float64, first: int, last: int) -> Float64:
    """Samples [first, last) of the ring, ascending."""
    out = np.empty(last - first)
    for j in range(first, last):
        out[j - first] = ring[j % _RING]
    out.sort()
    return out


@njit(cache=True, nogil=True)
def _middle(ordered: Float64) -> float:
    n = len(ordered)
    return ordered[n >> 1] if n & 1 else 0.5 * (ordered[(n >> 1) - 1] + ordered[n >> 1])


@njit(cache=True, nogil=True)
def _step(x: float, ring: Float64, devs: Float64, reg: Float64, bar: float, least: float, share: float) -> float:
    """Surprise of a change ending at this value, signed by its direction; 0 if there is none."""
    m = int(reg[_SEEN])
    start = int(reg[_START])
    ring[m % _RING] = x
    m += 1
    reg[_SEEN] = m
    if m == 1:
        reg[_BEFORE] = np.inf
    if m % 4 == 0 or m - start < 40:
        first = max(start, m - 3 - _REFERENCE)
        if m - 3 > first:
            reg[_MID] = _middle(_gather(ring, first, m - 3))
    known = min(int(reg[_DEVS]), _DEVIATIONS)
    best = 0.0
    run = 0
    side = 1.0 if x > reg[_MID] else -1.0
    for k in _RUNS:
        r = min(m - k - start, _REFERENCE)
        if r < _LEAST or known < 20:
            break
        while run < k and (ring[(m - 1 - run) % _RING] - reg[_MID]) * side > 0.0:
            run += 1
        if run < k:
            break
        level = _middle(_gather(ring, m - k - r, m - k))
        last = _gather(ring, m - k, m)
        move = _middle(last) - level
        half = level + 0.5 * move
        if move == 0.0 or (move > 0.0 and last[0] < half) or (move < 0.0 and last[-1] > half):
            continue
        reach = 0
        for j in range(known):
            if devs[j] > 0.5 * abs(move):
                reach += 1
        surprise = -k * np.log10((reach + 0.5) / (known + 1.0))
        if surprise <= best:
            continue
        spread = 2.0 * _middle(np.sort(devs[:known]))
        need = least + spread + 0.002 * abs(level)
        if k < _SHORT:
            need = max(need, share * abs(level))
        if abs(move) < need:
            continue
        best = surprise
        if best >= bar:
            new = _middle(last)
            small = m - k - start < _BACK and abs(move) < _BACK_SHARE * abs(level)
            if small and abs(new - reg[_BEFORE]) < 0.25 * abs(move):
                best = 0.9 * bar
            reg[_START] = start = m - k
            reg[_MID] = new
            reg[_BEFORE] = level
            break
    old = m - 1 - _HOLD
    if old >= start:
        near = _gather(ring, max(start, old - 40), old + _HOLD)
        devs[int(reg[_DEVS]) % _DEVIATIONS] = abs(ring[old % _RING] - _middle(near))
        reg[_DEVS] += 1.0
    return best * side


@njit(cache=True, nogil=True)
def _advance(
    values: Float64,
    rings: Float64,
    devs: Float64,
    reg: Float64,
    bar: float,
    least: float,
    share: float,
    surprise: Float64,
    side: Int8,
    level: Float64,
) -> None:
    for c in range(values.shape[1]):
        for w in range(values.shape[0]):
            x = values[w, c]
            if not np.isfinite(x):
                continue
            warm = reg[c, _DEVS] >= 20.0
            if len(level) > 0:
                level[w, c] = reg[c, _MID] if reg[c, _SEEN] > 3.0 else np.nan
            s = _step(x, rings[c], devs[c], reg[c], bar, least, share)
            if warm:
                surprise[w, c] = abs(s)
                side[w, c] = int(np.sign(s))


class ShiftModel:
    """Surprise of lasting level shifts (RTT changes, a new route, a slower path), one report each.

    Parameters
    ----------
    bar : float
        Surprise from which a change is reported and relearnt.
    least : float
        A change must move the median by at least this much, in the series' own unit, beside its spread.
    share : float
        Changes seen in fewer than ten values must move it by this share of the level.

    Notes
    -----
    Between changes surprise is mostly 0: it is the head for changes only. About 3 kB a channel.

    Examples
    --------
    >>> import numpy as np
    >>> from telemetry.types import Panel, SeriesKey
    >>> x = np.random.default_rng(0).normal(100.0, 0.5, (300, 1, 1)); x[200:] += 12.0
    >>> key = SeriesKey("a", "rtt_ms")
    >>> model = ShiftModel()
    >>> model.align([key])
    >>> scores = model.advance(Panel((key,), ("p50",), 10**9, np.arange(300) * 10**9, x))
    >>> [int(i) for i in np.flatnonzero(scores.surprise[:, 0, 0] >= 9.0)]
    [203]
    """

    def __init__(self, *, bar: float = BAR, least: float = 0.3, share: float = 0.05) -> None:
        within("shift", ("bar", bar, 1.0, 100.0), ("least", least, 0.0, 1e300), ("share", share, 0, 10))
        self._params = (float(bar), float(least), float(share))
        self._state = ChannelState("shift", self._fresh)

    @staticmethod
    def _fresh(channels: int) -> dict[str, Float64]:
        shapes = {"rings": _RING, "devs": _DEVIATIONS, "reg": _FIELDS}
        return {name: np.zeros((channels, width)) for name, width in shapes.items()}

    def fit(self, history: Panel) -> None:
        """Learn from history by passing over it once, as if it had been live."""
        self.align(history.keys)
        self.advance(history)

    def align(self, keys: Sequence[SeriesKey]) -> None:
        """Let the state follow the keys; new ones start cold, those that left are forgotten."""
        self._state.align(keys)

    def advance(self, panel: Panel, *, explain: bool = False) -> Scores:
        """Score then learn; see `Model.advance`.

        Raises
        ------
        ConfigError
            If the columns are not those that it learnt.
        """
        self._state.settle(panel)
        values = panel.channel_values()
        shape = values.shape
        flat = values.reshape(shape[0], shape[1] * shape[2])
        surprise = np.full(flat.shape, np.nan)
        side = np.zeros(flat.shape, np.int8)
        level = np.full(flat.shape if explain else (0, 0), np.nan)
        k = self._state.rows
        _advance(flat, k["rings"], k["devs"], k["reg"], *self._params, surprise, side, level)
        expected = level.reshape(shape) if explain else None
        return Scores(
            panel.keys, panel.channels, panel.end_ns, surprise.reshape(shape), side.reshape(shape), expected=expected
        )

    def snapshot(self) -> State:
        """All memory as plain arrays, with the keys and columns that they belong to."""
        return {"version": np.array([_VERSION]), **self._state.pack()}

    def restore(self, state: State) -> None:
        """Continue exactly where `snapshot` was taken.

        Raises
        ------
        StoreError
            If the state is of another version or shape.
        """
        version = int(state["version"][0])
        if version != _VERSION:
            raise StoreError(f"shift: state of version {version}, expected {_VERSION}")
        self._state.unpack(state)
