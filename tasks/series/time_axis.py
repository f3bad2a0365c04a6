"""The time axis of a series: the usual distance of dates, a grid of equal steps, the dates after and before.

Steps count months where every date is at the same place of its month, working days where weekends are left out, else
milliseconds. All functions take and return arrays.
"""

from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

__all__ = [
    "Grid",
    "Irregular",
    "clock_dates",
    "future_dates",
    "grid_of",
    "in_zone",
    "past_dates",
    "repeated_hours",
    "zone_offsets",
]

Irregular = Literal["fill", "error", "ignore"]

_HOUR = 3_600_000  # milliseconds
_DAY = 24 * _HOUR


def clock_dates(dates: np.ndarray, offsets: np.ndarray | None) -> np.ndarray:
    """The clock whose steps are equal: the local one for steps of a day or more, else `dates`."""
    if offsets is None or len(dates) < 2 or np.median(np.diff(dates).astype(np.int64)) < 23 * _HOUR:
        return dates
    return cast(np.ndarray, dates + offsets.astype("timedelta64[m]"))


def repeated_hours(dates: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Dates on a clock that never goes back, and the minutes from it to the file's, which repeats an hour in autumn."""
    steps = np.diff(dates).astype(np.int64)
    forward = steps[steps > 0]
    if not len(forward) or (steps > 0).all():
        return dates, None
    found, counts = np.unique(forward, return_counts=True)
    usual = int(found[counts.argmax()])
    months = dates[1:].astype("datetime64[M]").astype(np.int64) % 12 + 1
    hours = (dates[1:] - dates[1:].astype("datetime64[D]")).astype("timedelta64[h]").astype(np.int64)
    back = (steps == usual - _HOUR) & np.isin(months, (3, 4, 9, 10, 11)) & (hours <= 4)
    places = np.flatnonzero(steps <= 0)
    if usual > _HOUR or _HOUR % usual or not back[places].all():
        return dates, None
    if len(places) > 1 and (np.diff(dates[places]).astype(np.int64) < 100 * _DAY).any():
        return dates, None
    offset, minutes = 0, np.zeros(len(dates), dtype=np.int64)
    for i, step in enumerate(steps.tolist()):
        if back[i]:
            offset -= 60
        elif offset < 0 and step == usual + _HOUR and hours[i] <= 4:
            offset += 60
        minutes[i + 1] = offset
    return dates - minutes.astype("timedelta64[m]"), minutes


def in_zone(path: str, dates: np.ndarray, zone: str) -> tuple[np.ndarray, np.ndarray]:
    """Dates in UTC of those on the clock of a time zone, and the minutes from one to the other.

    Where the clock repeats an hour, the dates' order tells first and second; a date that is there once is the first.

    Args:
        path: The file, for messages.
        dates: On the local clock, datetime64[ms] (N,), in order.
        zone: Its name, such as "Europe/Berlin".

    Returns:
        datetime64[ms] and int64, (N,) each.

    Raises:
        ValueError: There is no such zone, or a date that the clock leaves out.
    """
    import pandas as pd  # slow to import

    _check_zone(path, zone)
    index = pd.DatetimeIndex(dates)
    try:
        found = index.tz_localize(zone, ambiguous="infer")
    except ValueError as error:
        try:
            found = index.tz_localize(zone, ambiguous=np.ones(len(dates), dtype=bool))
        except ValueError:
            raise ValueError(f"{path}: not on the clock of time_zone={zone!r}: {error}") from error
    utc = found.tz_convert("UTC").tz_localize(None).to_numpy().astype("datetime64[ms]")
    return utc, (dates - utc).astype("timedelta64[m]").astype(np.int64)


def zone_offsets(path: str, dates: np.ndarray, zone: str) -> np.ndarray:
    """Minutes from dates in UTC, datetime64[ms] (N,), to the clock of a time zone, int64 (N,).

    Raises:
        ValueError: There is no such zone.
    """
    import pandas as pd  # slow to import

    _check_zone(path, zone)
    local = pd.DatetimeIndex(dates).tz_localize("UTC").tz_convert(zone).tz_localize(None)
    return (local.to_numpy().astype("datetime64[ms]") - dates).astype("timedelta64[m]").astype(np.int64)


def _check_zone(path: str, zone: str) -> None:
    import zoneinfo

    try:
        zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{path}: time_zone={zone!r} is unknown; a name is like 'Europe/Berlin'") from error


@dataclass(frozen=True)
class Grid:
    """Where rows stand on a grid of equal steps.

    Attributes:
        places: Step of each row, int64 (rows,).
        dates: Of all steps, datetime64[ms] (steps,), on the clock of the rows' dates.
        irregular_steps: Distances that were not the usual one and were ignored.
    """

    places: np.ndarray
    dates: np.ndarray
    irregular_steps: int = 0


def grid_of(
    path: str,
    column: str,
    dates: np.ndarray,
    lines: np.ndarray,
    irregular: Irregular,
    closed: np.ndarray | None = None,
) -> Grid:
    """Check that dates go forward in equal steps, or find the steps that are left out.

    Args:
        path: The file, for messages.
        column: The column, for messages.
        dates: At least two, datetime64[ms] (rows,), on the clock whose steps are equal, see `clock_dates`.
        lines: Lines that they come from, for messages.
        irregular: See `blockzoo.tasks.series.table.read_table`.
        closed: Days that are no working days, see `_business`.

    Raises:
        ValueError: Dates repeat, go back, are between the steps, or leave out so many steps that a date is probably
            wrong.
    """
    steps, size = _steps(dates, closed)
    odd = np.diff(steps) != size
    if irregular == "ignore":
        return Grid(np.arange(len(dates)), dates, int(odd.sum()))
    for i in np.flatnonzero(np.diff(dates).astype(np.int64) <= 0)[:1]:
        what = "repeats that of" if dates[i + 1] == dates[i] else f"{dates[i + 1]} comes before {dates[i]} in"
        raise ValueError(
            f"{path}, line {lines[i + 1]}, column {column!r}: the date {what} line {lines[i]}; "
            "sort the rows, or take them as they stand with irregular=ignore"
        )
    for i in np.flatnonzero(odd)[:1]:
        if irregular == "error":
            raise ValueError(
                f"{path}, line {lines[i + 1]}, column {column!r}: {dates[i + 1]} does not follow {dates[i]} by the "
                "usual step; irregular=fill adds the missing steps"
            )
    positions = (steps - steps[0]) / size
    for i in np.flatnonzero(positions != np.round(positions))[:1]:
        raise ValueError(
            f"{path}, line {lines[i]}, column {column!r}: {dates[i]} is not a whole number of steps after the first "
            "date; irregular=ignore takes rows as they stand for consecutive steps"
        )
    count = int(positions[-1]) + 1
    if count > 10 * len(dates):
        i = int(np.diff(steps).argmax())
        raise ValueError(
            f"{path}, line {lines[i + 1]}, column {column!r}: {int(positions[i + 1] - positions[i]) - 1} steps are "
            f"missing between {dates[i]} and {dates[i + 1]}; is the date right?"
        )
    places = positions.astype(np.int64)
    return Grid(places, dates if count == len(dates) else _continued(dates, np.arange(count), closed))


def _steps(dates: np.ndarray, closed: np.ndarray | None = None) -> tuple[np.ndarray, int]:
    """Dates as whole numbers, and their usual distance.

    They count months where each date is at the same place of its month, working days where no date is on a weekend and
    Mondays follow Fridays, else milliseconds.
    """
    numbers = _months(dates)
    if numbers is None and _business(dates, closed):
        numbers = np.busday_count("1970-01-01", dates.astype("datetime64[D]"), holidays=_days(closed))
    if numbers is None:
        numbers = dates.astype(np.int64)
    found, counts = np.unique(np.diff(numbers), return_counts=True)
    positive = found > 0
    return numbers, int(found[positive][counts[positive].argmax()]) if positive.any() else 1


def _days(closed: np.ndarray | None) -> np.ndarray:
    return np.zeros(0, dtype="datetime64[D]") if closed is None else closed


def _business(dates: np.ndarray, closed: np.ndarray | None = None) -> bool:
    """Whether dates are working days, one by one, with at least one weekend between neighbours.

    Days in `closed`, datetime64[D], are no working days either; without it, a holiday looks like a row that is missing.
    """
    days = dates.astype("datetime64[D]")
    within = dates - days.astype("datetime64[ms]")
    if len(days) < 5 or not np.is_busday(days, holidays=_days(closed)).all() or not (within == within[0]).all():
        return False
    steps = np.diff(days).astype(np.int64)
    weekend = (steps == 3) & ((days[:-1].astype(np.int64) + 3) % 7 == 4)  # a Friday, then its Monday
    between = weekend.any() or (closed is not None and (steps > 1).any())
    return bool((steps > 0).all() and (steps == 1).sum() > len(steps) / 2 and between)


def _months(dates: np.ndarray) -> np.ndarray | None:
    months = dates.astype("datetime64[M]")
    within = dates - months.astype("datetime64[ms]")
    left = (months + 1).astype("datetime64[ms]") - dates
    same = bool((within == within[0]).all() or (left == left[0]).all())
    return months.astype(np.int64) if same and len(np.unique(months)) == len(months) else None


def _continued(dates: np.ndarray, positions: np.ndarray, closed: np.ndarray | None = None) -> np.ndarray:
    """The dates at whole numbers of steps after the first."""
    by_month = _months(dates)
    numbers, size = _steps(dates, closed)
    if by_month is None and _business(dates, closed):
        counts = numbers[0] + positions * size
        days = np.busday_offset("1970-01-01", counts, roll="forward", holidays=_days(closed)).astype("datetime64[ms]")
        return days + (dates[0] - dates[0].astype("datetime64[D]"))
    if by_month is None:
        return (numbers[0] + positions * size).astype("datetime64[ms]")
    months = (by_month[0] + positions * size).astype("datetime64[M]")
    first = dates.astype("datetime64[M]")
    within = dates - first.astype("datetime64[ms]")
    if (within == within[0]).all():
        return months.astype("datetime64[ms]") + within[0]
    return (months + 1).astype("datetime64[ms]") - ((first[0] + 1).astype("datetime64[ms]") - dates[0])


def future_dates(dates: np.ndarray, count: int, closed: np.ndarray | None = None) -> np.ndarray:
    """The next dates after some (at least two), datetime64[ms] (count,); months and working days stay such.

    Args:
        dates: Known ones, datetime64[ms] (N,).
        count: How many follow.
        closed: Days that are no working days beside weekends, datetime64[D].
    """
    numbers, size = _steps(dates, closed)
    last = round((int(numbers[-1]) - int(numbers[0])) / size)
    return _continued(dates, last + 1 + np.arange(count), closed)


def past_dates(dates: np.ndarray, count: int, closed: np.ndarray | None = None) -> np.ndarray:
    """The dates before some (at least two), datetime64[ms] (count,), in order."""
    return _continued(dates, np.arange(-count, 0), closed)
