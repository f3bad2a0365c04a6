"""Reading and writing files of weights: safetensors, and torch files without code in them."""

import argparse
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from blockzoo.checkpoints.errors import CheckpointError

__all__ = ["load_state_dict", "read_metadata", "save_state_dict", "unwrap"]

_WRAPPERS = ("model.", "module.", "_orig_mod.")
_ENTRIES = ("state_dict_ema", "model_ema", "net_E", "state_dict", "model", "net")


def load_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read tensors by name from a file, whatever its suffix.

    Args:
        path: A safetensors file; or a torch file, of which the entry `state_dict_ema`, `model_ema`, `net_E`,
            `state_dict`, `model` or `net` is taken, in this order, where there is one. Of a Lightning checkpoint only
            the entries below "model." are taken, without that prefix. What wrappers add is removed, see `unwrap`.
            Numbers of NumPy beside the weights are read; other objects are refused.

    Returns:
        Tensors on the CPU, in the file's order; beside them only what modules store as their "_extra_state".

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is something else, is damaged, or would run code when read.
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(512)
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise CheckpointError(f"{path} is a web page, not weights; the download link probably asked for confirmation")
    # A safetensors file begins with the length of its JSON header, which may look like the start of a pickle.
    if head[8:9] != b"{" and (head[:2] == b"PK" or head[:1] == b"\x80"):
        return _from_torch(path)
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise CheckpointError(f"{path} is neither a safetensors nor a torch file, or is damaged: {error}") from error


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata that stands in a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def _from_torch(path: Path) -> dict[str, torch.Tensor]:
    try:
        # Training scripts store their arguments and scores beside the weights; these hold data only.
        with torch.serialization.safe_globals([argparse.Namespace, *_numpy_scalars()]):
            content = torch.load(path, map_location="cpu", weights_only=True)
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
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _ENTRIES if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict")
    state_dict = dict(content)
    if is_lightning:
        state_dict = {name[6:]: value for name, value in state_dict.items() if name.startswith("model.")} or state_dict
    state_dict = unwrap(state_dict, _WRAPPERS[1:])
    for name, value in state_dict.items():
        if not isinstance(value, torch.Tensor) and not str(name).endswith("_extra_state"):
            raise CheckpointError(f"{path}: entry {name!r} is a {type(value).__name__}, so this is not a state dict")
    return state_dict


def unwrap(state_dict: Mapping[str, Any], prefixes: Sequence[str] = _WRAPPERS) -> dict[str, Any]:
    """Remove what wrappers of a model add to the names of its state dict, in whatever order they were put around it.

    These are the prefixes "model." of a task, "module." of data parallelism and "_orig_mod." of `torch.compile`, where
    all names have them, and the counter of torch's `AveragedModel`.

    Args:
        state_dict: Tensors by name.
        prefixes: Those that are removed.
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
    """What the pickle of a NumPy number names: the function that makes it, and types of numbers alone."""
    kinds = [np.dtype(kind) for kind in "?bBhHiIlLqQefd"]
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")  # of NumPy 2 and 1
    return [np.dtype, *((scalar, name) for name in names), *{type(kind) for kind in kinds}]


def save_state_dict(
    state_dict: Mapping[str, torch.Tensor], path: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file. If anything breaks, a file that was there before is untouched.

    Args:
        state_dict: Tensors by name; tensors that share memory are stored separately.
        path: The file to write.
        metadata: Text by key to store with them.
    """
    path = Path(path)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state_dict.items()}
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata=dict(metadata or {}))
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
