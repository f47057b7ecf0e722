"""Which series are meant: Prometheus-like matchers on host, metric and labels.

``irq_total{cpu="3"}`` and ``metric=~"irq_.*",cpu="3"`` are the two ways to write one. The four matchers are
``=``, ``!=``, ``=~`` and ``!~``; a regular expression must match the whole value; a label that is absent has
the value "". Quotes may be left out around plain values (``cpu=3``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from telemetry.errors import ConfigError
from telemetry.types import SeriesKey

__all__ = ["Matcher", "Select", "Selector", "of_host", "predicate"]

_PART = re.compile(
    r"""\s*(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*(?P<op>=~|!~|!=|=)\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^",{}=\s]*))\s*(?:,|$)"""
)
_HEAD = re.compile(r"\s*(?P<metric>[A-Za-z_:][A-Za-z0-9_:]*)\s*(?:\{(?P<body>.*)\}\s*)?$", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition. `op` is ``=``, ``!=``, ``=~`` or ``!~``."""

    name: str
    op: str
    value: str
    pattern: re.Pattern[str] | None = None

    def matches(self, value: str) -> bool:
        """Say whether a label's value meets the condition."""
        if self.pattern is None:
            return (value == self.value) == (self.op == "=")
        return (self.pattern.fullmatch(value) is not None) == (self.op == "=~")

    def __str__(self) -> str:
        text = self.value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'{self.name}{self.op}"{text}"'


@dataclass(frozen=True, slots=True)
class Selector:
    """All conditions must hold; none means every series.

    Examples
    --------
    >>> Selector.parse('metric=~"irq_.*",cpu="3"').matches(SeriesKey.of("tx07", "irq_total", cpu=3, irq=42))
    True
    >>> Selector.parse("irq_total{cpu!=3}").matches(SeriesKey.of("tx07", "irq_total", cpu=3))
    False
    """

    matchers: tuple[Matcher, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Read matchers.

        Raises
        ------
        ConfigError
            If `text` is not a list of matchers, or a regular expression is not one.
        """
        head = _HEAD.match(text)
        found: list[Matcher] = []
        body = text
        if head is not None:
            found.append(Matcher("metric", "=", head["metric"]))
            body = head["body"] or ""
        elif text.strip().startswith("{") and text.strip().endswith("}"):
            body = text.strip()[1:-1]
        at = 0
        while body[at:].strip():
            part = _PART.match(body, at)
            if part is None:
                raise ConfigError(f'selector: expected name="value" (or =~, !=, !~) at character {at} of {body!r}')
            if part["quoted"] is not None:
                value = _ESCAPE.sub(_unescape, part["quoted"])
            else:
                value = part["plain"]
            found.append(_matcher(part["name"], part["op"], value))
            at = part.end()
        return cls(tuple(found))

    def matches(self, key: SeriesKey) -> bool:
        """Say whether a series is meant."""
        return all(m.matches(key.label(m.name)) for m in self.matchers)

    def may_match(self, **known: str) -> bool:
        """Say whether a series of which only some labels are known could be meant (to skip whole files)."""
        return all(m.matches(known[m.name]) for m in self.matchers if m.name in known)

    def __str__(self) -> str:
        return ",".join(map(str, self.matchers))


Select: TypeAlias = "Selector | str | Sequence[Selector | str] | Callable[[SeriesKey], bool] | None"
"""What may be given as a selection: one selector or several (any of them), text, or a function of the key."""


def of_host(host: str) -> Selector:
    """All series of a host, whatever characters its name is made of."""
    return Selector((Matcher("host", "=", host),))


def predicate(select: Select) -> tuple[Callable[[SeriesKey], bool] | None, tuple[Selector, ...]]:
    """Turn a selection into a function of the key (None: everything) and its selectors, for pruning."""
    if select is None:
        return None, ()
    if callable(select):
        return select, ()
    many: Iterable[Selector | str] = (select,) if isinstance(select, (Selector, str)) else select
    selectors = tuple(Selector.parse(s) if isinstance(s, str) else s for s in many)
    return (lambda key: any(s.matches(key) for s in selectors)), selectors


def _unescape(m: re.Match[str]) -> str:
    # Only the quote is escaped by necessity; a regular expression keeps its backslashes.
    return {"n": "\n", '"': '"', "\\": "\\"}.get(m.group(1), m.group(0))


def _matcher(name: str, op: str, value: str) -> Matcher:
    if op not in ("=~", "!~"):
        return Matcher(name, op, value)
    try:
        return Matcher(name, op, value, re.compile(value))
    except re.error as error:
        raise ConfigError(f"selector: {value!r} is not a regular expression: {error}") from None
