"""The faults and the confusers of the lab, each a row of a table and a few lines of action."""

from __future__ import annotations

from pipelines.lab.scenarios.base import Scenario
from pipelines.lab.scenarios.benign import BENIGN
from pipelines.lab.scenarios.load import LOAD
from pipelines.lab.scenarios.network import NETWORK
from pipelines.lab.scenarios.process import PROCESS
from pipelines.lab.scenarios.stack import STACK

__all__ = ["SCENARIOS", "Scenario"]

SCENARIOS: dict[str, Scenario] = {s.name: s for s in (*BENIGN, *NETWORK, *STACK, *LOAD, *PROCESS)}
"""All scenarios by name, in the order of ``tailwatch lab list``."""
