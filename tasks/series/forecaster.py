"""Forecasts of a trained model from tables: any horizon by rolling, with quantiles and conformal intervals."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blockzoo.tasks.series.alarms import CALIBRATION
from blockzoo.tasks.series.conformal import Conformal, bounds_of
from blockzoo.tasks.series.inputs import model_inputs, outputs_of
from blockzoo.tasks.series.metrics import mean_steps
from blockzoo.tasks.series.probabilistic import central_pairs, empirical_quantiles, sample_quantiles
from blockzoo.tasks.series.quantiles import level_name
from blockzoo.tasks.series.table import SeriesTable

__all__ = [
    "calibration_of",
    "forecast_columns",
    "forecast_rows",
    "last_steps",
    "model_levels",
    "target_places",
    "with_intervals",
]

PATHS = 100
"""Sample paths by which the quantiles of a model are carried beyond `pred_len`."""


def model_levels(model: Any) -> tuple[float, ...]:
    """Levels of the quantiles that a model forecasts; none for a point forecast."""
    return getattr(model, "quantiles", None) or ()


def calibration_of(name: str, levels: tuple[float, ...]) -> Conformal | None:
    """The calibrated intervals in a run's folder, if the name is such a folder and it has any.

    Raises:
        ValueError: They are those of a model with other quantiles.
    """
    file = Path(name.removeprefix("local-dir:")) / CALIBRATION
    if not file.is_file():
        return None
    found = Conformal.read(file)
    if found.levels != levels:
        raise ValueError(f"{name}: its {CALIBRATION} is of another model, with quantiles {list(found.levels)}")
    return found


def _call(
    model: Any,
    parts: list[tuple[np.ndarray, np.ndarray | None]],
    covariates: Mapping[str, torch.Tensor] | None = None,
) -> np.ndarray:
    """Forecasts behind several pasts, (pasts, Q, pred_len, columns), Q = 1 of a model without quantiles."""
    found = [model_inputs(model, values, dates, [len(values) - model.seq_len]) for values, dates in parts]
    _, mean, std = found[0]
    inputs = {key: torch.cat([one[0][key] for one in found]) for key in found[0][0]}
    inputs |= {key: value.expand(len(inputs["x"]), *value.shape[1:]) for key, value in (covariates or {}).items()}
    values = outputs_of(model, inputs).double().numpy() * std + mean  # channels are last, with quantiles or without
    values = values if model_levels(model) else values[:, None]
    if model.in_chans > 1:
        return values
    columns = parts[0][0].shape[1]
    return values[..., 0].reshape(-1, columns, *values.shape[1:3]).transpose(0, 2, 3, 1)


def forecast_rows(
    model: Any,
    table: SeriesTable,
    ends: Sequence[int],
    horizon: int | None = None,
    seed: int = 0,
    covariates: Mapping[str, torch.Tensor] | None = None,
) -> np.ndarray:
    """Forecasts from several origins of a table.

    Beyond `pred_len` the model goes on from its own forecasts. Of a model with quantiles, sample paths are carried on,
    in each of which the steps of a block rise and fall together, and what is returned are quantiles of the paths.

    Args:
        model: One that forecasts, in evaluation mode; of one channel, every column is a series by itself.
        table: The series, in their units.
        ends: Known rows at each origin, at least 1.
        horizon: Steps to forecast; the model's `pred_len` by default.
        seed: Of the sample paths.
        covariates: Further arguments of the model for the window at a single origin, (1, ...), by name.

    Returns:
        float64 (origins, Q, horizon, columns): values (Q = 1), or the model's quantiles.

    Raises:
        ValueError: The horizon needs channels that the model does not forecast, or covariates of further windows.
    """
    horizon = model.pred_len if horizon is None else horizon
    if covariates and (horizon > model.pred_len or len(ends) > 1):
        raise ValueError(
            f"horizon={horizon}, {len(ends)} origins: a model with covariates forecasts from one origin, up to "
            f"pred_len={model.pred_len} steps, for which alone they are given"
        )
    features = model.pretrained_cfg.get("series", {}).get("features")
    if horizon > model.pred_len and features == "MS" and model.in_chans > 1:
        raise ValueError(
            f"horizon={horizon} is beyond the model's pred_len={model.pred_len}, and the model forecasts its target "
            "alone, not the channels that a further step needs; train one with features=M, or with a longer pred_len"
        )
    levels = model_levels(model)
    dates = table.local
    reach = max(ends) + horizon - len(table.values)
    if dates is not None and len(dates) > 1 and reach > 0:
        ahead = table.future(reach).local
        assert ahead is not None
        dates = np.concatenate([dates, ahead])
    pasts = [table.values[:end] for end in ends]
    first = _call(model, [_tail(values, dates, model.seq_len) for values in pasts], covariates)
    found, done = [first], model.pred_len
    generator = torch.Generator().manual_seed(seed)
    paths = [[values] for values in pasts]
    block = first[:, None]  # (origins, paths, Q, pred_len, columns)
    while done < horizon:
        drawn = _draw(block, levels, PATHS if levels else 1, generator)  # (origins, PATHS, pred_len, columns)
        paths = [
            [np.concatenate([own[i % len(own)], path]) for i, path in enumerate(parts)]
            for own, parts in zip(paths, drawn, strict=True)
        ]
        known = [_tail(values, dates, model.seq_len) for own in paths for values in own]
        block = _call(model, known).reshape(len(ends), -1, *first.shape[1:])
        if levels:
            samples = _draw(block, levels, block.shape[1], generator)
            found.append(empirical_quantiles(samples, levels, axis=1))
        else:
            found.append(block[:, 0])
        done += model.pred_len
    return np.concatenate(found, axis=2)[:, :, :horizon]


def _tail(values: np.ndarray, dates: np.ndarray | None, seq_len: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The last rows, which a model sees, at least the two that a frequency needs, and their dates."""
    start, end = max(0, len(values) - max(seq_len, 2)), len(values)
    return values[start:], None if dates is None else dates[start:end]


def _draw(block: np.ndarray, levels: tuple[float, ...], count: int, generator: torch.Generator) -> np.ndarray:
    """One way on for each of `count` paths (origins, count, pred_len, columns), from the forecasts at its end."""
    own = np.broadcast_to(block, (len(block), count, *block.shape[2:])) if block.shape[1] == 1 else block
    if len(levels) < 2:  # one value, or the median alone
        return own[:, :, 0]
    quantiles = torch.from_numpy(np.ascontiguousarray(own))
    return sample_quantiles(quantiles, levels, 1, generator, dim=2, shared=(3,))[:, :, 0].numpy()


def last_steps(values: np.ndarray, seq_len: int) -> np.ndarray:
    """Mean absolute step of the last `seq_len` rows of each column, (columns,), NaN where no two rows are known."""
    last = torch.from_numpy(values[-seq_len:])
    return mean_steps(last.nan_to_num(), (~last.isnan()).double()).numpy()


def with_intervals(
    forecast: np.ndarray,
    levels: Sequence[float],
    coverages: Sequence[float],
    conformal: Conformal | None = None,
    scale: np.ndarray | None = None,
) -> tuple[np.ndarray, tuple[float, ...]]:
    """Median and bounds of central intervals: calibrated ones, or the forecast's own quantiles.

    Args:
        forecast: (N, Q, steps, columns), see `forecast_rows`.
        levels: Of the quantiles; none for one value.
        coverages: Of the intervals, between 0 and 1; none for the forecast as it is.
        conformal: Calibrated intervals; None for the forecast's own quantiles.
        scale: See `Conformal.intervals`.

    Returns:
        (N, 2 * intervals + 1, steps, columns), and the levels on its second axis, increasing, 0.5 among them.

    Raises:
        ValueError: A coverage is neither calibrated nor among the forecast's own.
    """
    if not coverages:
        return forecast, tuple(levels) or (0.5,)
    place = list(levels).index(0.5) if levels else 0
    parts: dict[float, np.ndarray] = {0.5: forecast[:, place]}
    own = central_pairs(levels)
    bounds = conformal.intervals(forecast, scale) if conformal is not None else None
    for coverage in coverages:
        low, high = bounds_of(coverage)
        if bounds is not None and conformal is not None and coverage in conformal.coverages:
            i = conformal.coverages.index(coverage)
            parts[low], parts[high] = bounds[:, i, 0], bounds[:, i, 1]
        elif conformal is None and coverage in own:
            parts[low], parts[high] = (forecast[:, i] for i in own[coverage])
        else:
            known = ", ".join(f"{100 * value:g}" for value in (conformal.coverages if conformal else own)) or "none"
            raise ValueError(f"coverage {100 * coverage:g} % is not among those of the forecast, {known}")
    ordered = tuple(sorted(parts))
    return np.stack([parts[level] for level in ordered], 1), ordered


def forecast_columns(
    model: Any,
    table: SeriesTable,
    name: str,
    horizon: int | None = None,
    coverages: Sequence[float] = (),
    covariates: Mapping[str, torch.Tensor] | None = None,
) -> tuple[list[str], np.ndarray]:
    """Forecasts behind a table as columns: each channel's point forecast, then its quantiles.

    Args:
        model: One that forecasts.
        table: The series, in their units.
        name: The model's, perhaps a run's folder with calibrated intervals.
        horizon: Steps to forecast; the model's `pred_len` by default.
        coverages: Of the central intervals to give; by default all quantiles of a model that has some.
        covariates: See `forecast_rows`.

    Returns:
        Names such as `load` and `load_q0.05`, and float64 (horizon, columns).

    Raises:
        ValueError: An interval is asked for that is neither forecast nor calibrated.
    """
    if horizon is not None and horizon < 1:
        raise ValueError(f"--horizon {horizon} must be at least 1")
    levels = model_levels(model)
    raw = forecast_rows(model, table, [len(table.values)], horizon, covariates=covariates)
    conformal = calibration_of(name, levels) if coverages else None
    if coverages and conformal is None and not levels:
        raise ValueError(
            f"--coverage: {name} forecasts no intervals; blockzoo series calibrate RUN makes some for a run's folder"
        )
    scale = last_steps(table.values, model.seq_len)[None] if conformal is not None and conformal.scaled else None
    targets = target_places(model, table)
    raw, scale = raw[..., targets], None if scale is None else scale[:, targets]
    values, found = with_intervals(raw, levels, coverages, conformal, scale)
    middle = found.index(0.5)
    names, parts = [], []
    for i, place in enumerate(targets):
        names.append(table.columns[place])
        parts.append(values[0, middle, :, i])
        if len(found) > 1:
            names += [f"{table.columns[place]}_{level_name(level)}" for level in found]
            parts += list(values[0, :, :, i])
    return names, np.stack(parts, 1)


def target_places(model: Any, table: SeriesTable) -> list[int]:
    """Places of the columns that a model forecasts: the targets alone of features "MS", else all."""
    kept = model.pretrained_cfg.get("series", {})
    if kept.get("features") != "MS" or model.in_chans == 1:
        return list(range(len(table.columns)))
    targets = [kept["target"]] if isinstance(kept["target"], str) else list(kept["target"])
    return [table.columns.index(name) for name in targets if name in table.columns] or [len(table.columns) - 1]
