"""Reading the parameters of a part: every name is asked for once, what is left over is a mistake."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from features.grid import duration_ns
from telemetry.errors import ConfigError
from telemetry.selectors import Selector
from telemetry.types import Nanos, SeriesKey

__all__ = ["AnyOf", "Params", "unknown"]


def unknown(what: str, name: object, known: Iterable[str], where: str) -> ConfigError:
    """An unknown name, with near matches or all that is known."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(names)}"
    return ConfigError(f"{where}: unknown {what} {name!r}; {hint}")


class AnyOf:
    """Series that any of several selectors means."""

    def __init__(self, selectors: Sequence[Selector | AnyOf]) -> None:
        self.selectors = tuple(selectors)
        self._possible: dict[str, tuple[Selector | AnyOf, ...]] = {}

    def matches(self, key: SeriesKey) -> bool:
        possible = self._possible.get(key.metric)
        if possible is None:  # thousands of flows share a metric
            possible = tuple(s for s in self.selectors if s.may_match(metric=key.metric))
            self._possible[key.metric] = possible
        return any(s.matches(key) for s in possible)

    def may_match(self, **known: str) -> bool:
        """Say whether a series of which only some labels are known could be meant."""
        return any(s.may_match(**known) for s in self.selectors)


class Params:
    """The parameters of one part.

    Parameters
    ----------
    values : mapping
    where : str
        Begins every error, as ``features[0] (window)``.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values, self.where = dict(values), where
        self._asked: set[str] = set()

    def raw(self, name: str, default: Any = None) -> Any:
        self._asked.add(name)
        value = self._values.get(name, default)
        return default if value is None else value

    def has(self, name: str) -> bool:
        return name in self._values

    def _expected(self, name: str, what: str, value: object) -> ConfigError:
        return ConfigError(f"{self.where}: {name}: expected {what}, got {value!r}")

    def duration(self, name: str, default: Any = None) -> Nanos:
        value = self.raw(name, default)
        if value is None:
            raise self._expected(name, "a duration such as '1s'", None)
        ns = duration_ns(value, f"{self.where}: {name}")
        if not 0 < ns < 1 << 60:
            raise self._expected(name, "more than 0 ns, less than 2^60", value)
        return ns

    def number(self, name: str, default: float | None = None) -> float:
        value = self.raw(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._expected(name, "a number", value)
        return float(value)

    def integer(self, name: str, default: int | None = None, least: int = 1) -> int:
        value = self.raw(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self._expected(name, f"a whole number of at least {least}", value)
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.raw(name, default)
        if not isinstance(value, bool):
            raise self._expected(name, "true or false", value)
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self.raw(name, default)
        if not isinstance(value, str):
            raise self._expected(name, "text", value)
        return value

    def names(self, name: str, default: Sequence[str] = ()) -> tuple[str, ...]:
        """A list of names, or one name, or names with commas between them."""
        value = self.raw(name, tuple(default))
        if isinstance(value, str):
            value = [v.strip() for v in value.split(",") if v.strip()]
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
            raise self._expected(name, "a list of names", value)
        return tuple(dict.fromkeys(value))

    def given(self, **values: Any) -> Params:
        """The same part with some values set; what is asked of either counts for both."""
        other = Params({**self._values, **values}, self.where)
        other._asked = self._asked
        return other

    def select(self, name: str, default: str | None = "") -> AnyOf:
        """A selector (``telemetry/selectors.py``) or a list of them (any may match); empty selects all."""
        value = self.raw(name, default)
        if isinstance(value, AnyOf):
            return value
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, (list, tuple)) or not all(isinstance(t, str) for t in texts):
            raise self._expected(name, "a selector or a list of selectors", value)
        try:
            return AnyOf(tuple(Selector.parse(t) for t in texts))
        except ConfigError as error:
            raise ConfigError(f"{self.where}: {name}: {error}") from None

    def done(self) -> None:
        """Complain about what nobody asked for."""
        for name in self._values:
            if name not in self._asked:
                raise unknown("parameter", name, self._asked, self.where)
