"""Faults of the application itself."""

from __future__ import annotations

import os
import signal
import time

from pipelines.lab.run import Run
from pipelines.lab.scenarios.base import Scenario

__all__ = ["PROCESS"]

STRAT = {"layer": "application", "netns": "trd", "process": "strat"}


def gc_pause(run: Run) -> None:
    every, length = run.draw("every_s", 0.8, 3.0), run.draw("pause_ms", 40, 250)
    pid = run.workers["strategy"].pid
    while time.time_ns() < run.end_ns - int(length * 1e6):
        run.note("SIGSTOP strat")
        os.kill(pid, signal.SIGSTOP)
        try:
            run.sleep_until(time.time_ns() + int(length * 1e6))
        finally:
            os.kill(pid, signal.SIGCONT)
        run.note("SIGCONT strat")
        run.sleep_until(min(run.end_ns, time.time_ns() + int((every - length / 1000) * 1e9)))


def udp_overflow(run: Run) -> None:
    how = run.rng.choice(("slow", "block"))  # computing, or waiting for something
    run.params["reader"] = how
    run.tell("strategy", f"{how} {int(run.draw('per_message_us', 1500, 4000) * 1000)}")
    try:
        run.until_end()
    finally:
        run.tell("strategy", f"{how} 0")


def microburst(run: Run) -> None:
    packets = int(run.draw("packets", 1500, 6000))
    every = run.draw("every_s", 1.5, 4.0)
    while time.time_ns() < run.end_ns - 500_000_000:
        run.tell("publisher", f"burst {packets}")
        run.sleep_until(min(run.end_ns, time.time_ns() + int(every * 1e9)))


def page_fault(run: Run) -> None:
    run.tell("strategy", f"fault {int(run.draw('pages', 48, 300))}")
    try:
        run.until_end()
    finally:
        run.tell("strategy", "fault 0")


def nagle(run: Run) -> None:
    run.tell("strategy", "nagle on")
    try:
        run.until_end()
    finally:
        run.tell("strategy", "nagle off")


def clock_step(run: Run) -> None:
    """Only noted here: the trader's stamps are shifted when the recording is written."""
    sign = run.rng.choice((-1, 1))
    run.params["offset_ns"] = sign * int(run.draw("offset_us", 300, 20_000) * 1000)
    run.until_end()


PROCESS = (
    Scenario("udp_overflow", "udp_overflow", "the strategy reads too slowly and its sockets overflow", udp_overflow,
             place={**STRAT, "port": "30001"}, counter=r"trd\.snmp\.Udp:RcvbufErrors", alone=True),
    Scenario("microburst", "microburst", "thousands of packets at once, several times", microburst,
             also=("udp_overflow",), place={"layer": "host", "netns": "trd", "port": "30001"},
             counter=r"trd\.snmp\.Udp:RcvbufErrors", shape="burst", alone=True, work_ns=20_000),
    Scenario("gc_pause", "process_pause", "the strategy stands still every few seconds", gc_pause,
             place=STRAT, counter=r"proc\.strat\.state_T", shape="periodic"),
    Scenario("page_fault", "page_fault_burst", "every message touches memory for the first time", page_fault,
             place=STRAT, counter=r"proc\.strat\.minflt", alone=True),
    Scenario("nagle", "nagle", "orders leave in two small writes without TCP_NODELAY", nagle,
             place={**STRAT, "flow": "tcp:9001"}, counter=r"(trd|exch)\.netstat\.TcpExt:DelayedACKs"),
    Scenario("clock_step", "clock_step", "the trader's clock is off for a while", clock_step,
             place={"layer": "host", "netns": "trd"},
             simulated="the trader's stamps are shifted in the recording; no clock was touched"),
)  # fmt: skip
