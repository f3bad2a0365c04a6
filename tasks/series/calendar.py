"""Calendar features of dates, and the frequency of a series of dates."""

import numpy as np

from blockzoo.layers.series.embed import TIME_FREQS

__all__ = ["calendar_features", "calendar_seasons", "time_freq_of"]

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
    days = dates.astype("datetime64[D]")
    seconds = (dates - days).astype("timedelta64[s]").astype(np.int64)
    weekday = (days.astype(np.int64) + 3) % 7  # day 0, 1970-01-01, was a Thursday
    thursday = days - weekday + 3
    parts = {
        "second": seconds % 60,
        "minute": seconds // 60 % 60,
        "hour": seconds // 3600,
        "weekday": weekday,
        "day": _since(days, "M"),
        "yearday": _since(days, "Y"),
        "week": _since(thursday, "Y") // 7,  # the ISO week of the year that its Thursday belongs to
        "month": dates.astype("datetime64[M]").astype(np.int64) % 12,
    }
    names = _OF_FREQ[time_freq]
    return np.stack([parts[name] / _SPAN[name] - 0.5 for name in names], axis=1).astype(np.float32)


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
