"""What a machine must have to run the lab, checked before anything is touched."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Iterable

from pipelines.lab.scenarios import Scenario
from telemetry.errors import ConfigError

__all__ = ["COMMANDS", "check", "missing"]

COMMANDS = ("ip", "tcpdump", "ethtool")
PACKAGES = {
    "ip": "iproute2", "tc": "iproute2", "bridge": "iproute2", "nft": "nftables", "ethtool": "ethtool",
    "tcpdump": "tcpdump", "stress-ng": "stress-ng",
}  # fmt: skip
CAPABILITIES = {"sys_admin": 21, "net_admin": 12, "net_raw": 13, "sys_nice": 23, "kill": 5, "dac_override": 1}


def capabilities() -> int:
    """Return the effective capability set of this process (proc_pid_status(5))."""
    with open("/proc/self/status") as f:
        for row in f:
            if row.startswith("CapEff:"):
                return int(row.split()[1], 16)
    return 0


def missing(scenario: Scenario | None = None) -> list[str]:
    """Name the commands that are not there."""
    return [c for c in (*COMMANDS, *(scenario.needs if scenario else ())) if shutil.which(c) is None]


def check(scenarios: Iterable[Scenario]) -> None:
    """Refuse, in one line, where the lab cannot run.

    Raises
    ------
    ConfigError
        Not Linux, not root (or a capability is missing), or a command is missing.
    """
    if not sys.platform.startswith("linux"):
        raise ConfigError(f"lab: needs Linux (network namespaces), this is {sys.platform}")
    absent = sorted({c for s in scenarios for c in missing(s)} | set(missing()))
    tools = ", ".join(f"{c} (package {PACKAGES[c]})" for c in absent)
    if os.geteuid() != 0:
        also = f"; missing commands: {tools}" if tools else ""
        raise ConfigError(
            f"lab: needs root (network namespaces, taps, priorities); try: sudo tailwatch lab run ...{also}"
        )
    have = capabilities()
    lacking = [name for name, bit in CAPABILITIES.items() if not have >> bit & 1]
    if lacking:
        raise ConfigError("lab: root lacks the capabilities " + ", ".join("CAP_" + c.upper() for c in lacking))
    if tools:
        raise ConfigError(f"lab: missing commands: {tools}")
    if not hasattr(ctypes.CDLL(None), "setns"):
        raise ConfigError("lab: the C library has no setns")
