"""Grouping: one incident per fault, with a life, under the laws of chunking, no look-ahead and restart."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.changes import fill_all
from detectors.incidents import Grouper
from detectors.settings import Settings
from detectors.signature import Signature, load_catalogue, load_signature
from telemetry.types import Alert, Events, IncidentChange, Label, Panel, SeriesKey, alert_id

SECOND = 1_000_000_000
STEP = 100_000_000

SOCKET = """
[detector]
features = [{kind = "rate", select = "udp_socket_drops_total", window = "100ms"}]
model = {kind = "light"}
[signature]
kind = "udp_overflow"
title = "UDP receive buffer of port {port} overflows"
cause = "a slow reader"
layer = "kernel"
proven = true
localise = ["netns", "port"]
[[signature.evidence]]
name = "socket drops"
select = "udp_socket_drops_total"
role = "required"
opens = true
hold = [2, 5]
weight = 2.0
[[signature.change]]
what = "a larger buffer"
reads = "sysctl -n net.core.rmem_max"
command = "sysctl -w net.core.rmem_max=8388608"
undo = "sysctl -w net.core.rmem_max={current}"
risk = "memory"
proof = "drops stay 0"
"""
PAUSE = """
[detector]
features = [{kind = "window", select = "app_latency_ns", window = "100ms"}]
model = {kind = "light"}
[signature]
kind = "process_pause"
title = "process stands still"
cause = "garbage collection"
layer = "application"
proven = true
localise = ["process"]
[[signature.evidence]]
name = "kernel to user waits"
select = 'app_latency_ns{stage="kernel_to_user"}'
role = "required"
opens = true
hold = [2, 30]
min_delta = 1e7
weight = 2.0
[[signature.evidence]]
name = "socket drops"
select = "udp_socket_drops_total"
role = "quiet"
weight = 1.0
"""


def catalogue() -> tuple[Signature, ...]:
    return load_signature(SOCKET), load_signature(PAUSE)


def alert(
    metric: str,
    tenth: int,
    value: float = 50.0,
    expected: float = 0.0,
    grade: str = "alert",
    host: str = "h",
    **labels: str,
) -> Alert:
    key = SeriesKey.of(host, metric, **labels)
    end = 1000 * SECOND + tenth * STEP
    return Alert(
        alert_id("d", key, end), "d", "1", "", key, "rate", STEP, end, end - STEP, 5.0,
        0.9 if grade == "alert" else 0.3, 1, value, expected, grade=grade,  # type: ignore[arg-type]
    )  # fmt: skip


def drops(tenth: int, host: str = "h", grade: str = "alert") -> Alert:
    return alert("udp_socket_drops_total", tenth, grade=grade, host=host, port="30001", netns="trd")


def wait(tenth: int, host: str = "h") -> Alert:
    return alert("app_latency_ns", tenth, 9e7, 1e5, host=host, process="strat", stage="kernel_to_user")


def run(alerts: list[Alert], until: int = 3000, **options: float) -> list[IncidentChange]:
    grouper = Grouper(catalogue(), **options)  # type: ignore[arg-type]
    return grouper.push(sorted(alerts, key=lambda a: (a.end_ns, a.id)), 1000 * SECOND + until * STEP)


def test_one_fault_one_incident_with_a_life() -> None:
    changes = run([drops(t) for t in range(50, 150)])
    assert [c.action for c in changes] == ["opened", "resolved"]
    opened, resolved = changes[0].incident, changes[-1].incident
    assert opened.kind == "udp_overflow"
    assert opened.place == "host=h,netns=trd,port=30001"
    assert changes[0].at_ns == 1000 * SECOND + 51 * STEP, "open as soon as two of five windows deviate"
    assert opened.onset_ns == 1000 * SECOND + 49 * STEP, "onset is the start of the first of them"
    assert resolved.id == opened.id == opened.alerts[0].id
    assert resolved.resolved_ns == 1000 * SECOND + 149 * STEP + 15 * SECOND
    assert resolved.state == "resolved"
    assert resolved.severity == "critical", "lost messages are what users feel"


def test_evidence_never_opens() -> None:
    assert run([drops(t, grade="evidence") for t in range(50, 150)]) == []


def test_one_window_does_not_open() -> None:
    assert run([drops(50), drops(90)]) == []


def test_flapping_reopens_the_same_incident() -> None:
    changes = run([drops(t) for t in [*range(50, 60), *range(300, 310), *range(550, 560)]], until=5000)
    assert [c.action for c in changes] == ["opened", "resolved", "updated", "resolved", "updated", "resolved"]
    assert len({c.incident.id for c in changes}) == 1


def test_after_the_hold_down_it_is_a_new_incident() -> None:
    changes = run([drops(t) for t in [*range(50, 60), *range(1000, 1010)]], until=5000)
    assert [c.action for c in changes] == ["opened", "resolved", "opened", "resolved"]
    assert len({c.incident.id for c in changes}) == 2


def test_mass_event_is_one_incident() -> None:
    changes = run([drops(t, host=f"tx{h:02d}") for t in range(50, 80) for h in range(5)])
    assert sum(c.action == "opened" for c in changes) == 1
    assert changes[-1].incident.place.startswith("host=tx00|tx01|tx02|tx03|tx04")


def test_hosts_that_join_at_one_time_are_told_in_one_step() -> None:
    """A step is known by its incident, action and time: of two that share these one would be lost."""
    changes = run([drops(t, host=h) for t in range(50, 80) for h in "abcd"])
    assert len({(c.incident.id, c.action, c.at_ns) for c in changes}) == len(changes)
    updated = [c.incident.place for c in changes if c.action == "updated"]
    assert updated == ["host=a|b|c|d,netns=trd,port=30001"]


def life(changes: list[IncidentChange]) -> list[tuple[str, str, str]]:
    return [(c.action, c.incident.kind, c.incident.place.split(",")[0]) for c in changes]


def test_what_follows_on_an_incident_may_belong_to_another_hosts() -> None:
    quiet = [wait(t) for t in range(50, 60)]
    other = [drops(t, host="g") for t in range(120, 180)]
    assert life(run([*quiet, *other, *[drops(t) for t in range(130, 150)]])) == [
        ("opened", "process_pause", "host=h"),
        ("updated", "process_pause", "host=h"),
        ("opened", "udp_overflow", "host=g"),
        ("resolved", "process_pause", "host=h"),
        ("updated", "udp_overflow", "host=g|h"),
        ("resolved", "udp_overflow", "host=g|h"),
    ]


def test_what_follows_may_be_weaker_than_it_was_before() -> None:
    changes = run([*[drops(t) for t in range(50, 100)], wait(60), *[wait(t) for t in range(160, 180)]])
    assert [c.action for c in changes] == ["opened", "resolved", "opened", "resolved"]
    assert changes[2].incident.alerts[0] == wait(161), "the incident that ended keeps what it was built from"


def test_what_follows_may_be_an_incident_that_flaps() -> None:
    changes = run([wait(t) for t in [*range(50, 60), *range(380, 400)]] + [drops(t) for t in range(300, 310)])
    paused = [c for c in changes if c.incident.kind == "process_pause"]
    assert len({c.incident.id for c in paused}) == 1
    assert [c.action for c in changes].count("opened") == 2


def test_an_incident_that_becomes_one_of_another_kind_is_no_new_one() -> None:
    apart = [*[wait(t) for t in range(44, 48)], *[drops(t, host="g") for t in range(103, 106)]]
    changes = run([*apart, *[drops(t) for t in range(153, 157)], wait(154)])
    opened = [c.incident.id for c in changes if c.action == "opened"]
    assert len(opened) == len(set(opened)) == 2
    ended = [c.incident.id for c in changes if c.action == "resolved"]
    assert sorted(ended) == sorted(opened)


def test_hosts_apart_in_time_and_kind_are_apart() -> None:
    changes = run([drops(t, host="tx01") for t in range(50, 60)] + [wait(t, host="tx02") for t in range(55, 65)])
    assert sum(c.action == "opened" for c in changes) == 2


def test_sentence_says_it_all() -> None:
    text = run([drops(t) for t in range(50, 150)])[0].incident.title
    for part in ("since 00:16:44.9 UTC", "host=h", "socket drops", "likely a slow reader", "to mend:", "to undo:"):
        assert part in text, part


def test_change_keeps_the_way_back() -> None:
    change = run([drops(t) for t in range(50, 60)])[0].incident.changes[0]
    assert change.command == "sysctl -w net.core.rmem_max=8388608" or change.command.startswith("OLD=$(sysctl -n")
    assert change.undo == "sysctl -w net.core.rmem_max=$OLD"
    grouper = Grouper(catalogue(), facts={"h": {"sysctl -n net.core.rmem_max": "212992"}})
    changes = grouper.push([drops(t) for t in range(50, 60)], 2000 * SECOND)
    assert changes[0].incident.changes[0].undo == "sysctl -w net.core.rmem_max=212992"


def test_kernel_causes_are_ruled_out_for_flows_that_bypass_it() -> None:
    wire = alert("udp_socket_drops_total", 50, port="9", flow="md")
    again = alert("udp_socket_drops_total", 51, port="9", flow="md")
    assert Grouper(catalogue()).push([wire, again], 1100 * SECOND)
    assert Grouper(catalogue(), bypass=['flow="md"']).push([wire, again], 1100 * SECOND) == []


def test_what_is_expected_is_kept_and_weighs_nothing() -> None:
    at = 1000 * SECOND
    deploy = Label("d", "none", "host=h", at, at + 10 * SECOND, at, note="deploy 4.2")
    alerts = [drops(t) for t in range(50, 60)]
    (opened, *_) = Grouper(catalogue(), expected=[deploy]).push(alerts, 2000 * SECOND)
    assert opened.incident.severity == "info"
    assert opened.incident.title.startswith("expected (deploy 4.2): since")
    for other in (replace(deploy, scope="host=x"), replace(deploy, end_ns=at + SECOND), replace(deploy, kind="steal")):
        (opened, *_) = Grouper(catalogue(), expected=[other]).push(alerts, 2000 * SECOND)
        assert opened.incident.severity == "critical"


def test_doubt_about_the_measurement_lowers_confidence() -> None:
    sure = run([drops(t) for t in range(50, 60)])[0].incident.causes[0]
    late = [alert("sampler_late_ns", 49, 3e8)]
    unsure = run([*late, *[drops(t) for t in range(50, 60)]])[0].incident.causes[0]
    assert unsure.kind == sure.kind
    assert unsure.confidence < sure.confidence
    assert any("sampler" in text for text in unsure.against)


def test_quiet_series_count_once_they_are_known() -> None:
    key = SeriesKey.of("h", "udp_socket_drops_total", port=30001)
    panel = Panel((key,), ("rate",), STEP, np.array([900 * SECOND]), np.zeros((1, 1, 1)))
    plain = run([wait(t) for t in range(50, 60)])[0].incident.causes[0]
    grouper = Grouper(catalogue())
    grouper.watch(panel)
    known = grouper.push([wait(t) for t in range(50, 60)], 2000 * SECOND)[0].incident.causes[0]
    assert known.confidence > plain.confidence
    assert "socket drops: quiet" in known.because


def test_a_channel_that_fires_already_still_opens() -> None:
    """A policy grades the first of many windows; that one may have been too small to count."""
    later = [replace(drops(t), grade="evidence") for t in range(50, 60)]
    assert run(later)[0].action == "opened"


def test_what_follows_may_have_been_stronger_before() -> None:
    """The alerts kept of a channel (first, strongest) lie within the incident that has gone quiet."""
    before = replace(wait(52), surprise=9.0)
    changes = run([*(drops(t) for t in range(50, 60)), before, wait(95), wait(115)])
    opened = [c.incident for c in changes if c.action == "opened"]
    assert [x.kind for x in opened] == ["udp_overflow", "process_pause"]
    assert [a.end_ns for a in opened[1].alerts] == [wait(115).end_ns]


@pytest.mark.parametrize("every", [1, 2, 10, 150])
def test_evidence_keeps_the_pace_of_its_series(every: int) -> None:
    """Two of five windows: those that there are, however slowly a series is sampled."""
    key = drops(0).series
    ends = 1000 * SECOND + np.arange(-40 * every, 0, every) * STEP
    panels = [Panel((key,), ("rate",), STEP, e, np.zeros((len(e), 1, 1))) for e in (ends[:7], ends[7:])]
    grouper = Grouper(catalogue())
    grouper.watch(panels[0])
    state = grouper.snapshot()
    grouper = Grouper(catalogue())
    grouper.restore(state)
    grouper.watch(panels[1])
    changes = grouper.push([drops(t * every) for t in range(1, 12)], 1000 * SECOND + 12 * every * STEP)
    assert [c.action for c in changes] == ["opened"]
    assert changes[0].at_ns == 1000 * SECOND + 2 * every * STEP
    assert changes[0].incident.onset_ns == 1000 * SECOND
    lone = Grouper(catalogue())
    for panel in panels:
        lone.watch(panel)
    assert lone.push([drops(0), drops(5 * every)], 1000 * SECOND + 12 * every * STEP) == []


def test_a_short_delay_weighs_little() -> None:
    """Severity is what users feel for longer than a moment."""
    blip = [wait(50), wait(79), wait(80)]
    calm = Grouper((replace(catalogue()[1], evidence=(replace(catalogue()[1].evidence[0], hold=(2, 40)),)),))
    first = calm.push(blip[:2], 2000 * SECOND)[0].incident
    assert first.severity == "warning"
    assert run([wait(t) for t in range(50, 60)])[-1].incident.severity == "critical"


def _stream(draw_hosts: list[int], tenths: list[int], kinds: list[int]) -> list[Alert]:
    alerts: dict[str, Alert] = {}
    for host, tenth, kind in zip(draw_hosts, tenths, kinds, strict=True):
        name = f"tx{host}"
        made = [drops(tenth, name), wait(tenth, name), drops(tenth, name, "evidence")][kind]
        alerts.setdefault(made.id, made)
    return sorted(alerts.values(), key=lambda a: (a.end_ns, a.id))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 900), st.integers(0, 2)), min_size=1, max_size=80),
    marks=st.lists(st.integers(0, 1300), max_size=12),
    restart=st.booleans(),
    since=st.integers(0, 900),
)
def test_laws(rows: list[tuple[int, int, int]], marks: list[int], restart: bool, since: int) -> None:
    hosts, tenths, kinds = (list(x) for x in zip(*rows, strict=True))
    alerts = _stream(hosts, tenths, kinds)
    end = 1000 * SECOND + 1300 * STEP
    key, first = SeriesKey.of("h", "udp_socket_drops_total", port=1), 1000 * SECOND + since * STEP
    one = Grouper(catalogue())
    one.know(key, ("rate",), first)
    whole = one.push(alerts, end)
    grouper, out, given_to = Grouper(catalogue()), [], 0
    for mark in [*sorted(marks), 1300]:
        watermark = 1000 * SECOND + mark * STEP
        if first <= watermark:
            grouper.know(key, ("rate",), first)
        ready = [a for a in alerts[given_to:] if a.end_ns <= watermark]
        given_to += len(ready)
        early = [c for c in whole if c.at_ns <= watermark]
        out += grouper.push(ready, watermark)
        assert repr(out) == repr(early), "what is said by a watermark does not depend on what comes after it"
        if restart:
            state = grouper.snapshot()
            grouper = Grouper(catalogue())
            grouper.restore(state)
    assert repr(out) == repr(whole)


def test_tuning_is_validated() -> None:
    from telemetry.errors import ConfigError

    with pytest.raises(ConfigError, match="did you mean 'weight'"):
        load_signature(SOCKET.replace("weight = 2.0", "wieght = 2.0"))
    with pytest.raises(ConfigError, match="shape is one of"):
        load_signature(SOCKET.replace('role = "required"', 'role = "required"\nshape = "round"'))
    with pytest.raises(ConfigError, match="required"):
        load_signature(SOCKET.replace('role = "required"', 'role = "supports"'))
    with pytest.raises(ConfigError, match="unknown table"):
        load_signature("[detectors]\n")


def _setting(at_ns: int, metric: str, level: int, **labels: str) -> Events:
    stamp = np.array([at_ns], np.int64)
    return Events((SeriesKey.of("h", metric, **labels),), np.zeros(1, np.int64), stamp, stamp, np.array([level]))


def test_changes_are_filled_in_with_what_the_host_says_of_itself() -> None:
    """The value in force when the incident was decided: not the one before, nor one that came later."""
    start = 1000 * SECOND
    told = [
        _setting(start - SECOND, "sysctl", 212992, name="net.core.rmem_max"),
        _setting(start, "sysctl", 425984, name="net.core.rmem_max"),
        _setting(start + 60 * SECOND, "sysctl", 999, name="net.core.rmem_max"),
    ]
    setting = "setting = 'sysctl{name=\"net.core.rmem_max\"}'\n"
    signature = load_signature(SOCKET.replace('reads = "sysctl', setting + 'reads = "sysctl'))
    for cut in range(4):
        grouper = Grouper((signature,))
        for i, events in enumerate(told):
            if i == cut:
                state = grouper.snapshot()
                grouper = Grouper((signature,))
                grouper.restore(state)
            grouper.note(events)
        (change,) = grouper.push([drops(t) for t in range(50, 60)], start + 10 * SECOND)[0].incident.changes
        assert change.undo == "sysctl -w net.core.rmem_max=425984"
        assert change.command == "sysctl -w net.core.rmem_max=8388608"


def test_the_catalogue_is_filled_in_whole() -> None:
    """An interrupt of a known NIC on a host of four cpus, one of them isolated: nothing is left to fill in by hand."""
    known = Settings()
    for metric, value, labels in (
        ("config_info", 1, {"name": "online_cpus", "value": "0-3"}),
        ("config_info", 1, {"name": "isolated_cpus", "value": "3"}),
        ("config_info", 0, {"name": "transparent_hugepage", "value": "[always] madvise never"}),
        ("config_info", 1, {"name": "transparent_hugepage", "value": "always [madvise] never"}),
        ("config_nic_rx_usecs", 8, {"device": "eth0"}),
        ("config_nic_rx_usecs", 3, {"device": "eth1"}),
        ("nic_queue_irq", 36, {"device": "eth1", "queue": "2"}),
        ("irq_affinity_mask", 0b100, {"irq": "36"}),
        ("sysctl", 4096, {"name": "net.ipv4.tcp_rmem", "index": "0"}),
        ("sysctl", 131072, {"name": "net.ipv4.tcp_rmem", "index": "1"}),
    ):
        known.take(_setting(5, metric, value, **labels))
    assert known.facts("h", 4) == {"isolated": ""}
    facts = known.facts("h", 5)
    by = {s.kind: s for s in load_catalogue()}
    place = {"host": "h", "cpu": "2", "irq": "36", "name": "eth1-rx-2"}
    coalesce, move = fill_all(by["interrupt_storm"], place, facts)
    assert (coalesce.command, coalesce.undo) == (
        "ethtool -C eth1 adaptive-rx off rx-usecs 50",
        "ethtool -C eth1 rx-usecs 3",
    )
    assert move.command == "echo 0-1 > /proc/irq/36/smp_affinity_list"
    assert move.undo == "echo 2 > /proc/irq/36/smp_affinity_list"
    (jitter,) = fill_all(by["housekeeping_jitter"], place, facts)
    assert jitter.command.endswith("echo 3 > /sys/devices/virtual/workqueue/cpumask"), "a mask: cpus 0 and 1"
    (memory,) = fill_all(by["compaction"], place, facts)
    assert memory.undo.startswith("echo madvise >")
    (collapse,) = fill_all(by["tcp_collapse"], place, facts)
    assert collapse.undo == 'sysctl -w net.ipv4.tcp_rmem="4096 131072"'
    again = Settings()
    again.unpack(json.loads(json.dumps(known.pack())))
    assert again.facts("h", 5) == facts
