"""From the words of the command line to the list of runs."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from pipelines.lab.needs import missing
from pipelines.lab.scenarios import SCENARIOS, Scenario
from telemetry.errors import ConfigError

__all__ = ["plan"]


def plan(names: Sequence[str], seeds: str, clean: int, *, every: bool = False) -> list[tuple[Scenario, str]]:
    """Return scenario and seed of each run, in order: seeds outermost, then the clean ones.

    Raises
    ------
    ConfigError
        If a name or a seed is unknown, or nothing is left to run.
    """
    chosen: list[Scenario] = []
    if every:
        chosen = [s for s in SCENARIOS.values() if not s.clean and not missing(s)]
    for name in names:
        if name not in SCENARIOS:
            near = difflib.get_close_matches(name, SCENARIOS, n=1)
            hint = f"; did you mean {near[0]}?" if near else " (see: tailwatch lab list)"
            raise ConfigError(f"lab: unknown scenario {name!r}{hint}")
        if SCENARIOS[name] not in chosen:
            chosen.append(SCENARIOS[name])
    words = [w.strip() for w in seeds.split(",") if w.strip()]
    for word in words:
        if not word.isalnum():
            raise ConfigError(f"lab: expected --seeds as a comma list of letters and digits, got {word!r}")
    jobs = [(s, seed) for seed in words for s in chosen]
    benign = [s for s in SCENARIOS.values() if s.clean]
    jobs += [(benign[i % len(benign)], f"c{i // len(benign) + 1}") for i in range(clean)]
    if not jobs:
        raise ConfigError("lab: nothing to run; name scenarios (see: tailwatch lab list), or give --all or --clean N")
    return jobs
