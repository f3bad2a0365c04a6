"""Int8 versions of exported models, made by onnxruntime, and their accuracy.

Dynamic quantisation stores weights in eight bits and scales activations at run time. Static quantisation fixes the
scales of activations beforehand, from samples of the training data. Source: "Quantization and Training of Neural
Networks for Efficient Integer-Arithmetic-Only Inference" (2018); onnxruntime's quantisation tools do the work.
"""

import inspect
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from blockzoo.tasks.core import rooms
from blockzoo.tasks.deploy.described import copy_onnx_metadata
from blockzoo.tasks.deploy.export import Inputs, Runner, need_onnx

__all__ = ["MODES", "RunningModel", "calibration_samples", "quantize_onnx"]

MODES = ("dynamic", "static")
SAMPLES = 128


def quantize_onnx(source: str | Path, path: str | Path, mode: str, samples: Sequence[Inputs] = ()) -> None:
    """Quantise an ONNX file to int8.

    Args:
        source: The file in float32.
        path: The file to write.
        mode: One of `MODES`.
        samples: Forward arguments for "static", whose ranges set the scales.

    Raises:
        ValueError: Unknown mode, or no samples for "static".
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} must be one of {', '.join(MODES)}")
    if mode == "static" and not samples:
        raise ValueError("mode='static' needs samples of the training data to set the scales of activations")
    need_onnx()
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(samples)

        def get_next(self) -> Any:
            found = next(self.rest, None)
            return None if found is None else {key: value.numpy() for key, value in found.items()}

    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # its advice to pre-process is given even after that was done
    try:
        with tempfile.TemporaryDirectory() as folder:
            prepared = str(Path(folder) / "prepared.onnx")
            quant_pre_process(str(source), prepared, skip_symbolic_shape=True)
            if mode == "dynamic":  # unsigned, since onnxruntime's integer convolution takes no other weights on CPUs
                quantize_dynamic(prepared, str(path), weight_type=QuantType.QUInt8)
            else:
                quantize_static(
                    prepared,
                    str(path),
                    Reader(),
                    quant_format=QuantFormat.QDQ,
                    per_channel=True,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                )
        copy_onnx_metadata(source, path)
    finally:
        logger.setLevel(level)


def calibration_samples(
    model: Any, dataset: str | None, path: str | Path | None = None, own: Any = None, count: int = SAMPLES
) -> Inputs:
    """Get samples to calibrate a program with: forward arguments from the data that the weights were trained on.

    Args:
        model: A model with pretrained weights.
        dataset: Name of the data set of shipped weights, as in the manifest's metric; None for others.
        path: Folder with the files of that data set, if they are not packaged. For other weights: a folder of images or
            videos, which are prepared as the weights expect; or a .safetensors file of arrays named like the arguments.
        own: The data module of the model's own run, if known; `path` takes precedence.
        count: How many samples, evenly spread.

    Raises:
        ValueError: Nothing is packaged for the data set and no path is given, there is nothing at the path or it does
            not serve here, or the files lack an argument.
    """
    if path is not None and not Path(path).exists():
        raise ValueError(f"--calibration {path}: no such file or folder")
    if path is not None and Path(path).suffix == ".safetensors" and Path(path).is_file():
        return _from_file(model, Path(path), count)
    reader = rooms.declared("calibration_files").get(f"{model.modality}/{model.task}")
    if path is not None and dataset is None and reader is not None:
        found: Inputs = rooms.load(reader)(model, path, count)
        return found
    if path is None and own is not None:
        own.match(model.pretrained_cfg)
        data = own
    else:
        data = _data_module(model, dataset, path, reader is not None)
    data.prepare_data()
    data.setup("fit")
    return _training_samples(model, data, count)


def _training_samples(model: Any, data: Any, count: int) -> Inputs:
    train = data.datasets["train"]
    generator = torch.Generator().manual_seed(0)
    state = torch.random.get_rng_state()
    torch.manual_seed(0)  # augmentation draws from the global generator
    try:
        chosen = [train[round(i * (len(train) - 1) / max(1, count - 1))] for i in range(min(count, len(train)))]
    finally:
        torch.random.set_rng_state(state)
    names = [name for name in inspect.signature(model.forward).parameters if name in chosen[0]]
    if not names:
        raise ValueError(
            f"{type(data).__name__} holds {', '.join(chosen[0])} and not what the model takes; give --calibration: "
            f"{_wanted(model, False)}"
        )
    samples: Inputs = {name: torch.stack([sample[name] for sample in chosen]) for name in names}
    if "mask" in model.example_inputs() and "mask" not in samples:  # gaps, as training hides them
        samples["mask"] = (torch.rand(samples["x"].shape, generator=generator) > 0.25).to(samples["x"])
    return samples


def _wanted(model: Any, files: bool) -> str:
    """Describe what `--calibration` takes for a model, for messages."""
    folder = f"a folder of {model.modality}s, or " if files else ""
    return f"{folder}a .safetensors file of arrays {', '.join(model.example_inputs())}"


def _data_module(model: Any, dataset: str | None, path: str | Path | None, files: bool) -> Any:
    known = None if dataset is None else rooms.declared("calibration").get(dataset)
    if known is not None and known.packaged and path is None:
        return rooms.load(known.data)(seq_len=model.seq_len)
    if known is not None and known.packaged:
        raise ValueError(
            f"--calibration {path}: the training data of {dataset} are packaged; leave it out, or give "
            f"{_wanted(model, False)}"
        )
    if known is not None and path is not None:
        return rooms.load(known.data)(str(path))
    if known is not None:
        raise ValueError(
            f"the training data of {dataset} are not packaged; give --calibration: the folder with its files, or "
            f"{_wanted(model, False)}"
        )
    given = "" if path is None else f"--calibration {path} is neither of what serves here; "
    raise ValueError(
        f"{given}static int8 needs data that the weights were made for; give --calibration: {_wanted(model, files)}"
    )


def _from_file(model: Any, path: Path, count: int) -> Inputs:
    from blockzoo.checkpoints import load_state_dict

    arrays, wanted = load_state_dict(path), model.example_inputs()
    for name, value in wanted.items():
        if name not in arrays or arrays[name].shape[1:] != value.shape[1:]:
            found = tuple(arrays[name].shape) if name in arrays else "nothing"
            raise ValueError(f"{path} has {found} as {name!r}, expected (N, {', '.join(map(str, value.shape[1:]))})")
    return {name: arrays[name][:count].to(value.dtype) for name, value in wanted.items()}


class RunningModel:
    """Evaluates an exported program as if it were its model.

    Calls run the program. All other attributes, such as the configuration and the parts for figures, are the model's.
    """

    def __init__(self, model: Any, run: Runner) -> None:
        self._model, self._run = model, run
        self._names = list(inspect.signature(model.forward).parameters)

    def __call__(self, *args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        """The program's first output."""
        given = {**dict(zip(self._names, args, strict=False)), **kwargs}
        return self._run({name: value for name, value in given.items() if value is not None})[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
