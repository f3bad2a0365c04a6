"""Train a config on training sets of several sizes, and draw the errors over the size.

    blockzoo learning-curve --config molecules/tdn --sizes 180 720 2880 --out curve.json

With `--steps`, every size gets the same number of optimiser steps, otherwise the epochs of the config. The result is
written after every fit. Sizes that it already holds are not run again. The picture is written beside it. Further
arguments go to `blockzoo fit`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from blockzoo.tasks.app import training
from blockzoo.tasks.core.files import check_output, write_figure, write_text
from blockzoo.tasks.core.output import add_out

__all__ = ["draw", "add_arguments", "run"]


def draw(report: dict[str, Any], out: Path) -> None:
    """Draw each metric over the size of the training set, both axes logarithmic."""
    from matplotlib.figure import Figure

    runs = sorted(report["runs"], key=lambda row: row["size"])
    figure = Figure(figsize=(4.2 * len(report["metrics"]), 3.4))
    for axis, name in zip(figure.subplots(1, len(report["metrics"]), squeeze=False)[0], report["metrics"], strict=True):
        axis.plot([row["size"] for row in runs], [row[name] for row in runs], "o-", color="#0072B2")
        axis.set(xscale="log", yscale="log", xlabel="training structures", ylabel=name)
        axis.grid(alpha=0.3, which="both")
    figure.suptitle(report["config"])
    figure.tight_layout()
    write_figure(out, figure)


FURTHER = True
"""Words that the parser does not know go to the training command line, as `args.more`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--config", required=True, help="name of a packaged config, or a path")
    parser.add_argument("--sizes", type=int, nargs="+", required=True, help="sizes of the training set")
    parser.add_argument("--steps", type=int, help="optimiser steps of every fit")
    parser.add_argument(
        "--metrics", nargs="+", default=["test/energy_mae", "test/force_mae"], help="the test metrics to report"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of every fit (default: 0)")
    add_out(parser, "JSON file of the result; its picture lies beside", required=True)


def run(args: argparse.Namespace) -> int:
    """Train on every size that is not done yet, and draw the curve."""
    out = Path(args.out)
    for file in (out, out.with_suffix(".png")):
        check_output(file)
    report: dict[str, Any] = {"config": args.config, "seed": args.seed, "metrics": args.metrics, "runs": []}
    if out.is_file():
        try:
            stored = json.loads(out.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{out} is not the JSON of an earlier call ({error}); choose another --out") from error
        if not isinstance(stored, dict) or not {"config", "seed", "metrics", "runs"} <= set(stored):
            raise ValueError(f"{out} is not the JSON of an earlier call; choose another --out")
        for key in ("config", "seed", "metrics"):
            if stored[key] != report[key]:
                raise ValueError(f"{out} is of {key} {stored[key]!r}, not {report[key]!r}; choose another --out")
        report = stored
    length = []
    if args.steps is not None:  # whatever an epoch is, validated once, at the end
        length = [f"--trainer.max_steps={args.steps}", "--trainer.max_epochs=-1"]
        length += [f"--trainer.val_check_interval={args.steps}", "--trainer.check_val_every_n_epoch=null"]
    for size in args.sizes:
        if any(row["size"] == size for row in report["runs"]):
            continue
        options = [f"--seed_everything={args.seed}", f"--data.init_args.train_size={size}", *length, *args.more]
        trainer = training.run(["fit", "--config", args.config, *options]).trainer
        row = {"size": size, **training.logged(trainer, args.metrics, "--metrics")}
        report["runs"].append(row)
        write_text(out, json.dumps(report, indent=2) + "\n")
        print(f"{size}: " + ", ".join(f"{name} {row[name]:.4g}" for name in args.metrics), flush=True)
    draw(report, out.with_suffix(".png"))
    return 0
