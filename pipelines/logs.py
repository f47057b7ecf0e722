"""What jobs say of themselves: text for people on a terminal, a JSON object a line for machines. Always on stderr."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Literal

__all__ = ["Repeats", "setup"]

Format = Literal["auto", "text", "json"]
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """One line: ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``message``, and what the caller gave as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        out: dict[str, Any] = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        out |= {k: v for k, v in vars(record).items() if k not in _STANDARD}
        if record.exc_info:
            out["traceback"] = self.formatException(record.exc_info)
        return json.dumps(out, default=str)


class TextFormatter(logging.Formatter):
    """``12:30:05 warning watch: message``; control characters are shown, not obeyed."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%H:%M:%S", time.gmtime(record.created))
        text = record.getMessage()
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
        line = f"{at} {record.levelname.lower()} {record.name.removeprefix('tailwatch.')}: {shown}"
        return line + (f"\n{self.formatException(record.exc_info)}" if record.exc_info else "")


def setup(form: Format = "auto", level: str = "info") -> None:
    """Send the logs of this process to stderr; ``auto`` is text on a terminal and JSON elsewhere."""
    handler = logging.StreamHandler(sys.stderr)
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    handler.setFormatter(TextFormatter() if text else JsonFormatter())
    root = logging.getLogger("tailwatch")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False


class Repeats:
    """Lets the same trouble through once in a while, not ten times a second."""

    def __init__(self, every_s: float = 60.0) -> None:
        self._every_s = every_s
        self._last: dict[str, tuple[str, float, int]] = {}

    def pass_on(self, where: str, text: str) -> int | None:
        """None to keep silent; else how often it was kept silent since it was last told."""
        now = time.monotonic()
        before, at, kept = self._last.get(where, ("", 0.0, 0))
        if text == before and now - at < self._every_s:
            self._last[where] = (before, at, kept + 1)
            return None
        self._last[where] = (text, now, 0)
        return kept if text == before else 0
