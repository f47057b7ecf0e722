"""One sentence about a host; the kernel's own files and sources, read without complaint."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from telemetry.errors import InputError
from telemetry.host.sources import HostSource

__all__ = ["Finding", "Level", "ask", "content"]

Level = Literal["ok", "note", "problem"]


class Finding(msgspec.Struct, frozen=True):
    """One sentence about this host. `remedy` is a suggestion; nothing is ever applied."""

    area: str
    level: Level
    what: str
    remedy: str = ""


def ask(source: HostSource) -> dict[str, int] | str:
    """A source's numbers by metric, or why there are none."""
    import numpy as np

    try:
        keys = source.discover()
        out = np.zeros(len(keys), np.int64)
        source.read(out)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    except InputError as error:
        return str(error)
    finally:
        source.close()
    return {k.metric: int(v) for k, v in zip(keys, out, strict=True)}


def content(path: Path) -> str:
    """The text of a file; "" if it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
