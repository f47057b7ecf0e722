from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.errors import InputError
from telemetry.types import Events, Panel, SeriesKey, Snapshot, alert_id

names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True).filter(lambda n: n not in ("host", "metric"))


@given(st.text(max_size=8), names, st.dictionaries(names, st.text(max_size=12).filter(bool), max_size=3))
def test_series_key_reads_what_it_wrote(host: str, metric: str, labels: dict[str, str]) -> None:
    key = SeriesKey.of(host, metric, **labels)
    assert SeriesKey.parse(str(key)) == key


@pytest.mark.parametrize("text", ['m{a="1"', "m{a=1}", 'm{="1"}', 'm{a="1" b="2"}'])
def test_series_key_says_what_was_expected(text: str) -> None:
    with pytest.raises(InputError, match="expected"):
        SeriesKey.parse(text)


def test_concat_keeps_integers_exact_and_joins_keys() -> None:
    a, b = SeriesKey("h", "a_total"), SeriesKey("h", "b_total")
    big = 2**62 + 1
    one = Events((a, b), np.array([1, 0]), np.array([1, 2]), np.array([1, 2]), np.array([big, 2]))
    two = Events((b,), np.array([0]), np.array([3]), np.array([3]), np.array([4]))
    both = Events.concat([one, Events.empty(), two])
    assert [both.keys[i] for i in both.series] == [b, a, b]
    assert both.value.tolist() == [big, 2, 4]


def test_panel_channels_leave_the_clock_out() -> None:
    values = np.arange(6.0).reshape(1, 2, 3)
    panel = Panel((SeriesKey("h", "a"), SeriesKey("h", "b")), ("p50", "clock_slot", "p99"), 1, np.array([1]), values)
    assert panel.channels == ("p50", "p99")
    assert panel.channel_values().tolist() == [[[0.0, 2.0], [3.0, 5.0]]]
    assert panel.column("p99").tolist() == [[2.0, 5.0]]


def test_snapshot_nests_and_unnests() -> None:
    flat = Snapshot.nest([("a", {"x": np.array(1)}), ("a/b", {"x": np.array(2)})])
    assert Snapshot.unnest(flat, "a/b") == {"x": np.array(2)}


def test_alert_id_depends_on_detector_series_and_time_only() -> None:
    key = SeriesKey("h", "m")
    assert alert_id("d", key, 5) == alert_id("d", key, 5)
    assert len({alert_id("d", key, 5), alert_id("d", key, 6), alert_id("e", key, 5)}) == 3
