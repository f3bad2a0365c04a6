"""Backtest a forecaster with a rolling origin, beside simple and statistical methods.

    blockzoo backtest runs/timesnet_forecast/version_0 --data load.csv
    blockzoo backtest timesnet_forecast.m3_monthly --data sales.csv --horizon 24 --windows 6 --coverage 80 95
    blockzoo backtest runs/timesnet_forecast/version_0 --data load.csv --refit --out backtest.csv --plot backtest.png

From each origin the methods see what lies before it and forecast what comes behind. Methods are the model, the seasonal
naive forecast, and, with statsforecast installed (`pip install 'blockzoo[forecast]'`), AutoETS, AutoTheta and its
SeasonalNaive. With --refit the run is trained again from its config on the rows before each origin. With --coverage, a
run has the intervals of its `calibration.json` (`blockzoo series calibrate`), as in `blockzoo predict`. Otherwise they
are the method's own, or conformal from its errors on earlier windows of the file, which for a model may be rows that it
learned from.

The table that --out writes has a row for each method, origin, series and step: the date (or step), the truth, the
forecast and the quantiles that bound the intervals, in the file's units, which are read from names such as "load [MW]".
"""

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from blockzoo.tasks.core import names
from blockzoo.tasks.core.files import check_output, write_figure, write_table
from blockzoo.tasks.core.output import add_cache_dir, add_out, print_json, print_table
from blockzoo.tasks.core.run_config import check_run_config
from blockzoo.tasks.core.timing import checked_device
from blockzoo.tasks.series.backtest_methods import STATISTICAL, Forecaster, Methods
from blockzoo.tasks.series.backtest_table import Backtest, place_of
from blockzoo.tasks.series.predict import add_table_arguments, read_for, refuse_others
from blockzoo.tasks.series.table import SeriesTable

__all__ = ["add_arguments", "run"]


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
    if args.out and args.plot and Path(args.out).absolute() == Path(args.plot).absolute():
        raise ValueError(f"--out and --plot name one file, {args.out}; the table and the figure are two")
    if args.season is not None and args.season < 1:
        raise ValueError(f"--season {args.season} must be at least 1")
    if args.refit:
        config = Path(args.name) / "config.yaml"
        if not config.is_file():
            raise ValueError(f"--refit needs the folder of a finished run, with its config.yaml; {args.name} is none")
        check_run_config(config)
        declared = yaml.safe_load(config.read_text(encoding="utf-8")).get("data")
        if not isinstance(declared, dict) or "path" not in (declared.get("init_args") or {}):
            raise ValueError(f"--refit needs a run on a file of yours; the data of {config} have no path")
    if not Path(args.data).is_file():
        raise FileNotFoundError(f"--data {args.data}: no such file")
    wanted = _statistical_methods(args.methods)
    names.with_weights(args.name)
    model = names.build(args.name, cache_dir=args.cache_dir).to(checked_device(args.device))
    if getattr(model, "task", None) != "forecast":
        raise ValueError(
            f"{args.name} is a model for {getattr(model, 'task', 'images')}; a backtest needs a forecaster"
        )
    refuse_others(args, model.task)
    table = _single(model, args)
    tool = Methods(args, model, table)
    place = 0 if args.series is None else place_of(args.series, tool.narrow.columns)
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
        write_table(args.out, rows)
    if args.plot:
        index = np.arange(len(table.values)) if table.local is None else table.local
        write_figure(args.plot, result.figure(index, "step" if table.local is None else "date", place))
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
