"""Classify your own series with pretrained weights.

The file is a UEA `.ts` file, or a CSV file with a header: one row a step, a column `series` that numbers the series,
and one column for each channel. Values are in the units of the training data; the checkpoint's own standardisation and
padding are applied. Predictions of a config or of a run's folder are Lightning's: blockzoo predict --config ...

Examples:
  blockzoo predict timesnet_classifier.japanese_vowels vowels.ts
  blockzoo predict timesnet_classifier.japanese_vowels vowels.csv --json
"""

import argparse
import csv
from pathlib import Path
from typing import Any

import torch

import blockzoo
from blockzoo.tasks.commands.output import print_json, print_table
from blockzoo.tasks.data.uea import SeriesSet, read_ts

__all__ = ["add_arguments", "classify", "prepare", "read_csv", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", help="model.tag")
    parser.add_argument("file", help="the series, .ts or .csv")
    parser.add_argument("--cache-dir", help="cache folder for downloads")
    parser.add_argument("--json", action="store_true", help="print JSON with all probabilities")


def read_csv(path: str | Path) -> SeriesSet:
    """Read series from a CSV file with a column `series` and one column for each channel.

    Raises:
        ValueError: A column is missing, or a cell is not a finite number; the message names row and column.
    """
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        channels = [name for name in reader.fieldnames or [] if name != "series"]
        if "series" not in (reader.fieldnames or []) or not channels:
            raise ValueError(f"{path}: expected a header with a column 'series' and one for each channel")
        groups: dict[str, list[list[float]]] = {}
        for number, row in enumerate(reader, start=2):
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


@torch.no_grad()
def classify(model: Any, x: torch.Tensor, mask: torch.Tensor, batch_size: int = 64) -> torch.Tensor:
    """Class probabilities (N, num_classes)."""
    parts = zip(x.split(batch_size), mask.split(batch_size), strict=True)
    return torch.cat([model(*part).softmax(-1) for part in parts])


def run(args: argparse.Namespace) -> int:
    """Print the likeliest class of each series."""
    model = blockzoo.create_model(args.name, pretrained=True, cache_dir=args.cache_dir).eval()
    if model.modality != "series" or model.task != "classification":
        raise ValueError(
            f"{args.name} is a model for {model.task}; predict reads files for series classification so far"
        )
    if Path(args.file).suffix == ".ts":
        series, names = read_ts(args.file), None
    else:
        series = read_csv(args.file)
        names = series.class_names
    probabilities = classify(model, *prepare(model, series))
    labels = model.pretrained_cfg["label_names"]
    best = probabilities.max(-1)
    rows = [
        {
            "series": names[i] if names else i,
            "label": labels[int(best.indices[i])],
            "probability": float(best.values[i]),
        }
        for i in range(len(series))
    ]
    if args.json:
        print_json(
            [
                {**row, "probabilities": dict(zip(labels, p.tolist(), strict=True))}
                for row, p in zip(rows, probabilities, strict=True)
            ]
        )
    else:
        print_table(
            ("series", "label", "probability"), [(*list(r.values())[:2], f"{r['probability']:.4f}") for r in rows]
        )
    return 0
