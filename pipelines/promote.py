"""The gate: a challenger becomes champion if it is not worse on the same incidents and clean time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipelines.backtest import Outcome, false_by_block
from pipelines.resolve import Candidate
from telemetry.types import Label, Nanos

__all__ = ["Verdict", "compare", "fair"]

DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the challenger may take over, and why.

    `differences` maps a figure to (challenger - champion, low, high), 95 % paired bootstrap.
    """

    answer: Literal["better", "not worse", "worse"]
    reasons: tuple[str, ...]
    differences: dict[str, tuple[float, float, float]]
    lost: tuple[str, ...]
    gained: tuple[str, ...]

    @property
    def text(self) -> str:
        return f"{self.answer}: {'; '.join(self.reasons) or 'no difference that shows'}"


def fair(
    candidates: Sequence[Candidate], labels: Sequence[Label], from_ns: Nanos, to_ns: Nanos, last_ns: Nanos
) -> tuple[list[Candidate], Nanos, str]:
    """Make a comparison even: (candidates, start, what was done).

    What came after both were trained is judged from their states, if it holds a labelled incident; if not, all are
    replayed over the whole range from a cold start, because a state knows the future of what it was trained on.
    """
    start = max([from_ns, *(c.make().watermark_ns for c in candidates if c.snapshot is not None)])
    end = min(to_ns, last_ns + 1)
    inside = [x for x in labels if x.kind != "none" and from_ns < x.end_ns and x.start_ns < end]
    if start < end and (not inside or any(x.start_ns >= start for x in inside)):
        return list(candidates), start, "since their training"
    return [c.cold() for c in candidates], from_ns, "from a cold start (no labelled incident since their training)"


def compare(champion: Outcome, challenger: Outcome, labels: Sequence[Label], seed: int = 0) -> Verdict:
    """Compare two backtests over the same range.

    Worse is: fewer incidents found; or more false alarms, or a longer delay on incidents that both found, by more
    than chance (the paired 95 % interval lies above zero).
    """
    rng = np.random.default_rng(seed)
    old = {m.label.id: m for m in champion.evaluation.matches}
    new = {m.label.id: m for m in challenger.evaluation.matches}
    ids = sorted(old.keys() & new.keys())
    was = np.array([old[i].finding is not None for i in ids], float)
    now = np.array([new[i].finding is not None for i in ids], float)
    lost = tuple(i for i, a, b in zip(ids, was, now, strict=True) if a and not b)
    gained = tuple(i for i, a, b in zip(ids, was, now, strict=True) if b and not a)
    differences: dict[str, tuple[float, float, float]] = {}
    if ids:
        differences["event_recall"] = _paired(now - was, rng)
    lo, hi = min(champion.from_ns, challenger.from_ns), max(champion.to_ns, challenger.to_ns)
    false = [false_by_block(o.evaluation, lo, hi) for o in (champion, challenger)]
    per_day = 86_400e9 / ((hi - lo) / len(false[0]))
    differences["false_per_day"] = _paired((false[1] - false[0]) * per_day, rng)
    both = [(old[i].delay_ns, new[i].delay_ns) for i in ids]
    delays = np.array([(b - a) / 1e9 for a, b in both if a is not None and b is not None])
    if len(delays):
        differences["delay_s"] = _paired(delays, rng)
    reasons = []
    if len(lost) > len(gained):
        reasons.append(
            f"finds {int(now.sum())} of {len(ids)} incidents, the champion {int(was.sum())}; loses {', '.join(lost)}"
        )
    if differences["false_per_day"][1] > 0:
        reasons.append("{:+.2f} false alarms a day ({:+.2f} to {:+.2f})".format(*differences["false_per_day"]))
    if "delay_s" in differences and differences["delay_s"][1] > 0:
        reasons.append("later by {:.2f} s ({:.2f} to {:.2f})".format(*differences["delay_s"]))
    if reasons:
        return Verdict("worse", tuple(reasons), differences, lost, gained)
    if len(gained) > len(lost):
        reasons.append(f"finds {len(gained) - len(lost)} more of {len(ids)} incidents")
    if differences["false_per_day"][2] < 0:
        reasons.append("{:+.2f} false alarms a day ({:+.2f} to {:+.2f})".format(*differences["false_per_day"]))
    if "delay_s" in differences and differences["delay_s"][2] < 0:
        reasons.append("earlier by {:.2f} s".format(-differences["delay_s"][0]))
    return Verdict("better" if reasons else "not worse", tuple(reasons), differences, lost, gained)


def _paired(delta: np.ndarray, rng: np.random.Generator) -> tuple[float, float, float]:
    draws = rng.choice(delta, (DRAWS, len(delta))).mean(axis=1)
    lo, hi = np.quantile(draws, [0.025, 0.975])
    return float(delta.mean()), float(lo), float(hi)
