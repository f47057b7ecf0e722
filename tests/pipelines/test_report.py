from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.report.gather import gather, hops, irq_heat, waterfall
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
