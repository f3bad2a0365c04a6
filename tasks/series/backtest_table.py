"""What a backtest found: forecasts of several methods from several origins, their scores, their table and figure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from blockzoo.tasks.series.forecast_figures import draw_backtest
from blockzoo.tasks.series.metrics import smape
from blockzoo.tasks.series.probabilistic import central_pairs, interval_coverage, interval_width, weighted_quantile_loss
from blockzoo.tasks.series.quantiles import level_name

__all__ = ["Backtest", "place_of", "unit_of"]

UNIT = re.compile(r"(.*\S)\s*[\[(]([^\])]+)[\])]\s*")


@dataclass
class Backtest:
    """Forecasts of several methods from several origins.

    Attributes:
        columns: Names of the series.
        truth: float64 (rows, columns), NaN where a value is missing.
        ends: Known rows at each origin.
        levels: Of the quantiles, increasing, with 0.5.
        forecasts: By method (origins, levels, horizon, columns); NaN where a method gave nothing.
        period: Steps of a season, for MASE.
    """

    columns: tuple[str, ...]
    truth: np.ndarray
    ends: list[int]
    levels: tuple[float, ...]
    forecasts: dict[str, np.ndarray]
    period: int = 1

    @property
    def horizon(self) -> int:
        """Steps from an origin."""
        return next(iter(self.forecasts.values())).shape[2]

    def targets(self) -> np.ndarray:
        """What came behind each origin, (origins, horizon, columns)."""
        return np.stack([self.truth[end : end + self.horizon] for end in self.ends])

    def scores(self, column: int | None = None) -> dict[str, dict[str, float]]:
        """Metrics by method, over all known targets for which every method has a forecast.

        `mae`, `rmse`, `smape` (per cent), `mase` (over the mean absolute seasonal step before the first origin; series
        without one are left out), and with intervals `wql`, the weighted quantile loss over all levels, and for each
        interval `coverage_90` and `width_90`.

        Args:
            column: Of one series alone; all by default.
        """
        chosen = slice(None) if column is None else slice(column, column + 1)
        truth = self.targets()[..., chosen]
        seen = ~np.isnan(truth)
        for forecast in self.forecasts.values():
            seen &= ~np.isnan(forecast[:, self.levels.index(0.5), :, chosen])
        if not seen.any():
            raise ValueError("no target is known for which every method has a forecast; there is nothing to compare")
        past = self.truth[: self.ends[0], chosen]
        steps = np.abs(past[self.period :] - past[: -self.period])
        known = ~np.isnan(steps)
        scale = np.where(known, steps, 0).sum(0) / np.maximum(known.sum(0), 1)
        scale = torch.from_numpy(np.broadcast_to(np.where(scale > 0, scale, np.nan), truth.shape)[seen])
        y = torch.from_numpy(truth[seen])
        found: dict[str, dict[str, float]] = {}
        pairs = central_pairs(self.levels)
        for name, forecast in self.forecasts.items():
            q = torch.from_numpy(np.moveaxis(forecast[..., chosen], 1, -1)[seen])  # (N, levels)
            middle = q[:, self.levels.index(0.5)]
            error = (middle - y).abs()
            scores = {
                "mae": float(error.mean()),
                "rmse": float(error.square().mean().sqrt()),
                "smape": float(smape(middle, y)),
                "mase": float((error / scale).nanmean()),
            }
            bounded = bool(q.isfinite().all())  # else a method without intervals
            if pairs:
                scores["wql"] = float(weighted_quantile_loss(q, y, self.levels).mean()) if bounded else float("nan")
            for coverage, (low, high) in pairs.items():
                bounds = q[:, low], q[:, high]
                inside = float(interval_coverage(*bounds, y)) if bounded else float("nan")
                scores[f"coverage_{100 * coverage:g}"] = inside
                scores[f"width_{100 * coverage:g}"] = float(interval_width(*bounds)) if bounded else float("nan")
            found[name] = scores
        return found

    def rows(self, texts: Sequence[Any], kind: str = "step") -> list[list[Any]]:
        """The table of all forecasts, with a header.

        Args:
            texts: Dates or steps of the rows of the truth.
            kind: "date" or "step".
        """
        levels = [level for level in self.levels if len(self.levels) > 1]
        table: list[list[Any]] = [
            ["method", "series", "unit", "origin", kind, "ahead", "truth", "forecast", *map(level_name, levels)]
        ]
        middle = self.levels.index(0.5)
        for method, forecast in self.forecasts.items():
            for k, end in enumerate(self.ends):
                for c, column in enumerate(self.columns):
                    name, unit = unit_of(column)
                    for h in range(self.horizon):
                        values = [self.truth[end + h, c], forecast[k, middle, h, c]]
                        values += forecast[k, :, h, c].tolist() if levels else []
                        cells = [None if np.isnan(value) else float(value) for value in values]
                        table.append([method, name, unit, texts[end - 1], texts[end + h], h + 1, *cells])
        return table

    def figure(self, index: np.ndarray, kind: str = "step", place: int = 0) -> Figure:
        """One series with its forecasts, and the widest intervals of the first method.

        Args:
            index: Dates or steps of the rows of the truth.
            kind: "date" or "step".
            place: Of the series in `columns`.
        """
        begin = max(0, self.ends[0] - 3 * self.horizon)
        middle, pairs = self.levels.index(0.5), central_pairs(self.levels)
        widest = max(pairs, default=None)
        folds: list[dict[str, Any]] = []
        for method, forecast in self.forecasts.items():
            for k, end in enumerate(self.ends):
                ahead = index[end : end + self.horizon]
                fold = {"method": method, "index": ahead, "forecast": forecast[k, middle, :, place]}
                if widest is not None and method == next(iter(self.forecasts)):
                    low, high = pairs[widest]
                    fold |= {"lower": forecast[k, low, :, place], "upper": forecast[k, high, :, place]}
                folds.append(fold)
        name, unit = unit_of(self.columns[place])
        title = f"{name} [{unit}]" if unit else name
        interval = "" if widest is None else f"{100 * widest:g} % intervals"
        return draw_backtest(index[begin:], self.truth[begin:, place], folds, title, kind, interval)


def place_of(name: str, columns: Sequence[str]) -> int:
    """Place of a series by its column, or by the column's name without the unit.

    Raises:
        ValueError: There is no such series.
    """
    known = {known: i for i, column in enumerate(columns) for known in (column, unit_of(column)[0])}
    if name not in known:
        raise ValueError(f"--series {name} is not among {', '.join(columns)}")
    return known[name]


def unit_of(column: str) -> tuple[str, str]:
    """Name and unit of a column such as "load [MW]" or "load (MW)"; the unit is empty if there is none."""
    match = UNIT.fullmatch(column)
    return (match[1], match[2]) if match else (column, "")
