"""Calibrate a finished run on its validation part: intervals of a forecaster, the threshold of a detector.

    blockzoo series calibrate runs/timesnet_forecast/version_0
    blockzoo series calibrate runs/timesnet_anomaly/version_0 --quantile 0.995

Writes `calibration.json` into the run's folder, which `blockzoo predict` and `blockzoo backtest` read. Intervals are
conformal: for each step ahead and channel, they reach as far as the validation error of the right rank.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blockzoo.tasks.core.output import print_table
from blockzoo.tasks.series.alarms import CALIBRATION, write_threshold
from blockzoo.tasks.series.anomaly import SeriesAnomaly
from blockzoo.tasks.series.conformal import COVERAGES, Conformal, check_coverages
from blockzoo.tasks.series.metrics import mean_steps
from blockzoo.tasks.series.quantiles import ForecastTask
from blockzoo.tasks.series.short_term import SeriesShortTerm

__all__ = ["add_arguments", "calibrate", "forecasts_of", "run"]

QUIET = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")


@torch.no_grad()
def forecasts_of(task: Any, data: Any, part: str) -> dict[str, np.ndarray]:
    """Forecasts of a part of data, and what came, in the channels' units.

    Args:
        task: A trained task.
        data: Its data, set up.
        part: "val" or "test".

    Returns:
        `forecast` (N, Q, steps, targets), Q = 1 of a model without quantiles; `truth` (N, steps, targets), NaN where it
        is not known; and for many series of different units `scale` (N, targets), the inputs' mean absolute steps.

    Raises:
        ValueError: The data has no such part.
    """
    if part not in data.datasets:
        raise ValueError(f"the data has no {part} part to calibrate on; its parts are {', '.join(data.datasets)}")
    found = []
    task.eval()
    for batch in data._loader(part):
        batch = task.transfer_batch_to_device(batch, task.device, 0)
        output = task.predict_step(batch, 0)
        target = task.targets(batch["y"])
        mask = task.targets(batch["y_mask"]) if "y_mask" in batch else torch.ones_like(target)
        target = task.in_units(target, batch)
        kept = {"forecast": output.get("quantiles", output["forecast"][:, None])}
        kept["truth"] = torch.where(mask != 0, target, torch.nan)
        if isinstance(task, SeriesShortTerm):
            kept["forecast"] = kept["forecast"][..., None]
        if "season" in batch:
            raise ValueError("the series were seasonally adjusted, for which there is no calibration; train without")
        if isinstance(task, SeriesShortTerm) or "unit" in batch:
            x = task.in_units(task.targets(batch["x"]), batch)
            seen = task.targets(batch["mask"]) if "mask" in batch else torch.ones_like(x)
            kept["scale"] = mean_steps(x, seen)
        found.append({key: value.double().cpu() for key, value in kept.items()})
    return {key: torch.cat([batch[key] for batch in found]).numpy() for key in found[0]}


def calibrate(task: ForecastTask, data: Any, coverages: tuple[float, ...] = COVERAGES, part: str = "val") -> Conformal:
    """Conformal intervals of a trained task from the validation part of its data, which must be set up.

    Errors of many series of different units are measured in each input's mean absolute step.

    Raises:
        ValueError: The data has no such part.
    """
    arrays = forecasts_of(task, data, part)
    table = getattr(data, "table", None)
    columns = table.columns[len(table.columns) - task.num_targets :] if table is not None else ()
    return Conformal.fit(
        arrays["forecast"], arrays["truth"], coverages, task.levels, arrays.get("scale"), columns=columns
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", help="folder of a finished fit")
    per_cent = [f"{100 * value:g}" for value in COVERAGES]
    parser.add_argument(
        "--coverage", nargs="+", type=float, default=[100 * value for value in COVERAGES], metavar="PERCENT",
        help=f"coverages of the intervals of a forecaster (default: {' '.join(per_cent)})",
    )  # fmt: skip
    parser.add_argument(
        "--quantile", type=float, help="a detector's threshold as a quantile of validation scores (default: the run's)"
    )


def run(args: argparse.Namespace) -> int:
    """Calibrate and write the file."""
    coverages = check_coverages(args.coverage, "--coverage")
    if args.quantile is not None and not 0 <= args.quantile <= 1:
        raise ValueError(f"--quantile {args.quantile} must be from 0 to 1")
    finished = args.training(["validate", args.run, *QUIET])
    task, data = finished.model, finished.datamodule
    path = Path(args.run) / CALIBRATION
    if isinstance(task, SeriesAnomaly):
        quantile = task.val_quantile if args.quantile is None else args.quantile
        limit = task.calm_threshold(data, quantile)
        write_threshold(Path(args.run), quantile, limit)
        print(f"{path}: threshold {limit:.6g}, the {quantile:g} quantile of the validation scores")
        return 0
    if not isinstance(task, ForecastTask):
        raise ValueError(f"{args.run}: a {type(task).__name__} has nothing to calibrate; forecasters and detectors do")
    found = calibrate(task, data, coverages)
    found.write(path)
    unit = "mean absolute steps" if found.scaled else "the channels' units"
    rows = []
    for i, coverage in enumerate(found.coverages):
        finite = np.isfinite(found.radius[i])
        width = f"{found.radius[i][finite].mean():.4g}" if finite.any() else ""
        rows.append([f"{100 * coverage:g} %", int(found.count.min()), width, int((~finite).sum())])
    print_table(["coverage", "errors", f"mean radius, {unit}", "steps without a bound"], rows)
    print(path)
    return 0
