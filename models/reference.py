"""A level that stands still while something is wrong: the model behind the catalogue of incidents.

An incident is told from its size and its shape, and both are measured against what was normal *before* it. So each
channel keeps its last clean windows as they were. A window above the 95 % quantile is scored by how often as much was
seen before (the precedent rule) or, where it never was, by an exponential tail of the excesses. Windows in an episode
(several flagged among the last ten) teach nothing until the episode has lasted for `relearn` windows; then it is the
new normal. A lone flagged window teaches its clipped value, so heavy tails are learnt; of a channel at rest (a counter
of failures that stands still) only every tenth does, so that a trickle of failures is not taken for normal at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from models.keyed import ChannelState, within
from telemetry.errors import StoreError
from telemetry.types import Float64, Panel, Scores, SeriesKey, State

__all__ = ["ReferenceModel"]

TAIL = 0.05
TAIL_SURPRISE = 1.3010299956639813
PER_E = 0.4342944819032518
RECENT = 10
EPISODE = 3
CLIP = 3.0
LONE = 10
# columns of a channel's registers
_N, _AT, _MID, _HI, _HI_EXCESS, _LO, _LO_EXCESS, _DUE, _RUN, _FLAGS, _LONE = range(11)
_FIELDS = 11


@njit(cache=True, nogil=True)
def _refit(ring, n, quantum, reg):  # type: ignore[no-untyped-def]
    """Middle, tail quantiles and mean excesses of the clean windows."""
    x = np.sort(ring[:n])
    mid = x[n // 2]
    k = max(1, int(TAIL * n))
    hi, lo = x[n - 1 - k], x[k]
    up = 0.0
    down = 0.0
    for i in range(k):
        up += x[n - 1 - i] - hi
        down += lo - x[i]
    floor = max(quantum, 0.01 * abs(mid))
    reg[_MID] = mid
    reg[_HI] = hi
    reg[_LO] = lo
    reg[_HI_EXCESS] = max(up / k, 0.1 * (hi - mid), floor)
    reg[_LO_EXCESS] = max(down / k, 0.1 * (mid - lo), floor)


@njit(cache=True, nogil=True)
def _advance(  # type: ignore[no-untyped-def]
    values, quantum, warmup, relearn, flag, refit, absent, seen, ring, spare, reg, surprise, side, expected, lo, hi
):
    windows, channels = values.shape
    size = ring.shape[1]
    for c in range(channels):
        r = reg[c]
        q = quantum[c]
        for w in range(windows):
            x = values[w, c]
            if not np.isfinite(x):
                continue
            n = int(r[_N])
            if n == 0 and seen + w >= warmup and not np.isnan(absent):
                n = warmup  # it was not there because it had not happened yet
                ring[c, :n] = absent
                r[_N] = n
                _refit(ring[c], n, q, r)
                r[_DUE] = refit
            if n < warmup:
                ring[c, n] = x
                r[_N] = n + 1
                if n + 1 == warmup:
                    _refit(ring[c], warmup, q, r)
                    r[_DUE] = refit
                continue
            expected[w, c] = r[_MID]
            lo[w, c] = r[_LO]
            hi[w, c] = r[_HI]
            sign = 1.0 if x >= r[_MID] else -1.0
            edge = r[_HI] if sign > 0 else r[_LO]
            excess = r[_HI_EXCESS] if sign > 0 else r[_LO_EXCESS]
            beyond = sign * (x - edge)
            cap = 1.5 * np.log10(n + 1.0)
            if beyond <= 0.0:
                width = abs(edge - r[_MID])
                s = TAIL_SURPRISE * abs(x - r[_MID]) / width if width > 0.0 else 0.0
            else:
                as_much = 0
                for i in range(n):
                    if sign * (ring[c, i] - x) >= 0.0:
                        as_much += 1
                s = TAIL_SURPRISE + PER_E * beyond / excess
                rare = np.log10((n + 1.0) / (as_much + 1.0))
                s = min(max(s, rare), cap) if as_much == 0 else min(s, rare)
            surprise[w, c] = s
            side[w, c] = 0 if x == r[_MID] else (1 if sign > 0 else -1)

            flagged = s >= flag
            bits = (int(r[_FLAGS]) << 1 | (1 if flagged else 0)) & 1023
            r[_FLAGS] = bits
            recent = 0
            for i in range(RECENT):
                recent += (bits >> i) & 1
            if recent >= EPISODE:
                run = int(r[_RUN])
                spare[c, run % spare.shape[1]] = x
                run += 1
                r[_RUN] = run
                if run >= relearn:  # the new normal: what the episode's last windows looked like
                    kept = min(run, spare.shape[1], size)
                    for i in range(kept):
                        ring[c, i] = spare[c, (run - kept + i) % spare.shape[1]]
                    r[_N] = kept
                    r[_AT] = kept % size
                    r[_RUN] = 0
                    r[_FLAGS] = 0
                    _refit(ring[c], kept, q, r)
                    r[_DUE] = refit
                continue
            if recent == 0:
                r[_RUN] = 0
            if flagged:
                if r[_HI] == r[_MID] and r[_LO] == r[_MID]:
                    r[_LONE] += 1
                    if int(r[_LONE]) % LONE:
                        continue
                x = edge + sign * min(beyond, CLIP * excess)
            at = int(r[_AT]) if n == size else n
            ring[c, at] = x
            r[_AT] = (at + 1) % size
            r[_N] = min(n + 1, size)
            r[_DUE] -= 1
            if r[_DUE] <= 0:
                _refit(ring[c], int(r[_N]), q, r)
                r[_DUE] = refit if n >= size // 2 else max(1, refit // 4)


class ReferenceModel:
    """Surprise against the last clean windows, with a reference that an episode cannot move.

    Parameters
    ----------
    warmup : int
        Clean windows before the first score (NaN until then).
    memory : int
        Clean windows that are kept.
    relearn : int
        Windows of an episode after which it is the new normal.
    flag : float
        Surprise from which a window counts as part of an episode.
    refit : int
        Clean windows between two refits (a quarter of it while young).
    absent : float, optional
        What a series that appears later is taken to have been before (0 for errors that exist only once they happen);
        by default it starts cold.

    Notes
    -----
    Precedent rule and tail as in Siffer et al. (KDD 2017) with shape 0; surprise is at most
    ``1.5 log10(clean windows + 1)``.
    """

    def __init__(
        self,
        *,
        warmup: int = 50,
        memory: int = 512,
        relearn: int = 600,
        flag: float = 1.5,
        refit: int = 16,
        absent: float | None = None,
    ) -> None:
        within(
            "reference",
            ("warmup", warmup, 16, memory),
            ("memory", memory, 32, 100_000),
            ("relearn", relearn, 32, 10**7),
            ("flag", flag, 1.4, 10.0),
            ("refit", refit, 1, 10_000),
        )
        self._params = (float(warmup), float(memory), float(relearn), float(flag), float(refit))
        self._absent = float("nan") if absent is None else float(absent)
        self._seen = 0
        self._state = ChannelState("reference", self._fresh)

    def _fresh(self, channels: int) -> dict[str, Float64]:
        memory, relearn = int(self._params[1]), int(self._params[2])
        shapes = {"ring": memory, "spare": min(memory, relearn), "registers": _FIELDS}
        return {name: np.zeros((channels, width)) for name, width in shapes.items()}

    def fit(self, history: Panel) -> None:
        """Learn from history by passing over it once, as if it had been live."""
        self.align(history.keys)
        self.advance(history)

    def align(self, keys: Sequence[SeriesKey]) -> None:
        """Let the state follow the keys; new ones start cold, those that left are forgotten."""
        self._state.align(keys)

    def advance(self, panel: Panel, *, explain: bool = False) -> Scores:
        """Score then learn, window by window."""
        self._state.settle(panel)
        columns, k = panel.channels, self._state.rows
        values = panel.channel_values()
        shape = values.shape
        flat = values.reshape(shape[0], shape[1] * shape[2])
        quantum = np.tile([_quantum(c, panel.window_ns) for c in columns], shape[1])
        warmup, _, relearn, flag, refit = self._params
        out = [np.full(flat.shape, np.nan) for _ in range(4)]
        side = np.zeros(flat.shape, np.int8)
        _advance(
            flat, quantum, int(warmup), int(relearn), flag, int(refit), self._absent, self._seen,
            k["ring"], k["spare"], k["registers"], out[0], side, *out[1:],
        )  # fmt: skip
        self._seen += shape[0]
        surprise, expected, lo, hi = (x.reshape(shape) for x in out)
        if not explain:
            return Scores(panel.keys, columns, panel.end_ns, surprise, side.reshape(shape))
        return Scores(panel.keys, columns, panel.end_ns, surprise, side.reshape(shape), expected, lo, hi)

    def snapshot(self) -> State:
        return {"params": np.array(self._params), "seen": np.array(self._seen), **self._state.pack()}

    def restore(self, state: State) -> None:
        if tuple(float(x) for x in state["params"]) != self._params:
            raise StoreError("reference model state: it is of other parameters")
        self._seen = int(state["seen"])
        self._state.unpack(state)


def _quantum(column: str, window_ns: int) -> float:
    """Smallest step of a column that means something: one event, as a count or as a rate per second."""
    if column.startswith("rate"):
        return 1e9 / window_ns
    return 1.0 if column.startswith(("count", "sum", "increment", "last", "max")) else 1e-3
