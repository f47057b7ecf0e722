"""State that follows the series: rows stay with their key, whatever comes and goes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.keyed import ChannelState, rows_before
from telemetry.errors import ConfigError, StoreError
from telemetry.types import Float64, Panel, SeriesKey

KEYS = tuple(SeriesKey("h", f"m{i}") for i in range(6))
keys = st.permutations(KEYS).flatmap(lambda p: st.integers(0, len(p)).map(lambda n: tuple(p[:n])))
grown = st.integers(0, len(KEYS)).map(lambda n: KEYS[:n])


def _fresh(channels: int) -> dict[str, Float64]:
    return {"a": np.zeros((channels, 2)), "b": np.zeros(channels)}


def _panel(of: tuple[SeriesKey, ...], columns: tuple[str, ...] = ("p50", "p99")) -> Panel:
    return Panel(of, columns, 10**9, np.array([10**9]), np.zeros((1, len(of), len(columns))))


@given(st.lists(st.one_of(keys, grown), min_size=1, max_size=8))
def test_rows_follow_their_keys(steps: list[tuple[SeriesKey, ...]]) -> None:
    """As a dictionary of channels would: what stays keeps its values, what is new (or comes again) is zero."""
    state = ChannelState("test", _fresh)
    known: dict[tuple[SeriesKey, str], float] = {}
    mark = 0.0
    for step in steps:
        new = state.settle(_panel(step))
        channels = [(k, c) for k in step for c in state.columns]
        assert {channels[i] for i in new} == set(channels) - set(known)
        known = {channel: known.get(channel, 0.0) for channel in channels}
        assert state.rows["b"].tolist() == list(known.values())
        assert state.rows["a"].tolist() == [[v, -v] for v in known.values()]
        assert all(array.flags.c_contiguous for array in state.rows.values())
        for i, channel in enumerate(channels):
            mark += 1.0
            known[channel] = mark
            state.rows["a"][i], state.rows["b"][i] = (mark, -mark), mark
        again = ChannelState("test", _fresh)
        again.unpack(state.pack())
        assert (again.keys, again.columns) == (state.keys, state.columns)
        assert all(np.array_equal(again.rows[n], state.rows[n]) for n in state.rows)


def test_series_one_by_one_are_not_copied_each_time() -> None:
    """A flood of new flows: growing by one copies rows a few times, not once a flow."""
    made: list[int] = []

    def fresh(channels: int) -> dict[str, Float64]:
        made.append(channels)
        return _fresh(channels)

    state = ChannelState("test", fresh)
    many = tuple(SeriesKey("h", f"m{i}") for i in range(500))
    for n in range(1, 501):
        state.settle(_panel(many[:n], ("p99",)))
    assert len(state.rows["b"]) == 500
    assert len(made) < 15


@given(keys, keys, st.integers(1, 3))
def test_rows_before(old: tuple[SeriesKey, ...], new: tuple[SeriesKey, ...], width: int) -> None:
    names = [(k, c) for k in old for c in range(width)]
    expected = [names.index((k, c)) if k in old else -1 for k in new for c in range(width)]
    assert rows_before(old, new, width).tolist() == expected


def test_what_does_not_fit_is_refused() -> None:
    state = ChannelState("test", _fresh)
    state.settle(_panel(KEYS[:2]))
    with pytest.raises(ConfigError, match="test: learnt columns"):
        state.settle(_panel(KEYS[:2], ("max",)))
    packed = state.pack()
    with pytest.raises(StoreError, match=r"test: a of shape \(4, 3\), expected \(4, 2\)"):
        state.unpack({**packed, "a": np.zeros((4, 3))})
    assert len(state.rows["a"]) == 4
