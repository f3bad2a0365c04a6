"""Reading and writing files of weights: safetensors, and torch files without code in them."""

import argparse
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from blockzoo.checkpoints.errors import CheckpointError
from blockzoo.checkpoints.verification import file_text
from blockzoo.checkpoints.whole_file import replacing

__all__ = ["load_state_dict", "read_metadata", "save_state_dict", "unwrap"]

_WRAPPERS = ("model.", "module.", "_orig_mod.")
_MOST_NESTED = 16
_MOST_PACKED = 16
"""How many times its size on the disk a torch file may unpack to; torch itself packs nothing."""
_ENTRIES = ("state_dict_ema", "model_ema", "net_E", "state_dict", "model", "net")


def load_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read tensors by name from a safetensors or torch file; the suffix does not matter.

    Args:
        path: A safetensors file or a torch file. Of a torch file, the first existing entry of `state_dict_ema`,
            `model_ema`, `net_E`, `state_dict`, `model` and `net` is used. Of a Lightning checkpoint, only the entries
            below "model." are used, without that prefix. Prefixes of wrappers are removed, see `unwrap`. NumPy numbers
            beside the weights are accepted; other objects are refused.

    Returns:
        Tensors on the CPU, in the file's order; the only other entries are "_extra_state" of modules.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is something else, is damaged, or would run code when read.
    """
    path = Path(path)
    what = file_text(path)
    if what is not None:
        hint = "; the download link probably asked for confirmation" if what == "a web page" else ""
        raise CheckpointError(f"{path} is {what}, not weights{hint}")
    with path.open("rb") as file:
        head = file.read(9)
    # A safetensors file begins with the length of its JSON header, which may look like the start of a pickle.
    if head[8:9] != b"{" and (head[:2] == b"PK" or head[:1] == b"\x80"):
        return _from_torch(path)
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise CheckpointError(f"{path} is neither a safetensors nor a torch file, or is damaged: {error}") from error


def read_metadata(path: str | Path) -> dict[str, str]:
    """Read the metadata of a safetensors file.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is something else or is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file, or is damaged: {error}") from error


def _check_unpacked(path: Path) -> None:
    """Refuse a torch file whose parts would unpack to far more than their size."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > _MOST_PACKED * path.stat().st_size:
        raise CheckpointError(f"{path} would unpack from {path.stat().st_size:,} to {size:,} bytes and is not read")


def _check_tensor(path: Path, name: Any, value: Any) -> None:
    """Refuse an entry of a state dict that is not a named tensor in memory, or is much larger than the file."""
    if not isinstance(name, str):
        raise CheckpointError(f"{path}: an entry is named {name!r}, which is no text, so this is not a state dict")
    if not isinstance(value, torch.Tensor):
        if name.endswith("_extra_state"):
            return
        raise CheckpointError(f"{path}: entry {name!r} is a {type(value).__name__}, so this is not a state dict")
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        kind = "a quantised tensor" if value.is_quantized else f"a {value.layout} tensor on {value.device}"
        raise CheckpointError(f"{path}: entry {name!r} is {kind}; weights are dense tensors")
    if value.numel() * value.element_size() > _MOST_PACKED * path.stat().st_size:
        raise CheckpointError(
            f"{path}: entry {name!r} of shape {tuple(value.shape)} is far larger than the file, so it is damaged"
        )


def _from_torch(path: Path) -> dict[str, torch.Tensor]:
    try:
        _check_unpacked(path)
        # Training scripts store their arguments and scores beside the weights; these hold data only.
        with torch.serialization.safe_globals([argparse.Namespace, *_numpy_scalars()]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file makes the reader fail in any way
        refused = re.search(r"GLOBAL \S+|TorchScript", str(error))
        if refused is None:
            reason = str(error).rpartition("WeightsUnpickler error: ")[2].partition("\n")[0]
            raise CheckpointError(f"{path} is damaged ({type(error).__name__}: {reason})") from error
        raise CheckpointError(
            f"{path} holds code or Python objects beside tensors ({refused[0]}) and is not read, because that could "
            "run anything. If you trust its origin, convert it with the program that made it: load the model there "
            "and save model.state_dict() alone, best as safetensors."
        ) from error
    is_lightning = isinstance(content, dict) and "pytorch-lightning_version" in content
    for _ in range(_MOST_NESTED):  # a dictionary may hold itself
        if not isinstance(content, Mapping):
            break
        inner = next((content[key] for key in _ENTRIES if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict")
    state_dict = dict(content)
    if is_lightning:
        own = {name[6:]: value for name, value in state_dict.items() if str(name).startswith("model.")}
        state_dict = own or state_dict
    state_dict = unwrap(state_dict, _WRAPPERS[1:])
    for name, value in state_dict.items():
        _check_tensor(path, name, value)
    return state_dict


def unwrap(state_dict: Mapping[str, Any], prefixes: Sequence[str] = _WRAPPERS) -> dict[str, Any]:
    """Remove the prefixes that wrappers of a model add to names in its state dict, in any order of the wrappers.

    These are the prefixes "model." of a task, "module." of data parallelism and "_orig_mod." of `torch.compile`, if all
    names have them, and the counter of torch's `AveragedModel`.

    Args:
        state_dict: Tensors by name.
        prefixes: Prefixes to remove.
    """
    found = dict(state_dict)
    while found:
        named = {name: value for name, value in found.items() if name != "n_averaged"} or found
        prefix = next((word for word in prefixes if all(str(name).startswith(word) for name in named)), None)
        if prefix is None or (len(named) < len(found) and prefix != "module."):
            break
        found = {name.removeprefix(prefix): value for name, value in named.items()}
    return found


def _numpy_scalars() -> list[Any]:
    """Names that the pickle of a NumPy number may use: its constructor, and types of numbers."""
    kinds = [np.dtype(kind) for kind in "?bBhHiIlLqQefd"]
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")  # of NumPy 2 and 1
    return [np.dtype, *((scalar, name) for name in names), *{type(kind) for kind in kinds}]


def save_state_dict(
    state_dict: Mapping[str, torch.Tensor], path: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file. If anything fails, an earlier file stays untouched.

    Args:
        state_dict: Tensors by name; tensors that share memory are stored separately.
        path: The file to write.
        metadata: Text by key to store with them.
    """
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state_dict.items()}
    replacing(path, lambda temporary: save_file(tensors, temporary, metadata=dict(metadata or {})))
