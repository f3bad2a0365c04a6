"""Train neuraloperator's own TFNO on the Darcy set, at the budget of `configs/darcy/tfno.yaml`, for comparison.

    pip install neuraloperator==2.0.0
    blockzoo science compare-neuralop --seeds 0 1 2 3 4 --out theirs.json

Model, loss, optimiser and schedule are theirs, set up as in their Darcy example with a Tucker rank of 0.42; data, order
of work and evaluation are those of `blockzoo seeds --config darcy/tfno`: all 1000 training
samples, 30 epochs, the last epoch's weights, mean relative L2 error of single test samples in the pressure's own units.
"""

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything

from blockzoo.tasks.core.files import write_text
from blockzoo.tasks.core.output import add_out
from blockzoo.tasks.core.spread import summarize
from blockzoo.tasks.fields.darcy import read_darcy
from blockzoo.tasks.fields.losses import LpLoss

__all__ = ["add_arguments", "run", "train_reference"]

_MODEL: dict[str, Any] = {
    "n_modes": (16, 16),
    "in_channels": 1,
    "out_channels": 1,
    "hidden_channels": 32,
    "factorization": "tucker",
    "rank": 0.42,
    "implementation": "reconstructed",
}


def _library() -> tuple[Any, Any, Any]:
    """Their model, loss and optimiser."""
    try:
        from neuralop.losses import H1Loss
        from neuralop.models import TFNO
        from neuralop.training import AdamW
    except ImportError as error:
        raise ImportError(
            f"this comparison needs neuraloperator, 'pip install neuraloperator==2.0.0': {error}"
        ) from error
    return TFNO, H1Loss, AdamW


def train_reference(
    seed: int, epochs: int = 30, batch_size: int = 32, lr: float = 5e-3, val_size: int = 0
) -> dict[str, Any]:
    """Train once.

    Args:
        seed: Seed of weights and batches.
        epochs: Passes over the training set.
        batch_size: Samples in a batch.
        lr: Largest learning rate.
        val_size: Last training samples that are held out and evaluated.

    Returns:
        `seed`, `parameters`, `seconds` (of the processor), `l2` and `l2_32` (errors on the test set, grids of 16 and
        32), and `val` if samples are held out.

    Raises:
        ImportError: neuraloperator is not installed.
    """
    model_type, loss_type, optimizer_type = _library()
    seed_everything(seed, verbose=False)
    data = {name: value.unsqueeze(1) for name, value in read_darcy().items()}
    cut = len(data["train_x"]) - val_size
    x, y = data["train_x"][:cut], data["train_y"][:cut]
    mean, std = y.mean(), y.std()
    model = model_type(**_MODEL)
    optimizer = optimizer_type(model.parameters(), lr=lr, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    loss = loss_type(d=2)
    start = time.process_time()
    for _ in range(epochs):
        for index in torch.randperm(cut).split(batch_size):
            optimizer.zero_grad(set_to_none=True)
            loss(model(x[index]), (y[index] - mean) / std).backward()
            optimizer.step()
        scheduler.step()
    seconds = time.process_time() - start
    error = LpLoss()
    model.eval()

    def evaluate(inputs: torch.Tensor, targets: torch.Tensor) -> float:
        with torch.no_grad():
            return float(error(model(inputs) * std + mean, targets))

    row = {"seed": seed, "parameters": sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters())}
    row |= {"seconds": seconds, "l2": evaluate(data["test16_x"], data["test16_y"])}
    row |= {"l2_32": evaluate(data["test32_x"], data["test32_y"])}
    return row | ({"val": evaluate(data["train_x"][cut:], data["train_y"][cut:])} if val_size else {})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="seeds (default: 0 1 2 3 4)")
    parser.add_argument("--epochs", type=int, default=30, help="epochs of every fit (default: 30)")
    parser.add_argument(
        "--val-size", type=int, default=0, help="training samples to hold out and evaluate (default: 0)"
    )
    add_out(parser, "also write the result to this JSON file")


def run(args: argparse.Namespace) -> int:
    """Train once for each seed, print, and write the report if requested.

    Raises:
        ImportError: neuraloperator is not installed.
        ValueError: `out` cannot be written, or `val_size` leaves nothing to train on.
    """
    if not 0 <= args.val_size < 1000:
        raise ValueError(f"--val-size {args.val_size} must be from 0 to 999")
    rows = []
    for seed in args.seeds:
        rows.append(train_reference(seed, args.epochs, val_size=args.val_size))
        print(", ".join(f"{key} {value:.6g}" for key, value in rows[-1].items()), flush=True)
    report: dict[str, Any] = {"metric": "test/l2", "library": f"neuraloperator {version('neuraloperator')}"}
    report |= {"runs": [{**row, "last": row["l2"], "chosen": row["l2"]} for row in rows]}
    for key, name in (("l2", "16 x 16"), ("l2_32", "32 x 32")):
        report[key] = spread = summarize([row[key] for row in rows])
        print(f"{name}: median {spread['median']:.6f}, range {spread['min']:.6f} to {spread['max']:.6f}")
    report["last"] = report["chosen"] = report["l2"]
    if args.out:
        write_text(Path(args.out), json.dumps(report, indent=2) + "\n")
    return 0
