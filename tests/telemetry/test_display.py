"""The shared types show themselves without pandas."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from telemetry.types import Alert, Cause, Change, Events, Incident, Panel, Scores, SeriesKey

KEY = SeriesKey.of("h", "lat_ns", flow="<a>")
END = (1_790_000_000 + np.arange(3)) * 10**9


def test_events_and_panels_are_tables_with_names_escaped() -> None:
    text = Events((KEY,), np.zeros(3, np.int64), END, END, np.array([1, 5, 9]))._repr_html_()
    assert "3 events of 1 series" in text
    assert "&lt;a&gt;" in text
    assert "<a>" not in text
    assert "<td>5</td>" in text
    panel = Panel((KEY,), ("p99",), 10**9, END, np.array([1.0, np.nan, 4.0]).reshape(3, 1, 1))
    assert "<td>2</td><td>1</td><td>2.5</td><td>4</td>" in panel._repr_html_()
    assert "nothing" in Events.empty()._repr_html_()


def test_scores_show_the_most_surprising_first() -> None:
    surprise = np.array([np.nan, 1.0, 3.0]).reshape(3, 1, 1)
    text = Scores((KEY,), ("p99",), END, surprise, np.array([0, 0, 1], np.int8).reshape(3, 1, 1))._repr_html_()
    assert text.index("3.00") < text.index("1.00")
    assert "above" in text
    assert "nan" not in text


def test_an_incident_says_why_and_what_to_do() -> None:
    alert = Alert("a", "d", "1", "smi", KEY, "p99", 10**9, int(END[0]), int(END[0]), 4.0, 0.7, 1, 9.0)
    cause, change = Cause("smi", "firmware", 0.8, "host=h", ("all cores stop",)), Change("BIOS", "set x", "-", "-", "-")
    first, second = int(END[0]), int(END[1])
    incident = Incident(
        "a",
        "open",
        "smi",
        "warning",
        "host=h",
        first,
        second,
        second,
        None,
        "slow & late",
        (alert,),
        (cause,),
        (change,),
    )
    text = incident._repr_html_()
    for part in ("slow &amp; late", "firmware (80%) all cores stop", "BIOS: set x", "host=h"):
        assert part in text


def test_no_pandas_for_it() -> None:
    code = (
        "import sys; from telemetry.types import Events; Events.empty()._repr_html_();"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'pandas', 'pyarrow', 'matplotlib', 'numba'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
