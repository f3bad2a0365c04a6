"""Forecasts, filled gaps and anomaly scores for a user's CSV file."""

import argparse
import csv
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blockzoo.tasks.core.files import check_output, write_table
from blockzoo.tasks.core.output import print_json, print_table
from blockzoo.tasks.core.predictions import check_classes_file, class_rows, print_likeliest
from blockzoo.tasks.series.alarms import choose_threshold, flagged
from blockzoo.tasks.series.calendar import calendar_seasons, time_freq_of
from blockzoo.tasks.series.conformal import check_coverages
from blockzoo.tasks.series.covariates import Covariates
from blockzoo.tasks.series.forecaster import forecast_columns, forecast_rows, model_levels
from blockzoo.tasks.series.inputs import model_inputs, outputs_of
from blockzoo.tasks.series.metrics import seasonal_factors, step_scores
from blockzoo.tasks.series.table import Reading, SeriesTable, read_header, read_series
from blockzoo.tasks.series.table_files import named_text
from blockzoo.tasks.series.ts_files import SeriesSet, read_ts
from blockzoo.tasks.series.windows import stretches_of

__all__ = [
    "add_table_arguments",
    "classify",
    "fill",
    "forecast",
    "predict_classes",
    "predict_table",
    "prepare",
    "read_csv",
    "read_for",
    "refuse_others",
    "score",
]


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of tables."""
    table = parser.add_argument_group("tables of series, for models that forecast, fill gaps or find anomalies")
    table.add_argument("--columns", nargs="+", metavar="NAME", help="the columns to read (default: all but the date)")
    table.add_argument("--date-column", help="column of the dates (default: date, if there is one)")
    table.add_argument("--date-format", help="format of the dates, as in datetime.strptime, if it is not recognised")
    table.add_argument("--delimiter", help="delimiter of cells (default for this and the next: as in the model's data)")
    table.add_argument("--missing-values", nargs="+", metavar="CELL", help="further cells that mean a missing value")
    table.add_argument("--irregular", choices=("fill", "error", "ignore"), help="what to do about uneven dates")
    table.add_argument("--decimal", help="the decimal mark, '.' or ','")
    table.add_argument("--thousands", help="character between groups of three digits")
    table.add_argument("--encoding", help="encoding of the text, if it is not UTF-8")
    table.add_argument("--time-zone", help="zone of the dates, such as Europe/Berlin")
    table.add_argument("--closed", help="holidays that working days leave out: a country, an exchange, or a file")
    table.add_argument("--id-column", help="column with the name of each row's series, in a table of many")

    table.add_argument("--horizon", type=int, help="steps to forecast, also beyond the model's own, by rolling")
    table.add_argument(
        "--coverage", nargs="+", type=float, metavar="PERCENT",
        help="central intervals of a forecast: the model's own, or those of blockzoo series calibrate",
    )  # fmt: skip
    table.add_argument("--threshold", type=float, help="flag anomaly scores above it (default: the calibrated one)")
    table.add_argument("--anomaly-ratio", type=float, metavar="PERCENT", help="or flag the largest scores, so many")


def refuse_others(args: argparse.Namespace, task: str) -> None:
    """Refuse options that say nothing to a model for a task.

    Raises:
        ValueError: One is given.
    """
    kinds = {"horizon": "forecast", "coverage": "forecast", "threshold": "anomaly", "anomaly_ratio": "anomaly"}
    for option, kind in kinds.items():
        if kind != task and getattr(args, option, None) is not None:
            name = f"--{option.replace('_', '-')}"
            raise ValueError(f"{name} is for a model with task {kind!r}; that of {args.name} is {task!r}")


def read_for(model: Any, path: str, args: argparse.Namespace) -> dict[str, tuple[SeriesTable, dict[str, torch.Tensor]]]:
    """Read the series of a table as the model's own data was read, unless the options say otherwise.

    Returns:
        By name, the channels, and the covariates of the next forecast as arguments of the model.
    """
    kept = model.pretrained_cfg.get("series", {})
    given = {field.name: getattr(args, field.name, None) for field in fields(Reading)}
    reading = Reading(
        **{**kept.get("reading", {}), **{key: value for key, value in given.items() if value is not None}}
    )
    covariates = Covariates.restored(kept.get("covariates", {}))
    known = kept.get("columns", [])
    columns: list[str] | None = args.columns
    if not columns and known and set(known) <= set(read_header(path, reading.delimiter, reading.encoding)):
        columns = known
    if columns is not None:
        columns = [*columns, *(name for name in covariates.known if name not in columns)]
    found: dict[str, tuple[SeriesTable, dict[str, torch.Tensor]]] = {}
    for name, whole in read_series(path, reading, columns, covariates.static, given["date_column"] is None).items():
        table = whole.take([column for column in whole.columns if column not in covariates.known])
        if table.never_observed:
            raise ValueError(
                f"{table.path}: no value of {', '.join(map(repr, table.never_observed))}; --columns chooses"
            )
        if not found:
            _compare_steps(model, table)
        if model.in_chans not in (1, len(table.columns)):
            raise ValueError(
                f"{path} has {len(table.columns)} channels ({', '.join(table.columns)}), the model expects "
                f"{model.in_chans}{': ' + ', '.join(known) if known else ''}; --columns chooses"
            )
        table = table.trimmed() if covariates.known else table
        found[name] = table, _covariates_ahead(model, covariates, whole, len(table.values))
    return found


def _covariates_ahead(model: Any, covariates: Covariates, whole: SeriesTable, end: int) -> dict[str, torch.Tensor]:
    """Covariates of the window that ends before a step, and of the steps to forecast behind it.

    Args:
        model: The forecaster.
        covariates: Those that it was trained with.
        whole: The table, with the columns that are known ahead, also for steps behind `end`.
        end: The first step to forecast.

    Raises:
        ValueError: The table does not reach far enough ahead.
    """
    found = {}
    static = covariates.static_of(whole.path, whole.labels)
    if static is not None:
        found["static"] = torch.from_numpy(static.astype(np.float32))[None]
    if covariates.known and len(whole.values) < end + model.pred_len:
        raise ValueError(
            f"{whole.path}: the model needs {', '.join(covariates.known)} for {model.pred_len} steps behind the last "
            f"value of the channels; there are rows for {len(whole.values) - end}"
        )
    if covariates.num_known:
        past = whole.rows(0, end)
        ahead = whole.rows(end, end + model.pred_len) if covariates.known else past.future(model.pred_len)
        parts = [covariates.known_of(part, part.take(covariates.known).values) for part in (past, ahead)]
        known = np.concatenate([part for part in parts if part is not None])
        missing = model.seq_len + model.pred_len - len(known)
        if missing > 0:  # steps before the first are like it
            known = np.concatenate([np.repeat(known[:1], missing, axis=0), known])
        found["known"] = torch.from_numpy(known[-(model.seq_len + model.pred_len) :].astype(np.float32))[None]
    return found


def _compare_steps(model: Any, table: SeriesTable) -> None:
    """Warn if the dates of a table are not as far apart as those that the model learned from."""
    if table.dates is None or len(table.dates) < 2:
        return
    found, wanted = time_freq_of(table.dates), getattr(model, "time_freq", None)
    step = float(np.median(np.diff(table.dates).astype(np.int64))) / 1000
    own = model.pretrained_cfg.get("series", {}).get("step")
    if own is not None and not 0.9 < step / own < 1.1:
        print(f"{table.path}: steps of {step:g} s, but the model learned from steps of {own:g} s", file=sys.stderr)
    elif wanted is not None and found != wanted:
        print(f"{table.path}: the dates look like {found!r}, but the model has time_freq={wanted!r}", file=sys.stderr)


def _as_table(model: Any, output: torch.Tensor, columns: int, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """(windows, steps, columns) in the file's units."""
    values = output.numpy().astype(np.float64) * std + mean
    return values.reshape(-1, columns, values.shape[1]).transpose(0, 2, 1) if model.in_chans == 1 else values


def forecast(model: Any, table: SeriesTable, covariates: Mapping[str, torch.Tensor] | None = None) -> np.ndarray:
    """The next `pred_len` steps behind a table, (pred_len, columns); the median of a model with quantiles.

    Args:
        model: The forecaster.
        table: Its channels.
        covariates: Further arguments of the model for one window, (1, ...), by name.
    """
    levels = model_levels(model)
    found = forecast_rows(model, table, [len(table.values)], covariates=covariates)
    return found[0, levels.index(0.5) if levels else 0]


def _starts(model: Any, rows: int) -> list[int]:
    """Windows that cover all rows, the last one ending with them."""
    starts = list(range(0, rows - model.seq_len + 1, model.seq_len))
    last = rows - model.seq_len
    return starts if starts and starts[-1] == last else [*starts, last]


def fill(model: Any, table: SeriesTable) -> np.ndarray:
    """The values of a table with the missing ones filled in, (rows, columns)."""
    starts = _starts(model, len(table.values))
    inputs, mean, std = model_inputs(model, table.values, table.local, starts)
    output = _as_table(model, outputs_of(model, inputs), len(table.columns), mean, std)
    filled = table.values.copy()
    for start, window in zip(starts, output, strict=True):
        rows = slice(max(start, 0), start + model.seq_len)
        part = window[max(-start, 0) :]
        filled[rows] = np.where(np.isnan(filled[rows]), part, filled[rows])
    return filled


def score(model: Any, table: SeriesTable) -> np.ndarray:
    """Anomaly scores of the steps of a table: mean squared error of standardised channels, (steps, 1 or columns).

    No window spans steps that are missing from the table; these have the score NaN.
    """
    columns = len(table.columns) if model.in_chans == 1 else 1
    found = np.full((len(table.values), columns), np.nan)
    stretches = stretches_of(table.lines)
    for number in range(stretches.max(initial=-1) + 1):
        rows = np.flatnonzero(stretches == number)
        first, stop = int(rows[0]), int(rows[-1]) + 1
        low = max(0, min(first, stop - model.seq_len))  # a short stretch is seen after missing values
        values = np.where(np.arange(low, stop)[:, None] < first, np.nan, table.values[low:stop])
        dates = None if table.local is None else table.local[low:stop]
        starts = [start + first - low for start in _starts(model, stop - first)]
        inputs, _, _ = model_inputs(model, values, dates, starts)
        error = (outputs_of(model, inputs) - inputs["x"]).square()
        by_step = (error * inputs["mask"]).sum(-1) / inputs["mask"].sum(-1).clamp(min=1)
        for column in range(columns):
            steps, scores = step_scores(torch.tensor(starts) + low, by_step[column::columns])
            own = (steps >= first) & (steps < stop)
            found[steps[own].numpy(), column] = scores[own].numpy()
    return found


def predict_table(model: Any, files: list[str], args: argparse.Namespace) -> int:
    """Forecast, fill or score a file; print the result, or write it."""
    if len(files) > 1:
        raise ValueError(f"series are read from one file, not {len(files)}")
    if args.out:
        check_output(args.out, files)
    refuse_others(args, model.task)
    tables = read_for(model, files[0], args)
    rows: list[list[Any]] = []
    for name, (table, covariates) in tables.items():
        columns, part = _predicted(model, args, table, covariates)
        rows += [[name, *row] for row in part] if list(tables) != [""] else part
    if list(tables) != [""]:
        columns = [model.pretrained_cfg.get("series", {}).get("reading", {}).get("id_column") or "unique_id", *columns]
    if args.out:
        write_table(args.out, [columns, *rows])
        read = table.report() if len(tables) == 1 else f"{len(tables)} series of {args.file[0]}"
        print(f"{args.out}: {len(rows)} rows; read {read}")
    elif args.json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(
            columns,
            [
                ["" if cell is None else f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row]
                for row in rows
            ],
        )
    return 0


def _predicted(
    model: Any, args: argparse.Namespace, table: SeriesTable, covariates: Mapping[str, torch.Tensor]
) -> tuple[list[str], list[list[Any]]]:
    """Names of columns, and rows with the date or step first, of what a model makes of one series."""
    names = list(table.columns)
    shown: SeriesTable | None = table if table.dates is not None else None
    if model.task == "forecast":
        coverages = check_coverages(args.coverage, "--coverage") if args.coverage else ()
        factors = _seasons(model, table, max(args.horizon or model.pred_len, 1))
        rows_known = len(table.values)
        adjusted = table if factors is None else replace(table, values=table.values / factors[:rows_known])
        names, values = forecast_columns(model, adjusted, args.name, args.horizon, coverages, covariates)
        if factors is not None:  # the quantiles of a column stand behind it
            values = values * np.repeat(factors[rows_known:], len(names) // factors.shape[1], axis=1)
        shown = table.future(len(values)) if shown and len(table.values) > 1 else None
        first = len(table.values)
    elif model.task == "imputation":
        values, first = fill(model, table), 0
    elif model.task == "anomaly":
        values, first = score(model, table), 0
        names = [f"score_{name}" for name in names] if values.shape[1] > 1 else ["score"]
        limits, source = choose_threshold(values, args.name, args.threshold, args.anomaly_ratio)
        names, values, told = flagged(names, values, limits, source)
        print(told, file=sys.stderr)
    else:
        raise ValueError(f"{args.name} is a model for {model.task}, which predict has no use for with a table")
    index = [first + i for i in range(len(values))] if shown is None else shown.date_texts()
    rows: list[list[Any]] = [[key, *map(_cell, names, row)] for key, row in zip(index, values, strict=True)]
    return ["step" if shown is None else "date", *names], rows


def _seasons(model: Any, table: SeriesTable, steps: int) -> np.ndarray | None:
    """Seasonal factors of a table's rows and the steps behind, (rows + steps, columns), that a model wants taken out.

    None for a model that was not trained on series without their season. The season is the shortest of the calendar, or
    of the training data if there are no dates. A column with missing values between others is taken as it is.
    """
    period = model.pretrained_cfg.get("series", {}).get("seasonal")
    if period is None:
        return None
    if table.dates is not None and len(table.dates) > 1:
        period = next(iter(calendar_seasons(table.dates)), 1)
    rows, count = table.values.shape
    factors = np.ones((rows + steps, count))
    for column in range(count):
        seen = np.flatnonzero(~np.isnan(table.values[:, column]))
        history = table.values[seen[0] :, column]
        if not np.isnan(history).any():
            factors[seen[0] :, column] = seasonal_factors(history, len(history) + steps, period)
    return factors


def _cell(name: str, value: float) -> float | bool | None:
    """A number as it is printed: a truth value in a column of flags, nothing for NaN."""
    if np.isnan(value):
        return None
    return bool(value) if name.partition("_")[0] == "flag" else float(value)


def read_csv(path: str | Path) -> SeriesSet:
    """Read series from a CSV file with a column `series` and one column for each channel.

    Raises:
        ValueError: A column is missing, or a cell is not a finite number; the message names row and column.
    """
    with named_text(str(path)) as file:
        reader = csv.DictReader(file)
        channels = [name for name in reader.fieldnames or [] if name != "series"]
        if "series" not in (reader.fieldnames or []) or not channels:
            raise ValueError(f"{path}: expected a header with a column 'series' and one for each channel")
        groups: dict[str, list[list[float]]] = {}
        for number, row in enumerate(reader, start=2):
            if None in row:
                raise ValueError(f"{path}, row {number}: more cells than the header has")
            groups.setdefault(row["series"], []).append([_number(path, number, name, row[name]) for name in channels])
    if not groups:
        raise ValueError(f"{path}: no rows below the header")
    lengths = torch.tensor([len(steps) for steps in groups.values()])
    values = torch.tensor([step for steps in groups.values() for step in steps])
    return SeriesSet(values, lengths, torch.zeros(len(groups), dtype=torch.long), tuple(groups))


def _number(path: str | Path, row: int, column: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = float("nan")
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"{path}, row {row}, column {column!r}: {text!r} is not a finite number")
    return value


def prepare(model: Any, series: SeriesSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad series and standardise them as the model's weights want it: values (N, T, C) and mask (N, T)."""
    cfg = model.pretrained_cfg
    steps, channels = cfg["input_size"]
    if series.values.shape[1] != channels:
        raise ValueError(f"the series have {series.values.shape[1]} channels, the model expects {channels}")
    x, mask = series.padded(steps)
    mean, std = torch.tensor(cfg["mean"]), torch.tensor(cfg["std"])
    return (x - mean) / std * mask[..., None], mask


def classify(model: Any, x: torch.Tensor, mask: torch.Tensor, batch_size: int = 64) -> torch.Tensor:
    """Class probabilities (N, num_classes)."""
    return outputs_of(model, {"x": x, "mask": mask}, batch_size).softmax(-1)


def predict_classes(model: Any, files: list[str], args: argparse.Namespace) -> int:
    """Classify the series of a .ts or CSV file; print the most likely class of each.

    Raises:
        ValueError: There are several files, or the series do not fit the model.
    """
    if len(files) > 1:
        raise ValueError(f"series are read from one file, not {len(files)}")
    path = files[0]
    if args.out:
        check_classes_file(args.out, files)
    if Path(path).suffix == ".ts":
        series, names = read_ts(path), None
    else:
        series = read_csv(path)
        names = series.class_names
    probabilities = classify(model, *prepare(model, series), batch_size=args.batch_size or 64)
    labels = model.pretrained_cfg["label_names"]
    rows = [class_rows("series", names[i] if names else i, row, labels) for i, row in enumerate(probabilities)]
    print_likeliest("series", rows, args)
    return 0
