"""Train Raptors with several numbers of blocks, and compare them with shallow networks of the same size.

    blockzoo raptor study --out runs/raptor_study

For each seed and number of blocks k, a Raptor goes through both stages of training, the configs `--first` and
`--joint`, with phases from the teacher's own layers (`blockzoo.tasks.raptor.segmentation`, method "dp"). A "shallow"
network has the same k blocks, each applied once, and is trained in the same way, to map the start of a phase to its
end. Further arguments go to both fits. The folder gets a JSON file for each network. Finished networks are not
repeated, and several processes can share the work (`--seeds`, `--blocks`). `summary.json` and the printed table show
the finished networks; `raptor3.json` and so on are the reports of `blockzoo.tasks.app.seeds` for `publish`.

On test images whose states are in the cache, the study measures: the accuracy with the teacher's own head; the accuracy
of a linear probe, a logistic regression on class token and mean patch after the final norm, fitted in the same way for
all networks; the share of the teacher's probe accuracy; and R² of the last layer's states, and its mean over layers
(for a shallow network, over phase ends). No test metric selects anything.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import blockzoo
from blockzoo.raptor import Raptor
from blockzoo.tasks.core.configs import config_path
from blockzoo.tasks.core.files import write_text
from blockzoo.tasks.core.output import add_out
from blockzoo.tasks.core.spread import summarize
from blockzoo.tasks.raptor.activations import TeacherActivations
from blockzoo.tasks.raptor.segmentation import layer_distance, segment_layers

__all__ = ["fit_probe", "add_arguments", "run", "token_features"]

KINDS = ("raptor", "shallow")
_SHELL = ("num_classes", "dynamic_img_size", "dynamic_img_pad")
"""Arguments of a teacher that a Raptor sets itself."""
FIGURES = ("acc", "probe", "share", "r2_last", "r2_mean")


def token_features(norm: torch.nn.Module, states: torch.Tensor, num_prefix_tokens: int) -> torch.Tensor:
    """Class token and mean patch after the final norm, concatenated: (B, tokens, dim) to (B, 2 dim)."""
    x = norm(states)
    return torch.cat([x[:, 0], x[:, num_prefix_tokens:].mean(1)], 1)


def fit_probe(
    train: tuple[torch.Tensor, torch.Tensor], test: tuple[torch.Tensor, torch.Tensor], weight_decay: float = 1e-3
) -> float:
    """Accuracy on `test` of a logistic regression fitted to `train`, by L-BFGS in float64 on standardised features.

    Args:
        train: Features (N, F) and labels (N,).
        test: Features (N, F) and labels (N,).
        weight_decay: The mean loss gets half of this times the squared weights.
    """
    x, y = train[0].double(), train[1]
    mean, std = x.mean(0), x.std(0).clamp_min(1e-12)
    x = (x - mean) / std
    classes = int(max(y.max(), test[1].max())) + 1
    weight = torch.zeros(x.shape[1], classes, dtype=torch.double, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight + bias, y) + 0.5 * weight_decay * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        predicted = (((test[0].double() - mean) / std) @ weight + bias).argmax(1)
    return float((predicted == test[1]).double().mean())


@torch.no_grad()
def _features(data: TeacherActivations, part: str, count: int, student: Raptor | None, layer: int = -1) -> Any:
    """Features (N, F) of a student's, or the teacher's, states, and labels (N,)."""
    vit, features, labels = data.teacher, [], []
    batches: Any = data.datasets[part]  # whole batches, in order
    for batch in batches:
        states = batch["states"]
        last = states[:, layer] if student is None else student.forward_trajectory(states[:, 0])[-1]
        features.append(token_features(vit.norm, last, vit.num_prefix_tokens))
        labels.append(batch["label"])
        if sum(map(len, labels)) >= count:
            break
    return torch.cat(features)[:count], torch.cat(labels)[:count]


def _probe(data: TeacherActivations, count: int, student: Raptor | None, layer: int = -1) -> float:
    train, test = (_features(data, part, count, student, layer) for part in ("train", "test"))
    return fit_probe(train, test)


def _open_data(args: argparse.Namespace, more: list[str]) -> TeacherActivations:
    """The data module that the first config describes, with its teacher, opened."""
    cli = args.training(["--config", config_path(args.first), *more], execute=False)
    data = cli.datamodule
    if not isinstance(data, TeacherActivations):
        raise ValueError(f"--first {args.first}: its data is a {type(data).__name__}, not TeacherActivations")
    data.prepare_data()
    data.setup("fit")
    return data


def _options(kind: str, blocks: int, seed: int, context: dict[str, Any], folder: Path) -> list[str]:
    arg, ends = "--model.init_args.model_kwargs", context["ends"][blocks]
    options = [f"{arg}.blocks={blocks}", f"--seed_everything={seed}", f"--trainer.logger.init_args.save_dir={folder}"]
    given = {key: value for key, value in context["data"].teacher_kwargs.items() if key not in _SHELL}
    if kind == "raptor":
        options.append(f"{arg}.boundaries={list(ends[:-1])}")
    else:
        given["depth"] = blocks
        options += [
            f"{arg}.boundaries={list(range(1, blocks))}",
            f"{arg}.depth_scale=false",
            f"--data.layers={[0, *ends]}",
        ]
    return [*options, f"{arg}.teacher_kwargs={json.dumps(given)}"]


def _train(kind: str, blocks: int, seed: int, context: dict[str, Any], args: Any, more: list[str]) -> dict[str, Any]:
    """Train both stages; returns the test metrics of the second and the folder of its run."""
    name = f"{kind}{blocks}_seed{seed}"
    options = [*more, *_options(kind, blocks, seed, context, args.out / "runs")]
    naming = "--trainer.logger.init_args.name"
    first = args.training(
        ["fit", "--config", args.first, *options, f"{naming}={name}_blocks", "--trainer.limit_test_batches=1"]
    )
    weights = Path(str(first.trainer.log_dir)) / "model.safetensors"
    start = f'--model.init_args.block_checkpoints=["{weights}"]'
    joint = args.training(["fit", "--config", args.joint, *options, f"{naming}={name}", start])
    metrics = {key: float(value) for key, value in joint.trainer.callback_metrics.items() if key.startswith("test/")}
    return {"folder": str(joint.trainer.log_dir), "metrics": metrics}


def _one(kind: str, blocks: int, seed: int, context: dict[str, Any], args: Any, more: list[str]) -> None:
    path = args.out / f"{kind}{blocks}_seed{seed}.json"
    if path.exists():
        return
    found = _train(kind, blocks, seed, context, args, more)
    student: Any = blockzoo.create_model(f"local-dir:{found['folder']}", pretrained=True).eval()
    probe = _probe(context["data"], args.images, student)
    result = {"kind": kind, "blocks": blocks, "seed": seed, "folder": found["folder"], "probe": probe}
    result |= {"parameters": sum(p.numel() for p in student.blocks.parameters())}
    result |= {key: found["metrics"][f"test/{key}"] for key in ("acc", "r2_last", "r2_mean")}
    result["share"] = probe / context["teacher"]["probe"]
    write_text(path, json.dumps(result, indent=1) + "\n")
    print(f"{path.stem}: " + ", ".join(f"{key} {result[key]:.4f}" for key in FIGURES), flush=True)


def _summary(folder: Path, teacher: dict[str, Any]) -> dict[str, Any]:
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*_seed*.json"))]
    rows = []
    for kind in KINDS:
        for blocks in sorted({r["blocks"] for r in results if r["kind"] == kind}):
            same = [r for r in results if r["kind"] == kind and r["blocks"] == blocks]
            spread = {key: summarize([r[key] for r in same]) for key in FIGURES}
            about = {"kind": kind, "blocks": blocks, "seeds": len(same), "parameters": same[0]["parameters"]}
            rows.append({**about, **spread})
    return {"teacher": teacher, "rows": rows, "runs": results}


def _table(summary: dict[str, Any]) -> str:
    lines = [
        "| network | blocks | parameters of blocks | seeds | head | probe | of the teacher's | R² last | R² mean |"
    ]
    lines.append("| --- |" + " --- |" * 8)
    teacher = summary["teacher"]
    lines.append(
        f"| teacher | {teacher['depth']} | {teacher['parameters']:,} | 1 | {100 * teacher['acc']:.1f} % "
        f"| {100 * teacher['probe']:.1f} % | 100 % | 1 | 1 |"
    )
    for row in summary["rows"]:
        cells = []
        for key in FIGURES:
            factor, digits, unit = (100, 1, " %") if key in ("acc", "probe", "share") else (1, 3, "")
            low, middle, high = (factor * row[key][name] for name in ("min", "median", "max"))
            cells.append(f"{middle:.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f})")
        about = f"| {row['kind']} | {row['blocks']} | {row['parameters']:,} | {row['seeds']} | "
        lines.append(about + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"Probe on the embedded tokens alone: {100 * teacher['floor']:.1f} %."])


def _context(args: Any, more: list[str]) -> dict[str, Any]:
    """Data, phases and the teacher's own figures."""
    data = _open_data(args, more)
    vit: Any = data.teacher
    parts: Any = data.datasets
    batches = []
    for batch in parts["train"]:
        batches.append(batch["states"][:, 1:])
        if sum(map(len, batches)) >= 1000:
            break
    distance = layer_distance(batches, vit.num_prefix_tokens, bool(vit.has_class_token))
    depth = len(vit.blocks)
    ends = {k: (*segment_layers(distance, k, "dp"), depth) for k in args.blocks}
    right = []
    with torch.no_grad():
        for batch in parts["test"]:
            logits = vit.forward_head(vit.norm(batch["states"][:, -1]))
            right.append((logits.argmax(1) == batch["label"]).double())
    teacher = {"depth": depth, "parameters": sum(p.numel() for p in vit.blocks.parameters())}
    teacher |= {"acc": float(torch.cat(right).mean()), "probe": _probe(data, args.images, None)}
    teacher |= {"floor": _probe(data, args.images, None, 0), "distance": distance.tolist()}
    return {"data": data, "ends": ends, "teacher": teacher}


FURTHER = True
"""Words that the parser does not know go to the training command line, as `args.more`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_out(parser, "folder of the results, in which an earlier call goes on", folder=True, required=True)
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 2, 3], help="numbers of blocks (default: 1 2 3)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="seeds (default: 0 1 2 3 4)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="what to train (default: all)")
    parser.add_argument(
        "--first", default="raptor/cifar10_blocks", help="config of the first stage (default: %(default)s)"
    )
    parser.add_argument(
        "--joint", default="raptor/cifar10_joint", help="config of the second stage (default: %(default)s)"
    )
    parser.add_argument("--images", type=int, default=5000, help="training and test images of a probe (default: 5000)")


def run(args: argparse.Namespace) -> int:
    """Train the missing networks, then print and write the summary."""
    if args.images < 1 or min(args.blocks) < 1:
        raise ValueError(f"--images {args.images} and --blocks {args.blocks} must be positive")
    args.out = Path(args.out)
    (args.out / "runs").mkdir(parents=True, exist_ok=True)
    context = _context(args, [item for item in args.more if item.startswith("--data")])
    for seed in args.seeds:
        for blocks in args.blocks:
            for kind in args.kinds:
                _one(kind, blocks, seed, context, args, args.more)
    summary = _summary(args.out, context["teacher"])
    write_text(args.out / "summary.json", json.dumps(summary, indent=1) + "\n")
    for row in summary["rows"]:
        same = [r for r in summary["runs"] if (r["kind"], r["blocks"]) == (row["kind"], row["blocks"])]
        report = {"metric": "test/acc", "runs": same, "chosen": row["acc"]}
        write_text(args.out / f"{row['kind']}{row['blocks']}.json", json.dumps(report, indent=1) + "\n")
    print(_table(summary))
    return 0
