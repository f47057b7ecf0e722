"""What a benchmark returns: figures with their goals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Row", "attempt", "to_json"]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `value` None means it could not be measured; then `reason` says why."""

    name: str
    value: float | None
    unit: str
    goal: float | None
    direction: Literal[">=", "<="]
    reason: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal was met; None without a value or a goal."""
        if self.value is None or self.goal is None:
            return None
        return self.value >= self.goal if self.direction == ">=" else self.value <= self.goal


def attempt(rows: Sequence[Row], measure: Callable[[], Sequence[float]]) -> list[Row]:
    """Fill `rows` (their values None) with what `measure` returns; on failure keep None and the reason."""
    try:
        values = measure()
    except Exception as error:
        return [Row(r.name, None, r.unit, r.goal, r.direction, f"{type(error).__name__}: {error}") for r in rows]
    return [Row(r.name, v, r.unit, r.goal, r.direction, r.reason) for r, v in zip(rows, values, strict=True)]


def to_json(row: Row) -> dict[str, Any]:
    return {**asdict(row), "met": row.met}
