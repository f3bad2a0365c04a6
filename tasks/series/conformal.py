"""Conformal intervals: intervals around any forecast that hold a given share of what comes, from earlier errors.

Split conformal prediction takes the errors that a trained forecaster made on data it did not learn from, and widens
forecasts by the error of the right rank, for each step ahead and channel by itself. With n errors the rank is
ceil((n + 1) * coverage): then, if the errors to come are exchangeable with these, an interval holds the truth with at
least the given probability, whatever the forecaster. Windows of one series overlap and the series may drift, so it is a
good rule here and no theorem.

Sources: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World" (2005); Lei et al., "Distribution-Free
Predictive Inference for Regression" (2018), for the split; Romano, Patterson and Candès, "Conformalized Quantile
Regression" (2019), for forecasts that have quantiles of their own; Stankevičiūtė, Alaa and van der Schaar, "Conformal
Time-Series Forecasting" (2021), for intervals at each step ahead.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from blockzoo.tasks.core.files import write_text
from blockzoo.tasks.series.probabilistic import central_pairs

__all__ = ["COVERAGES", "Conformal", "bounds_of", "check_coverages", "conformal_radius", "conformal_rank"]

COVERAGES = (0.5, 0.8, 0.9, 0.95)
"""Coverages that are calibrated unless others are asked for."""


def check_coverages(values: Sequence[float], name: str = "coverage") -> tuple[float, ...]:
    """Coverages as fractions in increasing order, from fractions or per cents.

    Raises:
        ValueError: One is not above 0 and below 100 %.
    """
    inside = all(0 < value < 100 for value in values)  # not so of NaN
    found = sorted({float(Fraction(str(value)) / (100 if value >= 1 else 1)) for value in values}) if inside else []
    if not found:
        raise ValueError(f"{name}={list(values)} must be shares between 0 and 1, or per cents below 100, such as 80 95")
    return tuple(found)


def bounds_of(coverage: float) -> tuple[float, float]:
    """Levels of the quantiles that bound a central interval: 0.05 and 0.95 for 0.9."""
    rest = (1 - Fraction(str(coverage))) / 2
    return float(rest), float(1 - rest)


def conformal_rank(count: int, coverage: float) -> int:
    """Rank of the error that an interval reaches to, ceil((count + 1) * coverage), computed exactly.

    It is larger than `count` where so few errors cannot bound so large a share: the interval is then infinite.
    """
    return ceil((count + 1) * Fraction(str(coverage)))


def conformal_radius(errors: np.ndarray, coverage: float) -> np.ndarray:
    """The error of the conformal rank along the first axis; infinite where there are too few.

    Args:
        errors: (N, *), NaN where there is none.
        coverage: Between 0 and 1.

    Returns:
        float64 (*).
    """
    errors = np.asarray(errors, dtype=np.float64)
    counts = (~np.isnan(errors)).sum(0)
    ranks = np.vectorize(lambda count: conformal_rank(int(count), coverage), otypes=[np.int64])(counts)
    ordered = np.concatenate([np.sort(errors, axis=0), np.full((1, *errors.shape[1:]), np.inf)])  # NaN goes last
    place = np.where(ranks > counts, len(errors), ranks - 1)
    return np.asarray(np.take_along_axis(ordered, place[None], axis=0)[0])


@dataclass(frozen=True)
class Conformal:
    """Widths of conformal intervals for each step ahead and channel.

    Attributes:
        coverages: Nominal coverages, increasing.
        radius: How far an interval reaches beyond the forecast, or beyond the forecast's own interval, which a negative
            radius narrows: float64 (coverages, steps, channels), infinite where there were too few errors.
        count: Errors behind them, int64 (steps, channels).
        levels: Levels of the forecaster's own quantiles; none for a point forecaster.
        scaled: Whether radii are in units of a series' mean absolute step instead of the channels' units.
        columns: Names of the channels.
    """

    coverages: tuple[float, ...]
    radius: np.ndarray
    count: np.ndarray
    levels: tuple[float, ...] = ()
    scaled: bool = False
    columns: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls,
        forecast: np.ndarray,
        truth: np.ndarray,
        coverages: Sequence[float] = COVERAGES,
        levels: Sequence[float] = (),
        scale: np.ndarray | None = None,
        columns: Sequence[str] = (),
    ) -> "Conformal":
        """Calibrate on forecasts of data that the forecaster did not learn from.

        Args:
            forecast: (N, Q, steps, channels), of one value (Q = 1) or of quantiles.
            truth: (N, steps, channels), NaN where it is not known.
            coverages: Between 0 and 1.
            levels: Of the quantiles; none for one value.
            scale: Unit of the errors, (N, channels); None for the channels' units. 0 and NaN leave a window out.
            columns: Names of the channels.

        Raises:
            ValueError: Shapes do not fit, or no truth is known.
        """
        if forecast.ndim != 4 or forecast.shape[1] != max(len(levels), 1) or truth.shape != forecast[:, 0].shape:
            raise ValueError(
                f"forecast {forecast.shape} and truth {truth.shape} must be (N, {max(len(levels), 1)}, steps, channels)"
                " and (N, steps, channels)"
            )
        if np.isnan(truth).all():
            raise ValueError("no truth is known in the windows to calibrate on")
        unit = (
            np.ones((len(truth), 1, truth.shape[2])) if scale is None else np.where(scale > 0, scale, np.nan)[:, None]
        )
        wanted = check_coverages(coverages)
        radius = []
        for coverage in wanted:
            low, high = _own_interval(levels, coverage)
            errors = np.maximum(forecast[:, low] - truth, truth - forecast[:, high]) / unit
            radius.append(conformal_radius(errors, coverage))
        count = (~np.isnan(errors)).sum(0)
        return cls(wanted, np.stack(radius), count, tuple(levels), scale is not None, tuple(columns))

    def intervals(self, forecast: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
        """Lower and upper bounds around forecasts.

        Args:
            forecast: (N, Q, steps, channels), as in `fit`; fewer steps are taken for the first ones, and radii of one
                channel hold for all.
            scale: Unit of the errors, (N, channels), where radii are scaled.

        Returns:
            (N, coverages, 2, steps, channels); a lower bound is never above its upper bound.

        Raises:
            ValueError: Steps or channels do not fit, or `scale` is missing.
        """
        steps, channels = forecast.shape[2:]
        if steps > self.radius.shape[1] or self.radius.shape[2] not in (1, channels):
            raise ValueError(
                f"the intervals are calibrated for {self.radius.shape[1]} steps and {self.radius.shape[2]} channels, "
                f"the forecast has {steps} and {channels}"
            )
        if self.scaled and scale is None:
            raise ValueError("scale=None, but the intervals are in units of a series' mean absolute step")
        unit = np.ones(1) if scale is None else scale[:, None]
        found = []
        for i, coverage in enumerate(self.coverages):
            low, high = _own_interval(self.levels, coverage)
            radius = self.radius[i, :steps][None] * unit
            lower, upper = forecast[:, low] - radius, forecast[:, high] + radius
            crossed = lower > upper  # a negative radius wider than the interval: both bounds at its middle
            middle = (forecast[:, low] + forecast[:, high]) / 2
            found.append(np.stack([np.where(crossed, middle, lower), np.where(crossed, middle, upper)], 1))
        return np.stack(found, 1)

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        content = {
            "coverages": self.coverages, "levels": self.levels, "scaled": self.scaled, "columns": self.columns,
            "count": self.count.tolist(),
            "radius": [[[v if np.isfinite(v) else None for v in row] for row in part] for part in self.radius.tolist()],
        }  # fmt: skip
        write_text(path, json.dumps({"forecast": content}) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Conformal":
        """Read what `write` wrote.

        Raises:
            ValueError: The file is something else.
        """
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["forecast"]
            radius = np.array(content["radius"], dtype=np.float64)
            kept = {key: tuple(content[key]) for key in ("coverages", "levels", "columns")}
            count = np.array(content["count"], dtype=np.int64)
            if radius.shape != (len(kept["coverages"]), *count.shape):
                raise ValueError(f"radius {radius.shape} does not fit count {count.shape}")
            return cls(radius=np.where(np.isnan(radius), np.inf, radius), count=count,
                       scaled=bool(content["scaled"]), **kept)  # fmt: skip
        except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} holds no calibrated intervals: {type(error).__name__}: {error}") from error


def _own_interval(levels: Sequence[float], coverage: float) -> tuple[int, int]:
    """Places of the quantiles that the interval starts from: those of the nearest coverage, or the median alone."""
    pairs = central_pairs(levels)
    if not pairs:
        place = list(levels).index(0.5) if levels else 0
        return place, place
    return pairs[min(pairs, key=lambda own: abs(own - coverage))]
