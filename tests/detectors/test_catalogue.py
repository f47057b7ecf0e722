"""Each signature of the catalogue: found on made-up series, told from all others, and held to the laws."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from detectors.build import build
from detectors.changes import PLACEHOLDERS
from detectors.checks import check_detector
from detectors.fused import Fused, fuse
from detectors.signature import KINDS, Signature, load_catalogue
from telemetry.types import Events, Incident, SeriesKey

SECOND = 1_000_000_000
TICK = 100_000_000
ONSET, END, TICKS = 150, 230, 250
"""Windows: quiet until ONSET (15 s), at fault until END, quiet again."""

Level = Callable[[int], float]


def step(normal: float, fault: float) -> Level:
    return lambda t: fault if ONSET <= t < END else normal


def pulses(normal: float, fault: float, every: int, width: int = 1) -> Level:
    return lambda t: fault if ONSET <= t < END and (t - ONSET) % every < width else normal


MD = "udp 10.0.0.1:5000>239.1.1.1:30001"
TWIN = "udp 10.0.0.1:5001>239.1.1.2:30002"
ORDERS = "tcp 10.0.0.2:40000>10.0.0.1:9001"
HOP = 'from="exch",to="trd"'
QUIET: dict[str, Level] = {
    f'wire_latency_ns{{flow="{MD}",{HOP}}}': step(2e4, 2e4),
    f'wire_latency_ns{{flow="{TWIN}",{HOP}}}': step(2e4, 2e4),
    f'tcp_rtt_ns{{flow="{ORDERS}",tap="trd"}}': step(2e5, 2e5),
    f'wire_lost_packets{{flow="{MD}",{HOP}}}': step(0, 0),
    'feed_gap_packets{feed="239.1.1.1:30001",tap="trd"}': step(0, 0),
    f'wire_packets{{flow="{MD}",tap="trd"}}': step(40, 40),
    'feed_packets{feed="239.1.1.1:30001",tap="trd"}': step(40, 40),
    'app_latency_ns{process="strat",stage="kernel_to_user"}': step(8e4, 8e4),
    'app_latency_ns{process="strat",stage="order_to_ack"}': step(2e5, 2e5),
    'app_lost_messages{channel="0"}': step(0, 0),
    'thread_wait_ns_total{process="strat"}': step(1e6, 1e6),
    'thread_state{process="strat"}': step(0, 0),
    'udp_socket_rx_queue_bytes{port="30001",netns="trd"}': step(0, 0),
    'netstat_Udp_RcvbufErrors_total{netns="trd"}': step(0, 0),
    'softnet_dropped_total{cpu="1"}': step(0, 0),
    'softirq_total{cpu="1",type="NET_RX"}': step(800, 800),
    'irq_total{cpu="1",irq="LOC"}': step(250, 250),
    "context_switches_total{}": step(2000, 2000),
    'nic_rx_packets_total{device="eth0",netns="trd"}': step(800, 800),
}
LAT = f'wire_latency_ns{{flow="{MD}",{HOP}}}'
LAT2 = f'wire_latency_ns{{flow="{TWIN}",{HOP}}}'
LOST = f'wire_lost_packets{{flow="{MD}",{HOP}}}'
K2U = 'app_latency_ns{process="strat",stage="kernel_to_user"}'
ACK = 'app_latency_ns{process="strat",stage="order_to_ack"}'
RTT = f'tcp_rtt_ns{{flow="{ORDERS}",tap="trd"}}'
APPLOST = 'app_lost_messages{channel="0"}'
DROPS = 'netstat_Udp_RcvbufErrors_total{netns="trd"}'

FAULTS: dict[str, dict[str, Level]] = {
    "tail_latency_creep": {LAT: step(2e4, 3e6), LAT2: step(2e4, 3e6), RTT: step(2e5, 6e6)},
    "interrupt_storm": {'irq_total{cpu="1",irq="LOC"}': step(250, 18_000)},
    "softirq_squeeze": {
        'softnet_dropped_total{cpu="1"}': pulses(0, 900, 7),
        'softirq_total{cpu="1",type="NET_RX"}': step(800, 60_000),
    },
    "irq_on_isolated_core": {
        'irq_total{cpu="1",irq="36",name="eth0-rx-3"}': step(0, 700),
        'irq_total{cpu="0",irq="36",name="eth0-rx-3"}': step(700, 0),
    },
    "microburst": {
        'nic_rx_packets_total{device="eth0",netns="trd"}': pulses(800, 40_000, 25),
        f'wire_packets{{flow="{MD}",tap="trd"}}': pulses(40, 3000, 25),
        DROPS: pulses(0, 9000, 25),
    },
    "udp_overflow": {
        DROPS: step(0, 900),
        'udp_socket_drops_total{port="30001",netns="trd"}': step(0, 900),
        'udp_socket_rx_queue_bytes{port="30001",netns="trd"}': step(0, 2e5),
    },
    "tcp_loss": {
        'netstat_Tcp_RetransSegs_total{netns="exch"}': pulses(0, 20, 6),
        f'wire_lost_packets{{flow="{ORDERS}",from="trd",to="exch"}}': pulses(0, 1, 6),
        ACK: pulses(2e5, 2e8, 6),
    },
    "network_gap": {LOST: pulses(0, 2, 4), 'feed_gap_packets{feed="239.1.1.1:30001",tap="trd"}': pulses(0, 2, 4)},
    "host_gap": {APPLOST: pulses(0, 2, 4)},
    "ab_skew": {LAT2: step(2e4, 2e6)},
    "clock_step": {LAT: step(2e4, -3e6), LAT2: step(2e4, -3e6)},
    "c_state_exit": {'cpuidle_usage_total{cpu="1",state="C6"}': step(20, 900), K2U: step(8e4, 2e5)},
    "throttling": {'thermal_throttle_total{cpu="1"}': pulses(0, 20, 5), 'cpu_frequency_mhz{cpu="1"}': step(3500, 1800)},
    "compaction": {"vmstat_compact_stall_total{}": step(0, 300), "vmstat_thp_fault_alloc_total{}": step(0, 500)},
    "numa_remote": {"vmstat_numa_miss_total{}": step(0, 9000), "vmstat_numa_hint_faults_total{}": step(0, 4000)},
    "page_fault_burst": {
        'thread_minor_faults_total{process="strat"}': step(0, 20_000),
        "vmstat_pgfault_total{}": step(1000, 21_000),
    },
    "context_switch_storm": {"context_switches_total{}": step(2000, 130_000)},
    "cpu_contention": {'thread_wait_ns_total{process="strat"}': step(1e6, 6e8), K2U: step(8e4, 5e7)},
    "steal": {'cpu_ticks_total{cpu="1",mode="steal"}': step(0, 60)},
    "tick_on_quiet_core": {
        'irq_total{cpu="3",irq="LOC"}': step(1, 250),
        'softirq_total{cpu="3",type="RCU"}': step(0, 90),
    },
    "smi": {'smi_total{cpu="1"}': pulses(0, 20, 10)},
    "housekeeping_jitter": {
        'thread_wait_ns_total{process="strat"}': pulses(1e6, 4e8, 10),
        K2U: pulses(8e4, 3e7, 10),
    },
    "conntrack_full": {
        'conntrack_drop_total{cpu="0"}': step(0, 90),
        'conntrack_entries{netns="trd"}': step(10, 200),
    },
    "arp_loss": {"trd_neigh_eth0_incomplete{}": pulses(0, 1, 8, 4)},
    "igmp_expiry": {
        'feed_packets{feed="239.1.1.1:30001",tap="trd"}': step(40, 0),
        f'wire_packets{{flow="{MD}",tap="trd"}}': step(40, 0),
        'netstat_IpExt_InMcastPkts_total{netns="trd"}': step(800, 400),
    },
    "process_pause": {'thread_state{process="strat"}': pulses(0, 1, 20), K2U: pulses(8e4, 9e7, 20)},
    "nagle": {
        ACK: step(2e5, 4.1e7),
        'netstat_TcpExt_DelayedACKs_total{netns="exch"}': step(0, 80),
    },
    "listen_overflow": {'netstat_TcpExt_ListenOverflows_total{netns="exch"}': step(0, 30)},
    "writeback": {
        'app_latency_ns{process="strat",stage="tick_to_order"}': step(1e5, 9e6),
        K2U: step(8e4, 9e6),
        'disk_flush_ios_total{device="vda"}': step(0, 300),
        'pressure_stall_us_total{resource="io",kind="some"}': step(0, 5e5),
    },
    "bufferbloat": {
        LAT: step(2e4, 8e7),
        LAT2: step(2e4, 8e7),
        'qdisc_backlog_bytes{device="st"}': step(0, 1e5),
        'nic_rx_packets_total{device="eth0",netns="trd"}': step(800, 2500),
    },
    "rate_limit": {
        f'wire_latency_ns{{flow="{MD}",{HOP}}}#p99': step(2e4, 2e6),
        'qdisc_overlimits_total{device="st"}': step(0, 400),
    },
    "link_flap": {'nic_carrier_changes_total{device="eth0",netns="trd"}': pulses(0, 10, 20), LOST: pulses(0, 30, 20)},
    "crc_errors": {'nic_rx_crc_errors_total{device="eth0"}': pulses(0, 30, 4)},
    "tcp_collapse": {'netstat_TcpExt_TCPRcvCollapsed_total{netns="trd"}': pulses(0, 300, 5)},
    "unknown": {'app_latency_ns{process="strat",stage="tick_to_order"}': step(1e5, 9e6)},
}


def events(fault: dict[str, Level], ticks: int = TICKS) -> Events:
    """One sample a window of counters and gauges, ten of measurements; a little noise."""
    rng = np.random.default_rng(7)
    rows: list[tuple[int, SeriesKey, float]] = []
    slow = {name.removesuffix("#p99"): level for name, level in fault.items() if name.endswith("#p99")}
    plain = {name: level for name, level in fault.items() if not name.endswith("#p99")}
    for name, level in {**QUIET, **plain}.items():
        head, _, body = name.partition("{")
        key = SeriesKey.parse(f'{head}{{host="h",{body}' if body != "}" else f'{head}{{host="h"}}')
        total = 0.0
        measured = head.endswith("_ns") and head.startswith(("wire", "app", "tcp"))
        for t in range(ticks):
            value = level(t)
            if head.endswith("_total"):
                total += round(value / 10 * (1 + 0.05 * rng.random()))
                rows.append((t * TICK + TICK // 2, key, total))
            elif measured:
                for i in range(10):
                    x = value * (1 + 0.1 * rng.random())
                    if i == 9 and name in slow:
                        x = slow[name](t)
                    rows.append((t * TICK + (i + 1) * TICK // 11, key, x))
            else:
                rows.append((t * TICK + TICK // 2, key, float(value)))
    rows.sort(key=lambda r: (r[0], str(r[1])))
    keys = tuple(dict.fromkeys(r[1] for r in rows))
    index = {k: i for i, k in enumerate(keys)}
    time = np.array([r[0] for r in rows], np.int64) + 1000 * SECOND
    return Events(keys, np.array([index[r[1]] for r in rows], np.int64), time, time, np.array([r[2] for r in rows]))


def incidents(fault: dict[str, Level]) -> list[Incident]:
    fused = Fused()
    whole = events(fault)
    last: dict[str, Incident] = {}
    for at in range(0, len(whole), 2000):
        for change in fused.push(whole[at : at + 2000])[1]:
            last[change.incident.id] = change.incident
    return list(last.values())


@cache
def signatures() -> dict[str, Signature]:
    return {s.kind: s for s in load_catalogue()}


def test_the_catalogue_is_whole() -> None:
    assert {*KINDS, "unknown"} == set(signatures())
    assert len(KINDS) == 34


def test_nothing_is_found_where_nothing_happens() -> None:
    assert incidents({}) == []


@pytest.mark.parametrize("kind", [*KINDS, "unknown"])
def test_each_kind_is_found_and_told_from_the_others(kind: str) -> None:
    found = incidents(FAULTS[kind])
    assert [x.kind for x in found] == [kind]
    (x,) = found
    onset = 1000 * SECOND + ONSET * TICK
    most = 3.5 if kind == "housekeeping_jitter" else 3.0  # once a second: four of them make a rhythm
    assert onset <= x.opened_ns <= onset + most * SECOND
    assert abs(x.onset_ns - onset) <= 1.5 * SECOND
    assert x.place.startswith("host=h")
    assert not re.search(r"\{[a-z]+\}", x.title), "no placeholder is left open"
    if kind != "unknown":
        assert x.changes
        assert x.causes[0].confidence <= (1.0 if signatures()[kind].proven else 0.5)


@pytest.mark.parametrize("kind", [*KINDS, "unknown"])
def test_each_detector_obeys_the_laws(kind: str) -> None:
    spec = signatures()[kind].spec
    whole = events(FAULTS[kind], 190)
    n = len(whole)
    alerts = check_detector(
        lambda: build(spec), whole, [n // 3, n // 2, n - n // 6], [True, False, True], [False, True, True]
    )
    assert alerts


@pytest.mark.parametrize("kind", KINDS)
def test_changes_are_complete_and_name_only_known_placeholders(kind: str) -> None:
    signature = signatures()[kind]
    assert signature.changes
    for change in signature.changes:
        for text in (change.what, change.command, change.undo, change.risk, change.proof):
            assert text.strip()
            assert set(re.findall(r"\{([a-z]+)\}", text)) <= PLACEHOLDERS
        if "{current}" in change.undo:
            assert change.reads, "the current value must be readable"


def test_fused_scores_what_each_detector_scores() -> None:
    """Selectors are joined, nothing else: every series of every part is in exactly one fused detector of its kind."""
    specs = fuse()
    assert len(specs) <= 8, "sharing is what makes the catalogue affordable"
    for signature in load_catalogue():
        for part in signature.spec.features:
            rest = {k: v for k, v in part.params.items() if k != "select"}
            homes = [
                s
                for s in specs
                if s.features[0].kind == part.kind
                and {k: v for k, v in s.features[0].params.items() if k != "select"} == rest
                and (s.model, s.policy) == (signature.spec.model, signature.spec.policy)
            ]
            assert len(homes) == 1
            select = part.params["select"]
            assert set([select] if isinstance(select, str) else select) <= set(homes[0].features[0].params["select"])


def test_fused_continues_from_a_snapshot() -> None:
    whole = events(FAULTS["udp_overflow"])
    cut = len(whole) * 2 // 3
    one = Fused()
    expected = [c for part in (whole[:cut], whole[cut:]) for c in one.push(part)[1]]
    first = Fused()
    got = first.push(whole[:cut])[1]
    second = Fused()
    second.restore(first.snapshot())
    got += second.push(whole[cut:])[1]
    assert repr(got) == repr(expected)
    assert expected


@pytest.mark.parametrize(
    ("quality", "level", "why"),
    [
        ('sampler_late_ns{}', pulses(1e5, 4e7, 9), "the sampler was late"),
        ('capture_drops{tap="trd"}', pulses(0, 50, 9), "the capture dropped packets"),
        ('capture_damages{tap="trd"}', pulses(0, 1, 9), "the capture is damaged: packets are missing in it"),
        ('capture_steps_back{tap="trd"}', pulses(0, 3, 9), "times in the capture run backwards"),
        ('clock_offset_ns{source="chrony"}', pulses(1e3, -4e5, 9), "a clock was off"),
    ],
)  # fmt: skip
def test_poor_measurement_lowers_confidence_from_the_events_on(quality: str, level: Level, why: str) -> None:
    sure = incidents(FAULTS["udp_overflow"])[0]
    unsure = incidents({**FAULTS["udp_overflow"], quality: level})[0]
    assert sure.kind == unsure.kind == "udp_overflow"
    assert unsure.causes[0].confidence < sure.causes[0].confidence
    assert why in unsure.causes[0].against


@pytest.mark.parametrize("metric", ["capture_drops", "capture_damages", "capture_steps_back"])
def test_a_capture_that_says_nothing_until_it_is_poor_lowers_confidence(metric: str) -> None:
    whole = events({**FAULTS["network_gap"], f'{metric}{{tap="trd"}}': pulses(0, 1, 9)})
    keys = tuple(  # captures are a host of their own
        SeriesKey.of("wire", k.metric, **dict(k.labels))
        if k.metric.startswith(("wire", "feed", "tcp", "capture"))
        else k
        for k in whole.keys
    )
    mark = np.array([k.metric == metric for k in keys])[whole.series]

    def found(keep: np.ndarray) -> Incident:
        part = Events(keys, whole.series[keep], whole.time_ns[keep], whole.seen_ns[keep], whole.value[keep])
        (only,) = {c.incident.id: c.incident for c in Fused().push(part)[1]}.values()
        return only

    sure, unsure = found(~mark), found(~mark | (whole.value > 0))
    assert sure.kind == unsure.kind == "network_gap"
    assert unsure.causes[0].confidence < sure.causes[0].confidence
    assert any("capture" in text for text in unsure.causes[0].against)


def test_a_clock_that_is_off_is_no_doubt_that_a_clock_is_off() -> None:
    (found,) = incidents({'clock_offset_ns{source="chrony"}': step(1e3, -4e6)})
    assert (found.kind, found.causes[0].kind) == ("clock_step", "clock_step")
    assert found.causes[0].confidence > 0.8
    assert "a clock was off" not in found.causes[0].against


def test_unknown_comes_with_its_evidence() -> None:
    (found,) = incidents({'app_latency_ns{process="risk",stage="check"}': step(1e5, 9e6)})
    assert found.kind == "unknown"
    assert "latency rose for long" in found.causes[0].because[0]
    assert "risk" in found.title
