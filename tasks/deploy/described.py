"""What an exported file says about its inputs and classes, for programs that run it without this package."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["ENTRY", "copy_onnx_metadata", "description"]

ENTRY = "pretrained_cfg"
"""Name of the entry: a JSON object of the entries of `pretrained_cfg` that say how inputs are prepared."""

_TOLD = (
    *("architecture", "task", "modality", "input_axes", "input_size", "mean", "std", "interpolation", "crop_pct"),
    *("frame_stride", "clips", "num_classes", "multi_label", "label_names", "series"),
)


def description(model: Any, size: Sequence[int] | None = None) -> dict[str, str]:
    """The entry for a model's file, by its name.

    Args:
        model: A model of the zoo.
        size: The axes behind the channels that the program is written for, if not the model's own.
    """
    cfg = dict(getattr(model, "pretrained_cfg", None) or {})
    if size is not None and cfg.get("input_size"):
        cfg["input_size"] = (cfg["input_size"][0], *size)
    names = cfg.get("label_names")
    if names and len(names) != cfg.get("num_classes", len(names)):
        del cfg["label_names"]  # of the weights before they got other classes
    return {ENTRY: json.dumps({key: cfg[key] for key in _TOLD if cfg.get(key) not in (None, {}, ())}, default=list)}


def copy_onnx_metadata(source: str | Path, path: str | Path) -> None:
    """Give an ONNX file the entries of another one, for tools that write new files without them."""
    import onnx

    told = onnx.load(str(source), load_external_data=False).metadata_props
    model = onnx.load(str(path), load_external_data=False)
    kept = {entry.key for entry in model.metadata_props}
    model.metadata_props.extend(entry for entry in told if entry.key not in kept)
    onnx.save(model, str(path))
