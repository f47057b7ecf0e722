"""What the always-on service says of itself: counts, and what went wrong and was survived."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from pipelines.logs import Repeats
from pipelines.state import LeaseLost
from telemetry.errors import TailwatchError
from telemetry.types import Nanos

__all__ = ["Counters", "Troubles"]

log = logging.getLogger("tailwatch.watch")


@dataclass(slots=True)
class Counters:
    """What the service says of itself."""

    events: int = 0
    alerts: int = 0
    incidents: int = 0
    steps: int = 0
    errors: int = 0
    late_ns: int = 0
    step_ns: list[int] = field(default_factory=list)
    step_total_ns: int = 0
    watermark_ns: Nanos = 0
    last_success_ns: Nanos = 0
    dropped: int = 0


class Troubles:
    """Counts and tells what goes wrong, and what repeats itself only now and then.

    Parameters
    ----------
    counters : Counters
        Whose `errors` are counted up.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._repeats = Repeats()

    def tell(self, where: str, error: Exception) -> None:
        """Count and log what was survived."""
        self._counters.errors += 1
        again = self._repeats.pass_on(where, str(error))
        if again is not None:
            extra = {"where": where, "error": type(error).__name__} | ({"repeated": again} if again else {})
            log.error("%s: %s%s", where, error, f" (and {again} times before)" if again else "", extra=extra)

    def attempt(self, where: str, what: Callable[[], object]) -> None:
        """Do it; what goes wrong is counted, told and survived, but for a lease that was lost."""
        try:
            what()
        except LeaseLost:
            raise
        except (TailwatchError, OSError) as error:
            self.tell(where, error)
