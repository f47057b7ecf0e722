"""The clock as columns: time of day in uneven slots, phase of the trading session, holidays, time to the next open.

Sessions come from the exchange_calendars library (imported when first needed); days, and a change of daylight saving,
from the time zone database. All is a function of the windows' start times: the present moment is never asked for.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import numpy as np

from features.params import AnyOf, unknown
from telemetry.errors import ConfigError
from telemetry.selectors import Selector
from telemetry.types import Float64, Int64, Nanos, SeriesKey

__all__ = ["Calendar", "Clock", "ScheduledEvent", "parse_schedule"]

SECOND = 1_000_000_000
CLOSED, PRE, OPEN, BREAK, POST = range(5)
"""Values of ``clock_phase``: closed, the hour before the open, open, lunch break, the hour after the close."""

MAX_SLOTS = 2048
_HOUR = 3600


@dataclass(frozen=True, slots=True)
class ScheduledEvent:
    """Something known beforehand: a rate decision, an index rebalance, an expiry."""

    time_ns: Nanos
    name: str = ""


def parse_schedule(text: str, where: str = "schedule") -> tuple[ScheduledEvent, ...]:
    """Read lines of ``2026-03-18T18:00:00+00:00,name`` (a time zone is needed); # begins a comment.

    Raises
    ------
    ConfigError
        Naming the line.
    """
    found = []
    for i, line in enumerate(text.splitlines(), 1):
        body = line.partition("#")[0].strip()
        if not body:
            continue
        when, _, name = body.partition(",")
        try:
            at = datetime.fromisoformat(when.strip())
        except ValueError:
            raise ConfigError(f"{where}:{i}: expected a time such as 2026-03-18T18:00:00+00:00, got {when!r}") from None
        if at.tzinfo is None:
            raise ConfigError(f"{where}:{i}: expected a time with its zone (+00:00 or Z), got {when!r}")
        since = at - datetime(1970, 1, 1, tzinfo=UTC)
        seconds = since.days * 86_400 + since.seconds
        found.append(ScheduledEvent(seconds * SECOND + since.microseconds * 1000, name.strip()))
    return tuple(sorted(found, key=lambda e: e.time_ns))


class Calendar:
    """A time zone's days and, for an exchange, its sessions.

    Parameters
    ----------
    name : str
        A time zone ("UTC", "Europe/London"): days only; or a code of exchange_calendars ("XNYS", "XLON", "24/7").
    fine : sequence of str, optional
        Local times ("09:30") around which, for half a minute on either side, slots are 1 s long. Default: the regular
        open and close of the exchange, and of its break.
    """

    def __init__(self, name: str, fine: Sequence[str] | None = None) -> None:
        self.name = name
        self._years: dict[int, _Year] = {}
        self._offsets: dict[int, int] = {}
        self._kind: Any = None
        zone = name
        if name not in available_timezones():
            self._kind = _exchange(name)
            zone = str(self._kind.tz if hasattr(self._kind, "tz") else "UTC")
        try:
            self._zone = ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ConfigError(f"calendar: expected a time zone or an exchange, got {name!r}") from None
        times = _regular_times(name) if self._kind is not None and fine is None else [_of_day(t) for t in fine or ()]
        edges = set(range(0, 86_400, 60))
        for t in times:
            edges |= {s for s in range(t - 30, t + 31) if 0 <= s < 86_400}
        if len(edges) > MAX_SLOTS:
            raise ConfigError(f"calendar {name}: expected at most {MAX_SLOTS} slots, got {len(edges)}")
        self._edges = np.array(sorted(edges), np.int64)

    @property
    def slots(self) -> int:
        """How many slots a day has."""
        return len(self._edges)

    def local(self, time_ns: Int64) -> tuple[Int64, Int64]:
        """Local day (days since 1970-01-01) and second of the day."""
        seconds = time_ns // SECOND
        quarter, back = np.unique(seconds // 900, return_inverse=True)  # zones change at quarters of an hour
        offset = np.array([self._offset(q) for q in quarter.tolist()], np.int64)[back]
        here = seconds + offset
        return here // 86_400, here % 86_400

    def _offset(self, quarter: int) -> int:
        if quarter not in self._offsets:
            if len(self._offsets) > 100_000:
                self._offsets.clear()
            at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=900 * quarter)
            delta = at.astimezone(self._zone).utcoffset()
            self._offsets[quarter] = 0 if delta is None else int(delta.total_seconds())
        return self._offsets[quarter]

    def slot(self, time_ns: Int64) -> Int64:
        """Slot of the local day, 0 .. `slots` - 1."""
        return np.searchsorted(self._edges, self.local(time_ns)[1], side="right") - 1

    def session(self, time_ns: Int64) -> tuple[Float64, Float64, Float64, Float64]:
        """Phase, holiday (1; half day 0.5), seconds to the next open and to the next close."""
        n = len(time_ns)
        phase, holiday = np.full(n, float(OPEN)), np.zeros(n)
        to_open, to_close = np.full(n, np.nan), np.full(n, np.nan)
        if self._kind is None or not n:
            return phase, holiday, to_open, to_close
        day = self.local(time_ns)[0]
        years = (day.astype("datetime64[D]").astype("datetime64[Y]").astype(np.int64) + 1970).astype(np.int64)
        for year in np.unique(years).tolist():
            at = years == year
            table = self._year(int(year))
            t = time_ns[at]
            phase[at] = table.phase(t)
            to_open[at] = _until(table.opens, t)
            to_close[at] = _until(table.closes, t)
            holiday[at] = table.holiday[day[at] - table.first_day]
        return phase, holiday, to_open, to_close

    def _year(self, year: int) -> _Year:
        if year not in self._years:
            self._years[year] = _Year.read(self.name, year)
        return self._years[year]


@dataclass(frozen=True, slots=True)
class _Year:
    """An exchange's sessions of one year and a month on either side."""

    opens: Int64
    closes: Int64
    break_starts: Int64
    break_ends: Int64
    first_day: int
    holiday: Float64  # by local day from first_day on

    @staticmethod
    def read(name: str, year: int) -> _Year:
        first, last = date(year - 1, 12, 1), date(year + 1, 1, 31)
        calendar = _sessions(name, first, last)
        table = calendar.schedule
        days = table.index.to_numpy().astype("datetime64[D]").astype(np.int64)
        opens, closes = _ns(table["open"]), _ns(table["close"])
        has_break = table["break_start"].notna().to_numpy()
        first_day = (first - date(1970, 1, 1)).days - 1
        length = (last - first).days + 3
        every = np.arange(first_day, first_day + length)
        working = np.array([c == "1" for c in calendar.weekmask])[(every + 3) % 7]
        holiday = np.where(working & ~np.isin(every, days), 1.0, 0.0)
        short = set(calendar.early_closes) | set(calendar.late_opens)
        half = [int(np.datetime64(d, "D").astype(np.int64)) for d in short]
        holiday[np.isin(every, half)] = 0.5
        return _Year(
            opens,
            closes,
            _ns(table["break_start"][has_break]),
            _ns(table["break_end"][has_break]),
            first_day,
            holiday,
        )

    def phase(self, t: Int64) -> Float64:
        out = np.full(len(t), float(CLOSED))
        hour = _HOUR * SECOND
        for starts, ends, value in (
            (self.closes, self.closes + hour, POST),
            (self.opens - hour, self.opens, PRE),
            (self.opens, self.closes, OPEN),
            (self.break_starts, self.break_ends, BREAK),
        ):
            if len(starts):
                i = np.searchsorted(starts, t, side="right") - 1
                out[(i >= 0) & (t < ends[np.maximum(i, 0)])] = value
        return out


class Clock:
    """The clock's columns of a panel.

    Parameters
    ----------
    calendars : sequence of (selector or None, Calendar)
        The first whose selector means a series gives its clock; None means every series.
    schedule : sequence of ScheduledEvent, optional
        Adds ``clock_to_event_s``, seconds to the next one.
    """

    def __init__(
        self,
        calendars: Sequence[tuple[Selector | AnyOf | None, Calendar]],
        schedule: Sequence[ScheduledEvent] = (),
    ) -> None:
        self._calendars = tuple(calendars)
        self._schedule = np.array([e.time_ns for e in schedule], np.int64)
        base = ("slot", "weekday", "phase", "holiday", "to_open_s", "to_close_s")
        self.names = tuple(f"clock_{n}" for n in (*base, "to_event_s")[: len(base) + bool(len(schedule))])
        self._which: list[int] = []  # of each key so far

    def columns(self, start_ns: Int64, keys: Sequence[SeriesKey]) -> Float64:
        """(W, S, len(names)) for windows that start at `start_ns`; NaN for series without a calendar."""
        for key in keys[len(self._which) :]:
            found = (i for i, (s, _) in enumerate(self._calendars) if s is None or s.matches(key))
            self._which.append(next(found, -1))
        which = np.array(self._which[: len(keys)], np.int64)
        out = np.full((len(start_ns), len(keys), len(self.names)), np.nan)
        for i, (_, calendar) in enumerate(self._calendars):
            at = np.flatnonzero(which == i)
            if len(at) and len(start_ns):
                phase, holiday, to_open, to_close = calendar.session(start_ns)
                weekday = (calendar.local(start_ns)[0] + 3) % 7
                made = [calendar.slot(start_ns), weekday, phase, holiday, to_open, to_close]
                if len(self._schedule):
                    made.append(_until(self._schedule, start_ns))
                out[:, at] = np.stack(made, axis=1)[:, None, :]
        return out


def _until(times: Int64, t: Int64) -> Float64:
    """Seconds to the first of `times` after t (0 at it), NaN after the last."""
    i = np.searchsorted(times, t, side="left")
    known = i < len(times)
    if not len(times):
        return np.full(len(t), np.nan)
    return np.where(known, (times[np.minimum(i, len(times) - 1)] - t) / SECOND, np.nan)


def _of_day(text: str) -> int:
    try:
        hour, minute, *rest = (int(p) for p in text.split(":"))
        second = rest[0] if rest else 0
    except ValueError:
        raise ConfigError(f"calendar: expected a local time such as '09:30', got {text!r}") from None
    return hour * 3600 + minute * 60 + second


def _exchange(name: str) -> Any:
    import exchange_calendars

    names = exchange_calendars.get_calendar_names(include_aliases=True)
    if name not in names:
        zones = available_timezones()
        near = difflib.get_close_matches(name, zones, n=1, cutoff=0.7)
        raise unknown("calendar", name, zones if near else (*names, "any time zone"), "calendar")
    return _sessions(name, date(2024, 1, 1), date(2024, 1, 31))


def _regular_times(name: str) -> list[int]:
    """Local seconds of the day of the regular open, break and close."""
    kind = _exchange(name)
    found = []
    for attribute in ("open_times", "break_start_times", "break_end_times", "close_times"):
        times = getattr(kind, attribute, None)
        if times:
            at = times[-1][1]
            found.append(at.hour * 3600 + at.minute * 60 + at.second)
    return [] if found in ([0, 0], [0]) else found


def _sessions(name: str, first: date, last: date) -> Any:
    import exchange_calendars
    from exchange_calendars.errors import CalendarError

    try:
        with warnings.catch_warnings():  # of its own use of pandas
            warnings.simplefilter("ignore")
            return exchange_calendars.get_calendar(name, start=str(first), end=str(last))
    except (CalendarError, ValueError) as error:
        raise ConfigError(f"calendar {name}: no sessions from {first} to {last}: {error}") from None


def _ns(column: Any) -> Int64:
    found: Int64 = column.dt.tz_localize(None).to_numpy().astype("datetime64[ns]").astype(np.int64)
    return found
