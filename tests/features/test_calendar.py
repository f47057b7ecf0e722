"""The clock: sessions, half days, holidays, daylight saving, leap days, slots."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.calendar import BREAK, CLOSED, MAX_SLOTS, OPEN, POST, PRE, Calendar, Clock, parse_schedule
from telemetry.errors import ConfigError
from telemetry.selectors import Selector
from telemetry.types import SeriesKey

S = 1_000_000_000


def at(*texts: str) -> np.ndarray:
    return np.array([int(datetime.fromisoformat(t + "+00:00").timestamp()) * S for t in texts], np.int64)


def test_the_session_moves_with_daylight_saving() -> None:
    new_york = Calendar("XNYS")
    # 09:30 there is 14:30 UTC on Friday, 6 March 2026 and 13:30 on Monday, after the change of 8 March.
    times = at("2026-03-06T14:29:59", "2026-03-06T14:30:00", "2026-03-09T13:29:59", "2026-03-09T13:30:00")
    phase, _, to_open, to_close = new_york.session(times)
    assert phase.tolist() == [PRE, OPEN, PRE, OPEN]
    assert to_open[[0, 2]].tolist() == [1, 1]
    assert to_open[1] == 0
    assert new_york.session(times[1:2] + S)[2][0] == 71 * 3600 - 1, "from Friday to Monday, an hour of it lost"
    assert to_close[1] == 6.5 * 3600
    slot = new_york.slot(times)
    assert slot[1] == slot[3] == slot[0] + 1


def test_half_days_holidays_weekends_and_breaks() -> None:
    new_york, tokyo = Calendar("XNYS"), Calendar("XTKS")
    day = at(
        "2025-11-27T15:00:00",
        "2025-11-28T15:00:00",
        "2025-11-28T18:30:00",
        "2025-11-29T15:00:00",
        "2025-12-01T15:00:00",
    )
    phase, holiday, _, to_close = new_york.session(day)
    assert holiday.tolist() == [1, 0.5, 0.5, 0, 0]
    assert phase.tolist() == [CLOSED, OPEN, POST, CLOSED, OPEN]
    assert to_close[1] == 3 * 3600, "13:00 on the day after Thanksgiving"
    lunch, _, _, _ = tokyo.session(at("2026-02-04T02:29:59", "2026-02-04T02:30:00", "2026-02-04T03:30:00"))
    assert lunch.tolist() == [OPEN, BREAK, OPEN]


def test_slots_are_seconds_around_the_open_and_minutes_elsewhere() -> None:
    new_york = Calendar("XNYS")
    assert new_york.slots <= MAX_SLOTS
    open_ = at("2026-03-09T13:30:00")[0]
    around = new_york.slot(open_ + S * np.arange(-40, 41))
    assert (np.diff(around[10:70]) == 1).all()
    assert (np.diff(around[:10]) == 0).all()
    assert (np.diff(around[71:]) == 0).all()
    whole = new_york.slot(at("2026-03-10T04:00:00")[0] + S * np.arange(86_400))
    assert whole[0] == 0
    assert whole[-1] == new_york.slots - 1
    assert np.isin(np.diff(whole), (0, 1)).all()


@settings(max_examples=60, deadline=None)
@given(
    st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1)),
    st.sampled_from(["Europe/London", "America/New_York", "Asia/Kolkata", "UTC"]),
)
def test_local_time_is_that_of_the_zone(when: datetime, zone: str) -> None:
    from zoneinfo import ZoneInfo

    when = when.replace(microsecond=0, tzinfo=UTC)
    day, second = Calendar(zone).local(np.array([int(when.timestamp()) * S]))
    local = when.astimezone(ZoneInfo(zone))
    if local.utcoffset().total_seconds() % 900 == 0:  # type: ignore[union-attr]
        assert datetime(1970, 1, 1).date().toordinal() + day[0] == local.date().toordinal()
        assert second[0] == local.hour * 3600 + local.minute * 60 + local.second


def test_scheduled_events_and_one_calendar_per_selector() -> None:
    schedule = parse_schedule("# decisions\n2026-03-18T18:00:00Z, FOMC\n\n2026-03-19T13:15:00+01:00,ECB\n")
    assert [(e.time_ns, e.name) for e in schedule] == list(
        zip(at("2026-03-18T18:00:00", "2026-03-19T12:15:00").tolist(), ["FOMC", "ECB"], strict=True)
    )
    clock = Clock(
        [(Selector.parse('host="ldn"'), Calendar("XLON")), (Selector.parse('host="nyc"'), Calendar("XNYS"))], schedule
    )
    keys = [SeriesKey(h, "m") for h in ("ldn", "nyc", "sgp")]
    values = clock.columns(at("2026-03-18T17:00:00", "2026-03-20T17:00:00"), keys)
    got = {name: values[:, :, i] for i, name in enumerate(clock.names)}
    assert got["clock_phase"][0, :2].tolist() == [POST, OPEN]
    assert got["clock_to_event_s"][0, 0] == 3600
    assert np.isnan(got["clock_to_event_s"][1]).all()
    assert np.isnan(values[:, 2]).all()


@pytest.mark.parametrize(
    ("text", "says"), [("2026-03-18T18:00:00,x", "zone"), ("tomorrow,x", "expected a time"), ("a\nb", ":1:")]
)
def test_schedule_errors_name_the_line(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_schedule(text, "events.csv")


def test_unknown_calendars_list_near_ones() -> None:
    with pytest.raises(ConfigError, match="XNYS"):
        Calendar("XNYZ")
    with pytest.raises(ConfigError, match="local time"):
        Calendar("UTC", ["half nine"])
