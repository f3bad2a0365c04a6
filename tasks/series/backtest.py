"""Backtest a forecaster with a rolling origin, beside simple and statistical methods.

    blockzoo backtest runs/timesnet_forecast/version_0 --data load.csv
    blockzoo backtest timesnet_forecast.m3_monthly --data sales.csv --horizon 24 --windows 6 --coverage 80 95
    blockzoo backtest runs/timesnet_forecast/version_0 --data load.csv --refit --out backtest.csv --plot backtest.png

From each origin the methods see what lies before it and forecast what comes behind. Methods are the model, the seasonal
naive forecast, and, with statsforecast installed (`pip install 'blockzoo[forecast]'`), AutoETS, AutoTheta and its
SeasonalNaive. With --refit the run is trained again from its config on the rows before each origin. Intervals are the
method's own, or conformal: from the run's `calibration.json` (`blockzoo series calibrate`), else from the method's
errors on earlier windows of the file, which for a model may be rows that it learned from.

The table that --out writes has a row for each method, origin, series and step: the date (or step), the truth, the
forecast and the quantiles that bound the intervals, in the file's units, which are read from names such as "load [MW]".
"""

import argparse
import contextlib
import importlib.util
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blockzoo.checkpoints import load_state_dict
from blockzoo.tasks.core import names
from blockzoo.tasks.core.extras import needs
from blockzoo.tasks.core.files import check_output, replacing, write_csv, write_figure
from blockzoo.tasks.core.output import add_cache_dir, add_out, print_json, print_table
from blockzoo.tasks.core.run_config import check_run_config
from blockzoo.tasks.core.timing import checked_device
from blockzoo.tasks.series.baselines import strongest_period
from blockzoo.tasks.series.calibrate import calibrate
from blockzoo.tasks.series.conformal import Conformal, bounds_of, check_coverages
from blockzoo.tasks.series.forecaster import (
    calibration_of,
    forecast_rows,
    mean_steps,
    model_levels,
    target_places,
    with_intervals,
)
from blockzoo.tasks.series.metrics import seasonal_naive
from blockzoo.tasks.series.predict import add_table_arguments, read_for
from blockzoo.tasks.series.probabilistic import central_pairs, pinball_loss
from blockzoo.tasks.series.quantiles import level_name
from blockzoo.tasks.series.table import SeriesTable

__all__ = ["Backtest", "add_arguments", "backtest", "origins", "run", "seasonal_forecasts", "statistical_forecasts"]


Forecaster = Callable[[SeriesTable, Sequence[int]], np.ndarray]
"""From a table and the known rows at each origin to medians and bounds, (origins, levels, horizon, columns)."""

CALIBRATE = 100
"""Earlier windows by which methods without intervals of their own are calibrated, at most."""

UNIT = re.compile(r"(.*\S)\s*[\[(]([^\])]+)[\])]\s*")


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
        scale = np.broadcast_to(np.where(scale > 0, scale, np.nan), truth.shape)[seen]
        y = torch.from_numpy(truth[seen])
        found: dict[str, dict[str, float]] = {}
        pairs = central_pairs(self.levels)
        for name, forecast in self.forecasts.items():
            q = torch.from_numpy(np.moveaxis(forecast[..., chosen], 1, -1)[seen])  # (N, levels)
            error = (q[:, self.levels.index(0.5)] - y).abs()
            size = q[:, self.levels.index(0.5)].abs() + y.abs()
            relative = 200 * error / torch.where(size > 0, size, 1)
            ratio = error.numpy() / scale
            scores = {
                "mae": float(error.mean()),
                "rmse": float(error.square().mean().sqrt()),
                "smape": float(relative.mean()),
                "mase": float(ratio[~np.isnan(ratio)].mean()) if (~np.isnan(ratio)).any() else float("nan"),
            }
            q = q if bool(q.isfinite().all()) else torch.full_like(q, torch.nan)  # a method without intervals
            if pairs:
                scores["wql"] = float((2 * pinball_loss(q, y, self.levels).sum(0) / y.abs().sum()).mean())
            for coverage, (low, high) in pairs.items():
                inside = ((q[:, low] <= y) & (y <= q[:, high])).double()
                scores[f"coverage_{100 * coverage:g}"] = float(torch.where(q[:, low].isnan(), q[:, low], inside).mean())
                scores[f"width_{100 * coverage:g}"] = float((q[:, high] - q[:, low]).mean())
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


def unit_of(column: str) -> tuple[str, str]:
    """Name and unit of a column such as "load [MW]" or "load (MW)"; the unit is empty if there is none."""
    match = UNIT.fullmatch(column)
    return (match[1], match[2]) if match else (column, "")


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


def backtest(
    table: SeriesTable, ends: Sequence[int], methods: dict[str, Forecaster], levels: Sequence[float], period: int = 1
) -> Backtest:
    """Forecasts of all methods from all origins.

    Args:
        table: The series.
        ends: Known rows at each origin.
        methods: By name; each must use no row behind an origin.
        levels: Of the quantiles that they return.
        period: Steps of a season.
    """
    forecasts = {name: method(table, ends) for name, method in methods.items()}
    return Backtest(table.columns, table.values, list(ends), tuple(levels), forecasts, period)


def _known(table: SeriesTable, end: int) -> SeriesTable:
    """The rows before an origin alone."""
    cut: dict[str, Any] = {
        key: None if (part := getattr(table, key)) is None else part[:end] for key in ("dates", "offsets")
    }
    return replace(table, values=table.values[:end], lines=table.lines[:end], **cut)


class _Tool:
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

        conformal, scale = None, None
        if not self.own or not set(self.coverages) <= set(central_pairs(self.own)):
            conformal = calibration_of(name)
            usable = conformal is not None and set(self.coverages) <= set(conformal.coverages)
            if conformal is None or not usable or conformal.radius.shape[1] < self.horizon:
                self.notes.append(f"{name}: intervals from its errors on earlier rows, which it may have learned from")
                least = min(self.model.seq_len, ends[0] // 2 + 1)
                conformal = conformal_from_earlier(
                    raw, self.narrow.values, ends[0], self.horizon, least, self.coverages, self.own
                )
            elif conformal.scaled:
                scale = np.stack([mean_steps(table.values[:end], self.model.seq_len)[self.places] for end in ends])
        return self._bounded(name, raw(ends), conformal, self.own, scale)

    def refitted(self, table: SeriesTable, ends: Sequence[int]) -> np.ndarray:
        """The run trained again before each origin, its intervals from the new validation part."""
        found = []
        for end in ends:
            with tempfile.TemporaryDirectory() as folder:
                found.append(self._refit(_known(table, end), Path(folder)))
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
        text = config.read_text(encoding="utf-8")
        plain = {"date_column": "date" if keys else "null", "delimiter": ",", "decimal": ".", "thousands": "null",
                 "encoding": "null", "date_format": "null", "path": str(path)}  # fmt: skip
        options = [f"--data.init_args.{key}={value}" for key, value in plain.items()]
        if "ratios:" in text:
            options.append("--data.init_args.ratios=[0.85,0.15,0.0]")  # everything before the origin is there to learn
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
            if self.horizon > model.pred_len:
                raise ValueError(
                    f"--horizon {self.horizon} is beyond pred_len={model.pred_len}, for which --refit has no intervals"
                )
            conformal = calibrate(task, data, self.coverages)
            if conformal.scaled:
                scale = mean_steps(known.values, model.seq_len)[None, self.places]
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


STATISTICAL = ("AutoETS", "AutoTheta", "SeasonalNaive")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", help="a model that forecasts: name.tag, local-dir:FOLDER, or a run's folder")
    parser.add_argument("--data", required=True, metavar="FILE", help="a table of series, as blockzoo predict takes it")
    parser.add_argument("--windows", type=int, default=5, help="origins (default: 5)")
    parser.add_argument("--step", type=int, help="rows from one origin to the next (default: the horizon)")
    parser.add_argument("--season", type=int, help="steps of a season (default: the strongest before the first origin)")
    parser.add_argument("--refit", action="store_true", help="train the run again before each origin")
    parser.add_argument(
        "--methods",
        nargs="*",
        metavar="NAME",
        help=f"of statsforecast: {' '.join(STATISTICAL)} (default: all, if there)",
    )
    add_out(parser, "write the table of forecasts there, .csv or .parquet")
    parser.add_argument("--plot", metavar="PNG", help="draw a series with its forecasts")
    parser.add_argument("--series", metavar="NAME", help="the series to draw (default: the first)")
    parser.add_argument("--device", help="cpu or cuda (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_cache_dir(parser)
    add_table_arguments(parser)


def _statistical_methods(wanted: list[str] | None) -> list[str]:
    """The methods of statsforecast to run."""
    if wanted == []:
        return []
    for name in wanted or ():
        if name not in STATISTICAL:
            raise ValueError(f"--methods {name}: must be of {', '.join(STATISTICAL)}")
    if importlib.util.find_spec("statsforecast") is None:
        if wanted:
            raise ValueError("--methods needs statsforecast: pip install 'blockzoo[forecast]'")
        print(
            "statsforecast is not installed (pip install 'blockzoo[forecast]'): no AutoETS, AutoTheta", file=sys.stderr
        )
        return []
    return list(wanted or STATISTICAL)


def run(args: argparse.Namespace) -> int:
    """Run the backtest and print its scores."""
    for path in (path for path in (args.out, args.plot) if path):
        check_output(path, [args.data])
    if args.out and Path(args.out).suffix not in (".csv", ".parquet"):
        raise ValueError(f"--out {args.out} must end in .csv or .parquet")
    if args.season is not None and args.season < 1:
        raise ValueError(f"--season {args.season} must be at least 1")
    if args.refit:
        config = Path(args.name) / "config.yaml"
        if not config.is_file():
            raise ValueError(f"--refit needs the folder of a finished run, with its config.yaml; {args.name} is none")
        check_run_config(config)
        if "\n    path:" not in config.read_text(encoding="utf-8"):
            raise ValueError(f"--refit needs a run on a file of yours; the data of {config} have no path")
    if not Path(args.data).is_file():
        raise FileNotFoundError(f"--data {args.data}: no such file")
    wanted = _statistical_methods(args.methods)
    if not names.has_weights(names.resolve(args.name)):
        raise ValueError(f"{args.name} has no weights; name a tag (blockzoo list --pretrained) or a run's folder")
    model = names.build(args.name, cache_dir=args.cache_dir).to(checked_device(args.device))
    if getattr(model, "task", None) != "forecast":
        raise ValueError(
            f"{args.name} is a model for {getattr(model, 'task', 'images')}; a backtest needs a forecaster"
        )
    table = _single(model, args)
    tool = _Tool(args, model, table)
    methods: dict[str, Forecaster] = {args.name: tool.model_forecasts}
    if args.refit:
        methods = {f"{args.name} refitted": tool.refitted}
    methods["seasonal naive"] = tool.naive
    methods |= {name: tool.statistical(name) for name in wanted}
    forecasts = {name: method(table, tool.ends) for name, method in methods.items()}
    result = Backtest(tool.narrow.columns, tool.narrow.values, tool.ends, tool.levels, forecasts, tool.period)
    texts = table.date_texts() if table.dates is not None else list(range(len(table.values)))
    rows = result.rows(texts, "step" if table.dates is None else "date")
    if args.out:
        _write_table(Path(args.out), rows)
    if args.plot:
        _plot(result, table, args)
    for note in dict.fromkeys(tool.notes):
        print(note, file=sys.stderr)
    scores = result.scores()
    if args.json:
        by_series = {name: result.scores(i) for i, name in enumerate(result.columns)} if len(result.columns) > 1 else {}
        forecasts_ = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
        print_json({"season": result.period, "horizon": tool.horizon, "scores": _finite(scores),
                    "series": {key: _finite(value) for key, value in by_series.items()},
                    "forecasts": forecasts_})  # fmt: skip
        return 0
    print(f"{len(tool.ends)} origins, {tool.horizon} steps each; season: {result.period} steps")
    columns = list(next(iter(scores.values())))
    print_table(["method", *columns], [[name, *(f"{found[c]:.4g}" for c in columns)] for name, found in scores.items()])
    if args.out:
        print(f"{args.out}: {len(rows) - 1} rows")
    return 0


def _single(model: Any, args: argparse.Namespace) -> SeriesTable:
    """The table of `--data`, for a model that needs nothing besides.

    Raises:
        ValueError: It holds many series one below the other, or the model needs covariates or adjusted series.
    """
    if model.pretrained_cfg.get("series", {}).get("seasonal") is not None:
        raise ValueError(f"{args.name} learned from seasonally adjusted series, which a backtest does not adjust yet")
    tables = read_for(model, args.data, args)
    if len(tables) > 1:
        raise ValueError(
            f"--data {args.data}: {len(tables)} series one below the other; a backtest takes them side by side, one in "
            "each column"
        )
    ((table, covariates),) = tables.values()
    if covariates:
        raise ValueError(f"{args.name} needs covariates ({', '.join(covariates)}), which a backtest does not give yet")
    return table


def _finite(scores: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """Scores with None for what is undefined, which JSON can say."""
    return {
        name: {key: value if np.isfinite(value) else None for key, value in found.items()}
        for name, found in scores.items()
    }


def _write_table(path: Path, rows: list[list[Any]]) -> None:
    if path.suffix == ".csv":
        write_csv(path, rows)
        return
    import pandas as pd  # slow to import

    needs("pyarrow", "tables", f"--out {path}")
    replacing(path, pd.DataFrame(rows[1:], columns=rows[0]).to_parquet)


def _plot(result: Backtest, table: SeriesTable, args: argparse.Namespace) -> None:
    from blockzoo.tasks.series.forecast_figures import draw_backtest  # matplotlib

    known = {name: i for i, column in enumerate(result.columns) for name in (column, unit_of(column)[0])}
    if args.series is not None and args.series not in known:
        raise ValueError(f"--series {args.series} is not among {', '.join(result.columns)}")
    place = known[args.series] if args.series is not None else 0
    index = np.arange(len(result.truth)) if table.local is None else table.local
    begin = max(0, result.ends[0] - 3 * result.horizon)
    middle, pairs = result.levels.index(0.5), central_pairs(result.levels)
    widest = max(pairs, default=None)
    folds = []
    for method, forecast in result.forecasts.items():
        for k, end in enumerate(result.ends):
            fold = {
                "method": method,
                "index": index[end : end + result.horizon],
                "forecast": forecast[k, middle, :, place],
            }
            if widest is not None and method == next(iter(result.forecasts)):
                low, high = pairs[widest]
                fold |= {"lower": forecast[k, low, :, place], "upper": forecast[k, high, :, place]}
            folds.append(fold)
    name, unit = unit_of(result.columns[place])
    title = f"{name} [{unit}]" if unit else name
    interval = "" if widest is None else f"{100 * widest:g} % intervals"
    kind = "step" if table.local is None else "date"
    write_figure(args.plot, draw_backtest(index[begin:], result.truth[begin:, place], folds, title, kind, interval))
