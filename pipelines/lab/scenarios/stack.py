"""Faults of the trader's kernel: packets arrive at the tap and not at the application."""

from __future__ import annotations

from pipelines.lab.run import Run
from pipelines.lab.scenarios.base import Scenario
from pipelines.lab.topology import sh

__all__ = ["STACK"]

BACKLOG = "/proc/sys/net/core/netdev_max_backlog"
CONNTRACK = "/proc/sys/net/netfilter/nf_conntrack_max"


def nft_loss(run: Run) -> None:
    permille = int(run.draw("permille", 5, 60))
    run.nft(
        "trd",
        "table inet lab {\n chain input {\n type filter hook prerouting priority -300\n"
        f"udp dport {{ 30001, 30002 }} numgen random mod 1000 < {permille} counter drop\n }}\n}}\n",
    )
    run.until_end()
    run.nft("trd", "delete table inet lab\n")


def softirq_flood(run: Run) -> None:
    mask = f"{1 << run.cpu:x}"
    rate = run.draw("packets_per_s", 60_000, 200_000)
    backlog = str(int(run.draw("max_backlog", 48, 160)))
    steer = ["sh", "-c", f"echo {mask} > /sys/class/net/eth0/queues/rx-0/rps_cpus"]
    with run.setting(BACKLOG, backlog):
        run.note(f"trd: rps_cpus {mask}")
        sh(*run.net.within("trd"), *steer)
        try:
            with run.load("flood", "noise", to="10.77.0.2", port=40000, rate=rate, size=32):
                run.until_end()
        finally:
            sh(*run.net.within("trd"), "sh", "-c", "echo 0 > /sys/class/net/eth0/queues/rx-0/rps_cpus", check=False)


def _track(run: Run) -> None:
    """A stateful firewall on the trader: every flow has an entry."""
    run.nft(
        "trd",
        "table inet wall {\n chain input {\n type filter hook prerouting priority 0\n"
        "ct state new counter accept\n }\n}\n",
    )


def conntrack_full(run: Run) -> None:
    limit = str(int(run.draw("limit", 40, 200)))
    rate = run.draw("new_flows_per_s", 60, 250)
    with (
        run.setting(CONNTRACK, limit),
        run.load("flows", "noise", to="10.77.0.2", port=40002, rate=rate),
    ):
        run.until_end()


def listen_overflow(run: Run) -> None:
    run.tell("engine", "accept off")
    try:
        run.until_end()
    finally:
        run.tell("engine", "accept on")


def _logins(run: Run) -> None:
    run.background("logins", "trd", to="10.77.0.1", port=9002, rate=run.draw("logins_per_s", 6, 20))


def tcp_collapse(run: Run) -> None:
    with run.load("drip", "noise", to="10.77.0.2", port=9100, rate=run.draw("segments_per_s", 1500, 5000)):
        run.until_end()


def _lazy(run: Run) -> None:
    run.background("lazy", "trd", port=9100, rate=200, size=int(run.draw("rcvbuf", 30_000, 120_000)))


STACK = (
    Scenario("nft_loss", "host_gap", "a firewall rule in the trader's host drops market data", nft_loss,
             place={"layer": "host", "netns": "trd", "hop": "firewall"}, needs=("nft",)),
    Scenario("softirq_flood", "softirq_squeeze", "a flood steered to the strategy's CPU overflows its backlog",
             softirq_flood, place={"layer": "host", "netns": "trd", "cpu": "strategy"},
             counter=r"softnet\.cpu\d+\.dropped", alone=True),
    Scenario("conntrack_full", "conntrack_full", "new flows fill the connection table to its cap", conntrack_full,
             prepare=_track, place={"layer": "host", "netns": "trd"}, shape="ramp",
             counter=r"trd\.conntrack_stat\.cpu\d+\.(drop|early_drop|insert_failed)", needs=("nft",), alone=True),
    Scenario("listen_overflow", "listen_overflow", "the exchange's login server stops accepting", listen_overflow,
             prepare=_logins, place={"layer": "host", "netns": "exch", "port": "9002"},
             counter=r"exch\.netstat\.TcpExt:ListenOverflows"),
    Scenario("tcp_collapse", "tcp_collapse", "a hardly read connection of tiny segments is pruned and collapsed",
             tcp_collapse, prepare=_lazy, place={"layer": "host", "netns": "trd", "port": "9100"},
             counter=r"trd\.netstat\.TcpExt:(PruneCalled|TCPRcvCollapsed|RcvPruned)", alone=True),
)  # fmt: skip
