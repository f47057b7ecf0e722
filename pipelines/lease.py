"""One job a partition at a time: a lease in the state database, taken over from jobs that died."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from pipelines.state import StateDB
from telemetry.errors import NoDataError
from telemetry.types import Nanos

__all__ = ["LEASE_NS", "Locked", "myself", "take"]

LEASE_NS = 300_000_000_000


class Locked(NoDataError):
    """Another job holds the partition."""

    exit_code = 75


def myself() -> str:
    """This process, for a lease: host, pid and start time (pids are used again)."""
    return f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}"


def take(state: StateDB, part: str, owner: str, now_ns: Nanos) -> None:
    """Take the lease; at once from a job of this host that is dead.

    Raises
    ------
    Locked
        Another job holds it.
    """
    if state.lease(part, owner, now_ns, now_ns + LEASE_NS):
        return
    held = next((p["lease_owner"] for p in state.parts() if p["name"] == part), None) or ""
    host, _, rest = held.partition(":")
    pid, _, started = rest.partition(":")
    if host == socket.gethostname() and pid.isdigit() and _started(int(pid)) != started:
        state.release(part, held)
        if state.lease(part, owner, now_ns, now_ns + LEASE_NS):
            return
    raise Locked(f"partition {part!r} is being scored by another job ({held or 'just now'})")


def _started(pid: int) -> str:
    """When a process was started; "" if it is no more (one that nobody has waited for yet is a name only)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return ""
