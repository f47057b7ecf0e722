"""Whether the tracking store can be reached, and who may open it: asked before MLflow asks again and again."""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from telemetry.errors import StoreError

__all__ = ["Unreachable", "alone", "answers", "without_password"]


class Unreachable(StoreError):
    """The tracking server does not answer."""


@contextmanager
def alone(tracking: str) -> Iterator[None]:
    """Hold a lock while a local SQLite store is first opened: its migration does not bear company."""
    if not tracking.startswith("sqlite:///"):
        yield
        return
    path = Path(tracking.removeprefix("sqlite:///")).absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_suffix(".lock"), "w")  # noqa: SIM115
    except OSError as error:
        raise StoreError(f"{path}: the MLflow store cannot be made there: {error.strerror}") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def answers(tracking: str) -> None:
    """Ask a server whether it is there, before MLflow asks it again and again.

    Raises
    ------
    Unreachable
    """
    parts = urlsplit(tracking)
    if not parts.hostname:
        return
    ports = {"http": 80, "https": 443, "mysql": 3306}
    try:
        port = parts.port or ports.get(parts.scheme.partition("+")[0], 5432)
        with socket.create_connection((parts.hostname, port), timeout=5):
            pass
    except (OSError, ValueError) as error:
        raise Unreachable(f"MLflow at {without_password(tracking)} does not answer ({error})") from None


def without_password(uri: str) -> str:
    """A URI as it may be shown."""
    head, at, tail = uri.rpartition("@")
    return f"{head.split('://')[0]}://***@{tail}" if at else uri
