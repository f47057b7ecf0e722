from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.report.gather import balance, gather, hops, irq_heat, waterfall
from pipelines.report.page import render
from telemetry.source import ArraySource
from telemetry.types import Alert, Cause, Change, Events, Incident, SeriesKey

SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND
HOSTILE = "<script>document.title='owned'</script>"
LATENCY = SeriesKey.of("h", "wire_latency_ns", flow=HOSTILE, to="b", **{"from": "a"})
IRQ = SeriesKey.of("h", "irq_total", cpu=1, irq="LOC")
LOST = SeriesKey.of("h", "wire_lost_packets", to="b", flow="f", **{"from": "a"})


@pytest.fixture
def source() -> ArraySource:
    """A minute in which latency and timer interrupts rise tenfold at half time, and packets are lost."""
    n = 600
    t = START + np.arange(n) * SECOND // 10
    after = np.arange(n) >= 300
    zero = np.zeros(n, np.int64)
    latency = Events((LATENCY,), zero, t, t, np.where(after, 1_000_000.0, 100_000.0))
    irq = Events((IRQ,), zero, t, t, np.cumsum(np.where(after, 250, 25)).astype(np.int64))
    lost = Events((LOST,), zero, t, t, np.where(after, 2.0, 0.0))
    return ArraySource(latency, irq, lost)


@pytest.fixture
def incident() -> Incident:
    onset = START + 30 * SECOND
    alert = Alert("a", "d", "1", "x", LATENCY, "p99", SECOND, onset + SECOND, onset, 9.0, 0.9, 1, 1e6, 1e5, 5e4, 2e5)
    count = replace(alert, id="b", series=IRQ, column="rate", value=2500.0, expected=250.0, lo=float("nan"))
    return Incident(
        "id1", "resolved", "tail_latency_creep", "critical", f"host=h,flow={HOSTILE}", onset, onset + SECOND,
        onset + 20 * SECOND, onset + 25 * SECOND, f"latency rose on {HOSTILE}", (alert, count),
        (Cause("tail_latency_creep", HOSTILE, 0.8, "host=h", ("p99 rose",), ("nothing",), False),),
        (Change("look", f"echo '{HOSTILE}'", "undo", "none", "compare"),),
    )  # fmt: skip


def test_the_figures_are_those_of_the_series(source: ArraySource, incident: Incident) -> None:
    around = gather(source, incident)
    (hop,) = hops(around)
    assert (hop.p50_before, hop.p99_while) == (100.0, 1000.0)
    assert hop.factor == pytest.approx(10)
    rows = {name: (a, b) for name, a, b in waterfall(around)}
    assert rows["lost a to b"] == (0.0, pytest.approx(20.0))
    names, cpus, grid = irq_heat(around)
    assert (names, cpus) == (["LOC"], ["1"])
    assert grid[0, 0] == pytest.approx(np.log2(2501 / 251), abs=0.01)


def test_the_balance_is_exact_and_says_what_no_counter_tells(incident: Incident) -> None:
    """1,200 messages between the taps, 900 read: the socket's counter moved in the window that spans the onset."""
    n = 600
    t = START + np.arange(n) * SECOND // 10
    after, zero = np.arange(n) >= 300, np.zeros(n, np.int64)

    def feed(tap: str) -> Events:
        key = SeriesKey.of("h", "feed_packets", feed="239.1.1.1:1", tap=tap)
        return Events((key,), zero, t, t, np.where(after, 4.0, 3.0))

    handed = SeriesKey.of("h", "app_latency_ns", process="strat", stage="kernel_to_user")
    read = np.repeat(t, 3)
    app = Events((handed,), np.zeros(len(read), np.int64), read, read, np.ones(len(read)))
    drops = SeriesKey.of("h", "netstat_Udp_RcvbufErrors_total", netns="trd")
    for told, unexplained in ((300, 0), (260, 40)):
        counted = Events((drops,), zero, t, t, np.where(after, told, 0).astype(np.int64))
        found = balance(gather(ArraySource(feed("a"), feed("b"), app, counted), incident))
        assert found is not None
        assert found.path.lost == (0, 300)
        assert found.drops == {"in sockets": told}
        assert found.unexplained == unexplained
        assert ("it adds up" in found.text) is (unexplained == 0)
    assert balance(gather(ArraySource(app), incident)) is None, "without captures there is nothing to balance"


def test_hostile_values_are_escaped_and_nothing_is_fetched(source: ArraySource, incident: Incident) -> None:
    page = render([incident], source, title=HOSTILE)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 5
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert page.count("data:image/png;base64,") >= 4


def test_a_page_without_store_or_incidents_is_still_a_page(incident: Incident) -> None:
    assert "No incidents" in render([], None)
    assert incident.kind in render([incident], None)


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.service
@pytest.mark.skipif(CHROMIUM is None, reason="Debian package chromium")
def test_in_a_browser_and_on_a_phone(source: ArraySource, incident: Incident, tmp_path: Path) -> None:
    page = render([incident], source)
    probe = "<script>document.documentElement.setAttribute('data-w', document.documentElement.scrollWidth)</script>"
    (tmp_path / "page.html").write_text(page.replace("</body>", probe + "</body>"))
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    command = [str(CHROMIUM), *flags.split(), "--disable-component-update", "--disable-sync", "--window-size=500,900"]
    done = subprocess.run(
        [*command, f"--user-data-dir={tmp_path}/profile", "--dump-dom", f"file://{tmp_path}/page.html"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "<title>Tailwatch report</title>" in done.stdout  # the hostile script did not run
    width = re.search(r'data-w="(\d+)"', done.stdout)
    assert width is not None
    assert int(width.group(1)) <= 520
