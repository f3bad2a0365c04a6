"""The methods that a backtest compares: the model, trained again or not, seasonal naive and statsforecast's."""

import argparse
import contextlib
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from blockzoo.checkpoints import load_state_dict
from blockzoo.tasks.core.files import write_csv
from blockzoo.tasks.series.baselines import strongest_period
from blockzoo.tasks.series.calibrate import calibrate
from blockzoo.tasks.series.conformal import Conformal, bounds_of, check_coverages
from blockzoo.tasks.series.forecaster import (
    calibration_of,
    forecast_rows,
    last_steps,
    model_levels,
    target_places,
    with_intervals,
)
from blockzoo.tasks.series.metrics import seasonal_naive
from blockzoo.tasks.series.probabilistic import central_pairs
from blockzoo.tasks.series.table import SeriesTable

__all__ = [
    "STATISTICAL",
    "Methods",
    "conformal_from_earlier",
    "earlier_windows",
    "origins",
    "seasonal_forecasts",
    "statistical_forecasts",
]

Forecaster = Callable[[SeriesTable, Sequence[int]], np.ndarray]
"""From a table and the known rows at each origin to medians and bounds, (origins, levels, horizon, columns)."""

CALIBRATE = 100
"""Earlier windows by which methods without intervals of their own are calibrated, at most."""

STATISTICAL = ("AutoETS", "AutoTheta", "SeasonalNaive")
"""Methods of statsforecast."""


def origins(rows: int, horizon: int, windows: int, step: int | None = None, least: int = 2) -> list[int]:
    """Known rows at each origin, the last one `horizon` rows before the end.

    Args:
        rows: Of the series.
        horizon: Steps to forecast.
        windows: Origins.
        step: Rows from one origin to the next; the horizon by default.
        least: Rows that must be known at the first origin.

    Raises:
        ValueError: A number is below 1, or the series is too short.
    """
    step = horizon if step is None else step
    for name, value in (("--horizon", horizon), ("--windows", windows), ("--step", step)):
        if value < 1:
            raise ValueError(f"{name} {value} must be at least 1")
    first = rows - horizon - (windows - 1) * step
    if first < least:
        raise ValueError(
            f"{rows} rows are too few for --windows {windows} of --horizon {horizon} at --step {step}: the first "
            f"origin would know {max(first, 0)} rows, and {least} are needed"
        )
    return [first + i * step for i in range(windows)]


def _carried(values: np.ndarray) -> np.ndarray:
    """One series without its missing beginning, its gaps filled by straight lines; empty if nothing is known."""
    places = np.flatnonzero(~np.isnan(values))
    if not len(places):
        return values[:0]
    return np.interp(np.arange(places[0], len(values)), places, values[places])


def seasonal_forecasts(values: np.ndarray, ends: Sequence[int], horizon: int, period: int) -> np.ndarray:
    """The last season, repeated, from each origin: (origins, 1, horizon, columns), NaN where nothing is known."""
    found = np.full((len(ends), 1, horizon, values.shape[1]), np.nan)
    for k, end in enumerate(ends):
        for c in range(values.shape[1]):
            past = _carried(values[:end, c])
            if len(past):
                found[k, 0, :, c] = seasonal_naive(past, horizon, period)
    return found


def statistical_forecasts(
    name: str, values: np.ndarray, ends: Sequence[int], horizon: int, period: int, coverages: Sequence[float]
) -> tuple[np.ndarray, int]:
    """Forecasts of a model of statsforecast, fitted to each series before each origin.

    Args:
        name: "AutoETS", "AutoTheta" or "SeasonalNaive".
        values: (rows, columns), NaN where a value is missing; gaps are filled by straight lines.
        ends: Known rows at each origin.
        horizon: Steps to forecast.
        period: Steps of a season.
        coverages: Of the intervals.

    Returns:
        Medians and bounds (origins, levels, horizon, columns), NaN where a fit failed, and how many did.
    """
    from statsforecast import models

    levels = _levels(coverages)
    found = np.full((len(ends), len(levels), horizon, values.shape[1]), np.nan)
    percents = [round(100 * coverage, 6) for coverage in coverages]
    failed = 0
    for k, end in enumerate(ends):
        for c in range(values.shape[1]):
            past = _carried(values[:end, c])
            season = period if len(past) >= 2 * period + 2 else 1
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of fits that do not converge
                    model = getattr(models, name)(season_length=season)
                    output = model.forecast(y=past, h=horizon, level=percents or None)
            except (ValueError, ArithmeticError, IndexError, np.linalg.LinAlgError, NotImplementedError):
                failed += 1  # too short or constant a series for this method
                continue
            found[k, levels.index(0.5), :, c] = output["mean"]
            for coverage, percent in zip(coverages, percents, strict=True):
                for level, side in zip(bounds_of(coverage), ("lo", "hi"), strict=True):
                    key = next(key for key in (f"{side}-{percent}", f"{side}-{percent:g}") if key in output)
                    found[k, levels.index(level), :, c] = output[key]
    return found, failed


def _levels(coverages: Sequence[float]) -> tuple[float, ...]:
    return tuple(sorted({0.5, *(level for coverage in coverages for level in bounds_of(coverage))}))


def earlier_windows(first: int, horizon: int, least: int, count: int = CALIBRATE) -> list[int]:
    """Origins whose windows end before row `first`, the latest ones, evenly spread, each with `least` known rows."""
    last = first - horizon
    if last < least:
        return []
    return sorted({int(end) for end in np.linspace(max(least, last - 10 * count), last, count)})


def conformal_from_earlier(
    point: Callable[[Sequence[int]], np.ndarray],
    values: np.ndarray,
    first: int,
    horizon: int,
    least: int,
    coverages: Sequence[float],
    levels: Sequence[float] = (),
) -> Conformal | None:
    """Conformal intervals from a method's errors on windows before the first origin; None if there are none."""
    ends = earlier_windows(first, horizon, least)
    if not ends or np.isnan(truth := np.stack([values[end : end + horizon] for end in ends])).all():
        return None
    return Conformal.fit(point(ends), truth, coverages, levels)


class Methods:
    """What the methods of one call share: the table, the origins, what is wanted, and notes for the user."""

    def __init__(self, args: argparse.Namespace, model: Any, table: SeriesTable) -> None:
        self.args, self.model, self.table = args, model, table
        self.own = model_levels(model)
        self.horizon = model.pred_len if args.horizon is None else args.horizon
        self.ends = origins(len(table.values), self.horizon, args.windows, args.step)
        if args.coverage:
            self.coverages = check_coverages(args.coverage, "--coverage")
        else:
            self.coverages = tuple(sorted(central_pairs(self.own))) or (0.8, 0.95)
        self.levels = _levels(self.coverages)
        self.places = target_places(model, table)
        self.narrow = replace(
            table,
            columns=tuple(table.columns[i] for i in self.places),
            values=table.values[:, self.places],
        )
        before = table.values[: self.ends[0]]
        dates = None if table.local is None else table.local[: self.ends[0]]
        if args.season is not None and args.season > self.ends[0]:
            raise ValueError(f"--season {args.season} is longer than the {self.ends[0]} rows before the first origin")
        self.period = args.season or strongest_period(before[:, self.places], dates)
        self.notes: list[str] = []

    def _bounded(
        self, name: str, raw: np.ndarray, conformal: Conformal | None, own: Sequence[float], scale: Any
    ) -> Any:
        if conformal is None and not set(self.coverages) <= set(central_pairs(own)):
            self.notes.append(f"{name}: no earlier window to calibrate on, so it has no intervals")
            place = list(own).index(0.5) if own else 0
            empty = np.full((len(raw), len(self.levels), *raw.shape[2:]), np.nan)
            empty[:, self.levels.index(0.5)] = raw[:, place]
            return empty
        found = with_intervals(raw, own, self.coverages, conformal, scale)[0]
        if np.isinf(found).any():
            self.notes.append(f"{name}: too few earlier windows for an interval of {100 * self.coverages[-1]:g} %")
            found = np.where(np.isinf(found), np.nan, found)
        return found

    def model_forecasts(self, table: SeriesTable, ends: Sequence[int]) -> np.ndarray:
        """The model as it is."""
        name = self.args.name

        def raw(at: Sequence[int]) -> np.ndarray:
            return forecast_rows(self.model, table, at, self.horizon)[..., self.places]

        conformal, scale = calibration_of(name, self.own), None
        own = set(self.coverages) <= set(central_pairs(self.own))
        fits = (
            conformal is not None
            and set(self.coverages) <= set(conformal.coverages)
            and conformal.radius.shape[1] >= self.horizon
        )
        if own and not (fits and self.args.coverage):  # as in predict, where only --coverage asks for calibrated ones
            conformal = None
        elif not fits:
            self.notes.append(f"{name}: intervals from its errors on earlier rows, which it may have learned from")
            least = min(self.model.seq_len, ends[0] // 2 + 1)
            conformal = conformal_from_earlier(
                raw, self.narrow.values, ends[0], self.horizon, least, self.coverages, self.own
            )
        elif conformal is not None and conformal.scaled:
            scale = np.stack([last_steps(table.values[:end], self.model.seq_len)[self.places] for end in ends])
        return self._bounded(name, raw(ends), conformal, self.own, scale)

    def refitted(self, table: SeriesTable, ends: Sequence[int]) -> np.ndarray:
        """The run trained again before each origin, its intervals from the new validation part.

        Raises:
            ValueError: The horizon is one for which it has no intervals.
        """
        pred_len = self.model.pred_len
        if self.horizon > pred_len and not set(self.coverages) <= set(central_pairs(self.own)):
            raise ValueError(
                f"--horizon {self.horizon} is beyond pred_len={pred_len}, for which --refit has no intervals"
            )
        found = []
        for end in ends:
            with tempfile.TemporaryDirectory() as folder:
                found.append(self._refit(table.rows(0, end), Path(folder)))
        return np.concatenate(found)

    def _refit(self, known: SeriesTable, folder: Path) -> np.ndarray:
        path = folder / "known.csv"
        header = [*(["date"] if known.dates is not None else []), *known.columns]
        keys = known.date_texts() if known.dates is not None else None
        rows = [
            [*([keys[i]] if keys else []), *("" if np.isnan(value) else repr(value) for value in row)]
            for i, row in enumerate(known.values.tolist())
        ]
        write_csv(path, [header, *rows])
        config = Path(self.args.name) / "config.yaml"
        declared = yaml.safe_load(config.read_text(encoding="utf-8"))["data"]["init_args"]
        plain = {"date_column": "date" if keys else "null", "delimiter": ",", "decimal": ".", "thousands": "null",
                 "encoding": "null", "date_format": "null", "id_column": "null", "path": str(path),
                 "split": "ratio", "ratios": "[0.85,0.15,0.0]"}  # fmt: skip  # all before the origin is there to learn
        options = [f"--data.init_args.{key}={value}" for key, value in plain.items() if key in declared]
        quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
        place = [f"--trainer.default_root_dir={folder}", f"--trainer.logger.init_args.save_dir={folder}"]
        with contextlib.redirect_stdout(sys.stderr):  # what a fit says is not the backtest's output
            fitted = self.args.training(["fit", "--config", str(config), *options, *place, *quiet])
        task, data = fitted.model.cpu(), fitted.datamodule
        weights = Path(fitted.trainer.log_dir or "") / "model.safetensors"
        if weights.is_file():  # the best ones; the task has those of the last epoch
            task.model.load_state_dict(load_state_dict(weights))
        model = task.model.eval()
        model.pretrained_cfg.update(data.preprocessing)
        raw = forecast_rows(model, known, [len(known.values)], self.horizon)[..., self.places]
        conformal, scale = None, None
        if not set(self.coverages) <= set(central_pairs(self.own)):
            conformal = calibrate(task, data, self.coverages)
            if conformal.scaled:
                scale = last_steps(known.values, model.seq_len)[None, self.places]
        return self._bounded(f"{self.args.name} refitted", raw, conformal, self.own, scale)

    def naive(self, table: SeriesTable, ends: Sequence[int]) -> np.ndarray:
        """The last season, with conformal intervals from earlier windows."""

        def raw(at: Sequence[int]) -> np.ndarray:
            return seasonal_forecasts(self.narrow.values, at, self.horizon, self.period)

        least = min(self.period + 1, ends[0] // 2 + 1)
        conformal = conformal_from_earlier(raw, self.narrow.values, ends[0], self.horizon, least, self.coverages)
        return self._bounded("seasonal naive", raw(ends), conformal, (), None)

    def statistical(self, name: str) -> Forecaster:
        """A method of statsforecast."""

        def forecasts(table: SeriesTable, ends: Sequence[int]) -> np.ndarray:
            found, failed = statistical_forecasts(
                name, self.narrow.values, ends, self.horizon, self.period, self.coverages
            )
            if failed:
                self.notes.append(f"{name}: no forecast in {failed} of {found.shape[0] * found.shape[3]} cases")
            return found

        return forecasts
