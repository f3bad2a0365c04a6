"""Calendar features of dates, and the frequency of a series of dates."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from blockzoo.layers.series.embed import TIME_FREQS
from blockzoo.tasks.core.extras import needs

__all__ = [
    "calendar_covariates",
    "calendar_features",
    "calendar_seasons",
    "check_calendar",
    "closed_days",
    "time_freq_of",
]

_OF_FREQ = {
    "m": ("month",),
    "w": ("day", "week"),
    "d": ("weekday", "day", "yearday"),
    "h": ("hour", "weekday", "day", "yearday"),
    "t": ("minute", "hour", "weekday", "day", "yearday"),
    "s": ("second", "minute", "hour", "weekday", "day", "yearday"),
}
_SPAN = {"second": 59, "minute": 59, "hour": 23, "weekday": 6, "day": 30, "yearday": 365, "week": 52, "month": 11}


def calendar_features(dates: np.ndarray, time_freq: str) -> np.ndarray:
    """Calendar features: places of dates in the minute, hour, day, week, month and year, from -0.5 to 0.5 (last).

    Features by frequency, in this order, which published weights rely on: "m" month; "w" day of the month, ISO week;
    "d" weekday (from Monday), day of the month, day of the year; "h" hour before those; "t" minute before those; "s"
    second before those.

    Source: the `timeF` features of Time-Series-Library.

    Args:
        dates: datetime64, (N,).
        time_freq: A key of `TIME_FREQS`.

    Returns:
        float32, (N, number of features).

    Raises:
        ValueError: `time_freq` is unknown.
    """
    if time_freq not in _OF_FREQ:
        raise ValueError(f"time_freq={time_freq!r} must be one of {', '.join(TIME_FREQS)}")
    parts = _parts_of(dates)
    names = _OF_FREQ[time_freq]
    return np.stack([parts[name] / _SPAN[name] - 0.5 for name in names], axis=1).astype(np.float32)


def _parts_of(dates: np.ndarray) -> dict[str, np.ndarray]:
    """Where dates stand within larger units, whole numbers from 0, by the names in `_SPAN`."""
    days = dates.astype("datetime64[D]")
    seconds = (dates - days).astype("timedelta64[s]").astype(np.int64)
    weekday = (days.astype(np.int64) + 3) % 7  # day 0, 1970-01-01, was a Thursday
    thursday = days - weekday + 3
    return {
        "second": seconds % 60,
        "minute": seconds // 60 % 60,
        "hour": seconds // 3600,
        "weekday": weekday,
        "day": _since(days, "M"),
        "yearday": _since(days, "Y"),
        "week": _since(thursday, "Y") // 7,  # the ISO week of the year that its Thursday belongs to
        "month": dates.astype("datetime64[M]").astype(np.int64) % 12,
    }


def check_calendar(names: Sequence[str]) -> None:
    """Refuse names that `calendar_covariates` does not know.

    Raises:
        ValueError: A name is unknown.
    """
    for name in names:
        kind, colon, rest = name.partition(":")
        if name not in (*_SPAN, "business_day") and not (kind in ("holiday", "dates") and colon and rest):
            raise ValueError(
                f"calendar: {name!r} is unknown; there are {', '.join(_SPAN)}, business_day, holiday:COUNTRY (such as "
                "holiday:DE, holiday:US-CA or holiday:NYSE) and dates:FILE"
            )


def calendar_covariates(dates: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Features of dates that are known ahead.

    Args:
        dates: On the local clock, datetime64 (N,).
        names: "second", "minute", "hour", "weekday", "day" (of the month), "yearday", "week" and "month", each from
            -0.5 (first) to 0.5 (last); "business_day", 1 from Monday to Friday, else 0; "holiday:COUNTRY", 1 on public
            holidays of a country, of a part of it or of an exchange (by the package `holidays`); "dates:FILE", 1 on the
            days that a text file names, one ISO date a line.

    Returns:
        float64, (N, number of names).

    Raises:
        ValueError: A name is unknown, or its file does not fit.
    """
    check_calendar(names)
    parts, days = _parts_of(dates), dates.astype("datetime64[D]")
    columns = []
    for name in names:
        if name in _SPAN:
            columns.append(parts[name] / _SPAN[name] - 0.5)
        elif name == "business_day":
            columns.append(np.is_busday(days).astype(np.float64))
        else:
            years = np.unique(days.astype("datetime64[Y]").astype(np.int64) + 1970)
            columns.append(np.isin(days, closed_days(name.partition(":")[2], years.tolist())).astype(np.float64))
    return np.stack(columns, axis=1) if columns else np.zeros((len(dates), 0))


def closed_days(name: str, years: Sequence[int]) -> np.ndarray:
    """Public holidays of a country, or the days in a file, datetime64[D], sorted.

    Args:
        name: A country ("DE"), a part of one ("US-CA") or an exchange ("NYSE"), as the package `holidays` names them;
            or a text file with an ISO date in each line.
        years: Those that count; a file is taken whole.

    Raises:
        ValueError: There is neither such a file nor such a country, or a line is no date.
    """
    if Path(name).is_file():
        found = []
        for number, line in enumerate(Path(name).read_text(encoding="utf-8").splitlines(), start=1):
            text = line.strip()
            if text and not text.startswith("#"):
                try:
                    found.append(np.datetime64(text, "D"))
                except ValueError as error:
                    raise ValueError(f"{name}, line {number}: {text!r} is not a date such as 2024-12-24") from error
        return np.unique(np.array(found, dtype="datetime64[D]"))
    holidays = needs("holidays", "calendars", name)
    country, _, part = name.partition("-")
    try:
        if country in holidays.list_supported_financial():
            days = holidays.financial_holidays(country, years=list(years))
        else:
            days = holidays.country_holidays(country, subdiv=part or None, years=list(years))
    except NotImplementedError as error:
        raise ValueError(f"{name!r} is neither a file of dates nor a country or exchange of `holidays`") from error
    return np.unique(np.array([str(day) for day in days], dtype="datetime64[D]"))


def _since(days: np.ndarray, unit: str) -> np.ndarray:
    """Whole days since the beginning of the month ("M") or year ("Y")."""
    return (days - days.astype(f"datetime64[{unit}]").astype("datetime64[D]")).astype(np.int64)


def time_freq_of(dates: np.ndarray) -> str:
    """The key of `TIME_FREQS` that suits the usual distance of dates (at least two, datetime64 (N,))."""
    step = np.median(np.diff(dates).astype("timedelta64[ms]").astype(np.int64)) / 1000
    limits = (("s", 60), ("t", 3600), ("h", 86400), ("d", 7 * 86400), ("w", 28 * 86400))
    return next((key for key, limit in limits if step < limit), "m")


def calendar_seasons(dates: np.ndarray) -> tuple[int, ...]:
    """Numbers of steps in a day, a week and a year; only whole numbers above one.

    Args:
        dates: At least two, datetime64 (N,), in equal steps; months may differ in length, and weekends may be left out.
    """
    step = float(np.median(np.diff(dates).astype("timedelta64[ms]").astype(np.int64))) / 1000
    day = 86400
    if step >= 27 * day:
        return tuple(count for count in (round(365.25 * day / step),) if count > 1)
    if step >= 6 * day:
        return (round(365.25 * day / step),)
    days = dates.astype("datetime64[D]")
    week = 5 if step == day and len(dates) > 5 and np.is_busday(days).all() else 7
    seasons = [day / step, week * day / step, (261 if week == 5 else 365) * day / step if step >= day else 0]
    return tuple(int(count) for count in seasons if count > 1 and count == int(count))
