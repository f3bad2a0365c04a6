"""Measure simple methods on the data of a config, to compare a model with.

    blockzoo baselines --config timesnet/m3_monthly
    blockzoo baselines --config timesnet/daphnet --out baselines
    blockzoo baselines --config molecules/tdn --metric test/energy_mae --out baselines

The methods belong to the config's task and see the same data, masks and metrics as its model. `--out` writes a JSON
report for each method; `blockzoo publish --baseline` reads these reports. Further arguments go to the training command
line.
"""

import argparse
import json
from pathlib import Path

from blockzoo.tasks.core.configs import config_path
from blockzoo.tasks.core.files import write_text
from blockzoo.tasks.core.output import add_out, print_table
from blockzoo.tasks.core.rooms import declared, load, rooms
from blockzoo.tasks.core.spread import summarize

__all__ = ["add_arguments", "run"]

FURTHER = True
"""Words that the parser does not know go to the training command line, as `args.more`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--config", required=True, help="name of a packaged config, or a path")
    parser.add_argument("--metric", help="metric of the JSON reports (default: the first)")
    add_out(parser, "folder for a JSON report of each method", folder=True)
    for room in rooms().values():
        for place in room.baseline_arguments:
            load(place)(parser)


def run(args: argparse.Namespace) -> int:
    """Measure the methods, print and write their scores."""
    built = args.training(["--config", config_path(args.config), *args.more], execute=False)
    task, data = built.model, built.datamodule
    known = declared("baselines")
    place = next((known[kind.__name__] for kind in type(task).__mro__ if kind.__name__ in known), None)
    if place is None:
        raise ValueError(
            f"--config {args.config}: {type(task).__name__} has no baselines; these have: {', '.join(sorted(known))}"
        )
    scores: dict[str, dict[str, float]] = load(place)(task, data, args)
    columns = list(next(iter(scores.values())))
    metric = args.metric or columns[0]
    if metric not in columns:
        raise ValueError(f"--metric {metric}: must be one of {', '.join(columns)}")
    print_table(["method", *columns], [[name, *(f"{found[c]:.4f}" for c in columns)] for name, found in scores.items()])
    if args.out:
        _write(Path(args.out), scores, metric)
    return 0


def _write(folder: Path, scores: dict[str, dict[str, float]], metric: str) -> None:
    """Write reports like those of `blockzoo seeds`; nothing is random, so each has one run."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in scores.items():
        value = found[metric]
        report = {"metric": metric, "runs": [{"last": value}], "last": summarize([value]), "metrics": found}
        write_text(folder / f"{name.replace(' ', '_').lower()}.json", json.dumps(report, indent=2) + "\n")
