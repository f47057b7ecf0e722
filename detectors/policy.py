"""From surprise to alerts under a budget of false alarms.

A user sets how many false alerts a host and day may cost. The budget is shared over the host's warm channels
and becomes a probability per window, i.e. a threshold T on -log10 p. A channel with little history cannot show a
probability that small in one window; then windows must agree: k of the last k + 2 windows, each of which needs only
about T / k. Windows are not independent, so the k-th counts `AGREE` to the power of k - 1 only, and the number of ways
to choose k of k + 2 is paid for. A fixed threshold is taken as it is: whoever sets one has calibrated it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numba import njit

from models.keyed import rows_before
from telemetry.errors import ConfigError, StoreError
from telemetry.types import Float64, Int8, Int64, Nanos, SeriesKey, State

__all__ = ["ALERT", "EVIDENCE", "BudgetPolicy", "Decision", "Policy"]

EVIDENCE = 1
ALERT = 2
DAY_NS = 86_400_000_000_000
AGREE = 0.9
ELEVATED = 1.5
MOST = 8
RING = MOST + 2
_MARKS = ("warm", "since", "elevated", "firing", "said")
CHOICES = np.array([0.0, 0.0] + [math.log10(math.comb(k + 2, k)) for k in range(2, MOST + 1)])
_LEAST = np.array([0.0, 0.0] + [(1.0 - 1e-9) / (k * AGREE ** (k - 1)) for k in range(2, MOST + 1)])


class Decision(NamedTuple):
    """Per (window, series, column): score in [0, 1] (0.5 at the threshold), grade, onset."""

    score: Float64
    grade: Int8
    onset_ns: Int64
    graded: bool = True
    """False: it is known that no grade is above 0."""


@runtime_checkable
class Policy(Protocol):
    """Decides which surprises people hear of. Never feeds back into a model."""

    def align(self, keys: Sequence[SeriesKey], columns: Sequence[str]) -> None: ...
    def decide(self, end_ns: Int64, window_ns: Nanos, surprise: Float64) -> Decision: ...
    def snapshot(self) -> State: ...
    def restore(self, state: State) -> None: ...


@njit(cache=True, nogil=True)
def _evidence(ring, c, at, choices, ranked):  # type: ignore[no-untyped-def]
    """The best of k * AGREE^(k-1) * (k-th largest of the last k + 2 surprises) less the choices, k = 1..MOST."""
    best, weight = ring[at, c], 1.0
    low = best  # what is not above it betters nothing: in a k-th place it says less than the last window alone
    for k in range(2, MOST + 1):
        low = min(low, (best + choices * CHOICES[k]) * _LEAST[k])
    n = 0
    for back in range(RING):  # into `ranked`: the last windows, largest first
        v = ring[at - back if at >= back else at - back + RING, c]
        if v > low:
            j = n
            while j > 0 and ranked[j - 1] < v:
                ranked[j] = ranked[j - 1]
                j -= 1
            ranked[j] = v
            n += 1
        k = back - 1
        if k >= 2:
            weight *= AGREE
            if n >= k:
                e = k * weight * ranked[k - 1] - choices * CHOICES[k]
                if e > best:
                    best = e
    return best


@njit(cache=True, nogil=True)
def _decide(  # type: ignore[no-untyped-def]
    end_ns, window_ns, surprises, host, per_host, log_windows, choices, weak, hold_ns, repeat_ns,
    ring, at, marks, scores, grades, onsets,
):  # fmt: skip
    """Decide; `per_host` are the warm channels of each host, and last those that are not.

    Returns the ring's place, and whether there is a grade.

    `surprises`, `scores`, `grades` and `onsets` are (windows, series, columns).
    """
    n_windows, n = surprises.shape[0], surprises.shape[1] * surprises.shape[2]
    surprise, score = surprises.reshape((n_windows, n)), scores.reshape((n_windows, n))
    grade, onset = grades.reshape((n_windows, n)), onsets.reshape((n_windows, n))
    warm, since, elevated, firing, said = marks[0], marks[1], marks[2], marks[3], marks[4]
    cold = per_host[-1]
    ranked = np.empty(RING, np.float64)
    graded = False
    for w in range(n_windows):
        at = (at + 1) % RING
        end = end_ns[w]
        if cold > 0:  # before anything is decided: a threshold must not depend on the order of channels
            for c in range(n):
                if warm[c] == 0 and not np.isnan(surprise[w, c]):
                    warm[c] = 1
                    cold -= 1
                    per_host[host[c]] += 1
        here, kept, rated = surprise[w], ring[at], score[w]
        for c in range(n):
            s = here[c]
            rated[c] = 0.0 if s == s else np.nan
            kept[c] = s if s == s else 0.0
        grade[w] = 0
        onset[w] = 0
        for c in range(n):
            s = here[c]
            if not s >= ELEVATED:  # also where it is missing: nearly always
                if firing[c] > 0 and end - firing[c] >= hold_ns:
                    firing[c] = 0
                continue
            if since[c] == 0 or end - elevated[c] > 3 * window_ns:
                since[c] = end - window_ns
            elevated[c] = end
            threshold = log_windows + np.log10(per_host[host[c]])
            e = _evidence(ring, c, at, choices, ranked)
            score[w, c] = e / (e + threshold)
            onset[w, c] = since[c]
            over = e >= threshold
            if firing[c] > 0:
                if over or e >= 0.5 * threshold:
                    firing[c] = end
                elif end - firing[c] >= hold_ns:
                    firing[c] = 0
            if over and firing[c] == 0:
                firing[c] = end
                said[c] = end
                grade[w, c] = 2
                graded = True
            elif e >= weak and end - said[c] >= repeat_ns:
                said[c] = end
                grade[w, c] = 1
                graded = True
    per_host[-1] = cold
    return at, graded


class BudgetPolicy:
    """Alerts within a budget of false ones, from the first warm window on.

    Parameters
    ----------
    per_day : float
        False alerts a host and day that the user accepts.
    evidence : float
        Evidence from which a weaker deviation is passed on to join incidents (never to open one).
    hold_s, repeat_s : float
        An alerting channel is quiet until it was under half the threshold for `hold_s`; while it deviates it is
        repeated as evidence every `repeat_s`.
    threshold : float, optional
        A fixed threshold instead of the budget's.
    """

    def __init__(
        self,
        per_day: float = 1.0,
        evidence: float = 3.0,
        hold_s: float = 10.0,
        repeat_s: float = 1.0,
        threshold: float | None = None,
    ) -> None:
        if not per_day > 0:
            raise ConfigError(f"policy budget: per_day must be above 0, got {per_day!r}")
        self.per_day, self.evidence, self.threshold = float(per_day), float(evidence), threshold
        self._hold_ns, self._repeat_ns = round(hold_s * 1e9), round(repeat_s * 1e9)
        self._keys: tuple[SeriesKey, ...] = ()
        self._columns: tuple[str, ...] = ()
        self._at = 0
        self._window_ns, self._log_windows = 0, 0.0  # of the last windows
        self._resize(0)

    def _resize(self, n: int) -> None:
        self._ring, self._marks = np.zeros((RING, n)), np.zeros((len(_MARKS), n), np.int64)
        self._count()

    def _count(self) -> None:
        """Hosts by number, and how many of their channels are warm (the kernel keeps count from then on)."""
        warm = self._marks[0]
        if self.threshold is None:
            hosts: dict[str, int] = {}
            of = [hosts.setdefault(k.host, len(hosts)) for k in self._keys]
            self._host = np.repeat(np.array(of, np.int64), len(self._columns))
        else:  # one channel a "host": log10(1) adds nothing
            self._host = np.arange(len(warm), dtype=np.int64)
        per_host = np.bincount(self._host, weights=warm).astype(np.int64)
        self._per_host = np.append(per_host, len(warm) - warm.sum())

    def align(self, keys: Sequence[SeriesKey], columns: Sequence[str]) -> None:
        """Follow the panel's channels; a channel's state stays with its name."""
        columns = tuple(columns)
        if columns == self._columns and keys is self._keys:
            return
        if columns == self._columns and tuple(keys) == self._keys:
            self._keys = tuple(keys)  # the caller's own tuple: the same one again costs nothing
            return
        new = tuple(keys)
        if columns == self._columns:
            before = rows_before(self._keys, new, len(columns))
        else:
            known = {(k, c): i for i, (k, c) in enumerate((k, c) for k in self._keys for c in self._columns)}
            before = np.array([known.get((k, c), -1) for k in new for c in columns], np.int64)
        self._keys, self._columns = new, columns
        ring, marks = self._ring, self._marks
        self._resize(len(before))
        stay = np.flatnonzero(before >= 0)
        self._ring[:, stay], self._marks[:, stay] = ring[:, before[stay]], marks[:, before[stay]]
        self._count()

    def decide(self, end_ns: Int64, window_ns: Nanos, surprise: Float64) -> Decision:
        """Decide windows in order; `surprise` is (windows, series, columns)."""
        if window_ns != self._window_ns:
            self._window_ns = window_ns
            self._log_windows = math.log10(max(DAY_NS / window_ns / self.per_day, 1.0))
        if self.threshold is None:
            log_windows, choices = self._log_windows, 1.0
        else:
            log_windows, choices = float(self.threshold), 0.0
        shape = surprise.shape
        score, grade, onset = np.empty(shape), np.empty(shape, np.int8), np.empty(shape, np.int64)
        self._at, graded = _decide(
            np.ascontiguousarray(end_ns), window_ns, np.ascontiguousarray(surprise), self._host, self._per_host,
            log_windows, choices, self.evidence, self._hold_ns, self._repeat_ns, self._ring, self._at, self._marks,
            score, grade, onset,
        )  # fmt: skip
        return Decision(score, grade, onset, graded)

    def snapshot(self) -> State:
        keys, columns = np.array([str(k) for k in self._keys], np.str_), np.array(self._columns, np.str_)
        ring, marks = self._ring.copy(), self._marks.copy()
        return {"keys": keys, "columns": columns, "at": np.array(self._at), "ring": ring, "marks": marks}

    def restore(self, state: State) -> None:
        """Continue exactly where `snapshot` was taken.

        Raises
        ------
        StoreError
            If the state is not one of this policy.
        """
        keys, columns = state["keys"], tuple(str(c) for c in state["columns"])
        n = len(keys) * len(columns)
        shapes = [np.shape(state.get(name, ())) for name in ("ring", "marks")]
        if shapes != [(RING, n), (len(_MARKS), n)]:
            raise StoreError(
                f"policy budget: expected a state of shapes {[(RING, n), (len(_MARKS), n)]}, got {shapes} "
                "(written by another Tailwatch)"
            )
        self._keys, self._columns = tuple(SeriesKey.parse(str(k)) for k in keys), columns
        self._at = int(state["at"])
        self._ring, self._marks = np.array(state["ring"], np.float64), np.array(state["marks"], np.int64)
        self._count()
