"""What a scenario is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pipelines.lab.run import Run

__all__ = ["Scenario", "nothing"]


def nothing(run: Run) -> None:
    """Do nothing until the end: a clean piece."""
    run.until_end()


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fault, a confuser, or a clean piece.

    Parameters
    ----------
    name, about : str
    kind : str
        The signature's slug; ``none`` for what is no fault.
    also : tuple of str
        Further kinds that would be a right answer.
    fault : callable
        Runs from the scheduled start of the fault and returns at about its end.
    prepare : callable
        Runs before the recording begins (a background that lasts).
    relay : bool
        The user-space relay stands between exchange and bridge.
    place : mapping
        Where it is: ``layer`` (network, host, application), and as known ``hop``, ``netns``,
        ``process``, ``cpu`` (``strategy``: the strategy's), ``device``, ``port``, ``line``.
    counter : str
        Regular expression of the columns that are this fault's own counter ("" none).
    shape : str
        step, ramp, burst, periodic.
    needs : tuple of str
        Commands beyond those that every run needs.
    alone : bool
        No other lab may run meanwhile (a global setting, or a heavy load).
    simulated : str
        What is not physically real about it ("" all of it is real).
    """

    name: str
    kind: str
    about: str
    fault: Callable[[Run], None] = nothing
    prepare: Callable[[Run], None] | None = None
    also: tuple[str, ...] = ()
    relay: bool = False
    place: Mapping[str, str] = field(default_factory=dict)
    counter: str = ""
    shape: str = "step"
    needs: tuple[str, ...] = ()
    alone: bool = False
    simulated: str = ""
    work_ns: int = 0
    """What the strategy computes per message, throughout the recording."""

    @property
    def clean(self) -> bool:
        """Say whether an incident during it would be a false one."""
        return self.kind == "none"
