"""Predictions of field models for files of fields."""

import argparse
from pathlib import Path
from typing import Any

import torch

from blockzoo.checkpoints import save_state_dict
from blockzoo.tasks.core.output import print_json, print_table
from blockzoo.tasks.fields.files import read_fields
from blockzoo.tasks.fields.losses import LpLoss

__all__ = ["predict", "predict_fields"]


@torch.no_grad()
def predict_fields(model: Any, path: str, out: str | None = None, as_json: bool = False, batch_size: int = 8) -> int:
    """Map the fields `x` of a file, write `prediction` to another, and print the errors where the file has `y`.

    Args:
        model: Of the task "operator".
        path: See `blockzoo.tasks.fields.files.FieldFiles`; any grid.
        out: A .safetensors file; by default `NAME_predicted.safetensors` in the current folder.
        as_json: Print JSON.
        batch_size: Fields that are mapped together.

    Returns:
        Exit status.

    Raises:
        ValueError: The fields do not fit the model.
    """
    arrays = read_fields(path, needed=("x",))
    x, y = arrays["x"], arrays.get("y")
    if x.ndim - 2 != len(model.n_modes) or x.shape[1] != model.in_chans:
        raise ValueError(
            f"{path}: x {tuple(x.shape)} must be (N, {model.in_chans}, *size) with {len(model.n_modes)} axes of space"
        )
    prediction = torch.cat([model(part) for part in x.split(batch_size)])
    target = Path(out or f"{Path(path).stem}_predicted.safetensors")
    if target.suffix != ".safetensors":
        raise ValueError(f"--out {target} must end in .safetensors")
    save_state_dict({"prediction": prediction}, target)
    known = y is not None and y.shape == prediction.shape
    errors = LpLoss(reduction="none")(prediction, y).mean(1).tolist() if known else [None] * len(x)
    rows = [
        {"field": i, "mean": float(field.mean()), "deviation": float(field.std()), "relative L2 error": error}
        for i, (field, error) in enumerate(zip(prediction, errors, strict=True))
    ]
    if as_json:
        print_json({"file": str(target), "shape": list(prediction.shape), "fields": rows})
        return 0
    names = list(rows[0]) if known else list(rows[0])[:-1]
    print_table(names, [[row[name] if name == "field" else f"{row[name]:.6f}" for name in names] for row in rows])
    print(f"predictions: {target}")
    return 0


def predict(model: Any, files: list[str], args: argparse.Namespace) -> int:
    """Map the fields of one file, for `blockzoo predict`; see `predict_fields`."""
    if len(files) > 1:
        raise ValueError(f"fields are read from one file, not {len(files)}")
    return predict_fields(model, files[0], args.out, args.json, args.batch_size or 8)
