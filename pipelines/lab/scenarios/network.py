"""Faults of the path between the taps: host counters stay flat."""

from __future__ import annotations

import time

from pipelines.lab.run import Run
from pipelines.lab.scenarios.base import Scenario
from pipelines.lab.topology import sh

__all__ = ["NETWORK"]

HOP = {"layer": "network", "hop": "exch>trd"}


def delay_step(run: Run) -> None:
    with run.relayed({"delay_us": run.draw("delay_us", 700, 5000)}):
        run.until_end()


def delay_ramp(run: Run) -> None:
    length = (run.end_ns - run.start_ns) / 1e9
    rule = {"delay_us": run.draw("delay_us", 1500, 6000), "ramp_s": length}
    tail = {"tail": run.draw("tail", 0.02, 0.08), "tail_us": run.draw("tail_us", 1000, 4000), "dir": "to_trd"}
    with run.relayed(rule, tail):
        run.until_end()


def jitter(run: Run) -> None:
    rule = {"tail": run.draw("tail", 0.03, 0.25), "tail_us": run.draw("tail_us", 1000, 6000)}
    with run.relayed(rule):
        run.until_end()


def loss(run: Run) -> None:
    with run.relayed({"loss": run.draw("loss", 0.005, 0.05)}):
        run.until_end()


def tcp_loss(run: Run) -> None:
    with run.relayed({"match": "tcp", "loss": run.draw("loss", 0.02, 0.12)}):
        run.until_end()


def network_gap(run: Run) -> None:
    start = run.draw("gap_probability", 0.0005, 0.004)
    packets = int(run.draw("gap_packets", 2, 40))
    with run.relayed({"match": "md", "dir": "to_trd", "burst_loss": [start, packets]}):
        run.until_end()


def reorder(run: Run) -> None:
    rule = {"match": "md", "dir": "to_trd", "fifo": False}
    rule |= {"tail": run.draw("share", 0.02, 0.15), "tail_us": run.draw("held_us", 3000, 15000)}
    with run.relayed(rule):
        run.until_end()


def ab_skew(run: Run) -> None:
    line = run.rng.choice("AB")
    run.params["line"] = line
    with run.relayed({"match": line, "dir": "to_trd", "delay_us": run.draw("skew_us", 500, 6000)}):
        run.until_end()


def tbf_bloat(run: Run) -> None:
    mbit = run.draw("mbit", 4, 12)
    limit = int(run.draw("queue_ms", 30, 200) * mbit * 125)
    with run.load("flood", "noise", to="10.77.0.2", port=40001, rate=mbit * 1e6 / 8 / 1042 * 1.3, size=1000):
        words = ["qdisc", "add", "dev", "st", "root", "tbf", "rate", f"{mbit}mbit", "burst", "5000"]
        _tc(run, *words, "limit", str(limit))
        try:
            run.until_end()
        finally:
            _tc(run, "qdisc", "del", "dev", "st", "root")


def rate_limit(run: Run) -> None:
    used = run.params["background_msgs_per_s"] * 2 * 106 * 8 / 1e6  # both lines, 106 bytes a packet
    mbit = round(used * run.draw("headroom", 1.8, 2.6), 3)
    words = ["qdisc", "add", "dev", "st", "root", "tbf", "rate", f"{int(mbit * 1000)}kbit", "burst", "1600"]
    _tc(run, *words, "limit", "200000")
    try:
        run.until_end()
    finally:
        _tc(run, "qdisc", "del", "dev", "st", "root")


def _tc(run: Run, *words: str) -> None:
    run.note("sw: tc " + " ".join(words))
    sh("tc", "-n", run.net.name("sw"), *words)


def _sink(run: Run) -> None:
    run.background("sink", "trd", port=40001)


def link_flap(run: Run) -> None:
    down_ms = run.draw("down_ms", 80, 700)
    gap = run.draw("every_s", 1.5, 4.0)
    while time.time_ns() < run.end_ns - int(1e6 * down_ms):
        run.note("sw: ip link set st down")
        run.net.ip("sw", "link", "set", "st", "down")
        run.sleep_until(time.time_ns() + int(down_ms * 1e6))
        run.note("sw: ip link set st up")
        run.net.ip("sw", "link", "set", "st", "up")
        run.sleep_until(min(run.end_ns, time.time_ns() + int(gap * 1e9)))


def arp_loss(run: Run) -> None:
    rounds = 0
    with run.relayed({"match": "arp", "loss": 1.0}):
        while time.time_ns() < run.end_ns - 1_000_000_000:
            if rounds % 3 == 0:
                run.note("trd: ip neigh flush dev eth0")
                run.net.ip("trd", "neigh", "flush", "dev", "eth0")
            rounds += 1
            run.sleep_until(min(run.end_ns, time.time_ns() + 1_000_000_000))


def _snooping(run: Run) -> None:
    """Let the bridge forward a group only to who asked for it, and ask every two seconds."""
    bridge = "/sys/class/net/br0/bridge/multicast_"
    values = {
        "igmp_version": 2, "query_interval": 200, "query_response_interval": 50, "membership_interval": 450,
        "last_member_count": 1, "startup_query_interval": 50, "snooping": 1, "querier": 1,
    }  # fmt: skip
    script = "; ".join(f"echo {v} > {bridge}{k}" for k, v in values.items())
    sh(*run.net.within("sw"), "sh", "-c", script)
    sh("bridge", "-n", run.net.name("sw"), "link", "set", "dev", "st", "mcast_flood", "off")
    sh("bridge", "-n", run.net.name("sw"), "link", "set", "dev", "sn", "mcast_flood", "off")
    run.net.sysctl("trd", ["net/ipv4/conf/eth0/force_igmp_version=2"])


def igmp_expiry(run: Run) -> None:
    line = run.rng.choice("AB")
    run.params["line"] = line
    group = {"A": "239.7.7.1", "B": "239.7.7.2"}[line]
    run.nft(
        "sw",
        "table bridge lab {\n chain forward {\n type filter hook prerouting priority -400\n"
        f'iifname "st" ip protocol igmp ip daddr {group} counter drop\n }}\n}}\n',
    )
    run.until_end()
    run.nft("sw", "delete table bridge lab\n")


NETWORK = (
    Scenario("delay_step", "tail_latency_creep", "the path gets longer at once, both ways", delay_step,
             relay=True, place=HOP),
    Scenario("delay_ramp", "tail_latency_creep", "the path creeps, its tail jitters", delay_ramp,
             relay=True, place=HOP, shape="ramp"),
    Scenario("jitter", "tail_latency_creep", "some packets take far longer, order kept", jitter,
             relay=True, place=HOP),
    Scenario("loss", "network_gap", "the path drops any packet at random", loss,
             relay=True, also=("tcp_loss",), place=HOP, counter=r"(trd|exch)\.snmp\.Tcp:RetransSegs"),
    Scenario("tcp_loss", "tcp_loss", "the path drops order entry segments only", tcp_loss,
             relay=True, place={**HOP, "flow": "tcp:9001"}, counter=r"(trd|exch)\.snmp\.Tcp:RetransSegs"),
    Scenario("network_gap", "network_gap", "the path drops runs of market data packets", network_gap,
             relay=True, place=HOP, shape="burst"),
    Scenario("reorder", "tail_latency_creep", "some market data packets are held and overtaken", reorder,
             relay=True, place=HOP),
    Scenario("ab_skew", "ab_skew", "one of the two lines takes a longer route", ab_skew,
             relay=True, place={**HOP, "line": "one"}),
    Scenario("tbf_bloat", "bufferbloat", "bulk traffic fills the queue of the trader's shaped link", tbf_bloat,
             prepare=_sink, place={"layer": "network", "hop": "exch>trd", "device": "st"},
             counter=r"sw\.qdisc\.st\.(overlimits|drops)", shape="ramp", needs=("tc",), alone=True),
    Scenario("rate_limit", "rate_limit", "a shaped link: bursts queue, single packets do not", rate_limit,
             place={"layer": "network", "hop": "exch>trd", "device": "st"},
             counter=r"sw\.qdisc\.st\.overlimits", needs=("tc",)),
    Scenario("link_flap", "link_flap", "the trader's link loses its carrier for a moment, several times", link_flap,
             place={"layer": "network", "netns": "trd", "device": "eth0"},
             counter=r"trd\.carrier\.eth0\.changes", shape="periodic"),
    Scenario("arp_loss", "arp_loss", "neighbour entries are flushed and ARP finds no answer", arp_loss,
             relay=True, place={"layer": "network", "netns": "trd", "peer": "10.77.0.1"}, shape="burst",
             counter=r"trd\.neigh\.eth0\.(incomplete|failed)"),
    Scenario("igmp_expiry", "igmp_expiry", "membership reports of one line are lost; the switch stops sending it",
             igmp_expiry, prepare=_snooping, place={"layer": "network", "netns": "trd", "line": "one"},
             needs=("nft", "bridge")),
)  # fmt: skip
