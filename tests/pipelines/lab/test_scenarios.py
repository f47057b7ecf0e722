"""The table of scenarios, and what the command line makes of it."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.lab.plan import plan
from pipelines.lab.record import schedule
from pipelines.lab.scenarios import SCENARIOS
from telemetry.errors import ConfigError

KINDS = {
    "tail_latency_creep", "interrupt_storm", "softirq_squeeze", "irq_on_isolated_core", "microburst",
    "udp_overflow", "tcp_loss", "network_gap", "host_gap", "ab_skew", "clock_step", "c_state_exit", "throttling",
    "compaction", "numa_remote", "page_fault_burst", "context_switch_storm", "cpu_contention", "steal",
    "tick_on_quiet_core", "smi", "housekeeping_jitter", "conntrack_full", "arp_loss", "igmp_expiry",
    "process_pause", "nagle", "listen_overflow", "writeback", "bufferbloat", "rate_limit", "link_flap",
    "crc_errors", "tcp_collapse", "none",
}  # fmt: skip


def test_there_are_at_least_24_real_faults_and_some_confusers() -> None:
    faults = [s for s in SCENARIOS.values() if not s.clean]
    assert len([s for s in faults if not s.simulated]) >= 24
    assert len([s for s in SCENARIOS.values() if s.clean]) >= 5


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_row_is_whole(name: str) -> None:
    s = SCENARIOS[name]
    assert s.name == name
    assert {s.kind, *s.also} <= KINDS
    assert s.about
    re.compile(s.counter)
    assert s.shape in ("step", "ramp", "burst", "periodic")
    if not s.clean:
        assert s.place["layer"] in ("network", "host", "application")


def test_seeds_are_outermost_and_clean_pieces_take_turns() -> None:
    jobs = plan(["loss", "nagle"], "1,2", 7)
    assert [(s.name, seed) for s, seed in jobs[:4]] == [("loss", "1"), ("nagle", "1"), ("loss", "2"), ("nagle", "2")]
    clean = jobs[4:]
    assert all(s.clean for s, _ in clean)
    assert len({(s.name, seed) for s, seed in clean}) == 7


@pytest.mark.parametrize(
    ("names", "seeds", "says"),
    [
        (["delay_stp"], "1", "did you mean delay_step"),
        ([], "1", "nothing to run"),
        (["loss"], "1,../2", "letters and digits"),
    ],
)
def test_a_mistake_is_named(names: list[str], seeds: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        plan(names, seeds, 0)


@given(seed=st.integers(0, 10_000), seconds=st.floats(6, 600))
def test_the_fault_lies_inside_with_clean_time_before_and_after(seed: int, seconds: float) -> None:
    start, end = schedule(random.Random(seed), seconds)
    scale = min(1.0, seconds / 25)
    assert 12 * scale - 1e-9 <= start < end <= seconds - 5 * scale + 1e-9
    assert end - start >= min(8 * scale, 0.2 * seconds) - 1e-9
    assert (start, end) == schedule(random.Random(seed), seconds)
