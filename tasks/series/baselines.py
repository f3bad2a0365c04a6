"""Metrics of simple methods on series, with the same windows, masks and metrics as the models.

With statsmodels installed (`pip install 'blockzoo[forecast]'`), forecasts of many series are also compared with
exponential smoothing chosen by AICc and with the Theta method.
"""

import argparse
import importlib.util
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info

from blockzoo.tasks.series.calendar import calendar_seasons
from blockzoo.tasks.series.metrics import (
    BASELINES,
    detection_scores,
    mase,
    mase_scale,
    owa,
    point_adjust,
    quantile,
    ranking_scores,
    smape,
)
from blockzoo.tasks.series.windows import ManyWindows, Windows, hide

__all__ = [
    "anomaly_baselines",
    "autocorrelation",
    "forecast_baselines",
    "imputation_baselines",
    "add_arguments",
    "many_series_baselines",
    "measure",
    "season_of",
    "strongest_period",
]

Forecaster = Callable[[np.ndarray, int, int], np.ndarray]
Scores = dict[str, dict[str, float]]


def autocorrelation(values: np.ndarray, lags: int) -> np.ndarray:
    """Autocorrelation of the step-to-step changes of a series, which have no trend, averaged over channels.

    Args:
        values: (steps, channels), NaN where a value is missing.
        lags: The largest lag.

    Returns:
        float64 (lags + 1,): at each lag the mean product of observed changes over their mean square.
    """
    changes = np.diff(values, axis=0)
    seen = ~np.isnan(changes)
    count = np.maximum(seen.sum(0), 1)
    centred = np.where(seen, changes - np.where(seen, changes, 0).sum(0) / count, 0)
    size = 2 * len(changes)
    pairs = np.fft.irfft(np.abs(np.fft.rfft(seen, size, axis=0)) ** 2, size, axis=0)[: lags + 1]
    products = np.fft.irfft(np.abs(np.fft.rfft(centred, size, axis=0)) ** 2, size, axis=0)[: lags + 1]
    power = (centred**2).sum(0) / count
    used = power > 0
    if not used.any():
        return np.zeros(lags + 1)
    means = products[:, used] / np.maximum(np.round(pairs[:, used]), 1)
    return (means / power[used]).mean(1)


def strongest_period(values: np.ndarray, dates: np.ndarray | None = None) -> int:
    """Steps of the season of a series: the lag at which its changes repeat themselves.

    A season of the calendar is preferred if its autocorrelation is significant. Otherwise, it is the first of the lags
    that are nearly as good as the best, judged by the mean autocorrelation of a lag and its double and triple.

    Args:
        values: (steps, channels), NaN where a value is missing.
        dates: Of the steps; None if there are none.

    Returns:
        The period; 1 if no lag up to a third of the series is significant.
    """
    longest = len(values) // 3
    if longest < 2:
        return 1
    found = autocorrelation(values, 3 * longest)
    limit = 5 / np.sqrt(len(values))  # wide, since many lags are tried
    seasons = [] if dates is None else [season for season in calendar_seasons(dates) if season <= len(values) // 2]
    strong = [season for season in seasons if found[season] > max(0.4 * limit, 0.1)]
    if strong:
        best = max(found[season] for season in strong)
        return next(season for season in strong if found[season] >= 0.9 * best)
    lags = np.arange(2, longest + 1)
    scores = np.full(longest + 2, -1.0)
    scores[lags] = np.mean([found[k * lags] for k in (1, 2, 3)], axis=0)
    below = np.flatnonzero(found < 0)
    first = int(below[0]) if len(below) else longest + 1  # smooth series resemble themselves at all short lags
    peaks = [
        lag for lag in lags[lags > first] if scores[lag] >= max(scores[lag - 1], scores[lag + 1]) and found[lag] > limit
    ]
    best = max((scores[lag] for lag in peaks), default=0.0)
    return int(next((lag for lag in peaks if scores[lag] >= 0.8 * best), 1))


def _ets(history: np.ndarray, steps: int, period: int) -> np.ndarray:
    """Exponential smoothing with the least AICc: without or with a damped trend, without or with a season."""
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    seasons = [None, "mul" if history.min() > 0 else "add"] if period > 1 and len(history) >= 2 * period + 2 else [None]
    fits = []
    for trend in (None, "add"):
        for season in seasons:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a fit that does not converge is one that AICc does not choose
                model = ExponentialSmoothing(
                    history, trend=trend, damped_trend=trend is not None, seasonal=season,
                    seasonal_periods=period if season else None, initialization_method="estimated",
                )  # fmt: skip
                fits.append(model.fit())
    best = min(fits, key=lambda fit: fit.aicc if np.isfinite(fit.aicc) else np.inf)
    return np.asarray(best.forecast(steps))


def _theta(history: np.ndarray, steps: int, period: int) -> np.ndarray:
    from statsmodels.tsa.forecasting.theta import ThetaModel

    seasonal = period > 1 and len(history) >= 2 * period
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the index, which an array does not have
        model = ThetaModel(history, period=period if seasonal else None, deseasonalize=seasonal, method="auto")
        return np.asarray(model.fit().forecast(steps))


def _statistical() -> dict[str, Forecaster]:
    return {"ETS": _ets, "Theta": _theta} if importlib.util.find_spec("statsmodels") else {}


def many_series_baselines(
    data: Any, methods: Mapping[str, Forecaster] | None = None, period: int | None = None
) -> Scores:
    """sMAPE, MASE and OWA of methods over the test part of many series, a `ManySeries`."""
    methods = {**BASELINES, **_statistical()} if methods is None else methods
    series = data.read()
    period = data.period if period is None else period
    scores: Scores = {}
    for name, method in {"Naive 2": BASELINES["Naive 2"], **methods}.items():
        parts: list[tuple[float, float]] = []
        for item in series:
            history, future = torch.from_numpy(item.history), torch.from_numpy(item.future)
            own = period if item.period is None else item.period
            forecast = torch.from_numpy(np.asarray(method(item.history, len(item.future), own)))
            scale = mase_scale(history, own)
            parts.append((float(smape(forecast, future)), float(mase(forecast, future, scale))))
        means = np.array(parts)
        scores[name] = {"test/smape": float(means[:, 0].mean()), "test/mase": float(np.nanmean(means[:, 1]))}
        for group in data.groups:
            inside = np.array([item.group == group for item in series])
            scores[name][f"test/smape_{group}"] = float(means[inside, 0].mean())
    reference = scores["Naive 2"]
    for found in scores.values():
        found["test/owa"] = owa(
            found["test/smape"], found["test/mase"], reference["test/smape"], reference["test/mase"]
        )
    return scores


def forecast_baselines(windows: Windows | ManyWindows, num_targets: int, period: int) -> Scores:
    """MSE and MAE of the last value and of the last season, repeated, over the observed targets of test windows.

    A missing value is taken from the step before it, in the last season from the season before it. The series may be
    read from its beginning, not only from a window's.
    """
    parts = windows.parts if isinstance(windows, ManyWindows) else [windows]
    totals = [_forecast_sums(part, num_targets, period) for part in parts]
    sums = {name: sum((one[name] for one in totals), np.zeros(3)) for name in totals[0]}
    if not all(total[2] for total in sums.values()):
        raise ValueError("no target of the test part is observed; there is nothing to compare")
    return {
        name: {"test/mse": float(total[0] / total[2]), "test/mae": float(total[1] / total[2])}
        for name, total in sums.items()
    }


def _forecast_sums(windows: Windows, num_targets: int, period: int) -> dict[str, np.ndarray]:
    """Sums of squared and absolute errors, and how many they are, by method, over the windows of one series."""
    values = windows.values[:, -num_targets:].numpy().astype(np.float64)
    seen = np.ones(values.shape, dtype=bool) if windows.mask is None else windows.mask[:, -num_targets:].numpy() > 0
    methods = {"naive": 1, "seasonal naive": period}
    filled = {name: _carried(values, seen, season) for name, season in methods.items()}
    sums = {name: np.zeros(3) for name in methods}
    for start in windows.starts.tolist():
        middle = start + windows.seq_len
        target, counted = (part[middle : middle + windows.pred_len] for part in (values, seen))
        for name, season in methods.items():
            past = filled[name][:middle]
            season = season if season <= middle else 1
            repeats = -(-len(target) // season)
            error = (np.tile(past[-season:], (repeats, 1))[: len(target)] - target)[counted]
            sums[name] += [(error**2).sum(), np.abs(error).sum(), len(error)]
    return sums


def _carried(values: np.ndarray, seen: np.ndarray, season: int) -> np.ndarray:
    """A series (steps, channels) whose missing values come from a season before, else from the step before, else 0."""
    filled = np.where(seen, values, 0.0)
    for t in range(1, len(filled)):
        if not seen[t].all():
            filled[t] = np.where(seen[t], filled[t], filled[t - season if t >= season else t - 1])
    return filled


def _fill(values: np.ndarray, shown: np.ndarray, period: int) -> dict[str, np.ndarray]:
    """Fillings of one channel (steps,) by its shown values, by method; all 0, the training mean, if there is none."""
    steps, places = np.arange(len(values)), np.flatnonzero(shown)
    if not len(places):
        return dict.fromkeys(("mean", "last value", "linear interpolation", "seasonal naive"), np.zeros(len(values)))
    last = np.maximum.accumulate(np.where(shown, steps, -1))
    linear = np.interp(steps, places, values[places])
    seasonal = linear.copy()
    for t in steps[period:]:
        seasonal[t] = values[t - period] if shown[t - period] else seasonal[t - period]
    return {
        "mean": np.full(len(values), values[places].mean()),
        "last value": values[np.where(last >= 0, last, places[0])],
        "linear interpolation": linear,
        "seasonal naive": seasonal,
    }


def imputation_baselines(windows: Windows, num_targets: int, rates: list[float], seed: int, period: int) -> Scores:
    """MSE and MAE of simple fillings of each channel of test windows, on the very cells that models are tested on."""
    sums: dict[str, dict[float, np.ndarray]] = {}
    for i in range(len(windows)):
        sample = windows[i]
        x = sample["x"].numpy().astype(np.float64)
        seen = sample["mask"].numpy() > 0 if "mask" in sample else np.ones(x.shape, dtype=bool)
        for rate in rates:
            hidden = hide(x.shape, rate, seed, int(sample["index"])).numpy()
            for c in range(x.shape[1] - num_targets, x.shape[1]):
                counted = seen[:, c] & hidden[:, c]
                for name, filled in _fill(x[:, c], seen[:, c] & ~hidden[:, c], period).items():
                    error = (filled - x[:, c])[counted]
                    found = np.array([(error**2).sum(), np.abs(error).sum(), len(error)])
                    rows = sums.setdefault(name, {})
                    rows[rate] = rows.get(rate, np.zeros(3)) + found
    scores: Scores = {}
    for name, rows in sums.items():
        total = np.sum(list(rows.values()), 0)
        scores[name] = {"test/mse": float(total[0] / total[2]), "test/mae": float(total[1] / total[2])}
        scores[name] |= {f"test/mse_{rate:g}": float(found[0] / found[2]) for rate, found in rows.items()}
    return scores


def anomaly_baselines(data: Any, anomaly_ratio: float, val_quantile: float, period: int) -> Scores:
    """Detection in `AnomalyFiles` by simple scores: the squared distance from the last value, from a season ago, and
    from the mean.
    """
    values = {part: torch.from_numpy(data.datasets[part].observed) for part in ("val", "test")}
    there = {part: data.datasets[part].stretches >= 0 for part in ("val", "test")}
    methods: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "naive": lambda x: _distance(x, 1),
        "seasonal naive": lambda x: _distance(x, period),
        "mean": lambda x: _mean_square(x),
    }
    border = int(len(values["val"]) * (1 - data.val_fraction))
    scores: Scores = {}
    for name, method in methods.items():
        train, test = method(values["val"]), method(values["test"])[there["test"]]
        label = data.label[there["test"]]
        found = {f"test/{key}": value for key, value in ranking_scores(test, label).items()}
        both = torch.cat([train[there["val"]], test])
        calm = train[border:][there["val"][border:]]
        limits = {"": quantile(both, 1 - anomaly_ratio / 100), "_val": quantile(calm, val_quantile)}
        for ending, limit in limits.items():
            predicted = test > limit
            for more, detected in (("", predicted), ("_adjusted", point_adjust(predicted, label))):
                found |= {f"test/{k}{ending}{more}": v for k, v in detection_scores(detected, label).items()}
        scores[name] = found
    return scores


def _distance(x: torch.Tensor, lag: int) -> torch.Tensor:
    difference = torch.zeros_like(x)
    difference[lag:] = x[lag:] - x[:-lag]
    return _mean_square(difference)


def _mean_square(x: torch.Tensor) -> torch.Tensor:
    """Over the observed channels of each step, 0 where there are none."""
    return x.square().nanmean(1).nan_to_num(0.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the option of baselines of series."""
    parser.add_argument("--period", type=int, help="steps of a season (default: the strongest of the training part)")


def measure(task: Any, data: Any, args: argparse.Namespace) -> Scores:
    """Scores of the methods that belong to a task on series; see `SeriesTask.baselines`.

    Raises:
        ValueError: `--period` is not a number of steps, or the data has no test part.
    """
    if args.period is not None and args.period < 1:
        raise ValueError(f"--period {args.period} must be at least 1")
    data.setup("test")
    if "test" not in data.datasets:
        raise ValueError(f"{type(data).__name__} has no test part; ratios gives it a share")
    found: Scores = task.baselines(data, args.period)
    return found


def season_of(data: Any) -> int:
    """Steps of the season of a data module's training part, by its dates if it has any."""
    train = data.datasets["train"]
    if isinstance(train, ManyWindows):
        tables = [data.tables[name] for name in train.names[:20]]
        pairs = zip(train.parts, tables, strict=False)
        found = [_season(part, table, data.seq_len + data.pred_len) for part, table in pairs]
        period = max(sorted(set(found)), key=found.count)
    else:
        period = _season(train, data.table, data.seq_len + data.pred_len)
    rank_zero_info(f"season: {period} steps")
    return period


def _season(train: Windows, table: Any, span: int) -> int:
    """Steps of the season of one series' training part."""
    count = int(train.starts[-1]) + span
    dates = getattr(table, "local", None)
    return strongest_period(train.observed[:count], None if dates is None else dates[:count])
