"""Train a config with several seeds, and report the spread of a metric.

    blockzoo seeds --config timesnet/japanese_vowels --seeds 0 1 2 3 4

For each seed, the command fits the config, then tests the weights of the last epoch and the best by validation. No test
metric selects anything. Further arguments go to `blockzoo fit`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from blockzoo.checkpoints import load_state_dict
from blockzoo.tasks.app import training
from blockzoo.tasks.core.files import write_text
from blockzoo.tasks.core.output import add_out
from blockzoo.tasks.core.spread import summarize

__all__ = ["add_arguments", "run"]


def _one(config: str, seed: int, metric: str, more: list[str]) -> dict[str, Any]:
    cli = training.run(["fit", "--config", config, f"--seed_everything={seed}", *more])
    folder = Path(str(cli.trainer.log_dir))
    chosen = training.logged(cli.trainer, [metric], "--metric")[metric]
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    cli.model.model.load_state_dict(load_state_dict(folder / "last.safetensors"))
    parts = cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    metrics = {name: value for part in parts for name, value in part.items()}
    last = metrics[metric]
    row = {"seed": seed, "folder": str(folder), "best": results.get("best"), "chosen": chosen, "last": last}
    row["metrics"] = metrics
    print(f"seed {seed}: {metric} last epoch {last:.6f}, best by validation {chosen:.6f}  ({folder})", flush=True)
    return row


FURTHER = True
"""Words that the parser does not know go to the training command line, as `args.more`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--config", required=True, help="name of a packaged config, or a path")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="the seeds (default: 0 to 4)")
    parser.add_argument("--metric", default="test/acc", help="the test metric to report (default: test/acc)")
    add_out(parser, "also write the result to this JSON file")


def run(args: argparse.Namespace) -> int:
    """Train with every seed, print and write the spread."""
    rows = [_one(args.config, seed, args.metric, args.more) for seed in args.seeds]
    report = {"metric": args.metric, "runs": rows}
    for key, name in (("last", "last epoch"), ("chosen", "best by validation")):
        report[key] = spread = summarize([row[key] for row in rows])
        print(f"{name}: median {spread['median']:.6f}, range {spread['min']:.6f} to {spread['max']:.6f}")
    if args.out:
        write_text(args.out, json.dumps(report, indent=2) + "\n")
    return 0
