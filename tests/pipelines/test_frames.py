"""Pandas in and out, and plots with one call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import pipelines
from pipelines.frames import capture_summary, events_from_frame, packets_frame, scores_frame
from pipelines.plots import plot
from telemetry.errors import InputError
from telemetry.types import Panel, Scores, SeriesKey

CAPTURE = Path(pipelines.__file__).parent / "demo_data" / "tail_latency" / "exch.pcap.gz"
KEY = SeriesKey.of("h", "lat_ns")
END = (1_790_000_000 + np.arange(3)) * 10**9


def test_a_capture_adds_up() -> None:
    summary, packets = capture_summary(CAPTURE), packets_frame(CAPTURE)
    assert summary.packets == len(packets)
    assert summary.bytes == packets.wire_len.sum()
    assert (summary.first_ns, summary.last_ns) == (packets.time_ns.min(), packets.time_ns.max())
    by_flow = packets.groupby(["protocol", "src", "dst", "dst_port"], dropna=False).size()
    assert len(summary.flows) == len(by_flow)
    assert sum(f[4] for f in summary.flows) == summary.packets
    assert summary.frame().packets.iloc[0] == by_flow.max()
    assert "239.7.7.1" in summary._repr_html_()


def test_scores_are_a_long_frame() -> None:
    surprise = np.array([np.nan, 1.0, 3.0]).reshape(3, 1, 1)
    frame = scores_frame(Scores((KEY,), ("p99",), END, surprise, np.ones((3, 1, 1), np.int8)))
    assert frame.surprise.tolist() == [1.0, 3.0]
    assert frame.end.astype("int64").tolist() == END[1:].tolist() or frame.end.iloc[0].value == END[1]
    assert frame.series.unique().tolist() == [str(KEY)]


def test_frames_become_events_in_order_of_time() -> None:
    frame = pd.DataFrame({"series": [str(KEY)] * 3, "time_ns": [3, 1, 2], "value": [30, 10, 20]})
    events = events_from_frame(frame)
    assert events.value.tolist() == [10.0, 20.0, 30.0]
    with pytest.raises(InputError, match="expected columns"):
        events_from_frame(frame.rename(columns={"value": "v"}))


def test_one_call_draws_a_panel() -> None:
    panel = Panel((KEY,), ("p99",), 10**9, END, np.array([1.0, 2.0, 4.0]).reshape(3, 1, 1))
    assert plot(panel, "lat_ns")._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="series and a column"):
        plot(panel, "nothing")
