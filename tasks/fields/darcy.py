"""Darcy flow, as neuraloperator 0.3.0 ships it.

    blockzoo package darcy neuraloperator-0.3.0-py3-none-any.whl --out darcy.safetensors

writes the compact form of the set, which is how `darcy.safetensors` beside this file was made.
"""

import argparse
import io
import zipfile
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from blockzoo.checkpoints import load_state_dict, save_state_dict
from blockzoo.tasks.core.files import check_output
from blockzoo.tasks.core.output import add_out
from blockzoo.tasks.fields.pairs import FieldData, FieldPairs

__all__ = ["DarcyFlow", "add_arguments", "read_darcy", "run"]


def read_darcy(path: str | Path | None = None) -> dict[str, torch.Tensor]:
    """The Darcy set: `train_x` (1000, 16, 16), `train_y`, `test16_x` (50, 16, 16), `test32_x` (50, 32, 32), ...

    Args:
        path: A file that this module wrote; the packaged one by default.
    """
    if path is None:
        path = Path(str(files("blockzoo.tasks.fields") / "darcy.safetensors"))
    stored = load_state_dict(path)
    found = {}
    for part, size in (("train", 16), ("test16", 16), ("test32", 32)):
        bits = np.unpackbits(stored[f"{part}.x"].numpy(), axis=1)
        found[f"{part}_x"] = torch.from_numpy(bits.reshape(-1, size, size)).float()
        found[f"{part}_y"] = stored[f"{part}.y"]
    return found


class DarcyFlow(FieldData):
    """Darcy flow: from a medium of two materials to the pressure, with -div(a grad u) = 1 and u = 0 at the border.

    Source: the set that neuraloperator 0.3.0 ships (MIT), after "Fourier Neural Operator for Parametric Partial
    Differential Equations" (2021), section 5.2: 1000 training and 50 test samples on a grid of 16 x 16 points, and the
    same test samples on 32 x 32. The grid leaves out the border on one side of each axis. `x` is 0 or 1, `y` the
    pressure; neither is periodic.

    Args:
        val_size: Training samples that are held out for validation, the last ones.
        transpose: Swap the axes of half of the training samples, chosen at random each time: the equation has no
            preferred axis.
        batch_size: Samples in a batch, on each device.
        num_workers: Processes that prepare batches.

    Raises:
        ValueError: `val_size` leaves no training samples.
    """

    def __init__(self, val_size: int = 0, transpose: bool = False, batch_size: int = 32, num_workers: int = 0) -> None:
        super().__init__(batch_size, num_workers)
        if not 0 <= val_size < 1000:
            raise ValueError(f"val_size={val_size} must be from 0 to 999")
        self.val_size, self.transpose = val_size, transpose

    def setup(self, stage: str) -> None:
        """Read the packaged file, for every stage."""
        if self.datasets:
            return
        arrays = {name: value.unsqueeze(1) for name, value in read_darcy().items()}
        cut = 1000 - self.val_size
        x, y = arrays["train_x"], arrays["train_y"]
        self.datasets = {"train": FieldPairs(self.transpose, x=x[:cut], y=y[:cut])}
        if self.val_size:
            self.datasets["val"] = FieldPairs(x=x[cut:], y=y[cut:])
        self._set_tests([FieldPairs(x=arrays[f"test{n}_x"], y=arrays[f"test{n}_y"]) for n in (16, 32)])

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        held = f", the last {self.val_size} held out" if self.val_size else ""
        split = f"1000 training samples at 16 x 16{held}; 50 test samples, at 16 x 16 and at 32 x 32"
        return {"dataset": "Darcy flow of neuraloperator 0.3.0", "license": "MIT", "split": split}


def _convert_darcy(wheel: str, out: str) -> None:
    """Pack the inputs to bits."""
    tensors = {}
    with zipfile.ZipFile(wheel) as archive:
        for part, name in (("train", "darcy_train_16"), ("test16", "darcy_test_16"), ("test32", "darcy_test_32")):
            content = io.BytesIO(archive.read(f"neuralop/datasets/data/{name}.pt"))
            arrays = torch.load(content, weights_only=True)
            bits = np.packbits(arrays["x"].flatten(1).numpy(), axis=1)
            tensors[f"{part}.x"], tensors[f"{part}.y"] = torch.from_numpy(bits), arrays["y"]
    save_state_dict(tensors, out, {"origin": "neuraloperator 0.3.0, MIT licence"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("wheel", help="the wheel of neuraloperator 0.3.0, a zip file")
    add_out(parser, "the .safetensors file to write", required=True)


def run(args: argparse.Namespace) -> int:
    """Write the compact form.

    Raises:
        ValueError: The wheel is not that of neuraloperator 0.3.0, or `out` cannot be written.
    """
    check_output(args.out, (args.wheel,))
    try:
        _convert_darcy(args.wheel, args.out)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{args.wheel} is not the wheel of neuraloperator 0.3.0: {error}") from error
    return 0
