"""What a model's folder says about itself: its `config.json`, read with distrust, since the folder may be anybody's."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from timm.models._hub import load_model_config_from_path

from blockzoo import _registry, _timm_bridge
from blockzoo._cfg import ZooCfg

__all__ = ["read_folder_config"]


_OF_THE_SOURCE = {"url", "file", "state_dict", "checkpoint", "hf_hub_id", "hf_hub_filename", "source", "custom_load"}
"""Entries of a configuration that say where weights come from."""

_OF_THE_CALLER = {
    "cache_dir",
    "checkpoint_path",
    "device",
    "dtype",
    "feature_cls",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_model_args",
}
"""Arguments that a folder's own configuration may not set."""

_MAX_DEPTH = 16

_MAX_BYTES = 16 << 20
"""Bounds of a folder's `config.json`; the names of 21,843 classes take 1 MB."""

_OF_THE_ARCHITECTURE = ("task", "modality", "input_axes", "none_args")
"""Entries of a configuration in which a folder's must be that of the model it names."""


def read_folder_config(folder: Path, extra: dict[str, Any]) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """What `config.json` in a folder says: configuration of the weights, name, and arguments of the model.

    The folder may be anybody's. It says what to build and how inputs are prepared; where weights come from, and what
    the caller alone decides, is not taken from it.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"{folder} has no config.json, so it is not a model's folder")
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it has {file.stat().st_size:,} bytes, more than {_MAX_BYTES:,}")
        text = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(text, dict) or not isinstance(text.get("architecture"), str):
            raise ValueError("it names no architecture")
        if _depth(text) > _MAX_DEPTH:
            raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")
        for key in ("pretrained_cfg", "model_args"):
            if not isinstance(text.get(key, {}), dict):
                raise ValueError(f"{key} is {str(text[key])[:40]!r}, which must be an object")
        cfg, name, model_args = load_model_config_from_path(folder)
        model_args = dict(model_args or {})
        own = dict(cfg.get("model_args") or {})
        if refused := sorted(_OF_THE_CALLER & {*model_args, *own}):
            raise ValueError(f"model_args holds {', '.join(refused)}, which only the caller may give")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{file} does not describe a model: {what}") from error
    kept = {key: value for key, value in cfg.items() if key not in _OF_THE_SOURCE}
    _check(file, name, kept)
    return {**kept, **extra}, name, model_args


def _check(file: Path, name: str, cfg: dict[str, Any]) -> None:
    """Refuse a folder's configuration that the model it names cannot have.

    Raises:
        ValueError: An entry is unknown, of another type, or contradicts the model; the message names it.
    """
    known = [field.name for field in fields(ZooCfg)]
    if unknown := sorted(set(cfg) - set(known)):
        raise ValueError(f"{file}: unknown entries {', '.join(unknown)}; known are {', '.join(known)}")
    classes = cfg.get("num_classes")
    if not (classes is None or type(classes) is int and classes >= 0):
        raise ValueError(f"{file}: num_classes is {str(classes)[:40]!r}, which must be a whole number, 0 or more")
    name = name.removeprefix(_timm_bridge.PREFIX)
    if not _registry.is_model(name):
        return  # named as unknown where the model is looked up
    own = _registry.get_pretrained_cfg(name)
    for key in _OF_THE_ARCHITECTURE:
        value, right = cfg.get(key), getattr(own, key)
        if value is not None and value != (list(right) if isinstance(right, tuple) else right):
            raise ValueError(f"{file}: {key} is {str(value)[:40]!r}, but {name} has {right!r}")


def _depth(value: Any, limit: int = 64) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max((_depth(item, limit - 1) for item in inner), default=0) if limit else 0
