"""Covariates of series: what is known ahead, what the calendar says, and what holds for a series as a whole."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blockzoo.tasks.series.calendar import calendar_covariates, check_calendar
from blockzoo.tasks.series.table import SeriesTable
from blockzoo.tasks.series.windows import channel_statistics

__all__ = ["Covariates"]


class Covariates:
    """Columns and calendar features beside the channels, on the scale that a model sees.

    Past covariates are none of these: they are channels that are read and not forecast.

    Args:
        known: Columns that are known for the steps to forecast too, such as prices or promotions.
        calendar: Features of the dates, see `calendar_covariates`.
        static: Columns with one value for each series, numbers or names of kinds.

    Raises:
        ValueError: A column is there twice, or a calendar feature is unknown.
    """

    def __init__(
        self, known: Sequence[str] = (), calendar: Sequence[str] = (), static: Sequence[str] = ()
    ) -> None:  # fmt: skip
        self.known, self.calendar, self.static = tuple(known), tuple(calendar), tuple(static)
        names = [*self.known, *self.static]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"known={list(known)} and static={list(static)} name {name!r} twice")
        check_calendar(self.calendar)
        self.mean, self.std = np.zeros(len(self.known)), np.ones(len(self.known))
        self.levels: dict[str, list[str]] = {}
        self.scales: dict[str, list[float]] = {}

    @property
    def num_known(self) -> int:
        """Covariates of each step."""
        return len(self.known) + len(self.calendar)

    @property
    def num_static(self) -> int:
        """Covariates of each series: one for a number, one for each kind of a column of names."""
        return sum(len(self.levels.get(name, [0])) for name in self.static)

    def fit(self, known: np.ndarray, labels: Sequence[Mapping[str, str]]) -> None:
        """Take scales from the training part.

        Args:
            known: Rows of all series' training parts, (rows, number of `known`), NaN where a value is missing.
            labels: Static values of each series.
        """
        self.mean, self.std = channel_statistics(known)
        for name in self.static:
            texts = [one[name] for one in labels]
            numbers = [_number(text) for text in texts]
            if all(number is not None for number in numbers):
                values = np.array(numbers, dtype=np.float64)
                self.scales[name] = [float(values.mean()), float(values.std()) or 1.0]
            else:
                self.levels[name] = sorted(set(texts))

    def known_of(self, table: SeriesTable, known: np.ndarray) -> np.ndarray | None:
        """Scaled covariates of all steps, float64 (steps, num_known), or None if there are none.

        A step that the file leaves out has the values of the step before it.

        Args:
            table: The steps, for their dates and lines.
            known: Values of the columns `known`, (steps, number of `known`).

        Raises:
            ValueError: A value is missing, or there are no dates for the calendar.
        """
        if not self.num_known:
            return None
        filled = known.copy()
        for step in np.flatnonzero(np.isnan(filled).any(1)):
            if table.lines[step] > 0 or step == 0:
                name = self.known[int(np.isnan(known[step]).argmax())]
                raise ValueError(
                    f"{table.path}, line {table.lines[step]}, column {name!r}: a covariate that is known "
                    "ahead has no gaps"
                )
            filled[step] = filled[step - 1]
        parts = [(filled - self.mean) / self.std]
        if self.calendar:
            if table.local is None:
                raise ValueError(f"{table.path}: calendar={list(self.calendar)} needs dates; date_column names them")
            parts.append(calendar_covariates(table.local, self.calendar))
        return np.concatenate(parts, axis=1)

    def static_of(self, path: str, labels: Mapping[str, str]) -> np.ndarray | None:
        """Scaled covariates of a series, float64 (num_static,), or None if there are none.

        Raises:
            ValueError: A kind is new, or a number is none; the message names the column.
        """
        if not self.static:
            return None
        parts: list[float] = []
        for name in self.static:
            text = labels[name]
            if name in self.levels:
                if text not in self.levels[name]:
                    raise ValueError(
                        f"{path}, column {name!r}: {text!r} is not among the kinds that training saw, "
                        f"{', '.join(self.levels[name][:8])}"
                    )
                parts += [float(text == level) for level in self.levels[name]]
                continue
            number = _number(text)
            if number is None:
                raise ValueError(f"{path}, column {name!r}: {text!r} is not a number, as in training")
            mean, std = self.scales[name]
            parts.append((number - mean) / std)
        return np.array(parts)

    def options(self) -> dict[str, Any]:
        """What `restored` needs, as plain values."""
        return {
            "known": list(self.known), "calendar": list(self.calendar), "static": list(self.static),
            "mean": self.mean.tolist(), "std": self.std.tolist(), "levels": self.levels, "scales": self.scales,
        }  # fmt: skip

    @classmethod
    def restored(cls, options: Mapping[str, Any]) -> "Covariates":
        """The covariates of a trained model, from `options`."""
        found = cls(options.get("known", ()), options.get("calendar", ()), options.get("static", ()))
        found.mean = np.asarray(options.get("mean", found.mean), dtype=np.float64)
        found.std = np.asarray(options.get("std", found.std), dtype=np.float64)
        found.levels = {name: list(levels) for name, levels in options.get("levels", {}).items()}
        found.scales = {name: list(scale) for name, scale in options.get("scales", {}).items()}
        return found


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None
