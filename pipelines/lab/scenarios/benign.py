"""Clean pieces and confusers: an incident during one of these is a false one."""

from __future__ import annotations

import time

from pipelines.lab.run import Run
from pipelines.lab.scenarios.base import Scenario

__all__ = ["BENIGN"]


def busy_market(run: Run) -> None:
    run.tell("publisher", f"rate {run.draw('factor', 1.4, 2.5)}")
    try:
        run.until_end()
    finally:
        run.tell("publisher", "rate 1.0")


def benign_burst(run: Run) -> None:
    """A hundred packets at once now and then: the sockets hold them."""
    packets = 32 * run.rng.randint(2, 5)
    run.params["packets"] = packets
    every = run.draw("every_s", 2.0, 6.0)
    while time.time_ns() < run.end_ns - 200_000_000:
        run.tell("publisher", f"burst {packets}")
        run.sleep_until(min(run.end_ns, time.time_ns() + int(every * 1e9)))


def deploy(run: Run) -> None:
    """Files are copied and a tool starts up, all at low priority and on the other CPU."""
    source = run.scratch / "release"
    source.write_bytes(bytes(range(256)) * 40960)
    with run.load("burn", cpu=run.house, duty=0.2, period=0.05, nice=10):
        while time.time_ns() < run.end_ns:
            (run.scratch / "release.copy").write_bytes(source.read_bytes())
            run.note("copy of a release (10 MB)")
            run.sleep_until(min(run.end_ns, time.time_ns() + 1_500_000_000))


def log_rotation(run: Run) -> None:
    import gzip

    log = run.scratch / "old.log"
    log.write_bytes(b"2026-01-02 09:30:00.000000 INFO order sent and acknowledged\n" * 100_000)
    while time.time_ns() < run.end_ns:
        run.note("gzip of a log (6 MB)")
        (run.scratch / "old.log.gz").write_bytes(gzip.compress(log.read_bytes(), 1))
        run.sleep_until(min(run.end_ns, time.time_ns() + 2_500_000_000))


def bulk_transfer(run: Run) -> None:
    with run.load("flood", "noise", to="10.77.0.2", port=40001, rate=run.draw("packets_per_s", 200, 800), size=1000):
        run.until_end()


def _sink(run: Run) -> None:
    run.background("sink", "trd", port=40001)


BENIGN = (
    Scenario("baseline", "none", "nothing happens (a clean piece)"),
    Scenario("baseline_relay", "none", "nothing happens, through the relay", relay=True),
    Scenario("busy_market", "none", "confuser: more market data, all of it read in time", busy_market),
    Scenario("benign_burst", "none", "confuser: small bursts that the sockets hold", benign_burst, shape="burst"),
    Scenario("deploy", "none", "confuser: a release is copied at low priority", deploy),
    Scenario("log_rotation", "none", "confuser: an old log is compressed", log_rotation),
    Scenario("bulk_transfer", "none", "confuser: a moderate transfer shares the trader's link", bulk_transfer,
             prepare=_sink),
)  # fmt: skip
