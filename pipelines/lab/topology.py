"""Four network namespaces: exchange, switch, trader, noise. Nothing is made in the host's own.

::

    exch eth0 --- sx [relay] sr === srb \
                   (or in the bridge)    br0 (sw) --- st --- eth0 trd
    noise eth0 ------------------- sn --/

Every device is made inside a namespace whose name is unique to the run, so labs run side by side.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from pipelines.lab.journal import Journal
from telemetry.errors import ConfigError

__all__ = ["ADDRESS", "HOSTS", "Net", "sh"]

ADDRESS = {"exch": "10.77.0.1", "trd": "10.77.0.2", "noise": "10.77.0.3"}
MAC = {"exch": "02:00:00:00:00:01", "trd": "02:00:00:00:00:02", "noise": "02:00:00:00:00:03"}
PORT = {"exch": "sx", "trd": "st", "noise": "sn"}
HOSTS = ("exch", "trd", "noise", "sw")


def sh(*argv: str, check: bool = True) -> str:
    """Run a command and return its output.

    Raises
    ------
    ConfigError
        If it fails: the command and its first line of complaint.
    """
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if check and done.returncode:
        why = (done.stderr or done.stdout).strip().splitlines()
        raise ConfigError(f"lab: {' '.join(argv)}: {why[0] if why else f'exit code {done.returncode}'}")
    return done.stdout


class Net:
    """The network of one run.

    Parameters
    ----------
    run : str
        Unique; the namespaces are ``tw<run>-exch`` and so on.
    journal : Journal
    relay : bool
        Put a user-space relay between the exchange and the bridge (``sx`` and ``sr``).
    """

    def __init__(self, run: str, journal: Journal, *, relay: bool) -> None:
        self.run = run
        self.journal = journal
        self.relay = relay

    def name(self, host: str) -> str:
        """Return the full name of a namespace."""
        return f"tw{self.run}-{host}"

    def within(self, host: str) -> list[str]:
        """Return the beginning of a command line that runs inside a namespace."""
        return ["ip", "netns", "exec", self.name(host)]

    def ip(self, host: str, *words: str, check: bool = True) -> str:
        """Run ``ip`` for a namespace."""
        return sh("ip", "-n", self.name(host), *words, check=check)

    def sysctl(self, host: str, values: Sequence[str]) -> None:
        """Set ``net/...=value`` inside a namespace; it dies with it, so nothing is noted."""
        lines = [f"echo {v} > /proc/sys/{k}" for k, v in (x.split("=") for x in values)]
        sh(*self.within(host), "sh", "-c", " && ".join(lines))

    def offload_off(self, host: str, device: str) -> None:
        """Make every packet on the wire one packet with a checksum."""
        off = [w for x in ("rx", "tx", "tso", "gso", "gro") for w in (x, "off")]
        sh(*self.within(host), "ethtool", "-K", device, *off)

    def build(self) -> None:
        """Make namespaces, veths, bridge and addresses."""
        for host in HOSTS:
            self.journal.space(self.name(host))
            sh("ip", "netns", "add", self.name(host))
            self.ip(host, "link", "set", "lo", "up")
            self.sysctl(host, [f"net/ipv6/conf/{x}/disable_ipv6=1" for x in ("all", "default")])
        sw = self.name("sw")
        self.ip("sw", "link", "add", "br0", "type", "bridge", "stp_state", "0", "mcast_snooping", "0")
        for host, port in PORT.items():
            peer = ("type", "veth", "peer", "name", port, "netns", sw)
            self.ip(host, "link", "add", "eth0", "address", MAC[host], *peer)
            self.ip(host, "addr", "add", ADDRESS[host] + "/24", "dev", "eth0")
            self.offload_off(host, "eth0")
            self.offload_off("sw", port)
        inside = ["st", "sn"]
        if self.relay:
            self.ip("sw", "link", "add", "sr", "type", "veth", "peer", "name", "srb")
            for device in ("sr", "srb"):
                self.offload_off("sw", device)
            self.ip("sw", "link", "set", "sr", "up")
            self.ip("sw", "link", "set", "sx", "promisc", "on")
            inside.append("srb")
        else:
            inside.append("sx")
        for device in inside:
            self.ip("sw", "link", "set", device, "master", "br0")
        for device in ("br0", "sx", *(d for d in inside if d != "sx")):
            self.ip("sw", "link", "set", device, "up")
        for host in PORT:
            self.ip(host, "link", "set", "eth0", "up")
            self.ip(host, "route", "add", "224.0.0.0/4", "dev", "eth0")
