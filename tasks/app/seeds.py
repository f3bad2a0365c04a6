"""Run one config with several seeds and report the spread.

    python -m blockzoo.tasks.app.seeds --config timesnet/japanese_vowels --seeds 0 1 2 3 4

For each seed: fit, then test the weights of the last epoch and those that validation chose. Nothing is selected by a
test metric. Further arguments go to `blockzoo fit`.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from blockzoo.checkpoints import load_state_dict
from blockzoo.tasks.app.training import run

__all__ = ["main", "summarize"]


def summarize(values: list[float]) -> dict[str, float]:
    """Median, least and largest of some numbers."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _one(config: str, seed: int, metric: str, more: list[str]) -> dict[str, Any]:
    cli = run(["fit", "--config", config, f"--seed_everything={seed}", *more])
    folder = Path(str(cli.trainer.log_dir))
    chosen = float(cli.trainer.callback_metrics[metric])
    results = json.loads((folder / "results.json").read_text())
    cli.model.model.load_state_dict(load_state_dict(folder / "last.safetensors"))
    parts = cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    metrics = {name: value for part in parts for name, value in part.items()}
    last = metrics[metric]
    row = {"seed": seed, "folder": str(folder), "best": results.get("best"), "chosen": chosen, "last": last}
    row["metrics"] = metrics
    print(f"seed {seed}: {metric} last epoch {last:.6f}, best by validation {chosen:.6f}  ({folder})", flush=True)
    return row


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Run the command; returns what it prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="name of a packaged config, or a path")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--metric", default="test/acc", help="the test metric to report (default: test/acc)")
    parser.add_argument("--out", help="also write the result to this JSON file")
    known, more = parser.parse_known_args(args)
    rows = [_one(known.config, seed, known.metric, more) for seed in known.seeds]
    report = {"metric": known.metric, "runs": rows}
    for key, name in (("last", "last epoch"), ("chosen", "best by validation")):
        report[key] = spread = summarize([row[key] for row in rows])
        print(f"{name}: median {spread['median']:.6f}, range {spread['min']:.6f} to {spread['max']:.6f}")
    if known.out:
        Path(known.out).write_text(json.dumps(report, indent=2) + "\n")
    return report


if __name__ == "__main__":
    main()
