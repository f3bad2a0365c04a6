"""Errors of a potential that knows only the energy of each element, as a baseline for model cards.

    blockzoo molecules baselines --out linear.json

The energies are fitted to the training part of the packaged GFN2-xTB molecules by least squares; there are no forces.
Nothing is random, so the report, in the form of that of `blockzoo.tasks.app.seeds`, has one run.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from blockzoo.tasks.core.spread import summarize
from blockzoo.tasks.molecules.potential import linear_baseline
from blockzoo.tasks.molecules.structures import XTBMolecules

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--metric", default="test/force_mae", help="(default: test/force_mae)")
    parser.add_argument("--out", help="JSON file to write")


def run(args: argparse.Namespace) -> int:
    """Fit, print and write the errors."""
    data = XTBMolecules()
    data.setup("fit")
    test: Any = data.datasets["test"]
    errors = {f"test/{name}": value for name, value in linear_baseline(data.train_sample(), test.structures).items()}
    if args.metric not in errors:
        raise ValueError(f"--metric {args.metric}: must be one of {', '.join(errors)}")
    value = errors[args.metric]
    report = {"metric": args.metric, "runs": [{"last": value, **errors}], "last": summarize([value])}
    for name, error in errors.items():
        print(f"{name} {error:.4g}")
    if args.out:
        Path(args.out).write_text(json.dumps(report, indent=2) + "\n")
    return 0
