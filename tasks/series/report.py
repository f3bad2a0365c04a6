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
from pathlib import Path
from typing import Any

from blockzoo.tasks.core.files import write_figure
from blockzoo.tasks.core.output import add_out, print_table
from blockzoo.tasks.series.metrics import grouped_scores
from blockzoo.tasks.series.task import SeriesTask

__all__ = ["m4_table", "add_arguments", "run"]

QUIET = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")


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
    add_out(parser, "folder for the figures (default: figures)", folder=True, default="figures")


def run(args: argparse.Namespace) -> int:
    """Test the runs again, then write figures and print tables."""
    finished = [args.training(["test", path, *QUIET]) for path in args.runs]
    if len({getattr(one.datamodule, "frequency", None) for one in finished}) > 1:
        print_table(["series", "sMAPE", "MASE", "OWA"], m4_table(finished))
        return 0
    tasks, data = [one.model for one in finished], finished[0].datamodule
    if not isinstance(tasks[0], SeriesTask):
        raise ValueError(f"{args.runs[0]}: no figures for a {type(tasks[0]).__name__}, which is no task on series")
    table = tasks[0].report_table(tasks, data)
    if table is not None:
        print_table(*table)
    figures = tasks[0].report_figures(tasks, data)
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        write_figure(folder / name, figure)
        print(folder / name)
    return 0
