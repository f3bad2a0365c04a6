"""Figures of several runs of one series config that differ in their seed.

    blockzoo series report runs/timesnet_m3_monthly/version_{0,1,2} --out figures

Each run is tested again. A table shows the error of each one's forecasts and of their median. The figures show the
forecasts of all of them, with their median and spread, for the test series at the quantiles 0.1 to 0.9 of the error
(`forecasts.png`); or what the first run fills into gaps
(`imputations.png`) or gives as scores (`anomalies.png`); and the images that it sees (`periods.png`).

    blockzoo series report runs/timesnet_m4_*/version_0

For runs on different frequencies of M4, their scores are combined as in the competition instead.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blockzoo.tasks.core.files import write_figure
from blockzoo.tasks.core.output import print_table
from blockzoo.tasks.series.anomaly import SeriesAnomaly
from blockzoo.tasks.series.competition import ShortSeries
from blockzoo.tasks.series.figures import draw_anomalies, draw_forecasts, draw_imputations, draw_periods, typical
from blockzoo.tasks.series.imputation import SeriesImputation
from blockzoo.tasks.series.metrics import grouped_scores, seasonal_naive, smape
from blockzoo.tasks.series.short_term import SeriesShortTerm

__all__ = ["m4_table", "add_arguments", "run"]

QUIET = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")


def _short_term(tasks: list[Any], data: Any, folder: Path) -> list[Path]:
    forecasts = [torch.cat([part["forecast"][..., 0] for part in task.test_forecasts]) for task in tasks]
    stacked = torch.stack(forecasts)
    series = data.read()
    future, counted = (torch.cat([part[key] for part in tasks[0].test_forecasts])[..., 0] for key in ("y", "y_mask"))
    print_table(*_scores(stacked, future, counted, series, data.groups))
    errors = smape(_median(stacked).double(), future.double(), counted)
    chosen = typical(errors, 6)
    past = [torch.from_numpy(series[i].history[-3 * data.pred_len :]) for i in chosen]
    reference = [torch.from_numpy(_naive(series[i], data.period)) for i in chosen]
    titles = [f"{series[i].name}, sMAPE {float(errors[i]):.1f} %" for i in chosen]
    ends = [len(series[i].future) for i in chosen]
    came = [future[i, :end] for i, end in zip(chosen, ends, strict=True)]
    drawn = [stacked[:, i, :end] for i, end in zip(chosen, ends, strict=True)]
    figure = draw_forecasts(past, came, drawn, titles, reference)
    write_figure(folder / "forecasts.png", figure)
    inputs = torch.cat([part["x"] for part in tasks[0].test_forecasts])[chosen[:3]]
    write_figure(folder / "periods.png", draw_periods(tasks[0].model.eval(), inputs, titles[:3]))
    return [folder / "forecasts.png", folder / "periods.png"]


def _naive(item: ShortSeries, period: int) -> np.ndarray:
    return seasonal_naive(item.history, len(item.future), period if item.period is None else item.period)


def _median(forecasts: torch.Tensor) -> torch.Tensor:
    """Of runs (runs, ...), the mean of the two in the middle if they are even; torch's own takes the lower one."""
    return forecasts.double().quantile(0.5, dim=0)


def _scores(
    forecasts: torch.Tensor, future: torch.Tensor, counted: torch.Tensor, series: list[ShortSeries], groups: Any
) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a table: sMAPE of each run's forecasts (runs, N, steps), and of their median."""
    rows = []
    named = [(f"run {i}", forecast) for i, forecast in enumerate(forecasts)]
    for name, forecast in [*named, (f"median of {len(named)}", _median(forecasts))]:
        errors = smape(forecast.double(), future.double(), counted)
        inside = [torch.tensor([item.group == group for item in series]) for group in groups]
        rows.append([name, *(f"{float(part.mean()):.3f}" for part in (errors, *(errors[where] for where in inside)))])
    return ["forecasts", "sMAPE", *(f"sMAPE, {group}" for group in groups)], rows


def _imputation(tasks: list[Any], data: Any, folder: Path) -> list[Path]:
    example = tasks[0].test_examples[-1]
    title = f"{float(example['rate']):.1%} hidden, window from row {int(example['index'])}"
    figure = draw_imputations(example["x"], example["hidden"], example["output"], data.table.columns[:6], title)
    write_figure(folder / "imputations.png", figure)
    shown = data.datasets["test"].values[int(example["index"]) :][: data.seq_len][None]
    write_figure(folder / "periods.png", draw_periods(tasks[0].model.eval(), shown, ["standardised channels 0 to 3"]))
    return [folder / "imputations.png", folder / "periods.png"]


def _anomalies(tasks: list[Any], data: Any, folder: Path) -> list[Path]:
    result = tasks[0].test_result
    ratio, calm = result["threshold"].tolist()
    limits = {f"{tasks[0].anomaly_ratio:g} % of all": ratio, f"{tasks[0].val_quantile:g} of validation": calm}
    values = data.datasets["test"].values[result["step"]]
    figure = draw_anomalies(result["step"], result["score"], result["label"], limits, values)
    write_figure(folder / "anomalies.png", figure)
    shown = values[None, : data.seq_len]
    write_figure(folder / "periods.png", draw_periods(tasks[0].model.eval(), shown, ["first test window"]))
    return [folder / "anomalies.png", folder / "periods.png"]


def m4_table(finished: list[Any]) -> list[list[str]]:
    """Rows of group, sMAPE, MASE and OWA for tested runs on different frequencies of M4."""
    scores = {}
    for one in finished:
        found = one.trainer.callback_metrics
        names = ("smape", "mase", "naive2_smape", "naive2_mase")
        a, b, c, d = (float(found[f"test/{name}"]) for name in names)
        scores[one.datamodule.frequency] = (a, b, c, d, len(one.datamodule.datasets["test"]))
    table = grouped_scores(scores)
    return [[group, *(f"{row[name]:.3f}" for name in ("smape", "mase", "owa"))] for group, row in table.items()]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("runs", nargs="+", help="folders of finished fits")
    parser.add_argument("--out", default="figures", help="folder for the figures")


def run(args: argparse.Namespace) -> int:
    """Test the runs again, then write figures and print tables."""
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    finished = [args.training(["test", path, *QUIET]) for path in args.runs]
    if len({getattr(one.datamodule, "frequency", None) for one in finished}) > 1:
        print_table(["series", "sMAPE", "MASE", "OWA"], m4_table(finished))
        return 0
    tasks, data = [one.model for one in finished], finished[0].datamodule
    kinds: dict[type, Callable[[list[Any], Any, Path], list[Path]]]
    kinds = {SeriesShortTerm: _short_term, SeriesImputation: _imputation, SeriesAnomaly: _anomalies}
    if type(tasks[0]) not in kinds:
        raise ValueError(f"{args.runs[0]}: no figures for a {type(tasks[0]).__name__}; its run folder has its own")
    written = kinds[type(tasks[0])](tasks, data, folder)
    print("\n".join(map(str, written)))
    return 0
