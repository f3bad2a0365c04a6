"""Predictions of field models for files of fields."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch

from blockzoo.checkpoints import save_state_dict
from blockzoo.tasks.core.files import check_output
from blockzoo.tasks.core.output import print_json, print_table
from blockzoo.tasks.fields.files import Channels, read_fields
from blockzoo.tasks.fields.losses import LpLoss
from blockzoo.tasks.fields.rollouts import Horizon, predict_rollouts
from blockzoo.tasks.fields.trajectories import Marks, Selection

__all__ = ["add_field_arguments", "predict", "predict_fields"]


def add_field_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options for files of fields."""
    group = parser.add_argument_group("fields")
    group.add_argument("--x-key", default="x", help="name of the input fields in the file (default: x)")
    group.add_argument("--y-key", default="y", help="name of the true fields, if the file has them (default: y)")
    group.add_argument(
        "--channels",
        choices=get_args(Channels),
        default="auto",
        help="axis of channels: first (N, C, *size), last (N, *size, C), none (N, *size) (default: auto)",
    )
    group = parser.add_argument_group("fields over time (HDF5, NetCDF, Zarr, arrays)")
    group.add_argument("--steps", type=int, help="roll out that many states from the first of every sample")
    group.add_argument("--start", type=int, default=0, help="instant of the first state given (default: 0)")
    group.add_argument("--samples", type=int, help="only that many samples (default: all)")
    group.add_argument("--axes", help="names of the axes in their order, sample,time,x,y, or member=sample")
    group.add_argument("--fields", nargs="+", help="variables of the state (default: all that vary in time)")
    group.add_argument("--constants", nargs="*", help="further inputs (default: all that do not vary in time)")
    group.add_argument("--mask", help="variable that says which points belong to the domain, or nan")
    group.add_argument("--mask-marks", choices=get_args(Marks), default="valid", help="what its non-zero entries mark")
    group.add_argument("--history", type=int, help="states in an input (default: from the model's channels)")
    group.add_argument("--time-stride", type=int, default=1, help="take every so manieth instant (default: 1)")
    group.add_argument("--space-stride", type=int, default=1, help="take every so manieth point (default: 1)")


def predict(model: Any, files: list[str], args: argparse.Namespace) -> int:
    """Map the fields of one file, or roll out its states, for `blockzoo predict`.

    See `predict_fields` and, with `--steps`, `blockzoo.tasks.fields.rollouts.predict_rollouts`.

    Raises:
        ValueError: There are several files, or see there.
    """
    if len(files) != 1:
        raise ValueError(f"fields are predicted from one file, not from {len(files)}: {', '.join(files)}")
    if args.steps is not None:
        for name in ("time_stride", "space_stride"):
            if getattr(args, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)} must be at least 1")
        selection = Selection(
            args.fields, args.constants, args.mask, args.mask_marks, args.time_stride, args.space_stride
        )
        horizon = Horizon(args.steps, args.start, args.samples, args.history)
        return predict_rollouts(
            model, files[0], horizon, selection, args.axes, args.out, args.json, args.batch_size or 8
        )
    keys = {"x": args.x_key, "y": args.y_key}
    return predict_fields(model, files[0], args.out, args.json, args.batch_size or 8, keys, args.channels)


@torch.no_grad()
def predict_fields(
    model: Any,
    path: str,
    out: str | None = None,
    as_json: bool = False,
    batch_size: int = 8,
    keys: Mapping[str, str] | None = None,
    channels: Channels = "auto",
) -> int:
    """Map the fields `x` of a file, write `prediction` to another, and print the errors where the file has `y`.

    Args:
        model: Of the task "operator".
        path: See `blockzoo.tasks.fields.files.FieldFiles`; any grid that the model takes.
        out: A .safetensors file; by default `NAME_predicted.safetensors` in the current folder.
        as_json: Print JSON.
        batch_size: Fields that are mapped together.
        keys: Names in the file of `x` and `y`, see `blockzoo.tasks.fields.files.read_fields`.
        channels: Where the axis of channels stands, see `blockzoo.tasks.fields.files.FieldFiles`.

    Returns:
        Exit status.

    Raises:
        ValueError: The fields do not fit the model, or `out` cannot be written or is the input.
    """
    target = Path(out or f"{Path(path).stem}_predicted.safetensors")
    if target.suffix != ".safetensors":
        raise ValueError(f"--out {target} must end in .safetensors")
    check_output(target, (path,))
    arrays = read_fields(path, ("x",), keys, channels)
    x, y = arrays["x"], arrays.get("y")
    dims = len(model.n_modes)
    if channels == "auto" and x.ndim == dims + 1 and model.in_chans == 1 != x.shape[1]:  # (N, *size)
        x, y = x.unsqueeze(1), None if y is None else y.unsqueeze(1)
    if x.ndim - 2 != dims or x.shape[1] != model.in_chans:
        raise ValueError(
            f"{path}: x {tuple(x.shape)} must be (N, {model.in_chans}, *size) with {dims} axes of space; "
            "where the axis of channels stands is said by --channels"
        )
    try:
        device = model.input_mean.device
        prediction = torch.cat([model(part.to(device)).cpu() for part in x.split(batch_size)])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    save_state_dict({"prediction": prediction}, target)
    known = y is not None and y.shape == prediction.shape
    errors: list[float | None] = [None] * len(x)
    if known:
        # A target that is 0 everywhere has no relative error.
        found = LpLoss(reduction="none")(prediction, y).nanmean(1).tolist()
        errors = [None if error != error else error for error in found]
    rows = [
        {"field": i, "mean": float(field.mean()), "deviation": float(field.std()), "relative L2 error": error}
        for i, (field, error) in enumerate(zip(prediction, errors, strict=True))
    ]
    if as_json:
        print_json({"file": str(target), "shape": list(prediction.shape), "fields": rows})
        return 0
    names = list(rows[0]) if known else list(rows[0])[:-1]
    print_table(names, [[_cell(row[name]) for name in names] for row in rows])
    print(f"predictions: {target}")
    return 0


def _cell(value: float | int | None) -> str:
    if value is None:
        return "undefined: the target is 0"
    return str(value) if isinstance(value, int) else f"{value:.6g}"
