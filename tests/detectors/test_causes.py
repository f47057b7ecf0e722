"""Ranking, shapes of evidence, the loss waterfall, and changes filled in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from detectors.causes import rank
from detectors.changes import fill
from detectors.evidence import Track, shaped, waterfall
from detectors.incidents import Grouper
from detectors.sentence import quantity
from detectors.signature import ChangeTemplate, Evidence, load_catalogue
from telemetry.types import Alert, Cause, SeriesKey, alert_id

SECOND = 1_000_000_000
STEP = 100_000_000
KINDS = {s.kind: s for s in load_catalogue()}


def alert(key: SeriesKey, tenth: int, value: float, expected: float, column: str = "rate", side: int = 1) -> Alert:
    end = 1000 * SECOND + tenth * STEP
    return Alert(
        alert_id("d", key, end), "d", "1", "", key, column, STEP, end, end - STEP, 3.4, 0.9, side, value, expected
    )


WAIT = SeriesKey.of("h", "thread_wait_ns_total", process="strat")
LOST = SeriesKey.of("h", "app_lost_messages", channel=0)
GAP = SeriesKey.of("h", "feed_gap_packets", feed="A", tap="trd")
DROPS = SeriesKey.of("h", "netstat_Udp_RcvbufErrors_total", netns="trd")


def contention() -> list[Alert]:
    return [alert(WAIT, t, 6e8, 1e6) for t in range(40)]


def top(causes: tuple[Cause, ...]) -> Cause:
    return causes[0]


def test_confidences_are_shares_of_belief() -> None:
    causes = rank(contention())
    assert top(causes).kind == "cpu_contention"
    assert sum(c.confidence for c in causes) == pytest.approx(1.0, abs=0.01)
    assert [c.confidence for c in causes] == sorted((c.confidence for c in causes), reverse=True)


def test_quiet_counters_are_evidence() -> None:
    lost = [alert(LOST, t, 2.0, 0.0, "sum") for t in range(0, 40, 2)]
    alone = rank(lost, [GAP, DROPS])
    assert top(alone).kind == "host_gap"
    assert {"packets are lost before the host: quiet", "the socket overflows: quiet"} <= set(top(alone).because)
    before = sorted(lost + [alert(GAP, t, 2.0, 0.0, "sum") for t in range(0, 40, 2)], key=lambda a: a.end_ns)
    assert top(rank(before)).kind == "network_gap"
    socket = sorted(lost + [alert(DROPS, t, 50.0, 0.0) for t in range(0, 40, 2)], key=lambda a: a.end_ns)
    assert top(rank(socket)).kind == "udp_overflow"


def test_unknown_is_an_answer() -> None:
    odd = [alert(SeriesKey.of("h", "meminfo_Cached_bytes"), t, 9e9, 1e9, "max") for t in range(40)]
    (only,) = rank(odd)
    assert (only.kind, only.confidence) == ("unknown", 1.0)


def test_unproven_kinds_stay_below_a_half_and_say_so() -> None:
    steal = SeriesKey.of("h", "cpu_ticks_total", cpu=1, mode="steal")
    first = top(rank([alert(steal, t, 60.0, 0.0) for t in range(40)]))
    assert first.kind == "steal"
    assert first.confidence <= 0.5
    assert not first.proven
    assert any("unproven" in text for text in first.against)


def test_kernel_causes_are_ruled_out_where_the_kernel_is_bypassed() -> None:
    drops = [alert(DROPS, t, 50.0, 0.0) for t in range(40)]
    assert top(rank(drops)).kind == "udp_overflow"
    assert all(KINDS[c.kind].layer != "kernel" for c in rank(drops, bypass=True) if c.kind != "unknown")


def track(tenths: list[int], item: Evidence, values: list[float] | None = None) -> Track:
    t = Track(WAIT, "rate", STEP)
    for n, tenth in enumerate(tenths):
        t.add(alert(WAIT, tenth, values[n] if values else 1e9, 0.0), item)
    return t


@pytest.mark.parametrize(
    ("shape", "tenths", "yes"),
    [
        ("level", [1, 2, 3], True),
        ("level", [1, 20, 40], False),
        ("spike", [7], True),
        ("step", list(range(30)), True),
        ("step", [1, 2, 3, 40, 60], False),
        ("bursts", [1, 2, 3, 21, 22, 23, 41], True),
        ("bursts", list(range(30)), False),
        ("periodic", [10, 20, 30, 40, 50], True),
        ("periodic", [10, 20, 30], False),
        ("periodic", [10, 14, 33, 60, 64], False),
    ],
)
def test_shapes(shape: str, tenths: list[int], yes: bool) -> None:
    item = Evidence("x", ("thread_wait_ns_total",), shape=shape)
    assert shaped(track(tenths, item), item) is yes


def test_a_ramp_grows() -> None:
    item = Evidence("x", ("thread_wait_ns_total",), shape="ramp")
    assert shaped(track(list(range(12)), item, [float(10 + 5 * i) for i in range(12)]), item)
    assert not shaped(track(list(range(12)), item, [50.0] * 12), item)


def test_a_window_seen_by_two_detectors_counts_once() -> None:
    item = Evidence("x", ("thread_wait_ns_total",), hold=(2, 5))
    assert track([4, 4], item).count == 1


def test_waterfall_adds_up() -> None:
    counts = {"tap A": 5000, "tap B": 5000, "device": 5000, "ip": 4621, "udp": 4621, "application": 4621}
    w = waterfall(counts, drops=[379])
    assert w.at == "device > ip"
    assert w.lost == (0, 0, 379, 0, 0)
    assert w.adds_up
    assert not waterfall(counts).adds_up
    assert waterfall({"tap A": 100, "tap B": 80}).at == "tap A > tap B"
    assert waterfall({"tap A": 100, "tap B": 99}).at == "", "one may be under way"


def test_what_follows_a_quiet_incident_is_another_one() -> None:
    first = [alert(WAIT, t, 6e8, 1e6) for t in range(20)]
    second = [alert(DROPS, t, 900.0, 0.0) for t in range(90, 110)]
    changes = Grouper().push(first + second, 2000 * SECOND)
    assert [(c.action, c.incident.kind) for c in changes if c.action != "updated"] == [
        ("opened", "cpu_contention"),
        ("resolved", "cpu_contention"),
        ("opened", "udp_overflow"),
        ("resolved", "udp_overflow"),
    ]


def test_a_blip_during_an_incident_does_not_become_its_cause() -> None:
    drops = [alert(DROPS, t, 900.0, 0.0) for t in range(300)]
    blip = [alert(WAIT, t, 9e8, 1e6) for t in range(150, 158)]
    changes = Grouper().push(sorted(drops + blip, key=lambda a: (a.end_ns, a.id)), 2000 * SECOND)
    assert {c.incident.kind for c in changes} == {"udp_overflow"}


def test_open_incidents_outlive_a_new_catalogue() -> None:
    old = Grouper()
    (opened,) = [c for c in old.push(contention(), 1004 * SECOND) if c.action == "opened"]
    fewer = Grouper(tuple(s for s in load_catalogue() if s.kind != "cpu_contention"))
    fewer.restore(old.snapshot())
    (resolved,) = fewer.push([], 2000 * SECOND)
    assert (resolved.action, resolved.incident.id) == ("resolved", opened.incident.id)


TEMPLATE = ChangeTemplate(
    "coalesce", "ethtool -C {device} rx-usecs 50", "ethtool -C {device} rx-usecs {current}", "delay of {cpu}", "quiet",
    "ethtool -c {device}",
)  # fmt: skip


def test_changes_know_the_way_back() -> None:
    known = fill(TEMPLATE, {"device": "eth0", "cpu": "3"}, {"ethtool -c eth0": "8"})
    assert known.undo == "ethtool -C eth0 rx-usecs 8"
    unknown = fill(TEMPLATE, {"device": "eth0"}, {})
    assert unknown.command.startswith("OLD=$(ethtool -c eth0); ethtool -C eth0")
    assert unknown.undo == "ethtool -C eth0 rx-usecs $OLD"
    assert fill(TEMPLATE, {}, {}).command.endswith("ethtool -C DEVICE rx-usecs 50")


def test_hostile_labels_stay_one_word_of_a_command() -> None:
    evil = fill(TEMPLATE, {"device": "eth0; rm -rf /"}, {})
    assert "'eth0; rm -rf /'" in evil.command


def test_cpu_masks() -> None:
    mask = replace(TEMPLATE, command="echo {mask} {others}", undo="none", reads="")
    assert fill(mask, {"cpu": "1|3"}, {"cpus": "4"}).command == "echo a 0,2"


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (11_900_000.0, "wire_latency_ns", "11.9 ms"),
        (5.8e8, "thread_wait_ns_total", "580 ms/s"),
        (20459.0, "softnet_dropped_total", "20,459/s"),
        (8.3e6, "nic_rx_bytes_total", "8.3 MB/s"),
        (0.0, "wire_latency_ns", "0"),
        (float("nan"), "wire_latency_ns", "?"),
        (-3e6, "wire_latency_ns", "-3 ms"),
    ],
)
def test_quantities(value: float, metric: str, text: str) -> None:
    assert quantity(value, metric) == text


def test_lost_in_the_host_is_less_sure_without_a_look_at_the_wire() -> None:
    alerts = [alert(LOST, t, 3.0, 0.0, "sum") for t in (100, 101)]
    wire = SeriesKey.of("h", "wire_lost_packets", flow="f", to="b", **{"from": "a"})
    blind, seen = (rank(alerts, quiet, [KINDS["host_gap"]]) for quiet in ((), (wire,)))
    sure, unsure = (next(c for c in causes if c.kind == "host_gap") for causes in (seen, blind))
    assert unsure.confidence < sure.confidence - 0.2
    assert any(text.startswith("not watched") for text in unsure.against)
