"""Forecasts, filled gaps and anomaly scores for a CSV file of one's own."""

import argparse
import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blockzoo.tasks.core.output import print_json, print_table
from blockzoo.tasks.series.calendar import calendar_features
from blockzoo.tasks.series.metrics import step_scores
from blockzoo.tasks.series.table import SeriesTable, future_dates, past_dates, read_table

__all__ = ["add_table_arguments", "fill", "forecast", "model_inputs", "predict_table", "score"]


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of tables."""
    table = parser.add_argument_group("tables of series, for models that forecast, fill gaps or find anomalies")
    table.add_argument("--columns", nargs="+", metavar="NAME", help="the columns to read (default: all but the date)")
    table.add_argument("--date-column", help="column of the dates (default: date, if there is one)")
    table.add_argument("--date-format", help="their format, as in datetime.strptime, if it is not found by itself")


def _read(model: Any, args: argparse.Namespace) -> SeriesTable:
    path = args.file[0]
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        header = [name.strip() for name in next(csv.reader(file), [])]
    date_column = args.date_column or ("date" if "date" in header else None)
    known = model.pretrained_cfg.get("series", {}).get("columns", [])
    columns = args.columns or (known if known and set(known) <= set(header) else None)
    table = read_table(path, columns, date_column, args.date_format)
    if model.in_chans not in (1, len(table.columns)):
        raise ValueError(
            f"{path} has {len(table.columns)} channels ({', '.join(table.columns)}), the model expects {model.in_chans}"
            f"{': ' + ', '.join(known) if known else ''}; --columns chooses"
        )
    return table


def model_inputs(
    model: Any, values: np.ndarray, dates: np.ndarray | None, starts: list[int]
) -> tuple[dict[str, torch.Tensor], np.ndarray, np.ndarray]:
    """Windows of a table as a model wants them.

    Args:
        model: One with `seq_len` and `in_chans`; of one channel, every column is a series by itself.
        values: (rows, columns), NaN where missing.
        dates: Of the rows, or None.
        starts: First row of each window; rows before the first are taken for missing.

    Returns:
        Arguments of the model, batch axis (windows * columns) or (windows); mean and deviation of its channels.

    Raises:
        ValueError: The model wants calendar features, and there are no dates.
    """
    cfg = model.pretrained_cfg
    mean, std = (np.asarray(cfg.get(key, fill), dtype=np.float64) for key, fill in (("mean", 0.0), ("std", 1.0)))
    steps = model.seq_len
    padded = np.concatenate([np.full((steps, values.shape[1]), np.nan), values])
    windows = np.stack([padded[start + steps : start + 2 * steps] for start in starts])
    if model.in_chans == 1:
        windows = windows.transpose(0, 2, 1).reshape(-1, steps, 1)
    scaled = (windows - mean) / std
    seen = ~np.isnan(scaled)
    inputs = {"x": torch.from_numpy(np.where(seen, scaled, 0).astype(np.float32))}
    inputs["mask"] = torch.from_numpy(seen.astype(np.float32))
    if getattr(model, "time_freq", None) is not None:
        if dates is None:
            raise ValueError(f"the model uses calendar features ({model.time_freq!r}); name a --date-column")
        if len(dates) < 2:
            raise ValueError("a date of one row has no frequency; the file needs two rows at least")
        times = calendar_features(np.concatenate([past_dates(dates, steps), dates]), model.time_freq)
        parts = np.stack([times[start + steps : start + 2 * steps] for start in starts])
        repeats = values.shape[1] if model.in_chans == 1 else 1
        inputs["time_features"] = torch.from_numpy(np.repeat(parts, repeats, axis=0))
    return inputs, mean, std


@torch.no_grad()
def _run(model: Any, inputs: dict[str, torch.Tensor], batch_size: int = 64) -> torch.Tensor:
    count = len(inputs["x"])
    parts = [
        model(**{key: value[i : i + batch_size] for key, value in inputs.items()}) for i in range(0, count, batch_size)
    ]
    return torch.cat(parts)


def _as_table(model: Any, output: torch.Tensor, columns: int, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """(windows, steps, columns) in the file's units."""
    values = output.numpy().astype(np.float64) * std + mean
    return values.reshape(-1, columns, values.shape[1]).transpose(0, 2, 1) if model.in_chans == 1 else values


def forecast(model: Any, table: SeriesTable) -> np.ndarray:
    """The next `pred_len` steps behind a table, (pred_len, columns)."""
    inputs, mean, std = model_inputs(model, table.values, table.dates, [len(table.values) - model.seq_len])
    return _as_table(model, _run(model, inputs), len(table.columns), mean, std)[0]


def _starts(model: Any, rows: int) -> list[int]:
    """Windows that cover all rows, the last one ending with them."""
    starts = list(range(0, rows - model.seq_len + 1, model.seq_len))
    last = rows - model.seq_len
    return starts if starts and starts[-1] == last else [*starts, last]


def fill(model: Any, table: SeriesTable) -> np.ndarray:
    """The values of a table with the missing ones filled in, (rows, columns)."""
    starts = _starts(model, len(table.values))
    inputs, mean, std = model_inputs(model, table.values, table.dates, starts)
    output = _as_table(model, _run(model, inputs), len(table.columns), mean, std)
    filled = table.values.copy()
    for start, window in zip(starts, output, strict=True):
        rows = slice(max(start, 0), start + model.seq_len)
        part = window[max(-start, 0) :]
        filled[rows] = np.where(np.isnan(filled[rows]), part, filled[rows])
    return filled


def score(model: Any, table: SeriesTable) -> np.ndarray:
    """Anomaly scores of the rows of a table: mean squared error of standardised channels, (rows, 1 or columns)."""
    starts = _starts(model, len(table.values))
    inputs, _, _ = model_inputs(model, table.values, table.dates, starts)
    error = (_run(model, inputs) - inputs["x"]).square()
    by_step = (error * inputs["mask"]).sum(-1) / inputs["mask"].sum(-1).clamp(min=1)
    columns = len(table.columns) if model.in_chans == 1 else 1
    found = []
    for column in range(columns):
        steps, values = step_scores(torch.tensor(starts), by_step[column::columns])
        found.append(values[steps >= 0].numpy())
    return np.stack(found, 1)


def predict_table(model: Any, args: argparse.Namespace) -> int:
    """Forecast, fill or score a file; print the result, or write it."""
    if len(args.file) > 1:
        raise ValueError(f"series are read from one file, not {len(args.file)}")
    table = _read(model, args)
    names = list(table.columns)
    dates = table.dates
    if model.task == "forecast":
        values = forecast(model, table)
        if dates is not None:
            dates = future_dates(dates, len(values)) if len(dates) > 1 else None
        first = len(table.values)
    elif model.task == "imputation":
        values, first = fill(model, table), 0
    elif model.task == "anomaly":
        values, first = score(model, table), 0
        names = [f"score_{name}" for name in names] if values.shape[1] > 1 else ["score"]
    else:
        raise ValueError(f"{args.name} is a model for {model.task}, which predict has no use for with a table")
    index = [first + i for i in range(len(values))] if dates is None else [_text(date) for date in dates]
    rows = [[key, *map(float, row)] for key, row in zip(index, values, strict=True)]
    columns = ["step" if dates is None else "date", *names]
    if args.out:
        _write(Path(args.out), columns, rows)
        print(f"{args.out}: {len(rows)} rows; read {table.report()}")
    elif args.json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, [[row[0], *(f"{value:.6g}" for value in row[1:])] for row in rows])
    return 0


def _text(date: np.datetime64) -> str:
    text = str(date.astype("datetime64[ms]")).replace("T", " ")
    return text.removesuffix(".000")


def _write(path: Path, columns: list[str], rows: list[list[Any]]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    os.replace(temporary, path)
