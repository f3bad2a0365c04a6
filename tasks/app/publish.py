"""Turn a finished run into a shipped checkpoint: weights, model card and manifest entry.

    blockzoo publish RUN --name MODEL.TAG --seeds seeds.json --baseline "published recipe" base.json ...

For maintainers, in a source checkout. The command copies the run's weights beside the manifest, evaluates them again on
the test set like `blockzoo demo`, and writes the card. No figure in the card is typed by hand. A baseline is a report
of `blockzoo seeds` or `blockzoo baselines`, or any JSON object with "last" (median, min, max) and "runs".
"""

import argparse
import json
import math
import re
import shutil
import subprocess
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from blockzoo import create_model
from blockzoo._registry import family_of
from blockzoo.checkpoints import read_metadata
from blockzoo.checkpoints.manifest import FORMAT_VERSION
from blockzoo.checkpoints.verification import digest_of
from blockzoo.tasks.app.demo_results import TOLERANCE
from blockzoo.tasks.core.evaluation import measure
from blockzoo.tasks.core.files import replacing, write_text

__all__ = ["add_arguments", "run"]

_PREPROCESSING = ("mean", "std", "label_names", "input_size", "frame_stride", "clips", "multi_label", "series")
"""Entries of a run's configuration that go into the manifest."""


def _spread(path: str, key: str, unit: str, factor: float) -> str:
    """Cells of a table row: median and range over several seeds, of the last epoch and of the best by validation."""
    report = json.loads(Path(path).read_text(encoding="utf-8"))
    if key == "either":
        key = "last" if "last" in report else "chosen"
    median, least, most = (factor * report[key][name] for name in ("median", "min", "max"))
    if unit == "%":
        return f"{median:.2f} % | {least:.2f} to {most:.2f} % | {len(report['runs'])}"
    space = f" {unit}" if unit else ""
    return f"{median:.4g}{space} | {least:.4g} to {most:.4g}{space} | {len(report['runs'])}"


def _card(args: argparse.Namespace, run: Path, metric: dict[str, Any], commit: str) -> str:
    text = (run / "README.md").read_text(encoding="utf-8")
    shown = (args.unit, args.factor)
    kinds = {"last": "last epoch", "chosen": "best by validation"}
    known = json.loads(Path(args.seeds).read_text(encoding="utf-8"))
    rows = [
        f"| this recipe, {word} | {_spread(args.seeds, key, *shown)} |" for key, word in kinds.items() if key in known
    ]
    rows += [f"| {name} | {_spread(path, 'either', *shown)} |" for name, path in args.baseline]
    spread = "\n".join(
        [f"## Spread over seeds: {metric['dataset']}, {metric['split']} {metric['name']}", ""]
        + ["| recipe | median | range | seeds |", "| --- | --- | --- | --- |", *rows]
        + [
            "",
            f"The shipped weights are those of {args.chosen}; no test metric chose anything.",
        ]
    )
    head, _, rest = text.partition("## How it was made")
    head = re.sub(r"^# .*", f"# {args.name}", head, count=1)
    head = head.replace('"local-dir:THIS_FOLDER"', f'"{args.name}"')
    head = head.replace("; `last.safetensors` those of the last epoch", "").replace(
        "`model.safetensors` holds", "Weights:"
    )
    head = head.replace("weights of `model.safetensors`", "these weights").replace("`config.json`", "the manifest")
    rest = re.sub("- command: `[^`]*`", f"- command: `{args.command}`", rest).replace("`config.yaml`", "in the package")
    figures = "".join(f"![{caption}]({name})\n\n" for name, caption in _figures(args))
    made = f"## How it was made\n\n- commit: {commit}\n{rest.strip()}\n"
    return f"{head}{spread}\n\n{figures}{made}" + "".join(f"\n{line}\n" for line in args.limit)


def _figures(args: argparse.Namespace) -> list[tuple[str, str]]:
    """File names, beside the card, and captions of its figures."""
    return [(f"{args.name}.{i}{Path(path).suffix}", caption) for i, (path, caption) in enumerate(args.figure)]


def _check_claim(
    claimed: float, measured: float, tolerance: float, sample: int | None, is_share: bool
) -> dict[str, float]:
    """Compare the metric that a run reports with that of its weights on the packaged data.

    Args:
        claimed: The run's own metric.
        measured: The metric of the weights, read from the file.
        tolerance: Largest difference on the same data.
        sample: Number of packaged samples, if not all data are packaged.
        is_share: Whether the metric is a share of correct answers.

    Returns:
        The figure on the sample for the manifest; nothing if all the data are packaged.

    Raises:
        ValueError: The figures disagree: by more than the tolerance, or on a sample by more than four standard errors,
            where the error of one sample is taken to be as large as the metric, if the metric is not a share.
    """
    allowed = tolerance
    if sample is not None:
        spread = math.sqrt(max(claimed * (1 - claimed), 1 / sample)) if is_share else abs(claimed)
        allowed = max(tolerance, 4 * spread / math.sqrt(sample))
    if not abs(measured - claimed) <= allowed:
        where = f"a sample of {sample}" if sample is not None else "the packaged data"
        hint = "" if sample is not None else "; --sample N says that only N samples of the data are packaged"
        raise ValueError(
            f"the run reports {claimed:.6g}, but its weights reach {measured:.6g} on {where}, further away than "
            f"{allowed:.2g}: another preprocessing or other weights{hint}"
        )
    return {} if sample is None else {"sample": measured}


def _measure(name: str, dataset: str, config: dict[str, Any], weights: Path) -> float:
    """The metric of a run's weights on the packaged data, as a user would build the model."""
    model = create_model(config["architecture"], checkpoint_path=weights, **config["model_args"]).eval()
    model.pretrained_cfg |= config["pretrained_cfg"]
    return float(measure(model, name, dataset)[0])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", help="folder of a finished fit")
    parser.add_argument("--name", required=True, metavar="MODEL.TAG", help="name of the new checkpoint")
    parser.add_argument("--seeds", required=True, help="JSON of `blockzoo seeds` for the same config")
    parser.add_argument(
        "--baseline",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "JSON"),
        help="another recipe and its report",
    )
    parser.add_argument("--metric", default="test/acc", help="the metric of the card (default: test/acc)")
    parser.add_argument("--unit", help="unit of the table's figures (default: %% for accuracy, none otherwise)")
    parser.add_argument("--factor", type=float, help="factor to the unit (default: 100 for %%, 1 otherwise)")
    parser.add_argument(
        "--figure", nargs=2, action="append", default=[], metavar=("FILE", "CAPTION"), help="a picture for the card"
    )
    chosen = "the seed with the lowest validation loss"
    parser.add_argument("--chosen", default=chosen, help=f"how the shipped seed was chosen (default: {chosen})")
    parser.add_argument(
        "--limit", action="append", default=[], metavar="TEXT", help="a paragraph for the section Limits"
    )
    parser.add_argument("--dataset", required=True, help="the data set that the metric is measured on")
    parser.add_argument("--sample", type=int, metavar="N", help="number of packaged samples, if not all are packaged")
    parser.add_argument("--data-license", required=True, help="the licence of the training data")
    parser.add_argument("--commit", help="the commit that the run was made at (default: the checkout's)")
    parser.add_argument("--command", required=True, help="the command that made the run")


def run(args: argparse.Namespace) -> int:
    """Write the three files."""
    if args.unit is None:
        args.unit = "%" if args.metric == "test/acc" else ""
    if args.factor is None:
        args.factor = 100.0 if args.unit == "%" else 1.0
    run, home = Path(args.run), Path(str(files("blockzoo.checkpoints")))
    weights = run / "model.safetensors"
    config = json.loads(read_metadata(weights)["config"])
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    cfg = config["pretrained_cfg"]
    split, _, short = args.metric.partition("/")
    names = {"acc": "accuracy"}
    metric = {"name": names.get(short, short), "value": results[split][args.metric]}
    metric |= {"dataset": args.dataset, "split": split}
    if args.metric != "test/acc":  # not a share of right answers: another machine's last digits differ
        metric["tolerance"] = 1e-4 * abs(metric["value"])
    tolerance = metric.get("tolerance", TOLERANCE)
    measured = _measure(args.name, args.dataset, config, weights)
    metric |= _check_claim(metric["value"], measured, tolerance, args.sample, args.metric == "test/acc")
    head = ["git", "rev-parse", args.commit or "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()
    card = _card(args, run, metric, commit)
    replacing(home / f"{args.name}.safetensors", lambda file: shutil.copyfile(weights, file))
    write_text(home / f"{args.name}.md", card)
    for (path, _), (name, _) in zip(args.figure, _figures(args), strict=True):
        replacing(home / name, partial(shutil.copyfile, path))
    manifest_path = home / f"manifest.{family_of(args.name)}.json"
    manifest: dict[str, Any] = {"format_version": FORMAT_VERSION, "checkpoints": {}}
    if manifest_path.is_file():
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
    manifest["checkpoints"][args.name] = {
        "file": f"{args.name}.safetensors",
        "sha256": digest_of(weights),
        "size": weights.stat().st_size,
        "sources": [{"package": f"{args.name}.safetensors"}],
        "license": "Apache-2.0",
        "data_license": args.data_license,
        "origin": "ours",
        "metric": metric,
        "command": args.command,
        "card": f"{args.name}.md",
        "model_args": config["model_args"],
        "preprocessing": {key: cfg[key] for key in _PREPROCESSING if key in cfg},
    }
    write_text(manifest_path, json.dumps(manifest, indent=2) + "\n")
    print(f"{args.name}: {metric['name']} {metric['value']:.6f}, {weights.stat().st_size:,} bytes")
    return 0
