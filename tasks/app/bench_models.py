"""Compare all model families with their originals, on one device.

Runs the tables of the suites that stand for a family: ours as built, deployed and compiled, against timm's models, the
plain formulations, e3nn and neuraloperator (where it is installed), on the same weights, in one process and turn by
turn, after comparing outputs. Rows of all families have the same columns. GFLOP/s counts products, convolutions and
attention, and is left out if transforms do most of the work; "of rate" is its share of the rate of a large float32
product in the same process. TF32 is off, also in convolutions. On a GPU, compiled forms are always measured too, and
batches are larger.

BLOCKZOO_KERNELS chooses the kernels; its value is part of the result. `--family NAME` runs one suite, `--out
DIR` writes models.json, after every family, and models.png.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from blockzoo.tasks.core import rooms
from blockzoo.tasks.core.files import write_text
from blockzoo.tasks.core.output import add_out, print_json, print_table
from blockzoo.tasks.core.suites import Rows, Suite
from blockzoo.tasks.core.timing import Clock, ceilings, environment, picture

__all__ = ["add_arguments", "run"]

_MEASURED = ("phase", "variant", "ms", "min", "max", "speedup", "GFLOP/s")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--family", metavar="SUITE", help="only this family")
    add_out(parser, "folder for the results and a picture", folder=True)


def _suites() -> dict[str, Suite]:
    """The suites that represent a family."""
    found = {name: rooms.load(place)[name] for name, place in sorted(rooms.declared("suites").items())}
    return {name: suite for name, suite in found.items() if suite.summary is not None}


def _rows(suite: Suite, args: argparse.Namespace) -> Rows:
    """Rows of a suite with its own defaults, and with the options that all suites share."""
    parser = argparse.ArgumentParser()
    if suite.add_arguments is not None:
        suite.add_arguments(parser)
    own = vars(parser.parse_args([]))
    return suite.rows(argparse.Namespace(**{"only": None, "arg": [], **own, **(suite.summary or {}), **vars(args)}))


def _common(family: str, row: dict[str, Any], rate: float) -> dict[str, Any]:
    """Convert a suite's row to the columns that all families share."""
    about = [f"{key} {value}" if isinstance(value, int) else str(value) for key, value in row.items()
             if key not in _MEASURED]  # fmt: skip
    found = {"phase": "forward", **{key: row[key] for key in _MEASURED if key in row}}
    share = {"of rate": 1e9 * row["GFLOP/s"] / rate} if "GFLOP/s" in row else {}
    return {"family": family, "case": ", ".join(about), **found, **share}


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write the requested files.

    Raises:
        ValueError: The family is unknown.
    """
    families = _suites()
    if args.family is not None and args.family not in families:
        raise ValueError(f"--family {args.family!r} must be one of {', '.join(families)}")
    args.compile = args.compile or args.device == "cuda"
    facts, limits = environment(args.device), ceilings(args.device, Clock(args.device))
    result: dict[str, Any] = {"environment": facts, "ceilings": limits, "rows": []}
    folder = None if args.out is None else Path(args.out)
    for family in families if args.family is None else [args.family]:
        result["rows"] += [_common(family, row, limits["rate"]) for row in _rows(families[family], args)]
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / "models.json", json.dumps(result, indent=1))
    rows = result["rows"]
    if folder is not None:
        title = ", ".join(str(value) for value in facts.values())
        picture(rows, lambda row: f"{row['family']}: {row['case']}\n{row['phase']}", title, folder / "models.png")
    if args.json:
        print_json(result)
        return 0
    columns = ["family", "case", *_MEASURED, "of rate"]
    cells = [[f"{row[c]:.3g}" if isinstance(row.get(c), float) else row.get(c) for c in columns] for row in rows]
    print_table(columns, cells, title=f"{facts}, {limits['rate'] / 1e9:.0f} GFLOP/s")
    return 0
