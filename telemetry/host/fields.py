"""What parsers of the kernel's tables have in common: their type, names of metrics and labels, files of one number."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from telemetry.errors import InputError
from telemetry.host.scan import Field, Token

__all__ = ["Line", "Parser", "named", "of_labels", "single"]

Line = list[Token]
Parser = Callable[[Sequence[Line]], list[Field]]
"""From the words of a file (`telemetry.host.scan.lines`) to which number is which series, by the file's names alone."""

_NOT_METRIC = re.compile(r"[^A-Za-z0-9_]+")


def of_labels(**labels: str) -> tuple[tuple[str, str], ...]:
    """Sorted labels, empty ones left out."""
    return tuple(sorted((k, v) for k, v in labels.items() if v != ""))


def named(text: str) -> str:
    """A part of a metric's name from any text (ethtool's names differ per driver)."""
    return _NOT_METRIC.sub("_", text).strip("_") or "unnamed"


def single(metric: str, labels: Mapping[str, str] | None = None, *, scale: int = 1) -> Parser:
    """A file that holds one number."""

    def parse(rows: Sequence[Line]) -> list[Field]:
        if not rows or not rows[0] or rows[0][0].number < 0:
            raise InputError(f"{metric}: expected a number")
        return [Field(metric, of_labels(**(labels or {})), rows[0][0].number, scale)]

    return parse
